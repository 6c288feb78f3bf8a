"""Deletion and pruning: small statements, so that neither writers nor vacuum wait for long."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Final

import asyncpg

from stargraph.checkpoint.codec import Codec
from stargraph.checkpoint.driver import needed_steps
from stargraph.checkpoint.postgres._queries import Queries
from stargraph.checkpoint.protocol import (
    ENDED,
    Checkpoint,
    PruneReport,
    Status,
)

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
    codec: Codec,
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
        codec: reads and writes records.
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
            removed = await _prune_run(fetch, queries, codec, run, keep_last=keep_last, dry_run=dry_run)
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


async def _prune_run(
    fetch: Fetch, queries: Queries, codec: Codec, run: asyncpg.Record, *, keep_last: int, dry_run: bool
) -> int:
    run_id = run["run_id"]
    if keep_last == 0:
        count: int = (await fetch(queries.count_run, run_id))[0][0]
        if not dry_run:
            count = count if await delete_run(fetch, queries, run_id, only_at=run["digest"]) else 0
        return count
    lows: list[int] = []
    highs: list[int] = []
    if run["status"] not in ENDED:
        latest = await _step(fetch, queries, codec, run_id, run["last_step"])
        if latest is None:
            return 0
        for needed in needed_steps(latest):
            lows.append(needed.first)
            highs.append(needed.last)
    keep_from = run["last_step"] - keep_last + 1
    if not dry_run and not await _rewrite(fetch, queries, codec, run, keep_from, lows, highs):
        return 0
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


async def _rewrite(
    fetch: Fetch,
    queries: Queries,
    codec: Codec,
    run: asyncpg.Record,
    keep_from: int,
    lows: list[int],
    highs: list[int],
) -> bool:
    """Make what stays independent of what goes; return whether the run stood still meanwhile."""
    run_id, digest, last_step = run["run_id"], run["digest"], run["last_step"]
    for row in await fetch(queries.bereft, run_id, keep_from, lows, highs):
        checkpoint = await _step(fetch, queries, codec, run_id, row["step"])
        if checkpoint is None:
            return False
        record = codec.encode_alone(checkpoint).data
        if not await fetch(queries.rewrite, run_id, digest, last_step, row["step"], record):
            return False
    return True


async def _step(fetch: Fetch, queries: Queries, codec: Codec, run_id: str, step: int) -> Checkpoint | None:
    records = {row["step"]: row["record"] for row in await fetch(queries.at_step, run_id, step)}
    return codec.decode(records, run_id=run_id, step=step) if records else None
