"""Drivers that keep something else than the schedules that were put."""

from __future__ import annotations

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import QueueEntry, QueueLimits, Schedule
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from support.broken_drivers.broken_driver import broken


@broken("schedules.exact", "schedules.kept", "schedules.outlive_handles", "schedules.read_only")
class SchedulesInSeconds(ReferenceCheckpointer):
    """`since` is kept in whole seconds."""

    async def put_schedule(self, schedule: Schedule) -> None:
        await super().put_schedule(schedule.model_copy(update={"since": schedule.since.replace(microsecond=0)}))


@broken("schedules.exact")
class ScheduleWithoutItsKey(ReferenceCheckpointer):
    """Of the queue entry only the columns name and priority are kept."""

    async def put_schedule(self, schedule: Schedule) -> None:
        entry = QueueEntry(name=schedule.queue.name, priority=schedule.queue.priority)
        await super().put_schedule(schedule.model_copy(update={"queue": entry}))


@broken("schedules.exact")
class ScheduleIdsFoldCase(ReferenceCheckpointer):
    """The primary key of schedules ignores case."""

    async def put_schedule(self, schedule: Schedule) -> None:
        for other in await self.schedules():
            if other.id != schedule.id and other.id.lower() == schedule.id.lower():
                await self.remove_schedule(other.id)
        await super().put_schedule(schedule)


@broken("schedules.read_only")
class ReadOnlyPutsSchedules(ReferenceCheckpointer):
    """put_schedule was forgotten when the handle learned to be read-only."""

    async def put_schedule(self, schedule: Schedule) -> None:
        self._ensure_ready()
        await self._turn()
        await self._store.queues.put_schedule(schedule)


@broken("schedules.read_only")
class ReadOnlyRemovesSchedules(ReferenceCheckpointer):
    """remove_schedule was forgotten when the handle learned to be read-only."""

    async def remove_schedule(self, schedule_id: str) -> bool:
        self._ensure_ready()
        await self._turn()
        return await self._store.queues.remove_schedule(schedule_id)


@broken(slow=("crash.killed_beside_runs",), importable=True)
class PutsInTwoTransactions(SQLiteCheckpointer):
    """A schedule that is put again is removed first: a process that dies in between leaves none."""

    async def put_schedule(self, schedule: Schedule) -> None:
        await self.remove_schedule(schedule.id)
        await super().put_schedule(schedule)


@broken(slow=("crash.killed_beside_runs",), importable=True)
class LimitsInTwoTransactions(SQLiteCheckpointer):
    """Limits that are set again are removed first: a process that dies in between leaves a queue without limits."""

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        await super().set_limits(queue, None)
        await super().set_limits(queue, limits)
