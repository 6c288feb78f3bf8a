r"""The stored form of a checkpoint: a record, which docs/formats.md specifies to the byte.

    byte 0     192 and the version of the form, 1
    byte 1     flags: 1 the body is compressed (zstd, with the dictionary of `_dictionary`), 2 the body is encrypted
    varint     how many records it is decoded from, the keyframe first; 0 for a keyframe
    varints    for each of them, how many steps before this one
    the body

A body, once decrypted and decompressed, is a line of JSON and the literals: `{…}\n<bytes>`. The line says how each text
is made:

    f   `run`, `event` and `digests`, if they differ from the base's
    s   members of the state that are new or differ
    d   members of the base's state that are gone
    o   the members of the state in order, if it is not that of the base with the new ones appended
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

from collections.abc import Mapping, Sequence
from typing import Any, Final
from zlib import crc32

import orjson
import zstandard

from stargraph.checkpoint.codec._cipher import Cipher, no_keys
from stargraph.checkpoint.codec._compression import MOST_BYTES, compress, inflate, inflated_size, inflating
from stargraph.checkpoint.codec._delta import Delta, apply_scripts, script_between
from stargraph.checkpoint.codec._edit_script import EditScript
from stargraph.checkpoint.codec._fields import BASE_CHECK_BYTES, EncodedFields
from stargraph.checkpoint.codec._header import COMPRESSED, ENCRYPTED, corrupted, read_header, write_header
from stargraph.checkpoint.codec._literals import LiteralReader, as_object, write_script
from stargraph.errors import CheckpointError, StateError

PREFIX_BYTES: Final = 132 * 1024
"""So much of a record tells its event, unless that is very long: a block of zstd (RFC 8878, section 3.1.1.2.3), which
holds 128 KiB of the body, and what is before it."""

_EVENT_BYTES: Final = 8 * 1024
"""How much of a body is inflated at first, to find its event: most are shorter."""

_CHECK_BYTES: Final = 4
_NO_SCRIPT: Final[EditScript] = []
_ANY_STEP: Final = 2**63
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
    index: dict[str, Any] = {"f": {name: write_script(script, literals) for name, script in delta.fields.items()}}
    event = b"".join(literals)
    literals = [event]
    if delta.state:
        index["s"] = {key: write_script(script, literals) for key, script in delta.state.items()}
    if base_steps and base_keys != delta.keys:
        gone = [key for key in base_keys if key not in encoded.state]
        if gone:
            index["d"] = gone
        if _implied_order(base_keys, encoded.state) != list(encoded.state):
            index["o"] = list(encoded.state)
    if encoded.update is not None:
        index["u"] = {
            key: write_script(script_between(encoded.state.get(key), text), literals)
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
    if (compressed := compress(body)) is not None:
        body, flags = compressed, COMPRESSED
    if cipher is not None:
        flags |= ENCRYPTED
    header = write_header(flags, step, base_steps)
    if cipher is not None:
        body = cipher.encrypt(body, run_id=run_id, step=step, header=header)
    return header + body


class RecordCutError(Exception):
    """The beginning of a record is too short to tell its event."""

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
        base_steps: the steps that it is decoded from, the keyframe first.
        base_check: the beginning of its base's digest; empty for a keyframe.
        fields: the scripts of `run`, `event` and `digests`, as far as they differ from the base's.
        state: the scripts of members of the state that are new or differ.

    Raises:
        CheckpointCorruptedError: it is not what was written.
        StoreVersionError: another version of Stargraph wrote it.
        RecordCutError: the event needs more of the record.
    """

    def __init__(
        self, record: bytes, run_id: str, step: int, cipher: Cipher | None, *, size: int | None = None
    ) -> None:
        self.step = step
        self.size = len(record) if size is None else size
        flags, self.base_steps, start = read_header(record, run_id, step)
        body = record[start:]
        is_cut = self.size > len(record)
        if is_cut and flags & ENCRYPTED:
            raise RecordCutError(step)
        if flags & ENCRYPTED:
            if cipher is None:
                raise no_keys(run_id, step)
            body = cipher.decrypt(body, run_id=run_id, step=step, header=record[:start])
        elif cipher is not None and not cipher.allow_plain:
            raise cipher.not_encrypted(run_id, step)
        try:
            if size is not None:
                body = _event_part(body, is_compressed=bool(flags & COMPRESSED))
            elif flags & COMPRESSED:
                body = inflate(body)
            end = body.index(b"\n")
            line = body[:end]
            self._index = index = as_object(orjson.loads(line))
            literals = LiteralReader(body, end + 1)
            check = literals.take(_CHECK_BYTES)
            self.base_check = literals.take(BASE_CHECK_BYTES) if self.base_steps else b""
            self.fields = literals.scripts(index["f"])
            if check != _check_of(line, literals.taken(end + 1 + _CHECK_BYTES)):
                raise ValueError("its check does not fit")
            if size is not None:
                self.state = dict.fromkeys(as_object(index.get("s", {})), _NO_SCRIPT)
                self._update: dict[str, EditScript] | None = dict.fromkeys(as_object(index.get("u") or {}), _NO_SCRIPT)
                return
            self.state = literals.scripts(index["s"]) if "s" in index else {}
            update = index.get("u")
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


def decoded_size(record: bytes) -> int:
    """Return about how many bytes a record takes once it is decompressed: decides who decodes it, and no more.

    Of an encrypted one, whose size cannot be seen, it is a guess that is rather too high.
    """
    try:
        flags, _, start = read_header(record, "", _ANY_STEP)
        if flags & ENCRYPTED:
            return len(record) * _BEST_RATIO
        return inflated_size(memoryview(record)[start:]) if flags & COMPRESSED else len(record)
    except (CheckpointError, zstandard.ZstdError):
        return len(record)  # whoever decodes it finds out


def _implied_order(base_keys: Sequence[str], state: Mapping[str, bytes]) -> list[str]:
    known = set(base_keys)
    return [key for key in base_keys if key in state] + [key for key in state if key not in known]


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
    reader = inflating(body)
    part = bytes(reader.read(_EVENT_BYTES))
    while (line := part.find(b"\n")) < 0 and len(part) < MOST_BYTES and (more := reader.read(len(part) + 1)):
        part += more
    scripts = as_object(as_object(orjson.loads(memoryview(part)[: max(line, 0)]))["f"]).values()
    length = sum(spec if type(spec) is int else -sum(number for number in spec if number < 0) for spec in scripts)
    missing = line + 1 + _CHECK_BYTES + BASE_CHECK_BYTES + length - len(part)
    return part + reader.read(min(missing, MOST_BYTES)) if missing > 0 else part
