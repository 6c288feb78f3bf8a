r"""The stored form of a checkpoint: a record.

    byte 0     the version of the form, 9
    byte 1     flags: 1 the body is compressed (zstd, with the dictionary of `_dictionary`), 2 the body is encrypted
    varint     how many records it is decoded from, the keyframe first; 0 for a keyframe
    varints    for each of them, how many steps before this one
    the body

A body, once decrypted and decompressed, is a line of JSON and the literals: `{…}\n<bytes>`. The line says how each text
is made:

    f   `run`, `event` and `digests`, if they differ from the base's
    s   members of the state that are new or differ
    d   members of the base's state that are gone
    o   the members of the state in order, if it is not that of the base with the new ones behind
    u   the members of the update, in order; missing if there is no update

`run` and `event` are objects of the checkpoint's fields, as JSON; what is None or empty is left out. `digests` are
its digest and the one before it, 32 bytes each.

The literals begin with a check, 4 bytes: the CRC-32 of the line, of the base's digest below, and of the literals of
`f`, which come first. With it the event of a step is known from the beginning of its record, without its state.

If it has a base, the first 4 bytes of the base's digest follow: another record in its place could give the right
values in another order, which no digest covers.

A text is made by a script: the number n, or a list of instructions. n takes the next n bytes of the literals; in a
list, -n does that, and a pair `start, length` copies a range of the base's text of the same name, or, for the update,
of the state's member of the same name in this very checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from threading import local
from typing import Any, Final
from zlib import crc32

import orjson
import zstandard

from stargraph.checkpoint.codec._cipher import Cipher, no_keys, not_encrypted
from stargraph.checkpoint.codec._delta import Delta, apply_scripts, script_between
from stargraph.checkpoint.codec._dictionary import DICTIONARY
from stargraph.checkpoint.codec._edit_script import EditScript
from stargraph.checkpoint.codec._fields import BASE_CHECK_BYTES, EncodedFields
from stargraph.checkpoint.values import MAX_BYTES
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StateError, StoreVersionError

RECORD_VERSION: Final = 9
"""The version of the form that is written."""

_READ: Final = b"\x04\x05\x06\x07\x08\x09"
"""The versions that are read.

One of version 8 knows only the end of today's dictionary, one of version 7 has no check either, one of version 6 no
`queue` and no `id` of a process, one of version 5 no `due_at` and no `attempt`, one of version 4 no `key`.
"""

_FIRST_CHECKED: Final = 8
_CHECK_BYTES: Final = 4

HEAD_BYTES: Final = 132 * 1024
"""So much of a record tells its event, unless that is very long: a block of zstd (RFC 8878, section 3.1.1.2.3), which
holds 128 KiB of the body, and what is before it."""

_EVENT_BYTES: Final = 8 * 1024
"""How much of a body is inflated at first, to find its event: most are shorter."""

MOST_BYTES: Final = 4 * MAX_BYTES
"""How long a body may be, in bytes; no record is inflated beyond it."""

_COMPRESSED: Final = 1
_ENCRYPTED: Final = 2
_LEVEL: Final = 1
"""Higher ones take longer, and save a few per cent of prose or nothing."""
_QUICK_LEVEL: Final = -1
_QUICK: Final = 512
"""Up to this length of a body the quick level takes a third of the time, and makes it a few per cent longer."""
_NO_SCRIPT: Final[EditScript] = []
_WORTH_COMPRESSING: Final = 96
_MOST_BASES: Final = 64
_ANY_STEP: Final = 2**63
_FRAME_HEADER: Final = 18
"""Bytes of the longest header of a frame of zstd (RFC 8878, section 3.1.1.1)."""
_BEST_RATIO: Final = 64


def pack(
    run_id: str,
    step: int,
    delta: Delta,
    encoded: EncodedFields,
    *,
    base_steps: tuple[int, ...] = (),
    base_check: bytes = b"",
    base_keys: Sequence[str] = (),
    cipher: Cipher | None = None,
) -> bytes:
    """Return the record of a checkpoint; a keyframe if no base is given.

    Args:
        run_id: the run.
        step: the step.
        delta: what leads from the base to it.
        encoded: its own encoded fields.
        base_steps: the steps that it is decoded from, the keyframe first.
        base_check: that of the base.
        base_keys: the members of the base's state, in order.
        cipher: encrypts it.

    Raises:
        StateError: it is too large.
    """
    literals = [base_check]
    index: dict[str, Any] = {"f": {name: _written(script, literals) for name, script in delta.fields.items()}}
    event = b"".join(literals)
    literals = [event]
    if delta.state:
        index["s"] = {key: _written(script, literals) for key, script in delta.state.items()}
    if base_steps and base_keys != delta.keys:
        gone = [key for key in base_keys if key not in encoded.state]
        if gone:
            index["d"] = gone
        if _implied_order(base_keys, encoded.state) != list(encoded.state):
            index["o"] = list(encoded.state)
    if encoded.update is not None:
        index["u"] = {
            key: _written(script_between(encoded.state.get(key), text), literals)
            for key, text in encoded.update.items()
        }
    line = orjson.dumps(index)
    body = b"".join((line, b"\n", _check_of(line, event), *literals))
    if len(body) > MOST_BYTES:
        raise StateError(
            f"run {run_id!r}, step {step}: a record of {len(body) / 2**20:.0f} MiB, more than the"
            f" {MOST_BYTES // 2**20} MiB that a store takes",
            reason="too-large",
            hint="Keep large data in a file or an object store, and its address in the state.",
        )
    flags = 0
    if len(body) >= _WORTH_COMPRESSING:
        compressor = _zstandard.quick_compressor if len(body) <= _QUICK else _zstandard.compressor
        compressed = compressor.compress(body)
        if len(compressed) < len(body):
            body, flags = compressed, _COMPRESSED
    if cipher is not None:
        flags |= _ENCRYPTED
    header = bytearray((RECORD_VERSION, flags))
    _put_number(header, len(base_steps))
    for earlier in base_steps:
        _put_number(header, step - earlier)
    if cipher is not None:
        body = cipher.encrypt(body, run_id=run_id, step=step, header=bytes(header))
    return bytes(header) + body


class RecordCutError(Exception):
    """The beginning of a record is too short to tell its event.

    Args:
        step: the step.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}")
        self.step = step


