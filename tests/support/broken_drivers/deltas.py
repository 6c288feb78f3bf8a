"""Drivers that store a step as what changed since the one before, and get it wrong."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import check_batch
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointCorruptedError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.reading import corrupted

_WHOLE, _DELTA = b"W", b"D"


def _text(value: object) -> str:
    """JSON as it is: 1, 1.0 and true apart, and keys in their order."""
    return json.dumps(value, ensure_ascii=False)


class Deltas(ReferenceCheckpointer):
    """A sound driver: every eighth step whole, the others as a difference from the step before."""

    claimable: Any = None  # the queues and the timeline of the reference read records of its own form
    queue_counts: Any = None
    set_limits: Any = None
    timeline: Any = None

    EVERY = 8

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        super()._append(checkpoint, record)
        if self._records(checkpoint.run_id).get(checkpoint.step) is record:
            self._records(checkpoint.run_id)[checkpoint.step] = self._stored(checkpoint)

    def _stored(self, checkpoint: Checkpoint) -> bytes:
        base = self._base_of(checkpoint)
        fields = json.loads(checkpoint.model_dump_json())
        if base is None or checkpoint.step % self.EVERY == 0:
            return self._packed(_WHOLE + _text(fields).encode())
        fields["state"] = self._difference(base.state, fields["state"])
        return self._packed(_DELTA + _text(fields).encode())

    def _start_pruned(self, steps: Sequence[Checkpoint], records: dict[int, bytes]) -> None:
        whole = {step.step: _text(json.loads(step.model_dump_json())).encode() for step in steps}
        super()._start_pruned(steps, {step: self._packed(_WHOLE + text) for step, text in whole.items()})

    def _base_of(self, checkpoint: Checkpoint) -> Checkpoint | None:
        return self._at(checkpoint.run_id, checkpoint.step - 1)

    def _packed(self, data: bytes) -> bytes:
        return zlib.crc32(data).to_bytes(4, "big") + data

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        data = self._records(run_id).get(step)
        if data is None:
            return super()._at(run_id, step)
        if zlib.crc32(data[4:]).to_bytes(4, "big") != data[:4]:
            raise _corrupted(run_id, step)
        fields = json.loads(data[5:])
        if data[4:5] == _WHOLE:
            return self._decoded(fields, run_id, step)
        try:
            base = self._base_at(run_id, step - 1)
            fields["state"] = self._restored(base.state, fields["state"])  # type: ignore[union-attr]
        except (ValueError, KeyError, AttributeError, TypeError, IndexError):
            raise _corrupted(run_id, step) from None
        return self._decoded(fields, run_id, step)

    def _base_at(self, run_id: str, step: int) -> Checkpoint | None:
        return self._at(run_id, step)

    def _decoded(self, fields: dict[str, Any], run_id: str, step: int) -> Checkpoint:
        return _verified(fields, run_id, step)

    def _difference(self, before: Any, after: dict[str, Any]) -> dict[str, Any]:
        changed = {key: value for key, value in after.items() if key not in before or self._differ(before[key], value)}
        longer = {key: self._appended(before.get(key), value) for key, value in changed.items()}
        longer = {key: tail for key, tail in longer.items() if tail is not None}
        return {
            "set": {key: value for key, value in changed.items() if key not in longer},
            "longer": longer,
            "order": list(after),
        }

    def _differ(self, before: Any, after: Any) -> bool:
        return _text(before) != _text(after)

    def _appended(self, before: Any, after: Any) -> list[Any] | None:
        """What was appended to a list; None if it is another list."""
        if not isinstance(before, list) or not isinstance(after, list):
            return None
        return after[len(before) :] if _text(after[: len(before)]) == _text(before) else None

    def _restored(self, before: Any, difference: dict[str, Any]) -> dict[str, Any]:
        merged = {**before, **difference["set"]}
        for key, tail in difference["longer"].items():
            merged[key] = [*before[key], *tail]
        return {key: merged[key] for key in difference["order"]}

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        kept = super()._kept(latest, keep_last)
        there = self._records(latest.run_id)
        for step in sorted(kept, reverse=True):
            while there[step][4:5] == _DELTA:
                step -= 1
                kept.add(step)
        return kept


def _verified(fields: dict[str, Any], run_id: str, step: int) -> Checkpoint:
    checkpoint = Checkpoint.model_validate_json(_text(fields))
    if (checkpoint.run_id, checkpoint.step) != (run_id, step):
        raise _corrupted(run_id, step)
    return checkpoint


def _corrupted(run_id: str, step: int) -> CheckpointCorruptedError:
    return corrupted(run_id, step, "the record is not what was written")


@broken("growth.every_kind_of_change")
class ForgetsRemovedFields(Deltas):
    """The difference says what is new, and not what went away."""

    def _restored(self, before: Any, difference: dict[str, Any]) -> dict[str, Any]:
        restored = super()._restored(before, difference)
        return {**{key: value for key, value in before.items() if key not in restored}, **restored}


@broken("growth.every_kind_of_change")
class EqualToPython(Deltas):
    """What has changed is found with `!=`, to which 1, 1.0 and True are the same, and so are 0.0 and -0.0."""

    def _differ(self, before: Any, after: Any) -> bool:
        return bool(before != after)


@broken("growth.every_kind_of_change")
class LosesTheOrder(Deltas):
    """The order of the fields is not part of the difference; no digest notices."""

    def _restored(self, before: Any, difference: dict[str, Any]) -> dict[str, Any]:
        restored = super()._restored(before, difference)
        return {key: restored[key] for key in (*(key for key in before if key in restored), *restored)}


@broken("growth.every_kind_of_change")
class LongerMeansAppended(Deltas):
    """A list that became longer was appended to, whatever happened in its middle."""

    def _appended(self, before: Any, after: Any) -> list[Any] | None:
        if isinstance(before, list) and isinstance(after, list) and len(after) > len(before):
            return after[len(before) :]
        return super()._appended(before, after)


@broken(
    "growth.interleaved_runs",
)
class OneBaseForAllRuns(Deltas):
    """The last state is remembered by the number of its step, whichever run it belongs to."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._by_step: dict[int, Checkpoint] = {}

    def _base_of(self, checkpoint: Checkpoint) -> Checkpoint | None:
        base = self._by_step.get(checkpoint.step - 1) or super()._base_of(checkpoint)
        self._by_step[checkpoint.step] = checkpoint
        return base


