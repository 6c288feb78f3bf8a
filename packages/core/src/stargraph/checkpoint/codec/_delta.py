"""What leads from the encoded fields of one checkpoint to those of a later one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from stargraph.checkpoint.codec._edit_script import EditScript, compose, diff
from stargraph.checkpoint.codec._fields import DIGEST_BYTES, DIGESTS, EVENT, EncodedFields

_SHORT: Final = 64
"""A text up to this length is stored whole when it changes: a difference would cost as much."""

_SHORT_EVENT: Final = 1024
"""Likewise for the event of a step, which differs in each; the compressor knows most of it."""

_MOST_RANGES: Final = 1000
"""A text that is in more ranges than this is copied: a hostile script could else make ever more of them."""

NOTHING: Final = EncodedFields({}, {}, None)
"""The base of a record that has none."""

_AFTER: Final[EditScript] = [(0, DIGEST_BYTES)]
"""Makes the digest of the step before from the digests of that step."""


@dataclass(slots=True)
class Delta:
    """The texts that differ, each with the script that makes it from the base's text of the same name.

    Attributes:
        fields: fields that differ.
        state: members of the state that differ or are new, in the order of the state.
        keys: all members of the state after it, in order.
    """

    fields: dict[str, EditScript]
    state: dict[str, EditScript]
    keys: tuple[str, ...]


def delta_between(old: EncodedFields, new: EncodedFields, grown: Mapping[str, bytes] | None = None) -> Delta:
    """Return what leads from the encoded fields of one checkpoint to those of another.

    Args:
        old: the base, or `NOTHING`.
        new: what is to be made.
        grown: the lists of the new state that are known to be earlier ones with items appended: the texts of those.
    """
    fields = {
        name: script_between(old.fields.get(name), text, _SHORT_EVENT if name == EVENT else _SHORT)
        for name, text in new.fields.items()
        if text is not old.fields.get(name)
    }
    state: dict[str, EditScript] = {}
    for key, text in new.state.items():
        before = old.state.get(key)
        if text is before:
            continue
        if grown and before is not None and grown.get(key) is before:
            kept = len(before) - 1
            state[key] = [(0, kept), text[kept:]]
        elif text != before:
            state[key] = script_between(before, text)
    return Delta(fields, state, tuple(new.state))


def follow(delta: Delta, new: EncodedFields) -> None:
    """Let a delta take the digest of the step before from its base, which is that step.

    Args:
        delta: what leads to `new`; changed in place.
        new: what is to be made.
    """
    delta.fields[DIGESTS] = [new.fields[DIGESTS][:DIGEST_BYTES], *_AFTER]


def script_between(old: bytes | None, new: bytes, short: int = _SHORT) -> EditScript:
    """Return the script that makes one text from another one.

    Args:
        old: the text that the reader has, if any.
        new: the text to be made.
        short: up to which length, in bytes, a text is stored whole.
    """
    if old is None or len(new) <= short or len(old) <= short:
        return [new] if new else []
    return diff(old, new)


def compose_deltas(first: Delta, second: Delta) -> Delta:
    """Return the delta that has the effect of two, one after the other; both made here.

    Args:
        first: leads from A to B.
        second: leads from B to C.
    """
    state = _composed(first.state, second.state)
    # In the order of the state: new members are appended as they come.
    ordered = {key: state[key] for key in second.keys if key in state}
    return Delta(_composed(first.fields, second.fields), ordered, second.keys)


def _composed(first: dict[str, EditScript], second: dict[str, EditScript]) -> dict[str, EditScript]:
    both = first | second
    for name, script in second.items():
        before = first.get(name)
        if before is not None and not _is_whole(script):
            both[name] = compose(before, script)
    return both


def literal_bytes(delta: Delta) -> int:
    """Return how many bytes a delta holds, besides what it copies from its base."""
    scripts = (*delta.fields.values(), *delta.state.values())
    return sum([len(part) for script in scripts for part in script if isinstance(part, bytes)])


def apply_scripts(
    base: Mapping[str, bytes], steps: Sequence[Mapping[str, EditScript]], *, most: int
) -> dict[str, bytes]:
    """Return the texts that several steps make, each from those of the step before it; each is copied once.

    Args:
        base: the texts before the first step.
        steps: what was stored for each step: the scripts of the texts that it changes.
        most: how long all of them together may be, in bytes, so that records that copy again and again do not fill the
            memory.

    Returns:
        The texts that any of the steps changes, in no particular order.

    Raises:
        ValueError: a script copies what is not there, or makes too much.
    """
    made: dict[str, bytes] = {}
    edits: dict[str, list[EditScript]] = {}
    for step in steps:
        for name, script in step.items():
            if len(script) == 1 and type(script[0]) is bytes:
                made[name] = script[0]  # hides whatever there was before
                if edits:
                    edits.pop(name, None)
            else:
                edits.setdefault(name, []).append(script)
    left = most - sum(map(len, made.values()))
    for name, scripts in edits.items():
        text = made[name] if name in made else base.get(name, b"")
        made[name] = text = _apply_all(scripts, text, left)
        left -= len(text)
    if left < 0:
        raise ValueError(f"it makes more than {most} bytes")
    return made


def _apply_all(scripts: list[EditScript], text: bytes, most: int) -> bytes:
    """Apply scripts one after the other; the texts in between are only ranges of others, and are not copied."""
    ranges = [(text, 0, len(text))]
    for script in scripts:
        if len(ranges) * len(script) > _MOST_RANGES:
            text = _joined(ranges)
            ranges = [(text, 0, len(text))]
        ranges = _applied(script, ranges, most)
    return _joined(ranges)


def _applied(script: EditScript, old: list[tuple[bytes, int, int]], most: int) -> list[tuple[bytes, int, int]]:
    ends = list(accumulate([end - start for _, start, end in old]))
    length = ends[-1] if ends else 0
    made: list[tuple[bytes, int, int]] = []
    size = 0
    for instruction in script:
        if isinstance(instruction, bytes):
            made.append((instruction, 0, len(instruction)))
            size += len(instruction)
            continue
        at, left = instruction
        if at < 0 or left < 0 or at + left > length:
            raise ValueError("it copies what its base does not have")
        size += left
        if size > most:
            break
        position = bisect_right(ends, at)
        while left:
            source, start, end = old[position]
            start += at - (ends[position] - (end - start))
            taken = min(end - start, left)
            made.append((source, start, start + taken))
            at, left, position = at + taken, left - taken, position + 1
    if size > most:
        raise ValueError(f"it makes more than {most} bytes")
    return made


def _joined(ranges: list[tuple[bytes, int, int]]) -> bytes:
    return b"".join([memoryview(source)[start:end] for source, start, end in ranges])


def _is_whole(script: EditScript) -> bool:
    """Return whether a script makes a text from nothing, in one piece: most do."""
    return len(script) == 1 and type(script[0]) is bytes
