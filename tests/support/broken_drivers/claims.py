"""Drivers that hand out runs by what they keep too little of, and free what others have reserved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import claim_order
from stargraph.checkpoint.protocol import (
    Checkpoint,
    ProcessInfo,
    ProcessPresence,
    PruneReport,
    QueueCounts,
    RunSummary,
)
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.fleets import Indexed


@broken("queues.others_keep_theirs")
class LeaveFreesAll(ReferenceCheckpointer):
    """A process that leaves frees what every process has reserved."""

    async def leave(self, process_id: str) -> None:
        await super().leave(process_id)
        self._store.queues._reservations.clear()


@broken("queues.others_keep_theirs")
class AnyStepFreesAll(ReferenceCheckpointer):
    """A step of one run lifts the reservations of all."""

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        self._store.queues._reservations.clear()


@broken("queues.others_keep_theirs")
class BeatFrees(ReferenceCheckpointer):
    """A beat makes the presence of its process again, and forgets what was reserved for it."""

    async def beat(self, process: ProcessInfo) -> None:
        known = {each.process.id for each in await self.processes()}
        if process.id is not None and process.id not in known:
            await self.leave(process.id)
        await super().beat(process)


@broken("queues.summaries")
class ClaimsTellTheFirstStep(ReferenceCheckpointer):
    """A run is described as when it was enqueued."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        firsts = [self._at(run.run_id, min(self._records(run.run_id))) for run in found]
        return [RunSummary.from_checkpoint(first) for first in firsts if first is not None]


@broken("queues.summaries")
class ClaimsWithoutTags(ReferenceCheckpointer):
    """The row of the queue has no tags."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        return [run.model_copy(update={"metadata": {}}) for run in found]


@broken("queues.exact_names")
class QueueNamesFoldCase(ReferenceCheckpointer):
    """The column of the queue ignores case."""

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, limit=limit, **arguments)
        asked = {name.lower() for name in queues}
        names = {run.queue.name for run in self._summaries(None) if run.queue is not None}
        others = sorted(name for name in names.difference(queues) if name.lower() in asked)
        if others and len(found) < limit:
            found += await super().claimable(process_id, others, limit=limit - len(found), **arguments)
        return found


@broken("queues.many")
class ClaimsAHundred(ReferenceCheckpointer):
    """At most a hundred runs are handed out, however many were asked for."""

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        return await super().claimable(process_id, queues, limit=min(limit, 100), **arguments)


def _clipped(run: RunSummary, most: int) -> tuple[int, datetime, str]:
    priority, due, run_id = claim_order(run)
    return max(-most, min(most, priority)), due, run_id


@broken("queues.order", "queues.limits", "queues.others_keep_theirs", "queues.outlive_handles", "queues.side_by_side")
class PriorityIsASmallint(ReferenceCheckpointer):
    """A priority is cut to what 16 bits hold."""

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        await super().claimable(process_id, queues, limit=limit, **(arguments | {"reserve": 0.0}))
        found = await super().claimable(process_id, queues, limit=1000 if limit else 0, **arguments)
        return sorted(found, key=lambda run: _clipped(run, 32_767))[:limit]


@broken("queues.order")
class DueInSeconds(ReferenceCheckpointer):
    """Due times are kept in whole seconds, and runs of one second come by their ids."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)

        def order(run: RunSummary) -> tuple[int, datetime, str]:
            priority, due, run_id = claim_order(run)
            return priority, due.replace(microsecond=0), run_id

        return sorted(found, key=order)


@broken("queues.reservations")
class WholeSecondsReserved(ReferenceCheckpointer):
    """The seconds of a reservation are an integer in the statement."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        reserve = arguments.pop("reserve", 30.0)
        whole = int(reserve) if isinstance(reserve, float) and reserve < 1e9 else reserve
        return await super().claimable(process_id, queues, reserve=whole, **arguments)


@broken("queues.order")
class IdsFoldCase(ReferenceCheckpointer):
    """Ties are put in the order of a collation that ignores case."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        return sorted(found, key=lambda run: (*claim_order(run)[:2], run.run_id.casefold()))


@broken(slow=("queues.many",))
class CandidatesAreAPage(ReferenceCheckpointer):
    """The first fifty runs of a queue are looked at, and those handed out among them that limits let go."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        if arguments.get("limit", 1) > 1:
            return await super().claimable(process_id, queues, **arguments)
        waiting = [run for run in self._summaries(None) if run.queue is not None and run.queue.name in queues]
        page = {run.run_id for run in sorted(waiting, key=claim_order)[:50]}
        found = await super().claimable(process_id, queues, **arguments)
        return [run for run in found if run.run_id in page]


@broken("queues.limits_told")
class LimitsAreNotTold(ReferenceCheckpointer):
    """queue_counts does not look at the limits."""

    async def queue_counts(self) -> list[QueueCounts]:
        return [each.model_copy(update={"limits": None}) for each in await super().queue_counts()]


@broken("queues.counts")
class CountsThePruned(Indexed):
    """A run that prune removed is counted as what it was."""

    async def prune(self, **arguments: Any) -> PruneReport:
        before = {run.run_id: run for run in self._summaries(None)}
        report = await super().prune(**arguments)
        self._table.update({run_id: run for run_id, run in before.items() if run_id not in self._store.runs})
        return report

    async def queue_counts(self) -> list[QueueCounts]:
        gone = [run.queue.name for run in self._table.values() if run.queue and run.status == "failed"]
        counts = await super().queue_counts()
        return [each.model_copy(update={"failed": each.failed + gone.count(each.queue)}) for each in counts]


@broken("presence.beats")
class OneProcessPerPid(ReferenceCheckpointer):
    """A process is known by its host and pid."""

    async def processes(self) -> list[ProcessPresence]:
        found = {(each.process.host, each.process.pid): each for each in await super().processes()}
        return list(found.values())


@broken("queues.kinds")
class DueWithinTheMinute(ReferenceCheckpointer):
    """A claim looks a minute ahead, as if its timer came by once a minute: sleepers wake too early."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        known = {run.run_id for run in found}
        soon = datetime.now(UTC) + timedelta(minutes=1)
        waiting = [run for run in self._summaries(None) if run.queue is not None and run.queue.name in queues]
        more = [run for run in waiting if run.due_at is not None and datetime.now(UTC) < run.due_at <= soon]
        return [*found, *(run for run in more if run.run_id not in known)][: arguments.get("limit", 1)]


@broken("queues.living")
class ShortSilenceForgets(ReferenceCheckpointer):
    """A claim removes the processes that are silent for longer than it bears, for all other claims too."""

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, silent_after: float = 30.0, **arguments: Any
    ) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, silent_after=silent_after, **arguments)
        if arguments.get("reserve", 30.0):  # with reserve=0 it writes nothing
            for each in await self.processes():
                if each.silent_seconds > silent_after:
                    await self.leave(each.process.id or "")
        return found
