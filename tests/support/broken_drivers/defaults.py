"""Drivers with other defaults than the protocol's, and numbers that their store cannot hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Any, Unpack

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    Checkpoint,
    PruneReport,
    RunFilters,
    RunOrder,
    RunPage,
    RunSummary,
    Status,
)
from support.broken_drivers.broken_driver import broken


@broken("deletion.prune_defaults")
class PrunesFailuresByDefault(ReferenceCheckpointer):
    """Without `statuses`, prune takes every run that does not run: those that failed and are to be resumed too."""

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = ("done", "cancelled", "moved", "failed", "paused"),
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        return await super().prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )


@broken("deletion.prune_defaults")
class RemovesByDefault(ReferenceCheckpointer):
    """Without `keep_last`, prune removes whole runs."""

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 0,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        return await super().prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )


@broken("search.defaults")
class SearchesWithoutLimit(ReferenceCheckpointer):
    """Without a limit, one page holds every run."""

    async def search(
        self,
        *,
        limit: int = 1_000_000,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        return await super().search(limit=limit, cursor=cursor, order=order, **filters)


@broken("search.defaults", "closing.every_call_in_flight", "access.outage")
class SearchesByUpdate(ReferenceCheckpointer):
    """Without an order, the run that went on last comes first."""

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "updated",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        return await super().search(limit=limit, cursor=cursor, order=order, **filters)


@broken("search.by_status")
class NoStatusIsAnyStatus(ReferenceCheckpointer):
    """An empty list of statuses is no filter."""

    async def search(self, **arguments: Any) -> RunPage:
        if not arguments.get("status"):
            arguments.pop("status", None)
        return await super().search(**arguments)


@broken("steps.unknown_is_none")
class StepsOfEightBytes(ReferenceCheckpointer):
    """A step that does not fit into 64 bits is an OverflowError of the library below."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return await super().read_at_step(run_id, _stored(step, 8))


@broken("list_runs.limit")
class LimitsOfFourBytes(ReferenceCheckpointer):
    """A limit that does not fit into 32 bits is an OverflowError of the library below."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return await super().list_runs(since=since, limit=_stored(limit, 4))


@broken("history.range")
class BoundsOfEightBytes(ReferenceCheckpointer):
    """A bound of history that does not fit into 64 bits is an OverflowError of the library below."""

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        last = None if to_step is None else _stored(to_step, 8)
        async for found in super().history(run_id, from_step=from_step, to_step=last, newest_first=newest_first):
            yield found


def _stored(number: int, length: int) -> int:
    return int.from_bytes(number.to_bytes(length, signed=True), signed=True)


@broken("history.range")
class BoundsFromTheEnd(ReferenceCheckpointer):
    """A bound of history below 0 counts from the end, as an index of Python does."""

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        if from_step is not None and from_step < 0:
            from_step += max(self._records(run_id), default=0) + 1
        async for found in super().history(run_id, from_step=from_step, to_step=to_step, newest_first=newest_first):
            yield found


@broken("history.range")
class SwapsBounds(ReferenceCheckpointer):
    """Bounds in the wrong order are put right instead of giving nothing."""

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        if from_step is not None and to_step is not None:
            from_step, to_step = min(from_step, to_step), max(from_step, to_step)
        async for found in super().history(run_id, from_step=from_step, to_step=to_step, newest_first=newest_first):
            yield found


@broken("batch.appends_all")
class BatchesAreLists(ReferenceCheckpointer):
    """A batch that is not empty and not a list is refused by the library below."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        if not isinstance(checkpoints, list):
            raise TypeError("executemany takes a list")
        await super().write_many(checkpoints)
