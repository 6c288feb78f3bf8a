"""What is wrong with the runs of a fleet: those that lost their process, and those that no worker takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from stargraph.checkpoint.driver import DamagedRun, QueueDamage
from stargraph.checkpoint.protocol import (
    Checkpointer,
    GraphVersion,
    Presence,
    ProcessPresence,
    RunQueue,
    RunSummary,
    WorkerInfo,
)
from stargraph.errors import CheckpointError
from stargraph.runtime._given import check_checkpointer, check_seconds
from stargraph.runtime._reading import all_runs

SILENT_AFTER: Final = 30.0
"""After how many seconds of silence a process counts as gone, by default."""

_LOOKED_AT: Final = 1_000

_LONGEST_SECONDS: Final = 10**9
"""Thirty years: no run is older, and a date still holds it."""


class StrandedRun(NamedTuple):
    """A run that could go on, and that nobody takes.

    Attributes:
        run: the run.
        reason: why, by what the living workers say of themselves.
    """

    run: RunSummary
    reason: str


async def living_processes(store: Checkpointer, *, silent_after: float = SILENT_AFTER) -> list[ProcessPresence]:
    """Return the processes that live, the one that was seen first first.

    Args:
        silent_after: seconds after which a silent one counts as gone.

    Raises:
        CheckpointError: the store cannot tell (`reason="not-supported"`), or as it raises.
    """
    check_checkpointer(store, "store")
    check_seconds(silent_after, "silent_after")
    if not isinstance(store, Presence):
        raise no_queues_error(store)
    return [each for each in await store.processes() if each.silent_seconds <= silent_after]


async def orphaned_runs(store: Checkpointer, *, silent_after: float = SILENT_AFTER) -> list[RunSummary]:
    """Return the runs of queues whose process is gone: a worker takes each of them soon.

    Args:
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
    """Return the runs of queues that could go on for a while, and that no living worker takes.

    Of a queue whose workers are behind, the runs are not stranded: living workers serve their version.

    Args:
        after: for how many seconds they could.

    Raises:
        CheckpointError: as `living_processes` raises.
    """
    check_checkpointer(store, "store")
    check_seconds(after, "after")
    if not isinstance(store, RunQueue):
        raise no_queues_error(store)
    living = [each.process for each in await living_processes(store)]
    workers = [process for process in living if isinstance(process, WorkerInfo)]
    queues = [counts.queue for counts in await store.queue_counts()]
    found = await store.claimable("", queues, limit=_LOOKED_AT, reserve=0) if queues else []
    before = datetime.now(UTC) - timedelta(seconds=min(after, _LONGEST_SECONDS))
    return [
        StrandedRun(run, reason)
        for run in found
        if max(run.updated_at, run.due_at or run.updated_at) < before and (reason := _reason(run, workers)) is not None
    ]


async def damaged_runs(store: Checkpointer) -> list[DamagedRun]:
    """Return the runs of queues that workers leave aside, since the store cannot read what it holds of them.

    Only the runs that are handed out next are looked at; none if the driver cannot tell.

    Raises:
        CheckpointError: as the store raises.
    """
    check_checkpointer(store, "store")
    if not (isinstance(store, RunQueue) and isinstance(store, QueueDamage)):
        return []
    queues = [counts.queue for counts in await store.queue_counts()]
    if queues:
        await store.claimable("", queues, limit=_LOOKED_AT, reserve=0)
    return await store.damaged_runs()


def _reason(run: RunSummary, workers: Sequence[WorkerInfo]) -> str | None:
    """Return why none of the living workers takes a run, or None if one does or may do so."""
    assert run.queue is not None
    version, queue = GraphVersion.of(run), run.queue.name
    if not workers:
        return "no worker lives"
    if not (workers := [each for each in workers if queue in each.queues]):
        return f"no living worker serves queue {queue!r}"
    if any(version in each.serves for each in workers):
        return None
    others = [each for each in workers if any(served.graph_id == run.graph_id for served in each.serves)]
    if not others:
        return f"no living worker serves graph {run.graph_id!r}"
    reasons = [dict(each.refuses).get(version) for each in others]
    if None in reasons:
        return None  # a worker has not looked at it yet, and may go on with it
    return f"the living workers have other versions of graph {run.graph_id!r}: {reasons[0]}"


def no_queues_error(store: Checkpointer) -> CheckpointError:
    """Return the error of a driver that has no queues (`reason="not-supported"`)."""
    return CheckpointError(
        f"the driver {type(store).__name__} has no queues",
        reason="not-supported",
        hint="SQLite, PostgreSQL and S3 stores have them.",
    )
