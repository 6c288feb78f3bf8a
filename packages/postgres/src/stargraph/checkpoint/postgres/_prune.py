"""Deletion and pruning: small statements, so that neither writers nor vacuum wait for long."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import asyncpg

from stargraph.checkpoint.codec import Codec, CodecThreads, large_to_encode
from stargraph.checkpoint.driver import MAX_STEP, LatestCache, PruneRule, needed_steps
from stargraph.checkpoint.postgres._read import Fetch
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.checkpoint.protocol import ENDED, Checkpoint, PruneReport

# The tombstone's digest distinguishes a repeated deletion from somebody else's.
_MARK_DELETED: Final = """
WITH unqueued AS (
    DELETE FROM {schema}.queued WHERE run_id = $1 AND EXISTS (
        SELECT FROM {schema}.runs WHERE run_id = $1 AND status <> 'deleted' AND digest = coalesce($3, digest)
    )
)
UPDATE {schema}.runs
SET status = 'deleted', started_at = now(), updated_at = now(), digest = $2, graph_id = NULL, graph_hash = NULL,
    runtime_hash = NULL, error_reason = NULL, parent_run_id = NULL, is_child = false, due_at = NULL, summary = NULL,
    tags = '{}'
WHERE run_id = $1 AND status <> 'deleted' AND digest = coalesce($3, digest)
RETURNING run_id
"""

_TOMBSTONE: Final = "SELECT digest FROM {schema}.runs WHERE run_id = $1 AND status = 'deleted'"

_REMOVE_STEPS: Final = """
WITH removed AS (SELECT step FROM {schema}.checkpoints WHERE run_id = $1 ORDER BY step LIMIT $2),
gone AS (DELETE FROM {schema}.checkpoints WHERE run_id = $1 AND step IN (SELECT step FROM removed) RETURNING 1),
keys_gone AS (DELETE FROM {schema}.keys WHERE run_id = $1 AND step IN (SELECT step FROM removed))
SELECT count(*) FROM gone
"""

# -1: all steps of the deleted run are gone.
_MARK_EMPTY: Final = "UPDATE {schema}.runs SET last_step = -1 WHERE run_id = $1 AND status = 'deleted'"

_NOT_EMPTY: Final = """
SELECT run_id FROM {schema}.runs WHERE status = 'deleted' AND last_step >= 0 AND run_id > $1 ORDER BY run_id LIMIT $2
"""

# A parent that has not ended may still have to read how its child run ended.
_IDLE: Final = """
SELECT run_id, last_step, floor, digest, status FROM {schema}.runs AS r
WHERE status = ANY ($1::text[]) AND updated_at < $2 AND last_step - $3::bigint >= floor AND run_id > $4
    AND run_id = coalesce($7, run_id)
    AND NOT ($3::bigint = 0 AND is_child AND EXISTS (
        SELECT FROM {schema}.runs AS parent WHERE parent.run_id = r.parent_run_id AND parent.status <> ALL ($6::text[])
    ))
ORDER BY run_id LIMIT $5
"""

_COUNT_STEPS: Final = "SELECT count(*) FROM {schema}.checkpoints WHERE run_id = $1"

_PRUNABLE: Final = """
SELECT step FROM {schema}.checkpoints AS c
WHERE run_id = $1 AND step < $2 AND step >= $6
  AND NOT EXISTS (SELECT FROM unnest($3::bigint[], $4::bigint[]) AS k (low, high) WHERE c.step BETWEEN k.low AND k.high)
ORDER BY step LIMIT $5
"""

# What stays and is decoded from what goes.
_ORPHANED: Final = """
WITH kept (low, high) AS (
    SELECT * FROM unnest($3::bigint[], $4::bigint[]) UNION ALL SELECT $2::bigint, 9223372036854775807
)
SELECT DISTINCT c.step
FROM kept CROSS JOIN LATERAL (
    SELECT step, base FROM {schema}.checkpoints WHERE run_id = $1 AND step BETWEEN low AND high AND base < $2 OFFSET 0
) AS c
WHERE NOT EXISTS (SELECT FROM kept AS k WHERE c.base BETWEEN k.low AND k.high)
ORDER BY c.step
"""

_REWRITE: Final = """
WITH unchanged AS (
    SELECT run_id FROM {schema}.runs WHERE run_id = $1 AND digest = $2 AND last_step = $3 FOR NO KEY UPDATE
)
UPDATE {schema}.checkpoints AS c SET base = NULL, record = $5
FROM unchanged WHERE c.run_id = $1 AND c.run_id = unchanged.run_id AND c.step = $4
RETURNING c.step
"""

_PRUNE: Final = """
WITH unchanged AS (
    UPDATE {schema}.runs SET floor = greatest(floor, $4::bigint)
    WHERE run_id = $1 AND digest = $2 AND last_step = $5
    RETURNING run_id
), gone AS (
    DELETE FROM {schema}.checkpoints AS c USING unchanged
    WHERE c.run_id = $1 AND c.run_id = unchanged.run_id AND c.step = ANY ($3::bigint[])
    RETURNING 1
), keys_gone AS (
    DELETE FROM {schema}.keys AS k USING unchanged
    WHERE k.run_id = $1 AND k.run_id = unchanged.run_id AND k.step = ANY ($3::bigint[])
)
SELECT (SELECT count(*) FROM unchanged) AS unchanged, (SELECT count(*) FROM gone) AS gone
"""

_ROWS: Final = 1_000
"""Checkpoints that one statement removes."""

_RUNS: Final = 200
"""Runs that one statement looks for."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a prune leaves of a run: the steps from `since_step` on, and some ranges before."""

    since_step: int
    lows: list[int]
    highs: list[int]


