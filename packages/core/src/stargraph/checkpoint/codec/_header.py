"""What a record begins with: its version, its flags, and the steps it is decoded from; docs/formats.md draws it."""

from __future__ import annotations

from typing import Final, NamedTuple

from stargraph.errors import CheckpointCorruptedError, StoreVersionError

RECORD_VERSION: Final = 1
"""The version of the form that is written and read."""

COMPRESSED: Final = 1
ENCRYPTED: Final = 2

_MARK: Final = 0xC0
"""The upper two bits of the first byte; the version is in the lower six. No text in UTF-8 begins with 0xC1."""

_BEFORE_THE_RELEASE: Final = range(1, 10)
"""What records of the versions before the first release begin with; nothing reads them."""

_MOST_BASES: Final = 64


class Header(NamedTuple):
    """The beginning of a record.

    Attributes:
        flags: `COMPRESSED` and `ENCRYPTED`, added.
        base_steps: the steps that it is decoded from, the keyframe first.
        end: its length, in bytes; the body follows.
    """

    flags: int
    base_steps: tuple[int, ...]
    end: int


def write_header(flags: int, step: int, base_steps: tuple[int, ...]) -> bytes:
    """Return the beginning of a record.

    Args:
        flags: `COMPRESSED` and `ENCRYPTED`, added.
        step: the step of the record.
        base_steps: the steps that it is decoded from, the keyframe first.
    """
    header = bytearray((_MARK | RECORD_VERSION, flags))
    _put_number(header, len(base_steps))
    for earlier in base_steps:
        _put_number(header, step - earlier)
    return bytes(header)


def read_header(record: bytes, run_id: str, step: int) -> Header:
    """Return the beginning of a record.

    Args:
        record: what is stored, or the beginning of it.
        run_id: the run that it is stored under.
        step: the step that it is stored at.

    Raises:
        CheckpointCorruptedError: it does not begin like a record.
        StoreVersionError: another version of Stargraph wrote it.
    """
    try:
        if record[0] != _MARK | RECORD_VERSION:
            raise _other_version(record[0], run_id, step)
        flags = record[1]
        if flags & ~(COMPRESSED | ENCRYPTED):
            raise ValueError
        count, position = _number(record, 2)
        if not count:
            return Header(flags, (), position)
        if count > _MOST_BASES:
            raise ValueError
        bases = []
        base = -1
        for _ in range(count):
            before = record[position]
            position += 1
            if before > 0x7F:
                before, position = _number(record, position - 1)
            if not base < step - before < step:
                raise ValueError
            base = step - before
            bases.append(base)
    except (IndexError, ValueError):
        raise corrupted(run_id, step, "it does not begin like a record") from None
    return Header(flags, tuple(bases), position)


def base_steps_of(record: bytes, *, run_id: str, step: int) -> tuple[int, ...]:
    """Return the steps that a record says it is decoded from, the keyframe first; the last one is its direct base.

    Args:
        record: what is stored, or the beginning of it.
        run_id: the run that it is stored under.
        step: the step that it is stored at.

    Raises:
        CheckpointCorruptedError: it does not begin like a record.
        StoreVersionError: another version of Stargraph wrote it.
    """
    return read_header(record, run_id, step).base_steps


def corrupted(run_id: str, step: int, complaint: str) -> CheckpointCorruptedError:
    """Return the error of a record that is not what was written.

    Args:
        complaint: what is wrong with it.
    """
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the stored record is not what was written: {complaint}",
        reason="corrupted-record",
        hint="Nothing was changed. Restore the store from a backup, or fork the run from an earlier step.",
        run_id=run_id,
        step=step,
    )


def _other_version(first: int, run_id: str, step: int) -> Exception:
    """Return the error of a record that does not begin with the byte of this version."""
    if first in _BEFORE_THE_RELEASE:
        return StoreVersionError(
            f"run {run_id!r}, step {step}: the record was written before the first release, and nothing reads it",
            reason="older-format",
            hint="Nothing was changed. Finish the run with the version that wrote it.",
            run_id=run_id,
            step=step,
        )
    if first > _MARK | RECORD_VERSION:
        return StoreVersionError(
            f"run {run_id!r}, step {step}: the record has version {first - _MARK}, and this software reads up to"
            f" {RECORD_VERSION}",
            reason="newer-format",
            hint="Upgrade stargraph-core here to the version that wrote it.",
            run_id=run_id,
            step=step,
        )
    return ValueError()


def _put_number(header: bytearray, number: int) -> None:
    """Add a number as LEB128 does: seven bits a byte, the lowest first, the high bit set if more follow."""
    while number > 0x7F:
        header.append(number & 0x7F | 0x80)
        number >>= 7
    header.append(number)


def _number(record: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = record[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError
