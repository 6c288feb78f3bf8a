"""Drivers whose mistake needs a sequence of calls; the model's random ones find it, and mostly nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import Claim
from stargraph.checkpoint.memory._queues import MemoryQueues
from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueLimits, RunSummary, Schedule
from support.broken_drivers.broken_driver import broken


class _OtherQueues(ReferenceCheckpointer):
    """A base: what workers share is kept by another class, one for all handles of a store."""

    QUEUES: ClassVar[type[MemoryQueues]]

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        if not isinstance(self._store.queues, self.QUEUES):
            kept = self._store.queues
            self._store.queues = self.QUEUES(kept._lock, kept._summaries)


class _FreesAll(MemoryQueues):
    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        if limits is not None and limits == self._limits.get(queue):
            self._reservations.clear()
        await super().set_limits(queue, limits)


@broken("stateful.agrees_with_model")
class SameLimitsFreeAll(_OtherQueues):
    """Limits that a queue has already make its row again, and free what is reserved."""

    QUEUES = _FreesAll


class _HidesProcesses(MemoryQueues):
    def _left(self) -> dict[str, ProcessInfo]:
        left: dict[str, ProcessInfo] = self.__dict__.setdefault("left", {})
        return left

    async def leave(self, process_id: str) -> None:
        if process_id in self._living:
            self._left()[process_id] = self._living[process_id].process
        await super().leave(process_id)

    async def beat(self, process_id: str, process: ProcessInfo) -> None:
        await super().beat(process_id, self._left().pop(process_id, process))


@broken("stateful.agrees_with_model")
class ComesBackAsItWas(_OtherQueues):
    """A process that leaves is hidden by a flag; if it comes back, the flag is cleared and nothing else is stored."""

    QUEUES = _HidesProcesses


class _MarksTheLeft(MemoryQueues):
    async def leave(self, process_id: str) -> None:
        held = {run_id: each for run_id, each in self._reservations.items() if each.process_id == process_id}
        await super().leave(process_id)
        self.__dict__.setdefault("left", {})[process_id] = held

    async def claim(self, claim: Claim) -> list[RunSummary]:
        found = await super().claim(claim)
        if claim.reserve:
            for run_id, held in self.__dict__.get("left", {}).pop(claim.process_id, {}).items():
                self._reservations.setdefault(run_id, held)
        return found


@broken("queues.reservations", "stateful.agrees_with_model")
class ReservesAgainOnReturn(_OtherQueues):
    """A process that leaves is marked as gone; a claim of its own removes the mark, and what it had reserved holds."""

    QUEUES = _MarksTheLeft


class _HidesSchedules(MemoryQueues):
    def _removed(self) -> dict[str, Schedule]:
        removed: dict[str, Schedule] = self.__dict__.setdefault("removed", {})
        return removed

    async def remove_schedule(self, schedule_id: str) -> bool:
        if schedule_id in self._schedules:
            self._removed()[schedule_id] = self._schedules[schedule_id]
        return await super().remove_schedule(schedule_id)

    async def put_schedule(self, schedule: Schedule) -> None:
        await super().put_schedule(self._removed().pop(schedule.id, schedule))


@broken("stateful.agrees_with_model")
class SchedulesComeBack(_OtherQueues):
    """A schedule that is removed is hidden by a flag; if it is put again, it is the old one."""

    QUEUES = _HidesSchedules


class _FirstFloor(int):
    """The step that a run began with."""


@broken("stateful.agrees_with_model")
class TwoFloors(ReferenceCheckpointer):
    """Where a run began pruned and where later prunes came to are kept apart, and only the first one is looked at."""

    def _start_pruned(self, steps: Sequence[Checkpoint], records: dict[int, bytes]) -> None:
        super()._start_pruned(steps, records)
        run_id = steps[0].run_id
        self._store.floors[run_id] = _FirstFloor(self._store.floors[run_id])

    def _drop(self, run_id: str, steps: set[int]) -> None:
        floor = self._store.floors.get(run_id)
        super()._drop(run_id, steps)
        if isinstance(floor, _FirstFloor) and self._records(run_id):
            self._store.floors[run_id] = floor
