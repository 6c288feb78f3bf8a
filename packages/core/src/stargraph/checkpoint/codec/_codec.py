"""The codec of one handle on a store: it remembers the tails of runs, and stores a step as what changed in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from stargraph.checkpoint.codec._base_steps import DELTAS, base_distance
from stargraph.checkpoint.codec._cipher import Cipher
from stargraph.checkpoint.codec._delta import NOTHING, Delta, compose_deltas, delta_after, delta_between
from stargraph.checkpoint.codec._fields import RUN, EncodedFields, checkpoint_of, fields_of, grown_lists, run_values_of
from stargraph.checkpoint.codec._stored import Opened, base_steps_of, corrupted, pack
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreVersionError

_DELTAS_PER_KEYFRAME: Final = 4
"""A keyframe follows once the records since the last one are so many times as long as it will be."""


_SMALL: Final = 4 * 1024
_DELTAS_OF_SMALL: Final = 3
"""A small state is stored a little more often, so that it is read from few records."""


@dataclass(frozen=True, slots=True)
class Record:
    """The stored form of a checkpoint.

    Attributes:
        data: what to store.
        bases: the steps of the same run that it is decoded from, the keyframe first; none for a keyframe. They must
            outlive it.
    """

    data: bytes
    bases: tuple[int, ...]
    _tail: _Tail


class _Link(NamedTuple):
    """A step on the way from a keyframe, its mark, and the patch that leads to it from the one before it."""

    step: int
    mark: bytes
    patch: Delta


@dataclass(slots=True)
class _Tail:
    """What the next step of a run is encoded from; not to be changed.

    `chain` leads from the keyframe to this step. `deltas` is how
    many records a step is decoded from, besides the keyframe: the same for all that follow that keyframe, since the
    paths of two such numbers do not lie in one another, and would add up. The state is kept as texts alone: its values
    take several times as much.
    """

    run_id: str
    step: int
    digest: str
    ended: bool
    run_values: tuple[Any, ...]
    texts: EncodedFields
    chain: tuple[_Link, ...]
    deltas: int
    keyframe_ratio: float
    bytes_since: int
    memory: int
    """About how many bytes all this takes."""


def _tail(
    checkpoint: Checkpoint,
    run_values: tuple[Any, ...],
    texts: EncodedFields,
    chain: tuple[_Link, ...],
    *,
    deltas: int,
    keyframe_ratio: float,
    bytes_since: int,
    size: int,
) -> _Tail:
    return _Tail(
        checkpoint.run_id,
        checkpoint.step,
        checkpoint.digest,
        checkpoint.status in ENDED,
        run_values,
        texts,
        chain,
        deltas,
        keyframe_ratio,
        bytes_since,
        size + bytes_since,
    )


def _deltas(size: int) -> int:
    return DELTAS if size > _SMALL else _DELTAS_OF_SMALL


class Codec:
    """Encodes and decodes the records of one handle. May be used from any thread.

    Args:
        cipher: encrypts records; None stores them readable.
        memory: about how many bytes of the latest states to remember, so that the next steps are stored as what
            changed in them. The tail that was used last is remembered in any case.
    """

    def __init__(self, *, cipher: Cipher | None = None, memory: int = 64 * 1024 * 1024) -> None:
        self._cipher = cipher
        self._memory = memory
        self._used = 0
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def encrypts(self) -> bool:
        """Whether records are encrypted."""
        return self._cipher is not None

    def encode(self, checkpoint: Checkpoint, *, after: Record | None = None) -> Record:
        """Return the record of a checkpoint.

        It is decoded from earlier records of the run where the step before it is known: `after`, or what
        `appended` and `decode_latest` have left. Else it stands alone.

        Args:
            checkpoint: what to store.
            after: the record of the step before it, which is appended in the same transaction.

        Raises:
            CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
            StateError: it is too large.
        """
        checkpoint.ensure_valid()
        tail = self._tail_of(checkpoint.run_id) if after is None else after._tail
        run_values = run_values_of(checkpoint)
        if tail is None or tail.digest != checkpoint.previous_digest:
            return self._keyframe(checkpoint, run_values, fields_of(checkpoint))
        texts = fields_of(checkpoint, run_text=tail.texts.fields[RUN] if run_values == tail.run_values else None)
        size = texts.size
        if _deltas(size) > tail.deltas:
            return self._keyframe(checkpoint, run_values, texts)  # it has outgrown the number of a small one
        patch = delta_after(tail.texts, texts, grown_lists(checkpoint))
        keyframe = tail.chain[0].step
        base = keyframe + base_distance(checkpoint.step - keyframe, tail.deltas)
        chain = list(tail.chain)
        while chain[-1].step > base:
            patch = compose_deltas(chain.pop().patch, patch)
        bases = tuple([link.step for link in chain])
        data = pack(
            checkpoint.run_id,
            checkpoint.step,
            patch,
            texts,
            bases=bases,
            base_mark=chain[-1].mark,
            base_keys=chain[-1].patch.keys,
            cipher=self._cipher,
        )
        since = tail.bytes_since + len(data)
        if since > _DELTAS_PER_KEYFRAME * tail.keyframe_ratio * size:
            return self._keyframe(checkpoint, run_values, texts)
        chain.append(_Link(checkpoint.step, texts.mark, patch))
        new_tail = _tail(
            checkpoint,
            run_values,
            texts,
            tuple(chain),
            deltas=tail.deltas,
            keyframe_ratio=tail.keyframe_ratio,
            bytes_since=since,
            size=size,
        )
        return Record(data, bases, new_tail)

    def encode_alone(self, checkpoint: Checkpoint) -> Record:
        """Return a record that is decoded from no other one.

        Args:
            checkpoint: what to store.

        Raises:
            CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
            StateError: it is too large.
        """
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

        Not to be called where the store had the step already, perhaps in another form.

        Args:
            record: what `encode` returned.
        """
        self._remember(record._tail)

    def forget(self, run_id: str) -> None:
        """Know nothing of a run any more: its next step will be stored alone.

        Args:
            run_id: the run.
        """
        with self._lock:
            self._drop(run_id)

    def decode(self, records: Mapping[int, bytes], *, run_id: str, step: int) -> Checkpoint:
        """Return a checkpoint, verified.

        Args:
            records: the record of the step and those that it is decoded from, by step.
            run_id: the run.
            step: the step.

        Raises:
            CheckpointCorruptedError: a record is not what was written, is missing, or belongs to another run or step.
            StoreVersionError: a newer version of Stargraph wrote one.
        """
        return self._read(_Chain(records, run_id, self._cipher), step)

    def decode_latest(self, records: Mapping[int, bytes], *, run_id: str, step: int) -> Checkpoint:
        """Like `decode`, for the latest step of a run, which is remembered: the next step may build on it.

        Args:
            records: the record of the step and those that it is decoded from, by step.
            run_id: the run.
            step: the latest step.

        Raises:
            CheckpointCorruptedError: as `decode` raises.
            StoreVersionError: as `decode` raises.
        """
        chain = _Chain(records, run_id, self._cipher)
        checkpoint = self._read(chain, step)
        self._remember(chain.tail(checkpoint))
        return checkpoint

    def decode_many(self, records: Mapping[int, bytes], *, run_id: str, steps: Iterable[int]) -> Iterator[Checkpoint]:
        """Yield checkpoints, verified; quick for ascending steps.

        Args:
            records: the records of the steps and those that they are decoded from, by step.
            run_id: the run.
            steps: the steps.

        Raises:
            CheckpointCorruptedError: as `decode` raises.
            StoreVersionError: as `decode` raises.
        """
        chain = _Chain(records, run_id, self._cipher)
        for step in steps:
            yield self._read(chain, step)

    def _keyframe(self, checkpoint: Checkpoint, run_values: tuple[Any, ...], texts: EncodedFields) -> Record:
        patch = delta_between(NOTHING, texts)
        data = pack(
            checkpoint.run_id,
            checkpoint.step,
            patch,
            texts,
            bases=(),
            base_mark=b"",
            base_keys=(),
            cipher=self._cipher,
        )
        size = texts.size
        tail = _tail(
            checkpoint,
            run_values,
            texts,
            # The texts are all in memory already: what leads to a keyframe is only its step and its names.
            (_Link(checkpoint.step, texts.mark, Delta({}, {}, patch.keys)),),
            deltas=_deltas(size),
            keyframe_ratio=len(data) / size,
            bytes_since=0,
            size=size,
        )
        return Record(data, (), tail)

    @staticmethod
    def _read(chain: _Chain, step: int) -> Checkpoint:
        run_id = chain.run_id
        try:
            checkpoint = checkpoint_of(chain.read(step))
        except CheckpointCorruptedError as error:
            if error.reason != "digest-mismatch":
                raise
            raise corrupted(run_id, step, error.message) from None
        except StoreVersionError:
            raise
        except (ValueError, TypeError, CheckpointError) as error:
            # Without its cause, which would quote the content in logs.
            raise corrupted(run_id, step, str(error).partition("\n")[0]) from None
        if (checkpoint.run_id, checkpoint.step) != (run_id, step):
            raise corrupted(run_id, step, f"it is step {checkpoint.step} of run {checkpoint.run_id!r}")
        return checkpoint

    def _tail_of(self, run_id: str) -> _Tail | None:
        with self._lock:
            found = self._tails.get(run_id)
            if found is not None:
                self._tails.move_to_end(run_id)
            return found

    def _remember(self, tail: _Tail) -> None:
        with self._lock:
            known = self._tails.get(tail.run_id)
            if known is not None and known.step > tail.step:
                return  # what was read is older than what was appended meanwhile
            self._drop(tail.run_id)
            if tail.ended:
                return
            self._tails[tail.run_id] = tail
            self._used += tail.memory
            while self._used > self._memory and len(self._tails) > 1:
                _, oldest = self._tails.popitem(last=False)
                self._used -= oldest.memory

    def _drop(self, run_id: str) -> None:
        known = self._tails.pop(run_id, None)
        if known is not None:
            self._used -= known.memory


