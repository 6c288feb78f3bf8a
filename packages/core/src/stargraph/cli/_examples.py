"""Example values of a type, for hints."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

_SAMPLES: Final[dict[Any, tuple[Any, ...]]] = {
    Any: ("a", "b"),
    bool: (True, False),
    dict: ({"a": 1},),
    float: (0.5, 1.5),
    int: (3, 4),
    list: (["a", "b"],),
    str: ("a", "b"),
    tuple: (["a", "b"],),
    type(None): (None,),
}


def examples_of(annotation: Any) -> Iterator[Any]:
    """Yield JSON values that may be of a type, a likely one first; none of a class that is not known here.

    Args:
        annotation: the type, as pydantic takes it.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from examples_of(arguments[0])
    elif origin is Literal:
        yield from arguments
    elif origin in (Union, types.UnionType):
        for member in sorted(arguments, key=lambda each: each is type(None)):
            yield from examples_of(member)
    elif origin is tuple and arguments and arguments[-1] is not Ellipsis:
        members = [list(examples_of(each)) for each in arguments]
        if all(members):
            yield [found[0] for found in members]
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        # Of Counter[str], the values are numbers; those of a Mapping may be anything.
        values = examples_of(arguments[1]) if len(arguments) == 2 else iter((1,))
        yield from ({"a": value} for value in values)
    elif isinstance(origin, type) and issubclass(origin, (Sequence, set, frozenset)):
        if not arguments:
            yield from (["a", "b"], [])
            return
        items = list(examples_of(arguments[0]))
        yield from (found for found in (items[:2], items[:1], []) if found or not items)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from (member.value for member in annotation)
    else:
        yield from _SAMPLES.get(type(None) if annotation is None else annotation, ())
