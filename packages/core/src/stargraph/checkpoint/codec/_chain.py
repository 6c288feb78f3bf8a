"""Reading: the way from a keyframe to a step, whose deltas are applied together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from stargraph.checkpoint.codec._cipher import Cipher
from stargraph.checkpoint.codec._compression import MOST_BYTES
from stargraph.checkpoint.codec._delta import NOTHING, Delta, apply_scripts
from stargraph.checkpoint.codec._edit_script import EditScript, apply, length_of
from stargraph.checkpoint.codec._fields import (
    BASE_CHECK_BYTES,
    DIGEST_BYTES,
    DIGESTS,
    EncodedFields,
    Known,
    checkpoint_of,
    known_values,
)
from stargraph.checkpoint.codec._header import corrupted
from stargraph.checkpoint.codec._stored import StoredRecord
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointCorruptedError, CheckpointError

_SAME_DIGESTS: Final[EditScript] = []
_MOST_DIGESTS: Final = 2 * DIGEST_BYTES


class ChainStep(NamedTuple):
    """A step on the way from a keyframe, its base check, and the delta that leads to it from the one before it."""

    step: int
    base_check: bytes
    delta: Delta


@dataclass(slots=True)
class _Place:
    """A step on the way, as far as it was looked at.

    Attributes:
        record: its record.
        digests: its digest, and that of the step before it.
        keys: the members of its state, in order.
        encoded: its encoded fields without the update; None until they are needed.
    """

    record: StoredRecord
    digests: bytes
    keys: tuple[str, ...]
    encoded: EncodedFields | None


class EventFields(NamedTuple):
    """What a step is made of besides its state.

    Attributes:
        fields: `run`, `event` and `digests`.
        keys: the members of the state, in order.
        updated: the members of the update, in order.
        size: the length of the record, in bytes.
    """

    fields: dict[str, bytes]
    keys: tuple[str, ...]
    updated: tuple[str, ...]
    size: int


class Chain:
    """Records of one run; what one step is decoded from is kept for the next one.

    Args:
        records: the records by step.
        cipher: decrypts them.
        sizes: the length of each record, if only events are read, for which the beginning of a record is enough.
    """

    def __init__(
        self,
        records: Mapping[int, bytes],
        run_id: str,
        cipher: Cipher | None,
        *,
        sizes: Mapping[int, int] | None = None,
    ) -> None:
        self.run_id = run_id
        self._records = records
        self._cipher = cipher
        self._sizes = sizes
        self._path: list[_Place] = []

    def go_on_with(self, records: Mapping[int, bytes]) -> None:
        """Take steps from other records from now on; what was read of those before is kept."""
        self._records = records

    def read(self, step: int) -> EncodedFields:
        """Return the encoded fields of a step.

        Raises:
            CheckpointError: a record is not what was written, or missing.
            ValueError: likewise.
        """
        self._go_to(step)
        encoded = self._encoded()
        return EncodedFields(encoded.fields, encoded.state, self._path[-1].record.update(encoded.state))

    def read_event(self, step: int) -> EventFields:
        """Return what a step is made of besides its state.

        Raises:
            CheckpointError: a record is not what was written, or missing.
            ValueError: likewise.
            RecordCutError: more of a record is needed.
        """
        self._go_to(step)
        place = self._path[-1]
        return EventFields(self._encoded().fields, place.keys, place.record.updated, place.record.size)

    def _go_to(self, step: int) -> None:
        """Make a step the last place of the path."""
        known = {place.record.step: position for position, place in enumerate(self._path)}
        ahead: list[StoredRecord] = []
        at: int | None = step
        while at is not None and at not in known:
            data = self._records.get(at)
            if data is None:
                raise ValueError(f"its base, step {at}, is missing")
            size = None if self._sizes is None else self._sizes.get(at, len(data))
            record = StoredRecord(data, self.run_id, at, self._cipher, size=size)
            ahead.append(record)
            at = record.base_steps[-1] if record.base_steps else None
        del self._path[0 if at is None else known[at] + 1 :]
        for record in reversed(ahead):
            self._path.append(self._place(record))

    def _place(self, record: StoredRecord) -> _Place:
        base = self._path[-1] if self._path else None
        if record.base_check != (b"" if base is None else base.digests[:BASE_CHECK_BYTES]):
            raise ValueError("another step is stored in the place of its base")
        before = b"" if base is None else base.digests
        digests = apply(record.fields.get(DIGESTS, _SAME_DIGESTS), before, most=_MOST_DIGESTS)
        return _Place(record, digests, record.keys(() if base is None else base.keys), None)

    def _encoded(self) -> EncodedFields:
        """Return the encoded fields of the last place, made from the nearest ones before it that are made."""
        path = self._path
        last = start = len(path) - 1
        while start >= 0 and path[start].encoded is None:
            start -= 1
        base = NOTHING if start < 0 else path[start].encoded
        assert base is not None
        if start < last:
            base = path[last].encoded = self._applied(base, path[start + 1 :])
        return base

    def _applied(self, base: EncodedFields, places: list[_Place]) -> EncodedFields:
        records = [place.record for place in places]
        fields = base.fields | apply_scripts(base.fields, [record.fields for record in records], most=MOST_BYTES)
        if self._sizes is not None:
            return EncodedFields(fields, {}, None)
        made = apply_scripts(base.state, [record.state for record in records], most=MOST_BYTES)
        try:
            state = {key: made[key] if key in made else base.state[key] for key in places[-1].keys}
        except KeyError as error:
            raise ValueError(f"its state lacks the member {error.args[0]!r:.60}") from None
        return EncodedFields(fields, state, None)

    @property
    def keyframe_size(self) -> int:
        """The length of the texts of the keyframe, in bytes."""
        keyframe = self._path[0].record
        scripts = (*keyframe.fields.values(), *keyframe.state.values())
        return sum(length_of(instruction) for script in scripts for instruction in script)

    @property
    def record_sizes(self) -> list[int]:
        """The lengths of the records, the keyframe first, in bytes."""
        return [place.record.size for place in self._path]

    def steps(self) -> tuple[ChainStep, ...]:
        """Return the way from the keyframe to the step that was read last."""
        keyframe, *others = self._path
        return (
            keyframe_step(keyframe.record.step, keyframe.digests[:BASE_CHECK_BYTES], keyframe.keys),
            *(
                ChainStep(
                    place.record.step,
                    place.digests[:BASE_CHECK_BYTES],
                    Delta(place.record.fields, place.record.state, place.keys),
                )
                for place in others
            ),
        )


def keyframe_step(step: int, base_check: bytes, keys: tuple[str, ...]) -> ChainStep:
    """Return the beginning of a chain: nothing is ever made from what leads to a keyframe."""
    return ChainStep(step, base_check, Delta({}, {}, keys))


def read_fields(chain: Chain, step: int) -> EncodedFields:
    """Return the encoded fields of a step.

    Raises:
        CheckpointCorruptedError: a record is not what was written, is missing, or belongs to another run or step.
        StoreVersionError: a newer version of Stargraph wrote one.
    """
    try:
        return chain.read(step)
    except (ValueError, TypeError) as error:
        raise corrupted(chain.run_id, step, str(error).partition("\n")[0]) from None


def checked(encoded: EncodedFields, run_id: str, step: int, known: Known | None = None) -> Checkpoint:
    """Return the checkpoint that encoded fields make, verified.

    Raises:
        CheckpointCorruptedError: they are not what was written, or belong to another run or step.
    """
    try:
        checkpoint = checkpoint_of(encoded, known)
    except CheckpointCorruptedError as error:
        if error.reason != "digest-mismatch":
            raise
        raise corrupted(run_id, step, error.message) from None
    except (ValueError, TypeError, CheckpointError) as error:
        # Without its cause, which would quote the content in logs.
        raise corrupted(run_id, step, str(error).partition("\n")[0]) from None
    if (checkpoint.run_id, checkpoint.step) != (run_id, step):
        raise corrupted(run_id, step, f"it is step {checkpoint.step} of run {checkpoint.run_id!r}")
    return checkpoint


class SequenceDecoder:
    """Decodes steps of one run, a page of records after the other.

    It is quick for neighbouring steps, which share the values that are the same, also across pages.

    Args:
        cipher: decrypts the records.
    """

    def __init__(self, run_id: str, cipher: Cipher | None) -> None:
        self._chain = Chain({}, run_id, cipher)
        self._known: Known | None = None

    def decode(self, records: Mapping[int, bytes], steps: Iterable[int]) -> Iterator[Checkpoint]:
        """Yield checkpoints, verified.

        Args:
            records: the records of the steps and those that they are decoded from, by step.

        Raises:
            CheckpointCorruptedError: a record is not what was written, is missing, or belongs to another run or step.
            StoreVersionError: a newer version of Stargraph wrote one.
        """
        chain = self._chain
        chain.go_on_with(records)
        for step in steps:
            encoded = read_fields(chain, step)
            checkpoint = checked(encoded, chain.run_id, step, self._known)
            self._known = known_values(encoded, checkpoint)
            yield checkpoint
