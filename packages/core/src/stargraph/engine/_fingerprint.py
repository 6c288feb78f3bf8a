"""What the code of a graph's nodes is known by: `runtime_hash` and what it is made of."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
import sys
import types
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import canonical
from stargraph.engine._folders import plain_name
from stargraph.engine._source import code_in, meaning_of

ENGINE_SEMANTICS: Final = 1
"""The number of the engine's meaning of a graph; it goes up when the same graph would run otherwise."""


_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


def runtime_definition(code: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return what the runtime hash is made of.

    Args:
        code: the callables and classes of the graph, by what names them, as in `node 'classify'`.
    """
    return {
        "python": _PYTHON,
        "engine": ENGINE_SEMANTICS,
        "code": {name: fingerprint(target, name) for name, target in code.items()},
    }


def runtime_hash(definition: Mapping[str, JsonValue]) -> str:
    """Return the hash of a runtime definition, 64 hex digits.

    Args:
        definition: what `runtime_definition` returned.
    """
    return hashlib.sha256(canonical(dict(definition))).hexdigest()


def runtime_changes(
    old: Mapping[str, JsonValue], new: Mapping[str, JsonValue], *, within: Collection[str] | None = None
) -> tuple[str, ...]:
    """Tell what differs between two runtime definitions, one sentence each.

    Args:
        old: the stored one.
        new: the one that was loaded.
        within: the names of the code that counts; None: all of it.
    """
    changes = []
    if old.get("python") != new.get("python"):
        changes.append(f"Python was {old.get('python')}, is {new.get('python')}")
    if old.get("engine") != new.get("engine"):
        changes.append(f"the engine's semantics were {old.get('engine')}, are {new.get('engine')}")
    before: Mapping[str, Any] = old.get("code") or {}
    after: Mapping[str, Any] = new.get("code") or {}
    for name in [*before, *(name for name in after if name not in before)]:
        if (within is not None and name not in within) or _is_same(before.get(name), after.get(name)):
            continue
        if name not in before:
            changes.append(f"the code of {name} is new")
        elif name not in after:
            changes.append(f"the code of {name} is gone")
        else:
            changes.append(f"the code of {name} changed")
    return tuple(changes)


def _is_same(before: str | None, after: str | None) -> bool:
    """Return whether two fingerprints are of the same code, as far as two versions of Python allow to say."""
    if before is None or after is None:
        return before is after
    return before == after or (
        _version_of(before) != _version_of(after) and {_kind_of(before), _kind_of(after)} == {"code"}
    )


def _kind_of(fingerprint: str) -> str:
    return fingerprint.partition(":")[0]


def _version_of(fingerprint: str) -> str:
    return fingerprint.split(":")[1]


def fingerprint(target: object, name: str) -> str:
    """Return what a callable or class is known by: what its source means, else its code, else its distribution.

    Comments, docstrings, annotations and formatting do not count. The functions that it calls do not count either. Of a
    class, those above it count; of a `functools.partial`, the arguments that it holds.

    Args:
        target: the callable or class.
        name: what names it, for the warning.

    Warns:
        RuntimeWarning: nothing about it can be known, so a change of it will go unnoticed.
    """
    if isinstance(target, ValueClass):
        return _of_value_class(target.kind)
    if isinstance(target, functools.partial):
        given = repr((target.args, sorted(target.keywords.items())))
        # The text of an object may hold its address.
        arguments = _short(re.sub(r" at 0x[0-9a-f]+", "", given))
        return f"partial:{arguments}:{fingerprint(target.func, name)}"
    target = inspect.unwrap(target) if callable(target) else target
    if not isinstance(target, (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        target = type(target)
    if isinstance(target, type):
        above = [kind for kind in target.__mro__[1:] if not _is_pythons(kind)]
        if above:
            return "+".join(_of_one(kind, name) for kind in (target, *above))
    return _of_one(target, name)


@dataclass(frozen=True, slots=True)
class ValueClass:
    """A class of values, of which the code counts, and not the fields.

    Attributes:
        kind: the class.
    """

    kind: type


def _of_value_class(kind: type) -> str:
    code = []
    for each in kind.__mro__:
        if not _is_pythons(each) and each.__module__.partition(".")[0] != "pydantic":
            with contextlib.suppress(OSError, TypeError, SyntaxError, ValueError):
                code.append(code_in(inspect.getsource(each)))
    return "source:" + _short("\n".join(filter(None, code)))


def _is_pythons(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in sys.stdlib_module_names


def _of_one(target: object, name: str) -> str:
    return _by_source(target) or _by_code(target) or _by_distribution(target) or _unverifiable(name)


def _by_source(target: object) -> str | None:
    if isinstance(target, type) and _is_pythons(target):
        return None
    try:
        return "source:" + _short(meaning_of(inspect.getsource(target)))  # type: ignore[arg-type]
    except (OSError, TypeError, SyntaxError, ValueError):
        return None


def _by_code(target: object) -> str | None:
    code = getattr(target, "__code__", None)
    if not isinstance(code, types.CodeType):
        return None
    # The code of one version of Python is not that of another.
    return f"code:{_PYTHON}:{_short(repr(_code_parts(code)))}"


def _code_parts(code: types.CodeType) -> tuple[object, ...]:
    constants = tuple(
        _code_parts(constant) if isinstance(constant, types.CodeType) else repr(constant) for constant in code.co_consts
    )
    return (code.co_code.hex(), code.co_names, code.co_varnames, constants)


def _by_distribution(target: object) -> str | None:
    module = plain_name(getattr(target, "__module__", None) or "")
    if module.partition(".")[0] in sys.stdlib_module_names:
        return f"python:{module}:{getattr(target, '__qualname__', '')}"
    # Imported for compiled code only: importing the engine must stay quick.
    from importlib.metadata import packages_distributions, version

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
