"""List every public name with its signature: `make public-api` writes docs/public-api.txt, and a test compares.

A line that disappears or changes is a change that users may notice; docs/compatibility.md says which version it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final, cast

import griffe

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = [*sorted(ROOT.glob("packages/*/src")), ROOT / "conformance/src"]
FILE: Final = ROOT / "docs/public-api.txt"
INTERNAL: Final = ("stargraph.cli", "stargraph.engine", "stargraph.runtime")
"""What is public in none of its names, but for the modules below."""

MODULES: Final = ("stargraph.checkpoint.conformance.stdio", "stargraph.runtime.dispatch")
"""The modules that users import, besides packages."""


def public_modules() -> list[str]:
    """Return the packages and modules that users import, in the order of their names."""
    names = {".".join(init.parent.relative_to(src).parts) for src in SOURCES for init in src.rglob("__init__.py")}
    public = {name for name in names if not any(part.startswith("_") for part in name.split("."))}
    return sorted({name for name in public if name not in INTERNAL} | set(MODULES))


def listing() -> str:
    """Return the list, one line for each name."""
    exported, public = public_names()
    lines = [line for name, found in sorted(exported.items()) for line in _lines(name, found, public)]
    return "\n".join(lines) + "\n"


def public_names() -> tuple[dict[str, griffe.Object | griffe.Alias], set[str]]:
    """Return what each public name stands for, and every path that leads to such a thing."""
    loader = griffe.GriffeLoader(search_paths=SOURCES, allow_inspection=False)
    loader.load("stargraph")  # with all that is below it, in whichever distribution
    loader.resolve_aliases(implicit=True, external=False)
    exported = dict(exported_names(loader.modules_collection))
    return exported, exported.keys() | {_target(found).path for found in exported.values()}


def classes_that_stargraph_makes() -> frozenset[str]:
    """Return the paths of the public classes whose constructors are not for users."""
    exported, public = public_names()
    classes = (_target(found) for found in exported.values())
    return frozenset(
        each.path
        for each in classes
        if isinstance(each, griffe.Class)
        and "__init__" in each.members
        and takes_private(cast("griffe.Function", each.members["__init__"]), public)
    )


def exported_names(modules: griffe.ModulesCollection) -> Iterator[tuple[str, griffe.Object | griffe.Alias]]:
    """Yield every public name with what it stands for."""
    for name in public_modules():
        for each in modules[name].exports or []:
            member = each if isinstance(each, str) else each.name
            yield f"{name}.{member}", modules[name][member]


def takes_private(constructor: griffe.Function, public: Container[str]) -> bool:
    """Return whether a constructor takes an object of a private class: Stargraph alone makes such objects."""
    for each in constructor.parameters:
        if isinstance(each.annotation, griffe.Expr):
            names = {part.canonical_path for part in each.annotation.iterate() if isinstance(part, griffe.ExprName)}
            ours = [_target(constructor.modules_collection[name]) for name in names if name.startswith("stargraph.")]
            if any(isinstance(found, griffe.Class) and found.path not in public for found in ours):
                return True
    return False


def _target(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def _lines(path: str, found: griffe.Object | griffe.Alias, public: Container[str]) -> Iterator[str]:
    target = _target(found)
    if isinstance(target, griffe.Class):
        bases = ", ".join(str(base) for base in target.bases)
        yield f"class {path}({bases})" if bases else f"class {path}"
        for name, member in sorted(target.all_members.items()):
            if not name.startswith("_") or name in {"__init__", "__call__", "__aenter__"}:
                inherited = isinstance(member, griffe.Alias) and not member.final_target.path.startswith("stargraph.")
                of_stargraph = name == "__init__" and takes_private(cast("griffe.Function", _target(member)), public)
                if not inherited and not of_stargraph:
                    yield from _lines(f"{path}.{name}", member, public)
    elif isinstance(target, griffe.Function):
        parameters = ", ".join(_parameters(target.parameters))
        returns = f" -> {target.returns}" if target.returns else ""
        yield f"{'async ' if 'async' in target.labels else ''}def {path}({parameters}){returns}"
    else:
        annotation = getattr(target, "annotation", None)
        yield f"{path}: {annotation}" if annotation else path


def _parameters(parameters: griffe.Parameters) -> Iterator[str]:
    kind = None
    for each in parameters:
        if kind is griffe.ParameterKind.positional_only and each.kind is not kind:
            yield "/"
        if each.kind is griffe.ParameterKind.keyword_only and kind not in (
            griffe.ParameterKind.keyword_only,
            griffe.ParameterKind.var_positional,
        ):
            yield "*"
        kind = each.kind
        star = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(each.kind, "")
        text = f"{star}{each.name}" + (f": {each.annotation}" if each.annotation is not None else "")
        has_default = each.default is not None and not star
        yield f"{text} = {each.default}" if has_default else text
    if kind is griffe.ParameterKind.positional_only:
        yield "/"


if __name__ == "__main__":
    FILE.write_text(listing(), encoding="utf-8")
    print(f"{FILE.relative_to(ROOT)}: {FILE.read_text(encoding='utf-8').count(chr(10))} lines", file=sys.stderr)
