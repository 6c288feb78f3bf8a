"""The structural difference of two JSON values, short enough to read however large they are."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.checkpoint.values import canonical, path_part

ChangeKind: TypeAlias = Literal["added", "removed", "changed"]
"""What became of the value at a path."""

LIMIT: Final = 200
"""How many changes a difference lists by default."""

_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~"}
_MISSING: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs.

    Attributes:
        path: where it is, as in `state.user.scores[3]`; `[3:6]` if neighbours in a list were added or removed together.
            An index counts in the list after the change; the index of removed items, in the list before it.
        kind: what became of it.
        before: what it was; None if it was added. Of a range, the list of the items.
        after: what it is; None if it was removed.
    """

    path: str
    kind: ChangeKind
    before: JsonValue = None
    after: JsonValue = None

    def describe(self, width: int = 60) -> str:
        """Return the change on one line.

        Args:
            width: how many characters each value may have.
        """
        if self.kind == "added":
            shown = show(self.after, width)
        elif self.kind == "removed":
            shown = show(self.before, width)
        elif isinstance(self.before, str) and isinstance(self.after, str):
            shown = _texts(self.before, self.after, width)
        else:
            shown = f"{show(self.before, width)} → {show(self.after, width)}"
        return f"{_SIGNS[self.kind]} {self.path}: {shown}"


@dataclass(frozen=True, slots=True)
class Diff:
    """How two values differ; false if they do not.

    Attributes:
        changes: the first changes, in the order of the members.
        total: how many there are.
    """

    changes: tuple[Change, ...]
    total: int

    def __bool__(self) -> bool:
        return self.total > 0

    def lines(self, width: int = 60) -> list[str]:
        """Return the changes as text, one on a line, and how many are not listed.

        Args:
            width: how many characters each value may have.
        """
        lines = [change.describe(width) for change in self.changes]
        left_out = self.total - len(self.changes)
        return [*lines, f"… and {left_out} more"] if left_out else lines

    def as_json(self, width: int = 200) -> dict[str, JsonValue]:
        """Return the difference for programs; a value with a longer JSON text is replaced by its kind and size.

        Args:
            width: how many characters each value may have.
        """
        return {
            "total": self.total,
            "changes": [
                {"path": change.path, "kind": change.kind}
                | ({} if change.kind == "added" else {"before": show(change.before, width)})
                | ({} if change.kind == "removed" else {"after": show(change.after, width)})
                for change in self.changes
            ],
        }


def diff_values(before: JsonValue, after: JsonValue, *, path: str = "state", limit: int = LIMIT) -> Diff:
    """Return how two JSON values differ. Types count: 1, 1.0 and true are three values; the order of keys does not.

    Lists are aligned by the items that both have once, so that an insertion is one change. The cost grows with the
    size of the values, not with its square.

    Args:
        before: one value.
        after: the other.
        path: the name of both.
        limit: how many changes to list; all are counted.
    """
    return _collected(_differences(before, after, path), limit)


def diff_states(before: Checkpoint, after: Checkpoint, *, limit: int = LIMIT) -> Diff:
    """Return how the states of two checkpoints differ. Fields that are equal by their digests cost nothing.

    Args:
        before: one checkpoint.
        after: the other.
        limit: how many changes to list; all are counted.
    """
    old, new = before.encoded_state(), after.encoded_state()
    differing = {
        name
        for name in old.keys() | new.keys()
        if name not in old or name not in new or old[name].digest != new[name].digest
    }
    return diff_values(
        {name: value for name, value in before.state.items() if name in differing},
        {name: value for name, value in after.state.items() if name in differing},
        limit=limit,
    )


def show(value: JsonValue, width: int) -> str:
    """Return a value as JSON on one line; of what is longer, its kind and its size.

    Args:
        width: how many characters it may have.
    """
    if isinstance(value, str) and len(value) > width:
        return f"{_quoted(value[:width] + '…')} ({len(value)} characters)"
    if isinstance(value, (list, dict)):
        text = _quoted(value) if len(value) <= width else ""
        if not text or len(text) > width:
            ends, unit = ("[]", "item") if isinstance(value, list) else ("{}", "member")
            return f"{ends[0]}…{ends[1]} ({len(value)} {unit}{'' if len(value) == 1 else 's'})"
    return _quoted(value)


