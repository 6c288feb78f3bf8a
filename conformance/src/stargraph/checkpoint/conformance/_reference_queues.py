"""The queues, the presence and the schedules of the reference driver."""

from __future__ import annotations

from collections.abc import Sequence

from stargraph.checkpoint.conformance._reference_store import ReferenceHandle
from stargraph.checkpoint.driver import check_beat, check_claim, check_queue_name
from stargraph.checkpoint.protocol import (
    GraphVersion,
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueLimits,
    RunSummary,
    Schedule,
)


class ReferenceQueues(ReferenceHandle):
    """A handle that hands out runs, and knows who lives and what is due."""

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
        """Return runs that can go on now, and reserve them."""
        self._ensure_ready()
        claim = check_claim(
            process_id,
            queues,
            limit=limit,
            fits=fits,
            silent_after=silent_after,
            reserve=reserve,
            read_only=self.read_only,
        )
        await self._turn()
        return await self._store.queues.claim(claim)

    async def queue_counts(self) -> list[QueueCounts]:
        """Return how the runs of each queue stand."""
        self._ensure_ready()
        await self._turn()
        return await self._store.queues.counts()

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        """Set the limits of a queue."""
        self._ensure_writable("set_limits")
        check_queue_name(queue)
        await self._turn()
        await self._store.queues.set_limits(queue, limits)

    async def beat(self, process: ProcessInfo) -> None:
        """Say that a process lives."""
        self._ensure_writable("beat")
        await self._turn()
        await self._store.queues.beat(check_beat(process), process)

    async def processes(self) -> list[ProcessPresence]:
        """Return the processes that have not left."""
        self._ensure_ready()
        await self._turn()
        return await self._store.queues.processes()

    async def leave(self, process_id: str) -> None:
        """Say that a process ends."""
        self._ensure_writable("leave")
        await self._turn()
        await self._store.queues.leave(process_id)

    async def put_schedule(self, schedule: Schedule) -> None:
        """Store a schedule."""
        self._ensure_writable("put_schedule")
        await self._turn()
        await self._store.queues.put_schedule(schedule)

    async def schedules(self) -> list[Schedule]:
        """Return all schedules, in the order of their ids."""
        self._ensure_ready()
        await self._turn()
        return await self._store.queues.schedules()

    async def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule."""
        self._ensure_writable("remove_schedule")
        await self._turn()
        return await self._store.queues.remove_schedule(schedule_id)
