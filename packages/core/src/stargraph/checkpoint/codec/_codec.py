"""The codec of one handle on a store: it remembers the ends of runs, and stores a step as what changed in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final

from stargraph.checkpoint.codec._base_steps import DELTAS, base_distance
from stargraph.checkpoint.codec._chain import Chain, ChainStep, SequenceDecoder, checked, keyframe_step, read_fields
from stargraph.checkpoint.codec._cipher import Cipher
from stargraph.checkpoint.codec._delta import NOTHING, compose_deltas, delta_between, follow, literal_bytes
from stargraph.checkpoint.codec._events import EventReader
from stargraph.checkpoint.codec._fields import (
    RUN,
    EncodedFields,
    changed_bytes,
    fields_of,
    grown_lists,
    run_values_of,
)
from stargraph.checkpoint.codec._header import base_steps_of
from stargraph.checkpoint.codec._stored import pack
from stargraph.checkpoint.codec._threads import LARGE_TO_ENCODE, event_size, state_size
from stargraph.checkpoint.protocol import ENDED, Checkpoint, StepSummary
from stargraph.checkpoint.protocol._pydantic import private_attributes
from stargraph.errors._arguments import check_type

_DELTAS_PER_KEYFRAME: Final = 4
"""The next keyframe is stored once the records since the last one are this many times as long as it will be."""

_CONTEXT: Final = 1536
"""Bytes of memory that what is known of a run takes besides its texts, roughly."""

_SMALL: Final = 4 * 1024
_DELTAS_OF_SMALL: Final = 3
"""A small state is stored a little more often, so that it is read from few records."""


@dataclass(frozen=True, slots=True)
class Record:
    """The stored form of a checkpoint.

    Attributes:
        data: what to store.
        base_steps: the steps of the same run that it is decoded from, the keyframe first; none for a keyframe. They
            must outlive it.
    """

    data: bytes
    base_steps: tuple[int, ...]
    _context: _EncodingContext


@dataclass(slots=True)
class _EncodingContext:
    """What the next step of a run is encoded from; not to be changed.

    Attributes:
        run_id: the run.
        step: its latest step that is known.
        digest: of that.
        ended: no step follows it.
        run_values: what the text `run` was made of.
        encoded: its encoded fields. The values themselves take several times as much memory.
        chain: leads from the keyframe to this step.
        deltas: how many records a step is decoded from at most, besides the keyframe: the same for all that follow
            that keyframe, since base steps that are computed with two limits do not nest (`_base_steps`).
        keyframe_ratio: the length of the keyframe's record to that of its texts.
        bytes_since: the length of all records since the keyframe.
        memory: about how many bytes all this takes.
    """

    run_id: str
    step: int
    digest: str
    ended: bool
    run_values: tuple[Any, ...]
    encoded: EncodedFields
    chain: tuple[ChainStep, ...]
    deltas: int
    keyframe_ratio: float
    bytes_since: int
    memory: int

    def needs_keyframe(self, size: int) -> bool:
        """Return whether the next step is stored whole, if its texts have so many bytes or more."""
        has_outgrown = _deltas(size) > self.deltas  # the number of a small one
        return has_outgrown or self.bytes_since > _DELTAS_PER_KEYFRAME * self.keyframe_ratio * size

    @property
    def next_base(self) -> int:
        """The step that the next one is decoded from, unless that is stored whole."""
        keyframe = self.chain[0].step
        return keyframe + base_distance(self.step + 1 - keyframe, self.deltas)


def _encoding_context(
    checkpoint: Checkpoint,
    run_values: tuple[Any, ...],
    encoded: EncodedFields,
    chain: tuple[ChainStep, ...],
    *,
    deltas: int,
    keyframe_ratio: float,
    bytes_since: int,
    size: int,
) -> _EncodingContext:
    return _EncodingContext(
        checkpoint.run_id,
        checkpoint.step,
        checkpoint.digest,
        checkpoint.status in ENDED,
        run_values,
        encoded,
        chain,
        deltas,
        keyframe_ratio,
        bytes_since,
        _CONTEXT + size + bytes_since,
    )


def _deltas(size: int) -> int:
    return DELTAS if size > _SMALL else _DELTAS_OF_SMALL


class Codec:
    """Encodes and decodes the records of one handle. May be used from any thread.

    Args:
        cipher: encrypts records; None stores them readable.
        memory: about how many bytes of the latest states to remember, so that the next steps are stored as what
            changed in them. The one that was used last is remembered in any case.
    """

    def __init__(self, *, cipher: Cipher | None = None, memory: int = 64 * 1024 * 1024) -> None:
        check_type(cipher, "encryption", (Cipher, NoneType), "a Cipher, as Cipher.parse(…) makes of the text of keys")
        self._cipher = cipher
        self._memory = memory
        self._used = 0
        self._contexts: OrderedDict[str, _EncodingContext] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def encrypts(self) -> bool:
        """Whether records are encrypted."""
        return self._cipher is not None

    def encode(self, checkpoint: Checkpoint, *, after: Record | None = None) -> Record:
        """Return the record of a checkpoint.

        It is decoded from earlier records of the run if the step before it is known: from `after`, or from what
        `appended` and `decode_latest` have left. Else it stands alone.

        Args:
            checkpoint: what to store.
            after: the record of the step before it, which is appended in the same transaction.

        Raises:
            CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
            StateError: it is too large.
        """
        check_type(checkpoint, "checkpoint", Checkpoint, "a Checkpoint of stargraph.checkpoint.protocol")
        checkpoint.ensure_valid()
        before = self._context_of(checkpoint.run_id) if after is None else after._context
        run_values = run_values_of(checkpoint)
        if before is None or before.digest != checkpoint.previous_digest:
            return self._keyframe(checkpoint, run_values, fields_of(checkpoint))
        run_text = before.encoded.fields[RUN] if run_values == before.run_values else None
        encoded = fields_of(checkpoint, run_text=run_text)
        size = encoded.size
        if before.needs_keyframe(size):
            return self._keyframe(checkpoint, run_values, encoded)
        delta = delta_between(before.encoded, encoded, grown_lists(checkpoint))
        base = before.next_base
        chain = list(before.chain)
        while chain[-1].step > base:
            delta = compose_deltas(chain.pop().delta, delta)
        if len(chain) == len(before.chain):
            follow(delta, encoded)
        base_steps = tuple([link.step for link in chain])
        data = pack(
            checkpoint.run_id,
            checkpoint.step,
            delta,
            encoded,
            base_steps=base_steps,
            base_check=chain[-1].base_check,
            base_keys=chain[-1].delta.keys,
            cipher=self._cipher,
        )
        chain.append(ChainStep(checkpoint.step, encoded.base_check, delta))
        context = _encoding_context(
            checkpoint,
            run_values,
            encoded,
            tuple(chain),
            deltas=before.deltas,
            keyframe_ratio=before.keyframe_ratio,
            bytes_since=before.bytes_since + len(data),
            size=size,
        )
        return Record(data, base_steps, context)

    def is_large(self, checkpoint: Checkpoint, *, after: Record | None = None) -> bool:
        """Return whether a checkpoint, which may be invalid, is better encoded in a thread.

        That follows the change and not the state: a small step of a large state takes less time than the way to a
        thread and back, and its keyframe takes more.

        Args:
            checkpoint: what `encode` is going to be given.
            after: likewise.
        """
        if event_size(checkpoint) >= LARGE_TO_ENCODE:
            return True
        # A large text that is known may have become a small one, and is then searched.
        size = state_size(checkpoint)
        known = self._used if after is None else after._context.memory
        if max(size, known) < LARGE_TO_ENCODE:
            return False
        fields = vars(checkpoint)
        before = self._context_of(str(fields.get("run_id"))) if after is None else after._context
        if max(size, 0 if before is None else before.memory) < LARGE_TO_ENCODE:
            return False
        if before is None or before.digest != fields.get("previous_digest"):
            return True
        if not private_attributes(checkpoint):
            return False  # it was made by hand, and is refused at once
        state = sum([len(value.encoded) for value in checkpoint.encoded_state().values()])
        if before.needs_keyframe(state):
            return True
        base = before.next_base
        merged = sum([literal_bytes(link.delta) for link in before.chain if link.step > base])
        return merged + changed_bytes(before.encoded, checkpoint) >= LARGE_TO_ENCODE

    def encode_alone(self, checkpoint: Checkpoint) -> Record:
        """Return a record that is decoded from no other one.

        Args:
            checkpoint: what to store.

        Raises:
            CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
            StateError: it is too large.
        """
        check_type(checkpoint, "checkpoint", Checkpoint, "a Checkpoint of stargraph.checkpoint.protocol")
        checkpoint.ensure_valid()
        return self._keyframe(checkpoint, run_values_of(checkpoint), fields_of(checkpoint))

    def fingerprint(self, digest: str) -> str:
        """Return what stands for a digest outside of records: itself, or with a cipher a keyed fingerprint; in hex.

        Args:
            digest: in hex.
        """
        return digest if self._cipher is None else self._cipher.fingerprint(bytes.fromhex(digest)).hex()

    def appended(self, record: Record) -> None:
        """Take note that a store has appended a record, just now and in this very form: the next step may build on it.

        Not to be called if the store had the step already, perhaps in another form.

        Args:
            record: what `encode` returned.
        """
        self._remember(record._context)

    def forget(self, run_id: str) -> None:
        """Forget a run: its next step is stored as a keyframe."""
        with self._lock:
            self._drop(run_id)

    def decode(self, records: Mapping[int, bytes], *, run_id: str, step: int) -> Checkpoint:
        """Return a checkpoint, verified.

        Args:
            records: the record of the step and those that it is decoded from, by step.

        Raises:
            CheckpointCorruptedError: a record is not what was written, is missing, or belongs to another run or step.
            StoreVersionError: a newer version of Stargraph wrote one.
        """
        return checked(read_fields(Chain(records, run_id, self._cipher), step), run_id, step)

    def decode_latest(self, records: Mapping[int, bytes], *, run_id: str, step: int) -> Checkpoint:
        """Like `decode`, for the latest step of a run, which is remembered: the next step may build on it.

        Args:
            records: the record of the step and those that it is decoded from, by step.
            step: the latest step.

        Raises:
            CheckpointCorruptedError: as `decode` raises.
            StoreVersionError: as `decode` raises.
        """
        chain = Chain(records, run_id, self._cipher)
        encoded = read_fields(chain, step)
        checkpoint = checked(encoded, run_id, step)
        keyframe, *others = chain.record_sizes
        texts = chain.keyframe_size
        self._remember(
            _encoding_context(
                checkpoint,
                run_values_of(checkpoint),
                encoded,
                chain.steps(),
                deltas=_deltas(texts),
                keyframe_ratio=keyframe / texts,
                bytes_since=sum(others),
                size=encoded.size,
            )
        )
        return checkpoint

    def sequence_decoder(self, run_id: str) -> SequenceDecoder:
        """Return what decodes many steps of a run."""
        return SequenceDecoder(run_id, self._cipher)

    def summarize(
        self, records: Mapping[int, bytes], *, run_id: str, steps: Sequence[int], sizes: Mapping[int, int] | None = None
    ) -> list[StepSummary]:
        """Return rows of a timeline, proved by the checks of the records; states are not decoded.

        Args:
            records: the records of the steps and of the step before the first one, if that is stored, and those that
                they are decoded from, by step: whole, or their first `PREFIX_BYTES`.
            steps: the steps, ascending.
            sizes: the length of each record that may not be whole.

        Raises:
            RecordCutError: the whole record of a step is needed.
            CheckpointCorruptedError: as `decode` raises.
            StoreVersionError: as `decode` raises.
        """
        reader = EventReader(records, run_id, self._cipher, sizes or {})
        return list(reader.rows(steps))

    def _keyframe(self, checkpoint: Checkpoint, run_values: tuple[Any, ...], encoded: EncodedFields) -> Record:
        delta = delta_between(NOTHING, encoded)
        data = pack(checkpoint.run_id, checkpoint.step, delta, encoded, cipher=self._cipher)
        size = encoded.size
        context = _encoding_context(
            checkpoint,
            run_values,
            encoded,
            (keyframe_step(checkpoint.step, encoded.base_check, delta.keys),),
            deltas=_deltas(size),
            keyframe_ratio=len(data) / size,
            bytes_since=0,
            size=size,
        )
        return Record(data, (), context)

    def _context_of(self, run_id: str) -> _EncodingContext | None:
        with self._lock:
            found = self._contexts.get(run_id)
            if found is not None:
                self._contexts.move_to_end(run_id)
            return found

    def _remember(self, context: _EncodingContext) -> None:
        with self._lock:
            known = self._contexts.get(context.run_id)
            if known is not None and known.step > context.step:
                return  # what was read is older than what was appended meanwhile
            self._drop(context.run_id)
            if context.ended:
                return
            self._contexts[context.run_id] = context
            self._used += context.memory
            while self._used > self._memory and len(self._contexts) > 1:
                _, oldest = self._contexts.popitem(last=False)
                self._used -= oldest.memory

    def _drop(self, run_id: str) -> None:
        known = self._contexts.pop(run_id, None)
        if known is not None:
            self._used -= known.memory


def missing_base_steps(records: Mapping[int, bytes], *, run_id: str, steps: Iterable[int]) -> list[int]:
    """Return the steps whose records are still needed to decode some steps; fetch them and ask again.

    The first answer is nearly always the last: a record names all that it is decoded from.

    Args:
        records: the records that are there, by step.
        steps: the steps that are to be decoded; those that are not there are not asked for.

    Raises:
        CheckpointCorruptedError: a record does not begin like one.
        StoreVersionError: a newer version of Stargraph wrote one.
    """
    missing: set[int] = set()
    seen: set[int] = set()
    pending = [step for step in steps if step in records]
    while pending:
        step = pending.pop()
        if step in seen:
            continue
        seen.add(step)
        bases = base_steps_of(records[step], run_id=run_id, step=step)
        if not bases:
            continue
        if bases[-1] in records:
            pending.append(bases[-1])
        else:
            missing.update(base for base in bases if base not in records)
    return sorted(missing)


_ALONE: Final = Codec(memory=0)


def encode(checkpoint: Checkpoint) -> bytes:
    """Return a stored form of a checkpoint that is decoded from no other one.

    Args:
        checkpoint: what to store.

    Raises:
        CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
        StateError: it is too large.
    """
    return _ALONE.encode_alone(checkpoint).data


def decode(record: bytes, *, run_id: str, step: int) -> Checkpoint:
    """Return the checkpoint that a record of `encode` holds.

    Args:
        record: what `encode` returned.
        run_id: the run that it was stored under.
        step: the step that it was stored at.

    Raises:
        CheckpointCorruptedError: it is not what was written, or belongs to another run or step.
        StoreVersionError: a newer version of Stargraph wrote it.
    """
    return _ALONE.decode({step: record}, run_id=run_id, step=step)
