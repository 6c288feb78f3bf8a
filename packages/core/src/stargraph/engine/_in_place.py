"""Whether a node changed the state that it was given, and returned nothing: the change is lost, and is logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_SIZED: Final = (list, dict, set)
_GONE: Final = object()


class Held(NamedTuple):
    """What a state held before a node was given it: no copy of the values, which may be large.

    Attributes:
        values: the values of its fields.
        sizes: how many items each list, dict and set among them had.
    """

    values: Mapping[str, Any]
    sizes: list[int]


def held_by(state: object) -> Held | None:
    """Return what a state holds; None for an object that keeps its values where they cannot be listed.

    Args:
        state: an object of the state's class, or a dict.
    """
    values = state if isinstance(state, dict) else getattr(state, "__dict__", None)
    if values is None:
        return None
    return Held(values.copy(), [len(value) for value in values.values() if type(value) in _SIZED])


def changed_in_place(state: object, before: Held | None) -> list[str]:
    """Return the fields that hold something else, or more or fewer items; a change deeper inside is not seen.

    Args:
        state: the object that the node was given.
        before: what it held then.
    """
    if before is None:
        return []
    values = state if isinstance(state, dict) else vars(state)
    sizes = iter(before.sizes)
    return [
        name
        for name, value in before.values.items()
        if (type(value) in _SIZED and len(value) != next(sizes)) or values.get(name, _GONE) is not value
    ]
