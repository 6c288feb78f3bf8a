"""How an update reaches a field: the reducers that come with the engine, and those of the user."""

from __future__ import annotations

import functools
import inspect
import operator
import typing
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Final, TypeVar

from stargraph.engine._folders import plain_name
from stargraph.errors import GraphError
from stargraph.ir import makes_reducers, reducers_in, takes_two

Reducer = Callable[[Any, Any], Any]


def replace(value: Any, update: Any) -> Any:
    """Return the update, which replaces the value.

    Args:
        value: what the field holds.
        update: what a node returned for it.
    """
    return update


def append(value: Any, update: Any) -> Any:
    """Return a list, tuple, deque or set with the items of the update after those of the value.

    Args:
        value: what the field holds, or None.
        update: what a node returned for it, or None.
    """
    if value is None or update is None:
        return update if value is None else value
    return value | update if isinstance(value, AbstractSet) else value + update


def merge(value: Any, update: Any) -> Any:
    """Return a mapping with the keys of the update put over those of the value.

    Args:
        value: what the field holds, or None.
        update: what a node returned for it, or None.
    """
    return {**(value or {}), **(update or {})}


def add(value: Any, update: Any) -> Any:
    """Return the value plus the update.

    Args:
        value: what the field holds, or None.
        update: what a node returned for it, or None.
    """
    if value is None or update is None:
        return update if value is None else value
    return operator.add(value, update)


BUILTIN: Final[Mapping[str, Reducer]] = {"replace": replace, "append": append, "merge": merge, "add": add}
"""The reducers that a graph names by one word."""


def check_reducer(reducer: object, owner: str) -> None:
    """Refuse what cannot reduce a field, before a run does it.

    Args:
        reducer: what a graph names as a reducer.
        owner: the field, for the error.

    Raises:
        GraphError: it is no function of a value and an update, or it is an async one.
    """
    if makes_reducers(reducer):
        problem = "is a class: give an object of it"
    elif not callable(reducer) or not takes_two(reducer):
        problem = "takes no value and update" if callable(reducer) else "cannot be called"
    elif _is_async(reducer):
        problem = "is async, and a reducer is not awaited"
    else:
        return
    raise GraphError(
        f"{owner}: its reducer {reducer_name(reducer)!r} {problem}",
        reason="bad-reducer",
        hint="A reducer is a function of the value and the update that returns the new value.",
    )


def _is_async(reducer: object) -> bool:
    while isinstance(reducer, functools.partial):
        reducer = reducer.func
    return inspect.iscoroutinefunction(reducer) or inspect.iscoroutinefunction(type(reducer).__call__)


def reducer_name(reducer: object) -> str:
    """Return what names a reducer in definitions and errors.

    Args:
        reducer: the function.
    """
    for name, builtin in BUILTIN.items():
        if reducer is builtin:
            return name
    if isinstance(reducer, functools.partial):
        return f"partial({reducer_name(reducer.func)})"
    # An object that can be called is known by its class. A method of a builtin class, as `set.union`, has no module.
    named = reducer if hasattr(reducer, "__qualname__") else type(reducer)
    return f"{plain_name(getattr(named, '__module__', None) or 'builtins')}:{named.__qualname__}"


def update_annotation(reducer: Reducer) -> Any:
    """Return the type of a reducer's second parameter, or None if it says none.

    Args:
        reducer: the function.
    """
    try:
        _, second, *_ = inspect.signature(reducer, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError):
        return None
    said_nothing = second.annotation in (inspect.Parameter.empty, Any, object) or second.kind is second.VAR_POSITIONAL
    return None if said_nothing or isinstance(second.annotation, TypeVar) else second.annotation


def annotation_parts(annotation: Any) -> tuple[list[object], Any]:
    """Return what follows a type in `Annotated`, and the type itself.

    Args:
        annotation: the type, as a dataclass or a TypedDict declares it.
    """
    while _is_qualifier(typing.get_origin(annotation)):
        (annotation,) = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return list(annotation.__metadata__), annotation.__origin__
    return [], annotation


def hides_reducers(annotation: Any) -> bool:
    """Return whether a type declares a reducer inside itself, which would not be found there.

    Args:
        annotation: the type.
    """
    metadata = annotation.__metadata__ if typing.get_origin(annotation) is Annotated else ()
    return bool(reducers_in(metadata)) or any(map(hides_reducers, typing.get_args(annotation)))


def _is_qualifier(origin: object) -> bool:
    # Those of typing and of typing_extensions are different objects.
    return repr(origin).rpartition(".")[2] in ("Required", "NotRequired", "ReadOnly")
