"""Edit scripts between byte strings: how one text is made from another one.

A script is a list of instructions in the order of the new text: a pair `(start, length)` copies a range of the old
text, and bytes are taken as they are. Scripts compose: what leads from A to B and what leads from B to C give what
leads from A to C, without a look at A or B. That is how a record skips records between it and its base.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, TypeAlias

Instruction: TypeAlias = "tuple[int, int] | bytes"
EditScript: TypeAlias = "list[Instruction]"

_BLOCK: Final = 16 * 1024
_ANCHOR: Final = 32
_ANCHORS: Final = (0.4377, 0.618, 0.2639, 0.809, 0.1459)
"""At which parts of a range a common piece is looked for: not at simple fractions, since regular edits lie there."""
_SPLITS: Final = 400
"""At how many places a text is split, at most: about how many separate edits of one text are found."""
_SCANS: Final = 8
"""How often the old text may be searched through, all searches taken together."""


def diff(old: bytes, new: bytes) -> EditScript:
    """Return a script that makes `new` from `old`: short if few places differ, and always right.

    What the two have in common at both ends is copied. What differs between is split at a piece that both have, and so
    on in both halves.

    Args:
        old: the text that the reader has.
        new: the text to be made.
    """
    script: EditScript = []
    _Differ(old, new, script).compare(0, len(old), 0, len(new))
    return script


class _Differ:
    """Writes the script of one pair of texts."""

    def __init__(self, old: bytes, new: bytes, script: EditScript) -> None:
        self._old = old
        self._new = new
        self._script = script
        self._splits = _SPLITS
        self._left_to_scan = _SCANS * len(old)

    def compare(self, old_start: int, old_end: int, new_start: int, new_end: int) -> None:
        """Write what makes a range of the new text from a range of the old one."""
        old, new, script = self._old, self._new, self._script
        head = _common_prefix(old, new, old_start, old_end, new_start, new_end)
        _copy(script, old_start, head)
        old_start, new_start = old_start + head, new_start + head
        tail = _common_suffix(old, new, old_start, old_end, new_start, new_end)
        old_end, new_end = old_end - tail, new_end - tail
        anchor = self._anchor(old_start, old_end, new_start, new_end)
        if anchor is None:
            _insert(script, new[new_start:new_end])
        else:
            old_at, new_at = anchor
            self.compare(old_start, old_at, new_start, new_at)
            self.compare(old_at, old_end, new_at, new_end)
        _copy(script, old_end, tail)

    def _anchor(self, old_start: int, old_end: int, new_start: int, new_end: int) -> tuple[int, int] | None:
        """Find a piece of the new range in the old one; return its start in both."""
        length = new_end - new_start
        if length < 4 * _ANCHOR or old_end - old_start < _ANCHOR:
            return None
        for part in _ANCHORS:
            if not self._splits or self._left_to_scan <= 0:
                return None
            new_at = new_start + int(length * part)
            old_at = self._old.find(self._new[new_at : new_at + _ANCHOR], old_start, old_end)
            self._left_to_scan -= (old_at if old_at >= 0 else old_end) - old_start
            if old_at >= 0:
                self._splits -= 1
                return old_at, new_at
        return None


def _common_prefix(old: bytes, new: bytes, old_start: int, old_end: int, new_start: int, new_end: int) -> int:
    most = min(old_end - old_start, new_end - new_start)
    if not most:
        return 0
    # The longest that it can be is tried first: most changes append, to a list before its last bracket.
    longest = most if old[old_start + most - 1] == new[new_start + most - 1] else most - 1
    if new.startswith(old[old_start : old_start + longest], new_start):
        return longest
    same, block = 0, 64
    while new.startswith(old[old_start + same : old_start + same + block], new_start + same):
        same += block
        block = min(2 * block, _BLOCK)
    low, high = same, min(same + block, most)
    while low < high:
        middle = (low + high + 1) // 2
        if new.startswith(old[old_start + low : old_start + middle], new_start + low):
            low = middle
        else:
            high = middle - 1
    return low


def _common_suffix(old: bytes, new: bytes, old_start: int, old_end: int, new_start: int, new_end: int) -> int:
    most = min(old_end - old_start, new_end - new_start)
    same, block = 0, 64
    while same + block <= most and (
        old[old_end - same - block : old_end - same] == new[new_end - same - block : new_end - same]
    ):
        same += block
        block = min(2 * block, _BLOCK)
    low, high = same, min(same + block, most)
    while low < high:
        middle = (low + high + 1) // 2
        if old[old_end - middle : old_end - low] == new[new_end - middle : new_end - low]:
            low = middle
        else:
            high = middle - 1
    return low


def _copy(script: EditScript, start: int, length: int) -> None:
    if not length:
        return
    last = script[-1] if script else None
    if isinstance(last, tuple) and last[0] + last[1] == start:
        script[-1] = (last[0], last[1] + length)
    else:
        script.append((start, length))


def _insert(script: EditScript, text: bytes) -> None:
    if not text:
        return
    last = script[-1] if script else None
    if isinstance(last, bytes):
        script[-1] = last + text
    else:
        script.append(text)


def compose(first: EditScript, second: EditScript) -> EditScript:
    """Return the script that has the effect of two, one after the other.

    Args:
        first: makes B from A.
        second: makes C from B.
    """
    ends = list(accumulate(map(length_of, first)))
    script: EditScript = []
    for instruction in second:
        if isinstance(instruction, bytes):
            _insert(script, instruction)
            continue
        start, length = instruction
        position = bisect_right(ends, start)
        while length:
            part = first[position]
            offset = start - (ends[position] - length_of(part))
            taken = min(length_of(part) - offset, length)
            if isinstance(part, bytes):
                _insert(script, part[offset : offset + taken])
            else:
                _copy(script, part[0] + offset, taken)
            start, length, position = start + taken, length - taken, position + 1
    return script


def apply(script: Iterable[Instruction], old: bytes, *, most: int) -> bytes:
    """Return the text that a script makes.

    Args:
        script: the instructions.
        old: the text that they copy from.
        most: how long the new text may be, in bytes.

    Raises:
        ValueError: the script copies what is not there, or makes more than `most`.
    """
    parts: list[bytes] = []
    size = 0
    for instruction in script:
        if isinstance(instruction, bytes):
            parts.append(instruction)
            size += len(instruction)
        else:
            start, length = instruction
            if start < 0 or length < 0 or start + length > len(old):
                raise ValueError("it copies what its base does not have")
            size += length
            if size > most:
                break
            parts.append(old[start : start + length])
    if size > most:
        raise ValueError(f"it makes more than {most} bytes")
    return b"".join(parts)


def length_of(instruction: Instruction) -> int:
    """Return how many bytes an instruction makes."""
    return len(instruction) if isinstance(instruction, bytes) else instruction[1]