class Pruner:
    """Removes runs, and the older part of them.

    Args:
        fetch: runs one statement, and again if it fails for a reason that may pass.
        schema: where the tables are.
        codec: rewrites records whose base is removed.
        threads: where large ones are written.
        read_step: reads one step of a run.
        cache: what this handle has written and read last.
    """

    def __init__(
        self,
        fetch: Fetch,
        schema: Schema,
        codec: Codec,
        threads: CodecThreads,
        read_step: Callable[[str, int], Awaitable[Checkpoint | None]],
        cache: LatestCache[bytes],
    ) -> None:
        self._fetch = fetch
        self._schema = schema
        self._codec = codec
        self._threads = threads
        self._read_step = read_step
        self._cache = cache

    async def delete_run(self, run_id: str, *, only_at: bytes | None = None) -> bool:
        """Turn a run into its tombstone, then remove its checkpoints.

        In this order: a writer that got in before the tombstone has committed by then, and none gets in after it,
        so the statements that follow see every checkpoint there will ever be.

        Args:
            only_at: only while this is the digest of its latest checkpoint.

        Returns:
            Whether this removed it.
        """
        token = secrets.token_bytes(16)
        await self._run(_MARK_DELETED, run_id, token, only_at)
        tombstone = await self._run(_TOMBSTONE, run_id)
        if tombstone:
            self._codec.forget(run_id)
            self._cache.drop(run_id)
            await self._remove_steps(run_id)
        return bool(tombstone) and tombstone[0]["digest"] == token

    async def prune(self, rule: PruneRule) -> PruneReport:
        """Remove all but the last checkpoints of the runs that are idle, or count them; see `RunDeletion.prune`."""
        keep_last, dry_run = min(rule.keep_last, MAX_STEP), rule.dry_run
        runs = checkpoints = 0
        after = ""
        while found := await self._idle_runs(rule, after):
            for run in found:
                prune_run = self._prune_run if keep_last else self._delete_idle
                removed = await prune_run(run, keep_last, dry_run=dry_run)
                runs += removed > 0
                checkpoints += removed
            after = found[-1]["run_id"]
        if not dry_run:
            await self._finish_deletions()
        return PruneReport(runs=runs, checkpoints=checkpoints, dry_run=dry_run)

    async def _idle_runs(self, rule: PruneRule, after: str) -> list[asyncpg.Record]:
        keep_last = min(rule.keep_last, MAX_STEP)
        ended = [*ENDED, "deleted"]
        return await self._run(_IDLE, list(rule.statuses), rule.older_than, keep_last, after, _RUNS, ended, rule.run_id)

    async def _delete_idle(self, run: asyncpg.Record, _: int, *, dry_run: bool) -> int:
        count: int = (await self._run(_COUNT_STEPS, run["run_id"]))[0][0]
        return count if dry_run or await self.delete_run(run["run_id"], only_at=run["digest"]) else 0

    async def _prune_run(self, run: asyncpg.Record, keep_last: int, *, dry_run: bool) -> int:
        kept = _Kept(run["last_step"] - keep_last + 1, [], [])
        if run["status"] not in ENDED:
            latest = await self._read_step(run["run_id"], run["last_step"])
            if latest is None:
                return 0
            for needed in needed_steps(latest):
                kept.lows.append(needed.first)
                kept.highs.append(needed.last)
        if not dry_run and not await self._rewrite_orphaned(run, kept):
            return 0
        removed: int = 0
        low = 0
        while low < kept.since_step:
            rows = await self._run(_PRUNABLE, run["run_id"], kept.since_step, kept.lows, kept.highs, _ROWS, low)
            steps = [row["step"] for row in rows]
            low = steps[-1] + 1 if len(steps) == _ROWS else kept.since_step
            if dry_run:
                removed += len(steps)
                continue
            outcome = (await self._run(_PRUNE, run["run_id"], run["digest"], steps, low, run["last_step"]))[0]
            removed += outcome["gone"]
            if not outcome["unchanged"]:
                break
        return removed

    async def _rewrite_orphaned(self, run: asyncpg.Record, kept: _Kept) -> bool:
        """Make what stays independent of what goes; return whether the run was idle meanwhile."""
        run_id = run["run_id"]
        for row in await self._run(_ORPHANED, run_id, kept.since_step, kept.lows, kept.highs):
            checkpoint = await self._read_step(run_id, row["step"])
            if checkpoint is None:
                return False
            alone = await self._threads.run(self._codec.encode_alone, checkpoint, large=large_to_encode((checkpoint,)))
            if not await self._run(_REWRITE, run_id, run["digest"], run["last_step"], row["step"], alone.data):
                return False
        return True

    async def _finish_deletions(self) -> None:
        # A process that ended between the tombstone and the removal leaves checkpoints that nobody reads.
        after = ""
        while found := await self._run(_NOT_EMPTY, after, _RUNS):
            for run in found:
                await self._remove_steps(run["run_id"])
            after = found[-1]["run_id"]

    async def _remove_steps(self, run_id: str) -> None:
        while (await self._run(_REMOVE_STEPS, run_id, _ROWS))[0][0]:
            pass
        await self._run(_MARK_EMPTY, run_id)

    async def _run(self, template: str, *parameters: object) -> list[asyncpg.Record]:
        return await self._fetch(self._schema.sql(template), *parameters)
