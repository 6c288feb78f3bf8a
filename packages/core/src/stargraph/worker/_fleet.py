"""What is wrong with the runs of a fleet: those that lost their process, and those that no worker takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from stargraph.checkpoint.protocol import (
    Checkpointer,
    GraphVersion,
    Presence,
    ProcessPresence,
    RunQueue,
    RunSearch,
    RunSummary,
)
from stargraph.errors import CheckpointError
from stargraph.runtime._reading import all_runs

SILENT_AFTER: Final = 30.0
"""After how many seconds of silence a process counts as gone, by default."""

_LOOKED_AT: Final = 1_000
_RECENT: Final = timedelta(minutes=10)


class StrandedRun(NamedTuple):
    """A run that could go on, and that nobody takes.

    Attributes:
        run: the run.
        reason: why, as far as the store can tell.
    """

    run: RunSummary
    reason: str


async def living_processes(store: Checkpointer, *, silent_after: float = SILENT_AFTER) -> list[ProcessPresence]:
    """Return the processes that live, the one that was seen first first.

    Args:
        store: the store.
        silent_after: seconds after which a silent one counts as gone.

    Raises:
        CheckpointError: the store cannot tell (`reason="not-supported"`), or as it raises.
    """
    if not isinstance(store, Presence):
        raise no_queues_error(store)
    return [each for each in await store.processes() if each.silent_seconds <= silent_after]


async def orphaned_runs(store: Checkpointer, *, silent_after: float = SILENT_AFTER) -> list[RunSummary]:
    """Return the runs of queues whose process is gone: a worker takes each of them soon.

    Args:
        store: the store.
        silent_after: seconds after which a silent process counts as gone.

    Raises:
        CheckpointError: as `living_processes` raises.
    """
    living = {each.process.id for each in await living_processes(store, silent_after=silent_after)}
    return [
        run
        async for run in all_runs(store, status="running")
        if run.status == "running"
        and run.queue is not None
        and run.process is not None
        and run.process.id not in living
    ]


async def stranded_runs(store: Checkpointer, *, after: float = 60.0) -> list[StrandedRun]:
    """Return the runs of queues that could go on for a while, and that no living process has taken or would take.

    Of a queue whose workers are behind, the runs are not stranded: living processes execute others of their version.

    Args:
        store: the store.
        after: for how many seconds they could.

    Raises:
        CheckpointError: as `living_processes` raises.
    """
    if not isinstance(store, RunQueue):
        raise no_queues_error(store)
    living = {each.process.id for each in await living_processes(store)}
    queues = [counts.queue for counts in await store.queue_counts()]
    found = await store.claimable("", queues, limit=_LOOKED_AT, reserve=0) if queues else []
    before = datetime.now(UTC) - timedelta(seconds=after)
    idle = [run for run in found if max(run.updated_at, run.due_at or run.updated_at) < before]
    served = await _served(store, living) if idle and living else set()
    return [
        StrandedRun(run, reason)
        for run in idle
        if (reason := _reason(run, served=served, is_anybody_there=bool(living))) is not None
    ]


async def _served(store: Checkpointer, living: set[str | None]) -> set[GraphVersion]:
    """Return the versions that living processes execute, or did lately."""
    runs = [run async for run in all_runs(store, status="running")]
    if isinstance(store, RunSearch):
        page = await store.search(updated_since=datetime.now(UTC) - _RECENT, limit=_LOOKED_AT, order="updated")
        runs += page.items
    return {GraphVersion.of(run) for run in runs if run.process is not None and run.process.id in living}


def _reason(run: RunSummary, *, served: set[GraphVersion], is_anybody_there: bool) -> str | None:
    if not is_anybody_there:
        return "no worker lives"
    if GraphVersion.of(run) in served:
        return None
    if any(version.graph_id == run.graph_id for version in served):
        return f"the living workers execute other versions of graph {run.graph_id!r}"
    return f"no living worker has executed graph {run.graph_id!r} lately"


def no_queues_error(store: Checkpointer) -> CheckpointError:
    """Return the error of a driver that has no queues (`reason="not-supported"`)."""
    return CheckpointError(
        f"the driver {type(store).__name__} has no queues",
        reason="not-supported",
        hint="SQLite, PostgreSQL and S3 stores have them.",
    )
