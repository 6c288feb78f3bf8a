"""Whether a value came back from JSON as it was: in value and in type, at every level."""

from __future__ import annotations

import dataclasses
import enum
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, time, tzinfo
from decimal import Decimal
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from stargraph.checkpoint.values import JsonValue, path_part
from stargraph.engine._folders import plain_name

_PLAIN: Final = frozenset((type(None), bool, int, str, bytes))
_TEXT: Final = frozenset((str,))


class Difference(NamedTuple):
    """What differs between a value and what came back of it.

    Attributes:
        path: leads to it, as in `.lines[0].at`; empty for the value itself.
        what: what would happen to it, as in "a tuple would come back as a list".
        hint: what to do.
    """

    path: str
    what: str
    hint: str

    def at(self, part: str | int) -> Difference:
        """Return the same difference, seen from one level further out.

        Args:
            part: the key or the index that leads to it.
        """
        return self._replace(path=path_part(part) + self.path)


NO_NUMBER: Final = Difference(
    "",
    "NaN and infinite numbers are stored as null",
    "Store None or text instead, or set ser_json_inf_nan='strings' in the config of the class.",
)
"""What would happen to a number that JSON lacks."""

_MOST_LOOKED_AT: Final = 50
"""Each look at a part reads the value as a whole."""

_TYPE_HINT: Final = "Give the field a type that says how it is stored, or return plain JSON values."


def difference(old: object, new: object) -> Difference | None:
    """Return the first difference between a value and what came back of it, or None if they are alike.

    Two times in zones of a fixed offset are alike if the offsets are; a time in a zone that changes its offset, such
    as `Europe/Berlin`, is like no time with an offset.

    Args:
        old: the value.
        new: what came back.
    """
    kind = type(old)
    if kind is float and new is None:
        return NO_NUMBER
    if kind is not type(new):
        return Difference("", f"a value of type {_name(old)} would come back as one of type {_name(new)}", _TYPE_HINT)
    if kind in _PLAIN or isinstance(old, enum.Enum):
        return None if old == new else _other_value(old)
    if kind is float:
        return None if old == new or (old != old and new != new) else _other_value(old)  # NaN
    if isinstance(old, (list, tuple, deque)):
        return _of_items(old, new)
    if isinstance(old, Mapping):
        return _of_members(old, new)
    if isinstance(old, AbstractSet):
        return _of_sets(old, new)
    if isinstance(old, (datetime, time)):
        return _of_times(old, new)
    if isinstance(old, Decimal):
        return None if isinstance(new, Decimal) and old.as_tuple() == new.as_tuple() else _other_value(old)
    if hasattr(old, "get_secret_value"):
        assert hasattr(new, "get_secret_value")
        if difference(old.get_secret_value(), new.get_secret_value()) is None:
            return None
        hint = "Read secrets in the node that needs them, and keep them out of the state."
        return Difference("", f"the secret in a {_name(old)} is masked when it is stored", hint)
    return _of_objects(old, new)


def dropped(stored: JsonValue, kept: JsonValue, read: Callable[[JsonValue], JsonValue]) -> str | None:
    """Return the path to the first part of a stored value that a changed class drops, or None.

    A member or an item counts, not a value that the class writes in another way. It is dropped if the class makes the
    same of whatever stands in its place: a validator may have moved it, and a set is written in any order. A class that
    has moved the first fifty of them is taken to have moved all.

    Args:
        stored: the value.
        kept: what is stored of it when the class has read it.
        read: returns that for a value, or raises what the class does.
    """
    is_steady: bool | None = None
    looked_at: set[tuple[str, ...]] = set()
    for path in _missing(stored, kept):
        # All items of a list are of one kind, most often.
        kind = tuple(part for part in path if isinstance(part, str))
        if kind in looked_at:
            continue
        if len(looked_at) == _MOST_LOOKED_AT:
            return None
        looked_at.add(kind)
        if is_steady is None:
            is_steady = read(stored) == kept
        # Two reads differ by what a factory makes: then no effect shows.
        if not is_steady or _is_ignored(path, stored, kept, read):
            return "".join(map(path_part, path))
    return None


