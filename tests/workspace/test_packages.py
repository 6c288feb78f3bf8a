"""The layout that lets all distributions share the `stargraph` namespace."""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from itertools import pairwise

import pytest
from support.workspace import Distribution, distributions, shown

DISTRIBUTIONS = distributions()
PACKAGES = [(distribution, name) for distribution in DISTRIBUTIONS for name in distribution.packages()]
NAMESPACES = ("stargraph", "stargraph/checkpoint")

each_package = pytest.mark.parametrize(("distribution", "name"), PACKAGES, ids=[name for _, name in PACKAGES])
each_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=[d.name for d in DISTRIBUTIONS])


def test_the_packages_of_the_core_are_found() -> None:
    found = {name for _, name in PACKAGES}
    assert {"stargraph.errors", "stargraph.checkpoint.protocol", "stargraph.checkpoint.sqlite"} <= found


@each_distribution
def test_namespace_levels_hold_no_module(distribution: Distribution) -> None:
    for level in NAMESPACES:
        # `python -m stargraph` runs __main__.py, which makes no package of its folder.
        files = [path for path in distribution.src.joinpath(level).glob("*") if path.is_file()]
        stray = [shown(path) for path in files if (level, path.name) != ("stargraph", "__main__.py")]
        assert not stray, "a file here would hide the other distributions' packages"


@each_distribution
def test_every_leaf_package_is_typed(distribution: Distribution) -> None:
    leaves = list(distribution.leaves())
    assert leaves
    untyped = [name for name in leaves if not (distribution.path_of(name) / "py.typed").is_file()]
    assert not untyped


@each_distribution
def test_leaves_stand_right_below_the_namespaces(distribution: Distribution) -> None:
    parents = {
        distribution.path_of(name).parent.relative_to(distribution.src).as_posix() for name in distribution.leaves()
    }
    assert parents <= set(NAMESPACES)


@each_package
def test_a_facade_only_imports_and_says_all(distribution: Distribution, name: str) -> None:
    body = ast.parse((distribution.path_of(name) / "__init__.py").read_text()).body
    assert isinstance(body[0], ast.Expr), "a package begins with its docstring"
    bound: set[str] = set()
    for node in body[1:]:
        if isinstance(node, ast.ImportFrom):
            bound.update(alias.asname or alias.name for alias in node.names)
        else:
            assert isinstance(node, ast.Assign), f"line {node.lineno}: no logic in __init__.py"
            assert [ast.unparse(target) for target in node.targets] == ["__all__"], f"line {node.lineno}"
    if "__getattr__" in bound:
        stub = ast.parse((distribution.path_of(name) / "__init__.pyi").read_text())
        imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
        bound.update(alias.asname or alias.name for node in imports for alias in node.names)
    public = {each for each in bound if not each.startswith("_") and each != "annotations"}
    assert public == set(getattr(importlib.import_module(name), "__all__", ()))


@each_package
def test_everything_public_is_there_and_documented(distribution: Distribution, name: str) -> None:
    module = importlib.import_module(name)
    undocumented = []
    for each in getattr(module, "__all__", ()):
        thing = getattr(module, each)
        if inspect.isclass(thing):
            documented = bool(thing.__dict__.get("__doc__"))
        elif inspect.isroutine(thing):
            documented = bool(thing.__doc__)
        else:
            documented = each in _documented_constants()
        if not documented:
            undocumented.append(each)
    assert not undocumented


@cache
def _documented_constants() -> set[str]:
    """Return the names of module level that a text follows."""
    return {
        target.id
        for distribution in DISTRIBUTIONS
        for path in distribution.src.rglob("*.py")
        for node, after in pairwise(ast.parse(path.read_text()).body)
        for target in (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and after.value.value
    }
