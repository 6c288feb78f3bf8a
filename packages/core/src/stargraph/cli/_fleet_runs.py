"""The runs of queues that `stargraph runs` finds: of one queue, without a process, or without a worker."""

from __future__ import annotations

from typing import NamedTuple

from stargraph.checkpoint.driver import check_filters
from stargraph.checkpoint.protocol import RunFilters, RunSummary
from stargraph.cli._store import StoreRef
from stargraph.runtime._reading import all_runs
from stargraph.worker import orphaned_runs, stranded_runs


class FleetRun(NamedTuple):
    """A run, and why nobody takes it, if that was asked for.

    Attributes:
        run: the run.
        stranded: why nobody takes it; None if that was not asked for.
    """

    run: RunSummary
    stranded: str | None = None


async def find_fleet_runs(
    ref: StoreRef, filters: RunFilters, queue: str | None, *, is_orphaned: bool, is_stranded: bool
) -> list[FleetRun]:
    """Return the runs of queues that match, the newest first.

    Args:
        ref: the store.
        filters: what else they must fit.
        queue: the queue; None for all.
        is_orphaned: only runs whose process is gone.
        is_stranded: only runs that nobody takes.
    """
    matcher = check_filters(filters)
    async with ref.opened("read") as store:
        if is_orphaned:
            found = [FleetRun(run) for run in await orphaned_runs(store)]
        elif is_stranded:
            found = [FleetRun(*each) for each in await stranded_runs(store)]
        else:
            found = [FleetRun(run) async for run in all_runs(store, status=filters.get("status"))]
    return [
        each
        for each in found
        if each.run.queue is not None and (queue is None or each.run.queue.name == queue) and matcher.matches(each.run)
    ]
