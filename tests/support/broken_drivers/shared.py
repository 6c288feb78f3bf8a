"""Drivers that lose, with a handle or beside another call, what workers share."""

from __future__ import annotations

import asyncio

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import ProcessInfo, ProcessPresence, QueueCounts, QueueLimits, Schedule
from stargraph.errors import StoreUnavailableError
from support.broken_drivers.broken_driver import broken


@broken("presence.outlives_handles")
class BootstrapForgetsProcesses(ReferenceCheckpointer):
    """bootstrap makes the table of processes again: they will beat again."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        for each in await self._store.queues.processes():
            await self._store.queues.leave(each.process.id or "")


@broken("presence.outlives_handles")
class CloseLeavesForAll(ReferenceCheckpointer):
    """close says of every process that it has left, not of its own."""

    async def close(self) -> None:
        for each in await self._store.queues.processes():
            await self._store.queues.leave(each.process.id or "")
        await super().close()


@broken("presence.many")
class HundredProcesses(ReferenceCheckpointer):
    """processes gives a page of a hundred."""

    async def processes(self) -> list[ProcessPresence]:
        return (await super().processes())[:100]


@broken("presence.many")
class ShortWords(ReferenceCheckpointer):
    """A column of 64 KiB for what a process says."""

    async def beat(self, process: ProcessInfo) -> None:
        if len(process.model_dump_json()) > 65_535:
            raise StoreUnavailableError("value too long", reason="unavailable")
        await super().beat(process)


@broken("schedules.outlive_handles")
class BootstrapDropsSchedules(ReferenceCheckpointer):
    """bootstrap makes the table of schedules again."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        if not self.read_only:
            for each in await self._store.queues.schedules():
                await self._store.queues.remove_schedule(each.id)


@broken("schedules.outlive_handles")
class CloseDropsSchedules(ReferenceCheckpointer):
    """close takes the schedules away."""

    async def close(self) -> None:
        for each in await self._store.queues.schedules():
            await self._store.queues.remove_schedule(each.id)
        await super().close()


@broken("schedules.many")
class HundredSchedules(ReferenceCheckpointer):
    """schedules gives a page of a hundred."""

    async def schedules(self) -> list[Schedule]:
        return (await super().schedules())[:100]


@broken("schedules.many")
class SchedulesInOneDocument(ReferenceCheckpointer):
    """All schedules are one document, which is read, changed and written again: of two calls one is lost."""

    async def put_schedule(self, schedule: Schedule) -> None:
        self._ensure_writable("put_schedule")
        before = await self.schedules()
        await asyncio.sleep(0)
        self._store.queues._schedules = {each.id: each for each in [*before, schedule]}


@broken("schedules.many")
class ShortInputs(ReferenceCheckpointer):
    """A column of 64 KiB for the inputs of a schedule."""

    async def put_schedule(self, schedule: Schedule) -> None:
        if len(schedule.model_dump_json()) > 65_535:
            raise StoreUnavailableError("value too long", reason="unavailable")
        await super().put_schedule(schedule)


@broken("queues.outlive_handles")
class BootstrapLiftsReservations(ReferenceCheckpointer):
    """bootstrap takes what is reserved for the rest of a process that died."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        self._store.queues._reservations.clear()


@broken("queues.outlive_handles")
class BootstrapLiftsLimits(ReferenceCheckpointer):
    """bootstrap puts the limits back to none."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        for each in await self._store.queues.counts():
            await self._store.queues.set_limits(each.queue, None)


@broken("queues.outlive_handles")
class CloseLiftsReservations(ReferenceCheckpointer):
    """close lifts all reservations, not those of its own process."""

    async def close(self) -> None:
        self._store.queues._reservations.clear()
        await super().close()


@broken("queues.many_limits")
class HundredQueues(ReferenceCheckpointer):
    """queue_counts gives a page of a hundred."""

    async def queue_counts(self) -> list[QueueCounts]:
        return (await super().queue_counts())[:100]


@broken("queues.many_limits")
class LimitsInOneDocument(ReferenceCheckpointer):
    """All limits are one document, which is read, changed and written again: of two calls one is lost."""

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        self._ensure_writable("set_limits")
        before = {each.queue: each.limits for each in await self.queue_counts()}
        await asyncio.sleep(0)
        now = {each.queue for each in await self.queue_counts()}
        for name in {*before, *now, queue}:
            await super().set_limits(name, limits if name == queue else before.get(name))