class StoredRecord:
    """A record whose body can be read.

    Args:
        record: what is stored.
        run_id: the run that it is stored under.
        step: the step that it is stored at.
        cipher: decrypts it.
        size: the length of what is stored, if `record` may be no more than its beginning: then only the event is read,
            and `state` has no scripts, but names alone.

    Attributes:
        step: the step.
        size: the length of what is stored, in bytes.
        is_checked: its event is proved by the check; without one, only by the digest, and so with the whole state.
        base_steps: the steps that it is decoded from, the keyframe first.
        base_check: the beginning of its base's digest; empty for a keyframe.
        fields: the scripts of `run`, `event` and `digests`, as far as they differ from the base's.
        state: the scripts of members of the state that are new or differ.

    Raises:
        CheckpointCorruptedError: it is not what was written.
        StoreVersionError: a newer version of Stargraph wrote it.
        RecordCutError: the event needs more of the record.
    """

    def __init__(
        self, record: bytes, run_id: str, step: int, cipher: Cipher | None, *, size: int | None = None
    ) -> None:
        self.step = step
        self.size = len(record) if size is None else size
        self.base_steps, start = _header(record, run_id, step)
        flags, body = record[1], record[start:]
        is_cut = self.size > len(record)
        self.is_checked = is_checked = record[0] >= _FIRST_CHECKED
        if is_cut and (flags & _ENCRYPTED or not is_checked):
            raise RecordCutError(step)
        if flags & _ENCRYPTED:
            if cipher is None:
                raise no_keys(run_id, step)
            body = cipher.decrypt(body, run_id=run_id, step=step, header=record[:start])
        elif cipher is not None and not cipher.allow_plain:
            raise not_encrypted(run_id, step)
        try:
            if size is not None and is_checked:
                body = _event_part(body, is_compressed=bool(flags & _COMPRESSED))
            elif flags & _COMPRESSED:
                body = _inflate(body)
            line = body.index(b"\n")
            self._index = _object(orjson.loads(memoryview(body)[:line]))
            literals = _LiteralReader(body, line + 1)
            check = literals.take(_CHECK_BYTES) if is_checked else None
            self.base_check = literals.take(BASE_CHECK_BYTES if self.base_steps else 0)
            self.fields = literals.scripts(self._index["f"])
            if check is not None and check != _check_of(
                memoryview(body)[:line], literals.taken(line + 1 + _CHECK_BYTES)
            ):
                raise ValueError("its check does not fit")
            if size is not None:
                self.state = dict.fromkeys(_object(self._index.get("s", {})), _NO_SCRIPT)
                self._update: dict[str, EditScript] | None = dict.fromkeys(
                    _object(self._index.get("u") or {}), _NO_SCRIPT
                )
                return
            self.state = literals.scripts(self._index.get("s", {}))
            update = self._index.get("u")
            self._update = None if update is None else literals.scripts(update)
            literals.end()
        except (ValueError, TypeError, KeyError, zstandard.ZstdError) as error:
            if is_cut:
                raise RecordCutError(step) from None
            raise corrupted(run_id, step, str(error).partition("\n")[0]) from None

    def keys(self, base_keys: tuple[str, ...]) -> tuple[str, ...]:
        """Return the members of the state, in order.

        Args:
            base_keys: those of the base; empty for a keyframe.

        Raises:
            ValueError: the order that is stored is not one of the members.
        """
        order, gone = self._index.get("o"), self._index.get("d", ())
        if order is None and not gone:
            if not base_keys:
                return tuple(self.state)
            known = set(base_keys)
            new = [key for key in self.state if key not in known]
            return (*base_keys, *new) if new else base_keys
        removed = set(gone)
        members = dict.fromkeys([*(key for key in base_keys if key not in removed), *self.state])
        if order is None:
            return tuple(members)
        if len(order) != len(members) or {*order} != members.keys():
            raise ValueError("its order of the state is not that of the members")
        return tuple(order)

    @property
    def updated(self) -> tuple[str, ...]:
        """The names of the members of the update, in order; none if there is no update."""
        return tuple(self._update or ())

    def update(self, state: Mapping[str, bytes]) -> dict[str, bytes] | None:
        """Return the texts of the update, or None if there is none.

        Args:
            state: the texts of the state, from which they are made.

        Raises:
            ValueError: they cannot be made from it.
        """
        if self._update is None:
            return None
        made = apply_scripts(state, [self._update], most=MOST_BYTES)
        return {key: made[key] for key in self._update}