class _Chain:
    """Records of one run as texts; what one step is decoded from is kept for the next one."""

    def __init__(self, records: Mapping[int, bytes], run_id: str, cipher: Cipher | None) -> None:
        self.run_id = run_id
        self._records = records
        self._cipher = cipher
        self._path: list[tuple[int, Opened, EncodedFields]] = []

    def read(self, step: int) -> EncodedFields:
        """Return the texts of a step.

        Raises:
            CheckpointError: a record is not what was written, or missing.
            ValueError: likewise.
        """
        known = {at: position for position, (at, _, _) in enumerate(self._path)}
        ahead: list[tuple[int, Opened]] = []
        at: int | None = step
        while at is not None and at not in known:
            record = self._records.get(at)
            if record is None:
                raise ValueError(f"step {at}, which it is decoded from, is missing")
            opened = Opened(record, self.run_id, at, self._cipher)
            ahead.append((at, opened))
            at = opened.bases[-1] if opened.bases else None
        del self._path[0 if at is None else known[at] + 1 :]
        for at, opened in reversed(ahead):
            base = self._path[-1][2] if self._path else NOTHING
            self._path.append((at, opened, opened.texts(base)))
        _, opened, texts = self._path[-1]
        return EncodedFields(texts.fields, texts.state, opened.update(texts))

    def tail(self, checkpoint: Checkpoint) -> _Tail:
        """Return what the next step is encoded from, after `read` of this one."""
        keyframe, _, first = self._path[0]
        last = self._path[-1][2]
        since = sum(len(self._records[at]) for at, _, _ in self._path[1:])
        ratio = len(self._records[keyframe]) / first.size
        chain = tuple(_Link(at, texts.mark, opened.patch(texts)) for at, opened, texts in self._path)
        return _tail(
            checkpoint,
            run_values_of(checkpoint),
            last,
            chain,
            deltas=_deltas(first.size),
            keyframe_ratio=ratio,
            bytes_since=since,
            size=last.size,
        )


def missing_base_steps(records: Mapping[int, bytes], *, run_id: str, steps: Iterable[int]) -> list[int]:
    """Return the steps whose records are still needed to decode some steps; fetch them and ask again.

    The first answer is nearly always the last: a record names all that it is decoded from.

    Args:
        records: the records that are there, by step.
        run_id: the run.
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
