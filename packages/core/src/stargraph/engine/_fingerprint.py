"""What the code of a graph's nodes is known by: `runtime_hash` and what it is made of."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
import types
import warnings
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from typing import Any, Final

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import canonical
from stargraph.engine._folders import plain_name

ENGINE_SEMANTICS: Final = 1
"""The number of the engine's meaning of a graph; it goes up when the same graph would run otherwise."""


def runtime_definition(code: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return what the runtime hash is made of.

    Args:
        code: the callables and classes of the graph, by what names them, as in `node 'classify'`.
    """
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "engine": ENGINE_SEMANTICS,
        "code": {name: fingerprint(target, name) for name, target in code.items()},
    }


def runtime_hash(definition: Mapping[str, JsonValue]) -> str:
    """Return the hash of a runtime definition, 64 hex digits.

    Args:
        definition: what `runtime_definition` returned.
    """
    return hashlib.sha256(canonical(dict(definition))).hexdigest()


def runtime_changes(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Tell what differs between two runtime definitions, one sentence each.

    Args:
        old: the stored one.
        new: the one that was loaded.
    """
    changes = []
    if old.get("python") != new.get("python"):
        changes.append(f"Python was {old.get('python')}, is {new.get('python')}")
    if old.get("engine") != new.get("engine"):
        changes.append(f"the engine's semantics were {old.get('engine')}, are {new.get('engine')}")
    before: Mapping[str, Any] = old.get("code") or {}
    after: Mapping[str, Any] = new.get("code") or {}
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) == after.get(name):
            continue
        if name not in before:
            changes.append(f"the code of {name} is new")
        elif name not in after:
            changes.append(f"the code of {name} is gone")
        else:
            changes.append(f"the code of {name} changed")
    return tuple(changes)


def fingerprint(target: object, name: str) -> str:
    """Return what a callable or class is known by: its source without layout, else its code, else its distribution.

    Comments, docstrings and formatting do not count. The functions that it calls do not count either.

    Args:
        target: the callable or class.
        name: what names it, for the warning.

    Warns:
        RuntimeWarning: nothing about it can be known, so a change of it will go unnoticed.
    """
    target = inspect.unwrap(target) if callable(target) else target
    if not isinstance(target, (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        target = type(target)
    return _by_source(target) or _by_code(target) or _by_distribution(target) or _unverifiable(name)


def _by_source(target: object) -> str | None:
    try:
        source = textwrap.dedent(inspect.getsource(target))  # type: ignore[arg-type]
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return "ast:" + _short(ast.dump(tree))


def _by_code(target: object) -> str | None:
    code = getattr(target, "__code__", None)
    if not isinstance(code, types.CodeType):
        return None
    return "code:" + _short(repr(_code_parts(code)))


def _code_parts(code: types.CodeType) -> tuple[object, ...]:
    constants = tuple(
        _code_parts(constant) if isinstance(constant, types.CodeType) else repr(constant) for constant in code.co_consts
    )
    return (code.co_code.hex(), code.co_names, code.co_varnames, constants)


def _by_distribution(target: object) -> str | None:
    module = plain_name(getattr(target, "__module__", None) or "")
    if module.partition(".")[0] in sys.stdlib_module_names:
        return f"python:{module}:{getattr(target, '__qualname__', '')}"
    names = packages_distributions().get(module.partition(".")[0])
    if not names:
        return None
    qualified = f"{module}:{getattr(target, '__qualname__', '')}"
    return f"dist:{names[0]}=={version(names[0])}:{qualified}"


def _unverifiable(name: str) -> str:
    warnings.warn(
        f"the code of {name} cannot be read, so a resume will not notice when it changes",
        RuntimeWarning,
        stacklevel=2,
    )
    return "unverifiable"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]
