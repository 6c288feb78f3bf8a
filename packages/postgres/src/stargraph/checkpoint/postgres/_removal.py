"""Deletion and pruning: small statements, so that neither writers nor vacuum wait for long."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Final

import asyncpg

from stargraph.checkpoint.codec import decode
from stargraph.checkpoint.postgres._queries import Queries
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Fork, PruneReport, Status, StepRange

_ROWS: Final = 1_000
"""Checkpoints that one statement removes."""

_RUNS: Final = 200
"""Runs that one statement looks for."""

Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]


async def delete_run(fetch: Fetch, queries: Queries, run_id: str, *, only_at: bytes | None = None) -> bool:
    """Turn a run into its tombstone, then remove its checkpoints.

    In this order: a writer that got in before the tombstone has committed by then, and none gets in after it,
    so the statements that follow see every checkpoint there will ever be.

    Args:
        fetch: runs one statement.
        queries: the statements.
        run_id: the run.
        only_at: only while this is the digest of its latest checkpoint.

    Returns:
        Whether this removed it.
    """
    token = secrets.token_bytes(16)
    await fetch(queries.entomb, run_id, token, only_at)
    tombstone = await fetch(queries.buried, run_id)
    if tombstone:
        await _reclaim(fetch, queries, run_id)
    return bool(tombstone) and tombstone[0]["digest"] == token


async def _reclaim(fetch: Fetch, queries: Queries, run_id: str) -> None:
    while (await fetch(queries.reclaim, run_id, _ROWS))[0][0]:
        pass
    await fetch(queries.reclaimed, run_id)


async def prune(
    fetch: Fetch,
    queries: Queries,
    *,
    older_than: datetime,
    statuses: Collection[Status],
    keep_last: int,
    dry_run: bool,
) -> PruneReport:
    """Remove all but the last checkpoints of the runs that stand still.

    Args:
        fetch: runs one statement.
        queries: the statements.
        older_than: only runs whose last step was recorded before.
        statuses: only runs with one of these.
        keep_last: how many checkpoints of each run to keep; 0 removes the run.
        dry_run: only count.

    Returns:
        What was removed, or would be.
    """
    runs = checkpoints = 0
    after = ""
    while found := await fetch(queries.still, list(statuses), older_than, keep_last, after, _RUNS):
        for run in found:
            removed = await _prune_run(fetch, queries, run, keep_last=keep_last, dry_run=dry_run)
            runs += removed > 0
            checkpoints += removed
        after = found[-1]["run_id"]
    if not dry_run:
        await _finish_deletions(fetch, queries)
    return PruneReport(runs=runs, checkpoints=checkpoints, dry_run=dry_run)


async def _finish_deletions(fetch: Fetch, queries: Queries) -> None:
    # A process that ended between the tombstone and the removal leaves checkpoints that nobody reads.
    after = ""
    while buried := await fetch(queries.unreclaimed, after, _RUNS):
        for run in buried:
            await _reclaim(fetch, queries, run["run_id"])
        after = buried[-1]["run_id"]


async def _prune_run(fetch: Fetch, queries: Queries, run: asyncpg.Record, *, keep_last: int, dry_run: bool) -> int:
    run_id = run["run_id"]
    if keep_last == 0:
        count: int = (await fetch(queries.count_run, run_id))[0][0]
        if not dry_run:
            count = count if await delete_run(fetch, queries, run_id, only_at=run["digest"]) else 0
        return count
    needed: list[StepRange] = []
    if run["status"] not in ENDED:
        latest = await fetch(queries.at_step, run_id, run["last_step"])
        if not latest:
            return 0
        needed = _needed_by(decode(latest[0]["record"], run_id=run_id, step=run["last_step"]))
    lows, highs = [step.first for step in needed], [step.last for step in needed]
    keep_from = run["last_step"] - keep_last + 1
    removed: int = 0
    low = 0
    while True:
        doomed = [row["step"] for row in await fetch(queries.doomed, run_id, keep_from, lows, highs, _ROWS, low)]
        low = doomed[-1] + 1 if len(doomed) == _ROWS else keep_from
        if dry_run:
            removed += len(doomed)
        else:
            outcome = (await fetch(queries.prune, run_id, run["digest"], doomed, low, run["last_step"]))[0]
            removed += outcome["gone"]
            if not outcome["still"]:
                return removed
        if low >= keep_from:
            return removed


def _needed_by(checkpoint: Checkpoint) -> list[StepRange]:
    """The steps that a run reads when it goes on from a checkpoint."""
    needed: list[StepRange] = []
    for item in checkpoint.frontier:
        needed.append(StepRange(first=item.since_step, last=item.since_step))
        needed.extend(item.completed_steps if isinstance(item, Fork) else item.calls)
    return needed