def base_steps_of(record: bytes, *, run_id: str, step: int) -> tuple[int, ...]:
    """Return the steps that a record says it is decoded from, the keyframe first; the last one is its direct base.

    Args:
        record: what is stored, or the beginning of it.
        run_id: the run that it is stored under.
        step: the step that it is stored at.

    Raises:
        CheckpointCorruptedError: it does not begin like a record.
        StoreVersionError: a newer version of Stargraph wrote it.
    """
    return _header(record, run_id, step)[0]


def decoded_size(record: bytes) -> int:
    """Return about how many bytes a record takes once it is decompressed: decides who decodes it, and no more.

    Of an encrypted one, whose size cannot be seen, it is a guess that is rather too high.
    """
    try:
        flags, start = record[1], _header(record, "", _ANY_STEP)[1]
        if flags & _ENCRYPTED:
            return len(record) * _BEST_RATIO
        return (
            zstandard.frame_content_size(record[start : start + _FRAME_HEADER]) if flags & _COMPRESSED else len(record)
        )
    except (IndexError, CheckpointError, zstandard.ZstdError):
        return len(record)  # whoever decodes it finds out


def corrupted(run_id: str, step: int, complaint: str) -> CheckpointCorruptedError:
    """Return the error of a record that is not what was written.

    Args:
        run_id: the run.
        step: the step.
        complaint: what is wrong with it.
    """
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the stored record is not what was written: {complaint}",
        reason="corrupted-record",
        hint="Nothing was changed. Restore the store from a backup, or fork the run from an earlier step.",
        run_id=run_id,
        step=step,
    )


def _header(record: bytes, run_id: str, step: int) -> tuple[tuple[int, ...], int]:
    if record[:1] > bytes((RECORD_VERSION,)):
        raise StoreVersionError(
            f"run {run_id!r}, step {step}: the record has version {record[0]}, and this software reads up to"
            f" {RECORD_VERSION}",
            reason="newer-format",
            hint="Upgrade stargraph-core here to the version that wrote it.",
            run_id=run_id,
            step=step,
        )
    if record[:1] in (b"\x01", b"\x02", b"\x03"):
        raise StoreVersionError(
            f"run {run_id!r}, step {step}: the record has version {record[0]}, from before the first release",
            reason="older-format",
            hint="This software cannot read it; the one that wrote it can.",
            run_id=run_id,
            step=step,
        )
    try:
        if record[0] not in _READ or record[1] & ~(_COMPRESSED | _ENCRYPTED):
            raise ValueError
        count, position = _number(record, 2)
        if count > _MOST_BASES:
            raise ValueError
        if not count:
            return (), position
        bases = []
        for _ in range(count):
            before, position = _number(record, position)
            bases.append(step - before)
        if bases != sorted(set(bases)) or (bases and (bases[0] < 0 or bases[-1] >= step)):
            raise ValueError
    except (IndexError, ValueError):
        raise corrupted(run_id, step, "it does not begin like a record") from None
    return tuple(bases), position


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


