"""Drivers whose start_pruned is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import check_pruned_start, judge_pruned_start
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, StoreUnavailableError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.database import Database


def _floor_of(records: Mapping[int, bytes]) -> int:
    """Return where the unbroken tail begins."""
    floor = max(records)
    while floor - 1 in records:
        floor -= 1
    return floor


@broken("pruned.started")
class OnlyTheFloor(ReferenceCheckpointer):
    """The latest step alone is stored: what a resume needs below it is lost."""

    def _start_pruned(self, steps: Sequence[Checkpoint], records: dict[int, bytes]) -> None:
        known = bool(self._records(steps[0].run_id))
        super()._start_pruned(steps, records)
        if not known:
            self._store.runs[steps[0].run_id] = {steps[-1].step: records[steps[-1].step]}


@broken("pruned.high_steps")
class StepIsAnInt(ReferenceCheckpointer):
    """The column of the step has 32 bits."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        if checkpoint.step >= 2**31:
            raise StoreUnavailableError("integer out of range", reason="unavailable")
        super()._append(checkpoint, record)


@broken("pruned.slots_below_are_taken")
class StartsTwice(ReferenceCheckpointer):
    """Step 0 of a run is free as long as nothing is stored there, wherever the run has started."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._started: set[str] = set()

    def _start_pruned(self, steps: Sequence[Checkpoint], records: dict[int, bytes]) -> None:
        super()._start_pruned(steps, records)
        self._started.add(steps[0].run_id)

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        if checkpoint.step == 0 and checkpoint.run_id in self._started and 0 not in self._records(checkpoint.run_id):
            self._store.runs[checkpoint.run_id][0] = record
        else:
            super()._append(checkpoint, record)


@broken("pruned.again_is_noop")
class OnceOnly(ReferenceCheckpointer):
    """A run that is there is refused, also if it is what the lost answer was about."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_writable("start_pruned")
        steps = check_pruned_start(checkpoints)
        records = {checkpoint.step: encode(checkpoint) for checkpoint in steps}
        await self._turn()
        if self._records(steps[0].run_id) and steps[0].run_id not in self._store.deleted:
            raise CheckpointConflictError("the run is there", reason="run-exists")
        self._start_pruned(steps, records)
        await self._turn()


@broken("pruned.another_run_refused")
class BesideWhatIsThere(ReferenceCheckpointer):
    """The steps are put beside those that the run has already."""

    def _start_pruned(self, steps: Sequence[Checkpoint], records: dict[int, bytes]) -> None:
        run_id = steps[0].run_id
        judge_pruned_start(
            steps,
            stored_digests={checkpoint.step: checkpoint.digest for checkpoint in steps},
            deleted=run_id in self._store.deleted,
        )
        run = self._store.runs.setdefault(run_id, {})
        for step, record in records.items():
            run.setdefault(step, record)
        self._store.floors.setdefault(run_id, _floor_of(records))


@broken("pruned.cancelled")
class OneAfterAnother(ReferenceCheckpointer):
    """The steps are stored one after another, and the run shows before the last one."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_writable("start_pruned")
        steps = check_pruned_start(checkpoints)
        run_id = steps[0].run_id
        await self._turn()
        stored = {step: found.digest for step in self._records(run_id) if (found := self._at(run_id, step))}
        given = {checkpoint.step: checkpoint.digest for checkpoint in steps}
        unfinished = stored.items() < given.items()
        if run_id in self._store.deleted or not unfinished:
            judge_pruned_start(steps, stored_digests=stored, deleted=run_id in self._store.deleted)
            return
        records = {checkpoint.step: encode(checkpoint) for checkpoint in steps}
        self._store.floors[run_id] = _floor_of(records)
        for step, record in records.items():
            self._store.runs.setdefault(run_id, {})[step] = record
            await self._turn()


@broken("pruned.one_start_wins")
class LookedUpFirst(ReferenceCheckpointer):
    """Whether the run is there is looked up, and the steps are stored a turn later."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_writable("start_pruned")
        steps = check_pruned_start(checkpoints)
        records = {checkpoint.step: encode(checkpoint) for checkpoint in steps}
        run_id = steps[0].run_id
        there = bool(self._records(run_id)) or run_id in self._store.deleted
        await self._turn()
        if there:
            self._start_pruned(steps, records)
        else:
            self._store.runs[run_id] = records
            self._store.floors[run_id] = _floor_of(records)
        await self._turn()


@broken(slow=("pruned.killed",), importable=True)
class CommitsEachStep(Database):
    """Each step is a transaction of its own, and the run shows from the first one on."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        steps = check_pruned_start(checkpoints)
        with self._connected() as database:
            found = [self._at(database, step.run_id, step.step) for step in steps]
            missing = [step for step, there in zip(steps, found, strict=True) if there is None]
            for checkpoint in missing:
                self._insert(database, checkpoint.run_id, checkpoint.step, encode(checkpoint))