class LargeDeltas(Deltas):
    """A base: small states are stored whole, so that only a state of some size shows what is wrong."""

    def _base_of(self, checkpoint: Checkpoint) -> Checkpoint | None:
        return super()._base_of(checkpoint) if len(_text(checkpoint.state)) > 3000 else None


@broken("growth.by_turns")
class BaseOfTheHandle(LargeDeltas):
    """The difference is taken from what this handle wrote last, or tried to write; the reader takes the step before."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._tried: dict[str, Checkpoint] = {}

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        try:
            super()._append(checkpoint, record)
        finally:
            self._tried[checkpoint.run_id] = checkpoint

    def _base_of(self, checkpoint: Checkpoint) -> Checkpoint | None:
        base = super()._base_of(checkpoint)
        return base and self._tried.get(checkpoint.run_id, base)


@broken("deletion.kept_steps_read_back", "deletion.twins_stay")
class PrunesTheBase(LargeDeltas):
    """prune keeps the last steps, and not the whole one that they are decoded from."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        return ReferenceCheckpointer._kept(self, latest, keep_last)


@broken("corruption.spoilt_neighbours")
class ChecksumOfEachRecord(Deltas):
    """Every record has a checksum of its own; what is decoded from several is not compared with its digest."""

    def _decoded(self, fields: dict[str, Any], run_id: str, step: int) -> Checkpoint:
        try:
            return super()._decoded(fields, run_id, step)
        except CheckpointCorruptedError:
            if (fields["run_id"], fields["step"]) != (run_id, step):
                raise
            return _believed(fields)

    def _base_at(self, run_id: str, step: int) -> Checkpoint | None:
        """The base of a difference: any record that stands in its place will do."""
        data = self._records(run_id).get(step, b"")
        if data[4:5] != _WHOLE:
            return super()._base_at(run_id, step)
        return _believed(json.loads(data[5:]))


def _believed(fields: dict[str, Any]) -> Checkpoint:
    """A checkpoint with these values and a digest of its own."""
    first = Checkpoint.genesis(
        run_id=fields["run_id"],
        graph_id=fields["graph_id"],
        graph_hash=fields["graph_hash"],
        runtime_hash=fields["runtime_hash"],
        state=fields["state"],
        executor_id=fields["executor_id"],
        timestamp=datetime.fromisoformat(fields["started_at"]),
    )
    return first.model_copy(update={"step": fields["step"], "previous_digest": fields["previous_digest"]})


@broken(
    "batch.growing_steps",
)
class BatchFromItsStart(Deltas):
    """Every step of a batch is stored as its difference from the step before the batch."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        check_batch(list(checkpoints))
        await self._turn()
        self._before_batch = self._latest(checkpoints[0].run_id) if checkpoints else None
        try:
            for checkpoint in checkpoints:
                self._append(checkpoint, encode(checkpoint))
        finally:
            self._before_batch = None
        await self._turn()

    _before_batch: Checkpoint | None = None

    def _base_of(self, checkpoint: Checkpoint) -> Checkpoint | None:
        return self._before_batch or super()._base_of(checkpoint)


@broken(slow=("growth.three_hundred_steps",))
class OneByteForTheBase(Deltas):
    """The number of the step that a difference was taken from is kept in one byte."""

    def _base_at(self, run_id: str, step: int) -> Checkpoint | None:
        return super()._base_at(run_id, step & 0xFF)


@broken("deletion.twins_stay")
class SharedStates(ReferenceCheckpointer):
    """A large state that another run has as well is stored once, with that run, and goes with it."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        super()._append(checkpoint, record)
        records = self._records(checkpoint.run_id)
        owner = self._owner(checkpoint) if len(_text(checkpoint.state)) > 3000 else None
        if owner is not None and records.get(checkpoint.step) is record:
            fields = json.loads(checkpoint.model_dump_json())
            records[checkpoint.step] = b"@" + _text(fields | {"state": owner}).encode()

    def _owner(self, checkpoint: Checkpoint) -> str | None:
        for run_id, records in self._store.runs.items():
            if run_id != checkpoint.run_id and not records.get(checkpoint.step, b"@").startswith(b"@"):
                found = super()._at(run_id, checkpoint.step)
                if found is not None and _text(found.state) == _text(checkpoint.state):
                    return run_id
        return None

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        record = self._records(run_id).get(step, b"")
        if record[:1] != b"@":
            return super()._at(run_id, step)
        try:
            fields = json.loads(record[1:])
            owner = super()._at(fields["state"], step)
        except (ValueError, KeyError, TypeError):
            raise _corrupted(run_id, step) from None
        if owner is None:
            raise _corrupted(run_id, step)
        return _verified(fields | {"state": owner.state}, run_id, step)
