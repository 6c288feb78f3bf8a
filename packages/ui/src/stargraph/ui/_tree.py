"""A JSON value as a tree: what is small is shown whole, what is large is cut and can be loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from stargraph.ui._text import shorten, show_number, visible

PAGE: Final = 100
"""How many members of a list or an object are shown at a time."""

_TEXT: Final = 400
_KEY: Final = 120
_OPEN_UP_TO: Final = 60
"""A value with at most so many parts is open from the beginning."""

_MOST_FOUND: Final = 100
_MOST_LOOKED_AT: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Branch:
    """One member of a value.

    Attributes:
        key: its name or position, fit to be shown.
        path: the keys from the top, as JSON.
        kind: `object`, `list`, `text`, `number`, `true`, `null`.
        text: a scalar as JSON, cut; how many members a container has.
        cut: how many characters of a text are not shown.
        children: the first members of a container that is open; None if they are loaded when it is opened.
        more: where the next members begin, or None.
    """

    key: str
    path: str
    kind: str
    text: str
    cut: int = 0
    children: tuple[Branch, ...] | None = None
    more: int | None = None


def value_at(value: Any, path: str) -> Any:
    """Return the part of a value that a path leads to.

    Args:
        value: the whole.
        path: the keys from the top, as a JSON list.

    Raises:
        ValueError: there is no such part.
    """
    try:
        keys = json.loads(path or "[]")
        if not isinstance(keys, list):
            raise TypeError
        for key in keys:
            if isinstance(value, list) and not (isinstance(key, int) and key >= 0):
                raise KeyError(key)
            value = value[key]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise ValueError("the state has no such part at this step") from None
    return value


def members_of(value: Any, path: str, offset: int = 0, *, top: bool = False) -> tuple[tuple[Branch, ...], int | None]:
    """Return members of a container, and where the next ones begin or None.

    Args:
        value: the container.
        path: the keys that lead to it, as JSON.
        offset: the first member.
        top: open small members at once.
    """
    keys = json.loads(path or "[]")
    pairs: Iterator[tuple[Any, Any]] = iter(value.items()) if isinstance(value, dict) else enumerate(value)
    found = tuple(_branch(key, each, [*keys, key], top=top) for key, each in islice(pairs, offset, offset + PAGE))
    return found, offset + PAGE if offset + PAGE < len(value) else None


def _branch(key: Any, value: Any, keys: list[Any], *, top: bool) -> Branch:
    path = json.dumps(keys)
    name = visible(shorten(str(key), _KEY))
    if isinstance(value, (dict, list)):
        kind = "object" if isinstance(value, dict) else "list"
        count = f"{show_number(len(value))} {'member' if kind == 'object' else 'item'}{'' if len(value) == 1 else 's'}"
        children, more = None, None
        if value and top and _parts(value, _OPEN_UP_TO) < _OPEN_UP_TO:
            children, more = members_of(value, path, top=True)
        return Branch(name, path, kind, count, children=children if value else (), more=more)
    if isinstance(value, str):
        text = json.dumps(value[:_TEXT], ensure_ascii=False)
        return Branch(name, path, "text", visible(text), cut=max(len(value) - _TEXT, 0))
    kind = "null" if value is None else "true" if isinstance(value, bool) else "number"
    return Branch(name, path, kind, json.dumps(value))


def _parts(value: Any, most: int) -> int:
    """Count the parts of a value, as far as `most`."""
    count, waiting = 0, [value]
    while waiting and count < most:
        each = waiting.pop()
        count += 1
        if isinstance(each, dict):
            waiting.extend(islice(each.values(), most))
        elif isinstance(each, list):
            waiting.extend(each[:most])
    return count


@dataclass(frozen=True, slots=True)
class Found:
    """A place that a search has found.

    Attributes:
        where: its path for a person.
        path: the keys from the top, as JSON.
        text: the value there, cut.
    """

    where: str
    path: str
    text: str


def search(value: Any, words: str) -> tuple[list[Found], bool]:
    """Find keys and scalars that hold a text, whatever its case; return them, and whether all was looked at.

    Args:
        value: the whole.
        words: the text.
    """
    wanted = words.casefold()
    found: list[Found] = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    looked_at = 0
    while waiting:
        keys, each = waiting.pop()
        looked_at += 1
        if len(found) >= _MOST_FOUND or looked_at > _MOST_LOOKED_AT:
            return found, False
        is_container = isinstance(each, (dict, list))
        text = "" if is_container else each if isinstance(each, str) else json.dumps(each)
        named = bool(keys) and isinstance(keys[-1], str) and wanted in keys[-1].casefold()
        if named or (not is_container and wanted in text.casefold()):
            at = max(text.casefold().find(wanted) - 40, 0)
            shown = f"{show_number(len(each))} members" if is_container else ("…" if at else "") + text[at : at + 160]
            found.append(Found(visible(shorten(show_path(keys), 200)), json.dumps(keys), visible(shown)))
        if isinstance(each, dict):
            waiting.extend(((*keys, key), inner) for key, inner in reversed(each.items()))
        elif isinstance(each, list):
            waiting.extend(((*keys, at), each[at]) for at in reversed(range(len(each))))
    return found, True


def show_path(keys: tuple[Any, ...]) -> str:
    """Return the keys that lead to a value as a person writes them, as in `user.scores[3]`."""
    parts = [
        f"[{key}]" if isinstance(key, int) else f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"
        for key in keys
    ]
    return "".join(parts).removeprefix(".")


def show_json(value: Any, width: int) -> str:
    """Return a value as JSON, indented, cut at so many characters."""
    if isinstance(value, str) and len(value) > width:
        value = f"{value[:width]}…"
    encoder = json.JSONEncoder(indent=1, ensure_ascii=False)
    text = ""
    for piece in encoder.iterencode(value):
        text += piece
        if len(text) > width:
            return visible(f"{text[:width]}…")
    return visible(text)