def _implied_order(base_keys: Sequence[str], state: Mapping[str, bytes]) -> list[str]:
    known = set(base_keys)
    return [key for key in base_keys if key in state] + [key for key in state if key not in known]


def _written(script: EditScript, literals: list[bytes]) -> int | list[int]:
    """Return a script as the line holds it, its literals added to those of the record."""
    if len(script) == 1 and isinstance(script[0], bytes):
        literals.append(script[0])
        return len(script[0])
    spec: list[int] = []
    for instruction in script:
        if isinstance(instruction, bytes):
            literals.append(instruction)
            spec.append(-len(instruction))
        else:
            spec += instruction
    return spec


class _LiteralReader:
    """The literals of a body, taken one after the other."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body = body
        self._position = start

    def scripts(self, specs: object) -> dict[str, EditScript]:
        """Return the scripts that a part of the line holds, by name."""
        return {
            name: [self.take(spec)] if type(spec) is int else self._script(spec)
            for name, spec in _object(specs).items()
        }

    def _script(self, spec: object) -> EditScript:
        if type(spec) is not list:
            raise ValueError("a script is neither a number nor a list")
        script: EditScript = []
        numbers: Iterable[object] = iter(spec)
        for number in numbers:
            if type(number) is not int:
                raise ValueError("a script holds what is not a number")
            if number < 0:
                script.append(self.take(-number))
                continue
            length = next(iter(numbers), None)
            if type(length) is not int:
                raise ValueError("a script copies without a length")
            script.append((number, length))
        return script

    def end(self) -> None:
        """Refuse literals that nothing has taken."""
        if self._position != len(self._body):
            raise ValueError("it holds more than its scripts use")

    def taken(self, start: int) -> bytes:
        """Return what was taken from a position in the body on."""
        return self._body[start : self._position]

    def take(self, length: int) -> bytes:
        """Return the next literal."""
        end = self._position + length
        if length < 0 or end > len(self._body):
            raise ValueError("it ends too early")
        text = self._body[self._position : end]
        self._position = end
        return text


def _object(value: object) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("it is not an object")
    return value


def _check_of(line: bytes | memoryview, event: bytes) -> bytes:
    """Return the check of a record: of its line, and of what tells its event."""
    return crc32(event, crc32(line)).to_bytes(_CHECK_BYTES, "big")


def _event_part(body: bytes, *, is_compressed: bool) -> bytes:
    """Return the beginning of a body, inflated, as far as it tells the event of the step.

    Args:
        body: the body, or the beginning of it.
        is_compressed: it is compressed.
    """
    if not is_compressed:
        return body
    reader = _zstandard.decompressor.stream_reader(body)
    part = bytes(reader.read(_EVENT_BYTES))
    while (line := part.find(b"\n")) < 0 and len(part) < MOST_BYTES and (more := reader.read(len(part) + 1)):
        part += more
    scripts = _object(_object(orjson.loads(memoryview(part)[: max(line, 0)]))["f"]).values()
    length = sum(spec if type(spec) is int else -sum(number for number in spec if number < 0) for spec in scripts)
    missing = line + 1 + _CHECK_BYTES + BASE_CHECK_BYTES + length - len(part)
    return part + reader.read(min(missing, MOST_BYTES)) if missing > 0 else part


def _inflate(body: bytes) -> bytes:
    size = zstandard.frame_content_size(body)
    if size < 0:
        raise ValueError("its compressed body does not say its size")
    if size > MOST_BYTES:
        raise ValueError(f"its body of {size} bytes is too large")
    return _zstandard.decompressor.decompress(body, max_output_size=size, allow_extra_data=False)


class _Zstandard(local):
    """The contexts of one thread, each made when it is needed: they serve one at a time."""

    @cached_property
    def compressor(self) -> zstandard.ZstdCompressor:
        return _compressor(_LEVEL)

    @cached_property
    def quick_compressor(self) -> zstandard.ZstdCompressor:
        return _compressor(_QUICK_LEVEL)

    @cached_property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        return zstandard.ZstdDecompressor(dict_data=_dictionary())


def _compressor(level: int) -> zstandard.ZstdCompressor:
    dictionary = _dictionary()
    dictionary.precompute_compress(level=level)
    return zstandard.ZstdCompressor(level=level, dict_data=dictionary)


def _dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


_zstandard: Final = _Zstandard()