def _quoted(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _texts(before: str, after: str, width: int) -> str:
    if len(before) <= width and len(after) <= width:
        return f"{_quoted(before)} → {_quoted(after)}"
    ends = range(1, min(len(before), len(after)) + 1)
    first = bisect_left(ends, True, key=lambda end: before[:end] != after[:end])
    begin = max(first - width // 4, 0)
    old, new = (
        ("…" if begin else "") + text[begin : begin + width] + ("…" if len(text) > begin + width else "")
        for text in (before, after)
    )
    sizes = f"{len(before)} → {len(after)} characters, from character {first}"
    return f"{_quoted(old)} → {_quoted(new)} ({sizes})"


def _collected(differences: Iterator[Change], limit: int) -> Diff:
    changes: list[Change] = []
    total = 0
    for change in differences:
        total += 1
        if total <= limit:
            changes.append(change)
    return Diff(tuple(changes), total)


def _differences(before: JsonValue, after: JsonValue, path: str) -> Iterator[Change]:
    if type(before) is dict and type(after) is dict:
        yield from _of_objects(before, after, path)
    elif type(before) is list and type(after) is list:
        yield from _of_lists(before, after, path)
    elif type(before) is not type(after) or canonical(before) != canonical(after):
        yield Change(path, "changed", before, after)


def _of_objects(before: dict[str, JsonValue], after: dict[str, JsonValue], path: str) -> Iterator[Change]:
    for key, old in before.items():
        new = after.get(key, _MISSING)
        if new is _MISSING:
            yield Change(path + path_part(key), "removed", before=old)
        elif new is not old:
            yield from _differences(old, new, path + path_part(key))
    for key, new in after.items():
        if key not in before:
            yield Change(path + path_part(key), "added", after=new)


def _of_lists(before: list[JsonValue], after: list[JsonValue], path: str) -> Iterator[Change]:
    for old_start, old_end, new_start, new_end in _gaps([canonical(x) for x in before], [canonical(x) for x in after]):
        paired = min(old_end - old_start, new_end - new_start)
        for at in range(paired):
            yield from _differences(before[old_start + at], after[new_start + at], f"{path}[{new_start + at}]")
        if old_start + paired < old_end:
            yield _run(path, "removed", before, old_start + paired, old_end)
        if new_start + paired < new_end:
            yield _run(path, "added", after, new_start + paired, new_end)


def _run(path: str, kind: Literal["added", "removed"], items: list[JsonValue], start: int, end: int) -> Change:
    alone = end - start == 1
    value = items[start] if alone else items[start:end]
    where = f"{path}[{start}]" if alone else f"{path}[{start}:{end}]"
    return Change(where, kind, after=value) if kind == "added" else Change(where, kind, before=value)


_Gap: TypeAlias = tuple[int, int, int, int]
"""Where two lists differ: start and end in the one, start and end in the other."""


def _gaps(before: Sequence[bytes], after: Sequence[bytes]) -> list[_Gap]:
    """Return where two lists differ: the patience diff of Bram Cohen, anchored at what both have once."""
    found: list[_Gap] = []
    waiting: list[_Gap] = [(0, len(before), 0, len(after))]
    while waiting:
        old_start, old_end, new_start, new_end = waiting.pop()
        while old_start < old_end and new_start < new_end and before[old_start] == after[new_start]:
            old_start, new_start = old_start + 1, new_start + 1
        while old_start < old_end and new_start < new_end and before[old_end - 1] == after[new_end - 1]:
            old_end, new_end = old_end - 1, new_end - 1
        if old_start == old_end and new_start == new_end:
            continue
        anchors = _anchors(before, after, (old_start, old_end, new_start, new_end))
        if not anchors:
            found.append((old_start, old_end, new_start, new_end))
            continue
        bounds = [(old_start - 1, new_start - 1), *anchors, (old_end, new_end)]
        waiting += [(old + 1, next_old, new + 1, next_new) for (old, new), (next_old, next_new) in pairwise(bounds)]
    return sorted(found)


def _anchors(before: Sequence[bytes], after: Sequence[bytes], gap: _Gap) -> list[tuple[int, int]]:
    """Return the longest chain of items that both sides have once and in one order, as pairs of positions."""
    old_start, old_end, new_start, new_end = gap
    old_counts, new_counts = Counter(before[old_start:old_end]), Counter(after[new_start:new_end])
    places = {after[at]: at for at in range(new_start, new_end) if new_counts[after[at]] == 1}
    pairs = [
        (at, places[before[at]])
        for at in range(old_start, old_end)
        if old_counts[before[at]] == 1 and before[at] in places
    ]
    ends: list[int] = []
    chains: list[int] = []
    previous: list[int | None] = []
    for position, (_, new) in enumerate(pairs):
        length = bisect_left(ends, new)
        previous.append(chains[length - 1] if length else None)
        if length == len(ends):
            ends.append(new)
            chains.append(position)
        else:
            ends[length], chains[length] = new, position
    longest: list[tuple[int, int]] = []
    link = chains[-1] if chains else None
    while link is not None:
        longest.append(pairs[link])
        link = previous[link]
    return longest[::-1]
