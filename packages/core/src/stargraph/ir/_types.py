"""The types of the state's fields: `list[str]`, `int | None`, `Literal["a", "b"]`.

A type is read by walking its syntax tree with a list of what is allowed; nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
import warnings
from functools import lru_cache, reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import check_json
from stargraph.errors import GraphError, StateError
from stargraph.errors._arguments import check_type
from stargraph.ir._positions import did_you_mean, one_of, show_path, show_value

_GIVE: Final = "a type as text, as in 'list[str] | None'"
_MAX_LENGTH: Final = 1000
_MAX_DEPTH: Final = 20

_INSTEAD: Final = {
    "string": "str",
    "text": "str",
    "integer": "int",
    "number": "float",
    "double": "float",
    "boolean": "bool",
    "null": "None",
    "array": "list",
    "object": "dict",
    "map": "dict",
    "mapping": "dict",
    "Any": "any",
    "List": "list",
    "Dict": "dict",
    "Optional": "T | None",
    "Union": "T | U",
    "tuple": "list",
    "Tuple": "list",
    "set": "list",
    "frozenset": "list",
    "bytes": "str",
    "datetime": "str",
    "date": "str",
    "UUID": "str",
    "Decimal": "str",
}


def _exact_float(value: object) -> object:
    if type(value) is int and int(float(value)) != value:
        raise ValueError(f"{value} has no exact float")
    return value


_Float: Final = Annotated[float, BeforeValidator(_exact_float)]
_SIMPLE: Final[dict[str, Any]] = {
    "str": str,
    "int": int,
    "float": _Float,
    "bool": bool,
    "any": Any,
    "json": Any,
    "list": list[Any],
    "dict": dict[str, Any],
}
_KNOWN: Final = (*_SIMPLE, "None", "Literal")


class FieldType(NamedTuple):
    """A type of the state.

    Attributes:
        python: the typing object that pydantic takes.
        text: the one way to write it, equal for equal types.
        outer: its outermost name, such as `list`; `|` for a union.
    """

    python: Any
    text: str
    outer: str


class _TypeFault(Exception):
    """Why a text is not a type."""


def parse_type(text: str) -> Any:
    """Turn a field's type into a typing object.

    The names are `str`, `int`, `float`, `bool`, `None`, `any` (any JSON; also `json`), `list`, `list[T]`,
    `dict`, `dict[str, T]`, `T | U` and `Literal["a", 1]`. Values are meant to be validated strictly, as
    `validate_value` does.

    Args:
        text: the type, as in `list[str] | None`.

    Returns:
        What `pydantic.TypeAdapter` takes.

    Raises:
        GraphError: the text is not such a type.
    """
    check_type(text, "text", str, _GIVE)
    return field_type(text).python


def canonical_type(text: str) -> str:
    """Return the one way to write a field's type, which is equal for equal types.

    Args:
        text: the type.

    Raises:
        GraphError: the text is not a type.
    """
    check_type(text, "text", str, _GIVE)
    return field_type(text).text


@lru_cache(maxsize=1024)
def field_type(text: str) -> FieldType:
    """Read a field's type.

    Args:
        text: the type, as in `list[str] | None`.

    Raises:
        GraphError: the text is not such a type.
    """
    try:
        return _read(_syntax(text))
    except _TypeFault as fault:
        raise GraphError(f"{show_value(text)} is not a type: {fault}", reason="invalid-graph") from None


def validate_value(text: str, value: JsonValue, path: str) -> JsonValue:
    """Check a value against a field's type, without conversions, and return it.

    A value that fits stays what it is, with one exception: a whole number in a `float` becomes a float, if
    that is exact, so that expressions and nodes always meet a float there.

    Args:
        text: the type.
        path: where the value is, as the error names it.

    Raises:
        GraphError: the text is not a type.
        StateError: the value is not JSON, or not of this type.
    """
    check_type(text, "text", str, _GIVE)
    check_json(value, path)
    try:
        return _adapter(text).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        inner = show_path(part for part in first["loc"] if isinstance(part, int))
        where = f" (at {inner})" if inner else ""
        raise StateError(
            f"{path}: {show_value(value)} is not of type {field_type(text).text}{where}", reason="type", path=path
        ) from None


@lru_cache(maxsize=1024)
def _adapter(text: str) -> TypeAdapter[Any]:
    return TypeAdapter(field_type(text).python, config=ConfigDict(strict=True, allow_inf_nan=False))


def _syntax(text: str) -> ast.expr:
    if not text.strip():
        raise _TypeFault("it is empty")
    if len(text) > _MAX_LENGTH:
        raise _TypeFault(f"it is longer than {_MAX_LENGTH} characters")
    if "\0" in text:
        raise _TypeFault("it contains null bytes")  # of which Pythons before 3.11.4 say so by another error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise _TypeFault(error.msg) from None
    except (ValueError, RecursionError, MemoryError):
        raise _TypeFault("it cannot be read") from None


def _read(tree: ast.expr, depth: int = 0) -> FieldType:
    if depth > _MAX_DEPTH:
        raise _TypeFault(f"nested deeper than {_MAX_DEPTH} levels")
    match tree:
        case ast.Constant(value=None):
            return FieldType(None, "None", "None")
        case ast.Name(id=name) if name in _SIMPLE:
            shown = "any" if name == "json" else name
            return FieldType(_SIMPLE[name], shown, shown)
        case ast.BinOp(op=ast.BitOr()):
            return _union(tree, depth)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            inner = _read(item, depth + 1)
            return FieldType(list[inner.python], f"list[{inner.text}]", "list")  # type: ignore[name-defined]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), item])):
            inner = _read(item, depth + 1)
            return FieldType(dict[str, inner.python], f"dict[str, {inner.text}]", "dict")  # type: ignore[name-defined]
        case ast.Subscript(value=ast.Name(id="dict")):
            raise _TypeFault("a dict is dict[str, T]; its keys are text")
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            return _literal(values.elts if isinstance(values, ast.Tuple) else [values])
        case ast.Subscript(value=ast.Name(id=name)) if name in _SIMPLE:
            raise _TypeFault(f"{name} takes nothing in brackets")
        case ast.Name(id="Literal"):
            raise _TypeFault('Literal needs its values, as in Literal["a", "b"]')
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)):
            raise _TypeFault(f"unknown name {name!r}{_instead(name)}")
        case ast.Constant():
            raise _TypeFault('a value stands only inside Literal, as in Literal["a", 1]')
    raise _TypeFault(f"use {one_of([*_KNOWN, 'T | U'])}")


def _instead(name: str) -> str:
    if name in _INSTEAD:
        return f"; write {_INSTEAD[name]}"
    return did_you_mean(name, _KNOWN) or f"; the names are {one_of(_KNOWN)}"


def _union(tree: ast.expr, depth: int) -> FieldType:
    members: dict[str, FieldType] = {}
    stack = [tree]
    while stack:
        part = stack.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr):
            stack += [part.right, part.left]
        else:
            member = _read(part, depth)
            members.setdefault(member.text, member)
    # Which member comes first makes no difference to what fits.
    ordered = sorted(members.values(), key=lambda member: (member.text == "None", member.text))
    if len(ordered) == 1:
        return ordered[0]
    python = reduce(or_, (member.python for member in ordered))
    return FieldType(python, " | ".join(member.text for member in ordered), "|")


def _literal(values: list[ast.expr]) -> FieldType:
    constants: dict[str, Any] = {}
    for value in values:
        constant = _constant(value)
        text = json.dumps(constant, ensure_ascii=False) if isinstance(constant, str) else repr(constant)
        constants[text] = constant
    if not constants:
        raise _TypeFault('Literal needs its values, as in Literal["a", "b"]')
    texts = sorted(constants)
    allowed = tuple(constants[text] for text in texts)

    def exact(value: object) -> object:
        # Literal itself goes by ==, for which 1, 1.0 and True are the same
        if not any(type(value) is type(constant) and value == constant for constant in allowed):
            raise ValueError("not one of the values")
        return value

    return FieldType(Annotated[Literal[allowed], BeforeValidator(exact)], f"Literal[{', '.join(texts)}]", "Literal")


def _constant(tree: ast.expr) -> Any:
    match tree:
        case ast.Constant(value=str() | bool() | int() | None as value):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)) if type(number) is int:
            value = -number
        case _:
            raise _TypeFault("the values of Literal are text, whole numbers, True, False or None")
    try:
        check_json(value, "value")
    except StateError as error:
        raise _TypeFault(error.message) from None
    return value
