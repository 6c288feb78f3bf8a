"""The methods of `RunQueue`, `Presence` and `Schedules`, over what a driver does for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from stargraph.checkpoint.driver._lifecycle import Lifecycle
from stargraph.checkpoint.driver._queues import Claim, check_beat, check_claim, check_limits, check_queue_name
from stargraph.checkpoint.driver._summary_rows import DamagedRun
from stargraph.checkpoint.protocol import (
    GraphVersion,
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueLimits,
    RunSummary,
    Schedule,
)
from stargraph.errors._arguments import check_type


class FleetStore(Protocol):
    """What a driver does for a fleet, once the arguments are checked and the handle may be used so."""

    async def claim(self, claim: Claim) -> list[RunSummary]:
        """Return runs that can go on now, and reserve them unless `claim.reserve` is 0.

        One whose entry cannot be read is left out, and takes no slot of its queue.
        """

    async def damaged(self) -> list[DamagedRun]:
        """Return what `QueueDamage.damaged_runs` returns."""

    async def counts(self) -> list[QueueCounts]:
        """Return what `queue_counts` returns."""

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        """Set the limits of a queue, or remove them."""

    async def beat(self, process_id: str, process: ProcessInfo) -> None:
        """Note that a process lives."""

    async def processes(self) -> list[ProcessPresence]:
        """Return what `Presence.processes` returns."""

    async def leave(self, process_id: str) -> None:
        """Note that a process ends, and free what is reserved for it."""

    async def repair(self) -> list[str]:
        """Return what `QueueRepair.repair_queues` returns."""

    async def put_schedule(self, schedule: Schedule) -> None:
        """Store a schedule."""

    async def schedules(self) -> list[Schedule]:
        """Return all schedules, in the order of their ids."""

    async def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule; return whether there was one."""


class FleetMethods(ABC):
    """Gives a driver's handle the methods of `RunQueue`, `Presence` and `Schedules`: derive from it.

    Attributes:
        _lifecycle: whether the handle may be used.
    """

    _lifecycle: Lifecycle

    @abstractmethod
    def _fleet(self) -> FleetStore:
        """Return what the driver does for a fleet; called on an open handle."""

    async def claimable(
        self,
        process_id: str,
        queues: Sequence[str],
        *,
        limit: int = 1,
        fits: Sequence[GraphVersion] | None = None,
        silent_after: float = 30.0,
        reserve: float = 30.0,
    ) -> list[RunSummary]:
        self._lifecycle.ensure_open()
        claim = check_claim(
            process_id,
            queues,
            limit=limit,
            fits=fits,
            silent_after=silent_after,
            reserve=reserve,
            read_only=self._lifecycle.read_only,
        )
        return [] if claim.is_empty else await self._fleet().claim(claim)

    async def damaged_runs(self) -> list[DamagedRun]:
        self._lifecycle.ensure_open()
        return await self._fleet().damaged()

    async def queue_counts(self) -> list[QueueCounts]:
        self._lifecycle.ensure_open()
        return await self._fleet().counts()

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        self._lifecycle.ensure_writable("set_limits")
        check_queue_name(queue)
        check_limits(limits)
        await self._fleet().set_limits(queue, limits)

    async def beat(self, process: ProcessInfo) -> None:
        self._lifecycle.ensure_writable("beat")
        await self._fleet().beat(check_beat(process), process)

    async def processes(self) -> list[ProcessPresence]:
        self._lifecycle.ensure_open()
        return await self._fleet().processes()

    async def leave(self, process_id: str) -> None:
        self._lifecycle.ensure_writable("leave")
        check_type(process_id, "process_id", str, "the id of a process, as in ProcessInfo.current().id")
        await self._fleet().leave(process_id)

    async def repair_queues(self) -> list[str]:
        self._lifecycle.ensure_writable("repair_queues")
        return await self._fleet().repair()

    async def put_schedule(self, schedule: Schedule) -> None:
        self._lifecycle.ensure_writable("put_schedule")
        check_type(schedule, "schedule", Schedule, "a Schedule of stargraph.checkpoint.protocol")
        await self._fleet().put_schedule(schedule)

    async def schedules(self) -> list[Schedule]:
        self._lifecycle.ensure_open()
        return await self._fleet().schedules()

    async def remove_schedule(self, schedule_id: str) -> bool:
        self._lifecycle.ensure_writable("remove_schedule")
        check_type(schedule_id, "schedule_id", str, "the id of a schedule")
        return await self._fleet().remove_schedule(schedule_id)
