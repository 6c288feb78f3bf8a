"""Types of Python code as the types of fields: `list[str] | None` is the text that a graph file has for it."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal, NamedTuple

from stargraph.errors import GraphError
from stargraph.ir._callables import callable_path
from stargraph.ir._models import BUILTIN_REDUCERS

_SIMPLE: Final[dict[Any, str]] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    list: "list",
    dict: "dict",
    None: "None",
    type(None): "None",
    Any: "any",
    object: "any",
}
_ENGINE: Final = "stargraph.engine."
_NAMED: Final = frozenset(BUILTIN_REDUCERS) - {"replace"}  # which is what happens anyway
_TYPING: Final = ("typing", "typing_extensions", "types")


class AnnotatedType(NamedTuple):
    """What a type of Python says about a field.

    Attributes:
        text: the type as a graph file has it.
        reducer: the name of the reducer that it declares, or None.
    """

    text: str
    reducer: str | None


def field_type_of(annotation: Any, name: str) -> AnnotatedType:
    """Return what a type says about a field; a reducer stands outermost in `Annotated`.

    Args:
        annotation: the type, as in `float`, `list[str] | None` or `Annotated[list[str], append]`.
        name: the field.

    Raises:
        GraphError: a graph file has no such type, or there are two reducers.
    """
    if isinstance(annotation, str):
        return AnnotatedType(annotation, None)
    if typing.get_origin(annotation) is not Annotated:
        return AnnotatedType(_text(annotation, name), None)
    reducers = reducers_in(annotation.__metadata__)
    if not reducers:
        refuse_named_reducers(annotation.__metadata__, f"the field {name!r}")
    if len(reducers) > 1:
        raise GraphError(f"the field {name!r} has more than one reducer", reason="unknown-reducer", hint="Keep one.")
    return AnnotatedType(_text(annotation.__origin__, name), _reducer_name(reducers[0]) if reducers else None)


def reducers_in(metadata: Iterable[object]) -> list[Callable[..., Any]]:
    """Return the reducers among the metadata of an `Annotated` type: functions, and objects that are called like one.

    Args:
        metadata: what follows the type. Validators, constraints and what is meant for other libraries are types, or
            objects that take no value and update.
    """
    return [item for item in metadata if callable(item) and _is_reducer(item)]


def refuse_named_reducers(metadata: Iterable[object], owner: str) -> None:
    """Refuse the name of a reducer where only the reducer itself counts: `Annotated[list, "append"]` would replace.

    Args:
        metadata: what follows the type, if no reducer does, and mappings that may have one as `reduce` or `reducer`.
        owner: the field, for the error.

    Raises:
        GraphError: a reducer is named (`reason="unknown-reducer"`).
    """
    for item in metadata:
        for given in (item.get("reduce"), item.get("reducer")) if isinstance(item, Mapping) else (item,):
            name = given if isinstance(given, str) else None
            if isinstance(item, Mapping) and callable(given) and _is_reducer(given):
                name = getattr(given, "__name__", None)
            if name is None or (isinstance(given, str) and name not in _NAMED):
                continue
            raise GraphError(
                f"{owner} says {given!r:.60} where no reducer is looked for, so its values would be replaced",
                reason="unknown-reducer",
                hint=f"Give the reducer itself, behind the type, as in Annotated[list[str], {name}]; those of Stargraph"
                " are in stargraph.graph.",
            )


def _is_reducer(item: Callable[..., Any]) -> bool:
    if inspect.isroutine(item) or isinstance(item, partial):
        return True
    if makes_reducers(item):
        return True  # and refused: it was meant to be called first
    # `list[int]`, `Literal["a"]` and a `NewType` can be called too.
    is_type = isinstance(item, type) or type(item).__module__ in _TYPING
    return not is_type and takes_two(item, if_unknown=False)


def makes_reducers(item: object) -> bool:
    """Return whether something is a class of reducers: its objects are called with a value and an update."""
    if not isinstance(item, type):
        return False
    call = next((vars(base)["__call__"] for base in item.__mro__ if "__call__" in vars(base)), None)
    if not inspect.isfunction(call):
        return False
    try:
        signature_of(call).bind(None, None, None)
    except TypeError:
        return False
    return True


def signature_of(code: Callable[..., Any], *, follow_wrapped: bool = True) -> inspect.Signature:
    """Return the signature of a callable, of which an annotation may name what is imported for type checkers alone.

    Args:
        code: the function or object.
        follow_wrapped: whether a wrapper has the signature of what it wraps.

    Raises:
        TypeError: it cannot be called.
        ValueError: it does not say what it takes: compiled code need not.
    """
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(code, follow_wrapped=follow_wrapped, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(code, follow_wrapped=follow_wrapped)


def takes_two(code: Callable[..., Any], *, if_unknown: bool = True) -> bool:
    """Return whether something can be called with a value and an update, as far as its signature says.

    Args:
        code: the function or object.
        if_unknown: what to return if it does not say what it takes: compiled code need not.
    """
    try:
        signature_of(code).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return if_unknown
    return True


def _reducer_name(reducer: Callable[..., Any]) -> str:
    plain = getattr(reducer, "__name__", "")
    is_builtin = plain in BUILTIN_REDUCERS and str(getattr(reducer, "__module__", "")).startswith(_ENGINE)
    return plain if is_builtin else callable_path(reducer)


def _text(annotation: Any, name: str) -> str:
    try:
        if annotation in _SIMPLE:
            return _SIMPLE[annotation]
    except TypeError:  # a Literal of what cannot be hashed
        pass
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_text(member, name) for member in arguments)
    if origin is list:
        return f"list[{_text(arguments[0], name)}]"
    if origin is dict and arguments[0] is str:
        return f"dict[str, {_text(arguments[1], name)}]"
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    shown = annotation.__qualname__ if isinstance(annotation, type) and not arguments else str(annotation)
    raise GraphError(
        f"the field {name!r} has the type {shown}, which a declared field cannot have",
        reason="invalid-graph",
        hint="Declared fields are of str, int, float, bool, None, list, dict[str, T], unions of them, Literal and Any."
        " For any other type, give the graph a class: GraphBuilder(id, State) with a pydantic model or a dataclass.",
    )