def _missing(stored: JsonValue, kept: JsonValue) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths to what is in one value and not in another one."""
    if isinstance(stored, dict) and isinstance(kept, dict):
        for name, value in stored.items():
            for path in _missing(value, kept[name]) if name in kept else [()]:
                yield (name, *path)
    if isinstance(stored, list) and isinstance(kept, list):
        for index, value in enumerate(stored):
            for path in _missing(value, kept[index]) if index < len(kept) else [()]:
                yield (index, *path)


def _is_ignored(
    path: tuple[str | int, ...], stored: JsonValue, kept: JsonValue, read: Callable[[JsonValue], JsonValue]
) -> bool:
    try:
        return bool(read(_replaced(stored, path)) == kept)
    except Exception:  # noqa: BLE001  # validators of users raise what they like, and have looked at it
        return False


def _replaced(value: Any, path: tuple[str | int, ...]) -> JsonValue:
    """Return a copy of a value with another one at a path, which no type but the widest takes."""
    if not path:
        return {"": [{"another": "value"}]}
    changed = value.copy()
    changed[path[0]] = _replaced(value[path[0]], path[1:])
    return changed


def _of_objects(old: object, new: object) -> Difference | None:
    if isinstance(old, BaseModel):
        assert isinstance(new, BaseModel)
        parts: list[tuple[Any, Any]] = [
            ({name: old.__dict__.get(name) for name in type(old).model_fields}, new.__dict__),
            (old.__pydantic_extra__ or {}, new.__pydantic_extra__ or {}),
            (old.__pydantic_private__ or {}, new.__pydantic_private__ or {}),
        ]
        for before, after in parts:
            for name, value in before.items():
                found = difference(value, after.get(name))
                if found is not None:
                    return found.at(name)
        return None
    if dataclasses.is_dataclass(old):
        for field in dataclasses.fields(old):
            found = difference(getattr(old, field.name, None), getattr(new, field.name, None))
            if found is not None:
                return found.at(field.name)
        return None
    return None if old == new else _other_value(old)


def _of_items(old: Any, new: Any) -> Difference | None:
    if getattr(old, "maxlen", None) != getattr(new, "maxlen", None):
        return Difference(
            "",
            f"a deque of at most {old.maxlen} items would come back without that bound",
            "Make it without a bound, and cut it in the node.",
        )
    # Most lists hold plain values, and are compared at once.
    kinds = list(map(type, old))
    if _PLAIN.issuperset(kinds) and old == new and kinds == list(map(type, new)):
        return None
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        found = difference(before, after)
        if found is not None:
            return found.at(index)
    return None if len(old) == len(new) else _other_value(old)


def _of_members(old: Any, new: Any) -> Difference | None:
    if isinstance(old, defaultdict) and old.default_factory is not new.default_factory:
        return Difference("", "a defaultdict would come back with another default", "Declare it: defaultdict[str, T].")
    kinds = list(map(type, old.values()))
    if _PLAIN.issuperset(kinds) and _TEXT.issuperset(map(type, old)) and kinds == list(map(type, new.values())):
        return None if old == new else _other_value(old)
    if len(old) != len(new):
        return _other_value(old)
    for (key, before), (other, after) in zip(old.items(), new.items(), strict=True):
        found = difference(key, other)
        if found is not None:
            return found._replace(what=f"a key: {found.what}").at(str(key))
        found = difference(before, after)
        if found is not None:
            return found.at(str(key))
    return None


def _of_sets(old: Any, new: Any) -> Difference | None:
    if old == new and _TEXT.issuperset(map(type, old)) and _TEXT.issuperset(map(type, new)):
        return None
    others = {item: item for item in new}
    for item in old:
        found = difference(item, others[item]) if item in others else _other_value(old)
        if found is not None:
            return found
    return None if len(old) == len(new) else _other_value(old)


def _of_times(old: Any, new: Any) -> Difference | None:
    if old.tzinfo is not None and new.tzinfo is not None and old.tzinfo != new.tzinfo and not _is_fixed(old.tzinfo):
        return Difference(
            "",
            f"a time in the zone {old.tzinfo} would come back with the offset {old.utcoffset()} alone",
            "Store the time in UTC, as in value.astimezone(UTC), and the zone in a field of its own.",
        )
    if old.fold != new.fold:
        return Difference("", "the fold of a time would be lost", "Store the time in UTC.")
    same_offset = old.utcoffset() == new.utcoffset() and (old.tzinfo is None) == (new.tzinfo is None)
    return None if same_offset and old == new else _other_value(old)


def _is_fixed(zone: tzinfo) -> bool:
    return zone.utcoffset(None) is not None


def _other_value(old: object) -> Difference:
    return Difference(
        "",
        f"a value of type {_name(old)} would come back as another one",
        "Let what validates the field leave a value alone that it has made, and let its serializer say all of it.",
    )


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{plain_name(kind.__module__)}.{kind.__qualname__}"
