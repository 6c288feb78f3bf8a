"""What workers share of a store: the index of the runs of queues, limits, who lives, schedules.

Workers that ask at once lock different rows and pass over those of others (SKIP LOCKED), so none waits for another. Who
appends a step holds the row of the run first and then its row here; who claims holds rows here alone and waits for
none. So they cannot block each other in a circle. A queue with limits is counted by one at a time: whoever holds
its row in `limits`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import asyncpg

from stargraph.checkpoint.driver import (
    FORGET_AFTER,
    Claim,
    DamagedRun,
    Slots,
    counts_of,
    model_from_json,
    presence_from_json,
    readable_summaries,
    version_key,
)
from stargraph.checkpoint.postgres._connection import Connections
from stargraph.checkpoint.postgres._errors import Retries
from stargraph.checkpoint.postgres._queue_index import QueueIndex
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.checkpoint.protocol import (
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueLimits,
    RunSummary,
    Schedule,
)

_WAKE: Final = """
WITH due AS (
    SELECT run_id FROM {schema}.queued WHERE state = 'scheduled' AND wake_at <= now()
    ORDER BY wake_at LIMIT 10000 FOR UPDATE SKIP LOCKED
), woken AS (
    UPDATE {schema}.queued AS q SET state = 'ready' FROM due WHERE q.run_id = due.run_id
)
SELECT queue, limits FROM {schema}.limits WHERE queue = ANY ($1::text[])
"""

_LOCK_LIMITS: Final = """
SELECT queue, limits FROM {schema}.limits WHERE queue = ANY ($1::text[]) ORDER BY queue FOR UPDATE
"""

# $1 queues, $2 versions or NULL, $3 limit, $4 silent_after, $5 queues without a slot, $6 keys without one, each
# as JSON of queue and key.
_SOURCES: Final = """
WITH RECURSIVE versions (queue, version) AS (
    SELECT q, (SELECT version FROM {schema}.queued WHERE queue = q ORDER BY version LIMIT 1)
    FROM unnest($1::text[]) AS q WHERE $2::bytea[] IS NULL
    UNION ALL
    SELECT v.queue, (
        SELECT version FROM {schema}.queued AS n WHERE n.queue = v.queue AND n.version > v.version ORDER BY version
        LIMIT 1
    )
    FROM versions AS v WHERE v.version IS NOT NULL
), asked (queue, version) AS (
    SELECT queue, version FROM versions WHERE version IS NOT NULL
    UNION ALL
    SELECT q, v FROM unnest($1::text[]) AS q CROSS JOIN unnest($2::bytea[]) AS v
), executing (process_id) AS (
    SELECT (SELECT process_id FROM {schema}.queued WHERE state = 'running' ORDER BY process_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT process_id FROM {schema}.queued AS n WHERE n.state = 'running' AND n.process_id > e.process_id
        ORDER BY process_id LIMIT 1
    )
    FROM executing AS e WHERE e.process_id IS NOT NULL
), gone (process_id) AS (
    SELECT process_id FROM executing AS e
    WHERE process_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM {schema}.processes AS p
        WHERE p.process_id = e.process_id AND now() - p.last_seen < make_interval(secs => $4::double precision)
    )
), found AS (
    SELECT ready.* FROM asked CROSS JOIN LATERAL (
        SELECT {columns} FROM {schema}.queued AS r
        WHERE state = 'ready' AND r.queue = asked.queue AND r.version = asked.version
            AND (reserved_until IS NULL OR reserved_until <= now()) AND r.queue <> ALL ($5::text[])
            AND (concurrency_key IS NULL OR (r.queue, concurrency_key) NOT IN (
                SELECT * FROM unnest($6::text[], $7::bytea[])
            ))
        ORDER BY priority DESC, order_at, run_id LIMIT $3 {locking}
    ) AS ready
    UNION ALL
    SELECT orphaned.* FROM asked CROSS JOIN gone CROSS JOIN LATERAL (
        SELECT {columns} FROM {schema}.queued AS r
        WHERE state = 'running' AND r.process_id = gone.process_id AND r.queue = asked.queue
            AND r.version = asked.version AND (reserved_until IS NULL OR reserved_until <= now())
        ORDER BY priority DESC, order_at, run_id LIMIT $3 {locking}
    ) AS orphaned
    {due}
)
"""

_COLUMNS: Final = "run_id, priority, order_at, r.queue AS queue, concurrency_key, state"

_DUE: Final = """
    UNION ALL
    SELECT due.* FROM asked CROSS JOIN LATERAL (
        SELECT {columns} FROM {schema}.queued AS r
        WHERE state = 'scheduled' AND wake_at <= now() AND r.queue = asked.queue AND r.version = asked.version
            AND (reserved_until IS NULL OR reserved_until <= now())
        ORDER BY priority DESC, order_at, run_id LIMIT $3
    ) AS due
"""

_CLAIM: Final = """{sources}, chosen AS (
    SELECT * FROM found ORDER BY priority DESC, order_at, run_id LIMIT $3
), reserved AS (
    UPDATE {schema}.queued AS q
    SET reserved_by = $8, reserved_until = now() + make_interval(secs => $9::double precision)
    FROM chosen WHERE q.run_id = chosen.run_id
)
SELECT chosen.run_id, runs.summary FROM chosen JOIN {schema}.runs USING (run_id)
ORDER BY priority DESC, order_at, chosen.run_id
"""

_CANDIDATES: Final = """{sources}
SELECT run_id, queue, concurrency_key, state = 'running' AS is_active, runs.summary
FROM found JOIN {schema}.runs USING (run_id)
ORDER BY priority DESC, order_at, run_id LIMIT $3
"""

_ACTIVE: Final = """
SELECT queue, concurrency_key, count(*) AS runs FROM {schema}.queued
WHERE queue = ANY ($1::text[]) AND (state = 'running' OR reserved_until > now()) GROUP BY queue, concurrency_key
"""

_RECENT: Final = """
SELECT l.queue, count(*) AS runs FROM unnest($1::text[], $2::double precision[]) AS l (queue, period)
JOIN {schema}.handed_out AS h ON h.queue = l.queue AND h.moment > clock_timestamp() - make_interval(secs => l.period)
GROUP BY l.queue
"""

_RESERVE: Final = """
UPDATE {schema}.queued SET reserved_by = $2, reserved_until = now() + make_interval(secs => $3::double precision)
WHERE run_id = ANY ($1::text[])
"""

# Whoever holds one of these rows appends a step, which frees the run.
_FREE: Final = """
WITH freed AS (
    SELECT run_id FROM {schema}.queued WHERE run_id = ANY ($1::text[]) AND reserved_by = $2 FOR UPDATE SKIP LOCKED
)
UPDATE {schema}.queued AS q SET reserved_by = NULL, reserved_until = NULL FROM freed WHERE q.run_id = freed.run_id
"""

_SUMMARIES: Final = """
SELECT run_id, summary FROM {schema}.queued JOIN {schema}.runs USING (run_id) WHERE run_id = ANY ($1::text[])
"""

_HAND_OUT: Final = """
WITH forgotten AS (
    DELETE FROM {schema}.handed_out AS h USING unnest($2::text[], $3::double precision[]) AS l (queue, period)
    WHERE h.queue = l.queue AND h.moment <= clock_timestamp() - make_interval(secs => l.period)
)
INSERT INTO {schema}.handed_out (queue, moment) SELECT q, clock_timestamp() FROM unnest($1::text[]) AS q
"""

_COUNTS: Final = """
SELECT queue,
    CASE
        WHEN reserved_until > now() THEN 'running'
        WHEN state = 'scheduled' AND wake_at <= now() THEN 'ready'
        ELSE state
    END AS state,
    count(*) AS runs
FROM {schema}.queued GROUP BY 1, 2
"""

_BEAT: Final = """
WITH forgotten AS (
    DELETE FROM {schema}.processes WHERE process_id <> $1 AND last_seen < now() - make_interval(secs => $3)
)
INSERT INTO {schema}.processes (process_id, process, first_seen, last_seen) VALUES ($1, $2, now(), now())
ON CONFLICT (process_id) DO UPDATE SET process = excluded.process, last_seen = excluded.last_seen
"""

_PROCESSES: Final = """
SELECT process, first_seen, extract(epoch FROM now() - last_seen)::double precision AS silent
FROM {schema}.processes WHERE last_seen >= now() - make_interval(secs => $1) ORDER BY first_seen, process_id
"""

_LEAVE: Final = """
WITH left_now AS (DELETE FROM {schema}.processes WHERE process_id = $1), freed AS (
    SELECT run_id FROM {schema}.queued WHERE reserved_by = $1 FOR UPDATE SKIP LOCKED
)
UPDATE {schema}.queued AS q SET reserved_by = NULL, reserved_until = NULL FROM freed WHERE q.run_id = freed.run_id
"""

_STATEMENTS: Final = {
    "set_limits": "INSERT INTO {schema}.limits VALUES ($1, $2) ON CONFLICT (queue) DO UPDATE SET limits = $2",
    "remove_limits": "DELETE FROM {schema}.limits WHERE queue = $1",
    "limits": "SELECT queue, limits FROM {schema}.limits",
    "put_schedule": "INSERT INTO {schema}.schedules VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET schedule = $2",
    "schedules": "SELECT id, schedule FROM {schema}.schedules ORDER BY id",
    "remove_schedule": "DELETE FROM {schema}.schedules WHERE id = $1 RETURNING id",
    "wake": _WAKE,
    "lock_limits": _LOCK_LIMITS,
    "active": _ACTIVE,
    "recent": _RECENT,
    "reserve": _RESERVE,
    "free": _FREE,
    "summaries": _SUMMARIES,
    "hand_out": _HAND_OUT,
    "counts": _COUNTS,
    "beat": _BEAT,
    "processes": _PROCESSES,
    "leave": _LEAVE,
}

_FEW: Final = 64
"""Candidates that a claim with limits looks at first."""


class PostgresFleet:
    """What the driver does for a fleet.

    Args:
        connections: of the loop that asks.
        retries: how long to try.
        schema: where the tables are.
    """

    def __init__(self, connections: Connections, retries: Retries, schema: Schema) -> None:
        self._connections = connections
        self._retries = retries
        self._schema = schema
        self._damaged: tuple[DamagedRun, ...] = ()  # which the latest claim left out
        self._sql = {name: schema.sql(text) for name, text in _STATEMENTS.items()}
        lock = {"sources": _SOURCES, "due": "", "columns": _COLUMNS, "locking": "FOR UPDATE OF r SKIP LOCKED"}
        self._claim = schema.sql(_CLAIM, **lock)
        self._candidates = schema.sql(_CANDIDATES, **lock)
        self._look = schema.sql(_CANDIDATES, sources=_SOURCES, due=_DUE, columns=_COLUMNS, locking="")

    async def claim(self, claim: Claim) -> list[RunSummary]:
        attempt = self._claim_within_limits
        if not claim.reserve:
            attempt = self._look_within_limits
        elif not await self._fetch("wake", list(claim.queues)) and not self._damaged:
            attempt = self._claim_without_limits
        return await self._retries.run(lambda: attempt(claim), "no run was claimed")

    async def damaged(self) -> list[DamagedRun]:
        known = [run.run_id for run in self._damaged]
        return _readable(await self._fetch("summaries", known))[1] if known else []

    async def counts(self) -> list[QueueCounts]:
        limits = _limits_of(await self._fetch("limits"))
        return counts_of([tuple(row) for row in await self._fetch("counts")], limits)

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        if limits is None:
            await self._fetch("remove_limits", queue)
        else:
            await self._fetch("set_limits", queue, limits.model_dump_json())

    async def beat(self, process_id: str, process: ProcessInfo) -> None:
        await self._fetch("beat", process_id, process.model_dump_json().encode(), FORGET_AFTER)

    async def processes(self) -> list[ProcessPresence]:
        return [
            presence_from_json(row["process"], first_seen=row["first_seen"], silent_seconds=row["silent"])
            for row in await self._fetch("processes", FORGET_AFTER)
        ]

    async def leave(self, process_id: str) -> None:
        await self._fetch("leave", process_id)

    async def repair(self) -> list[str]:
        index = QueueIndex(self._connections, self._schema)
        return await self._retries.run(index.repair, "the index of queues was not repaired")

    async def put_schedule(self, schedule: Schedule) -> None:
        await self._fetch("put_schedule", schedule.id, schedule.model_dump_json().encode())

    async def schedules(self) -> list[Schedule]:
        rows = await self._fetch("schedules")
        return [model_from_json(Schedule, row["schedule"], f"schedule {row['id']!r}") for row in rows]

    async def remove_schedule(self, schedule_id: str) -> bool:
        return bool(await self._fetch("remove_schedule", schedule_id))

    async def _look_within_limits(self, claim: Claim) -> list[RunSummary]:
        async with self._connections.lend() as lent:
            rows = await lent.connection.fetch(self._sql["limits"])
            limits = _limits_of(rows, claim.queues)
            return (await self._choose(lent.connection, claim, limits, self._look))[0]

    async def _claim_without_limits(self, claim: Claim) -> list[RunSummary]:
        asked: tuple[Any, ...] = (*_asked(claim), claim.limit, claim.silent_after, [], [], [])
        rows = await self._connections.fetch(self._claim, *asked, claim.process_id, claim.reserve)
        runs, damaged = _readable(rows)
        if not damaged:
            return runs
        # They are reserved by now, in the place of others. From here on, claims look before they reserve.
        self._damaged = tuple(damaged)
        await self._connections.fetch(self._sql["free"], [run.run_id for run in damaged], claim.process_id)
        rest = replace(claim, limit=claim.limit - len(runs))
        return runs + await self._claim_within_limits(rest)

    async def _claim_within_limits(self, claim: Claim) -> list[RunSummary]:
        async with self._connections.lend() as lent:
            database = lent.connection
            async with database.transaction(isolation="read_committed"):
                limits = _limits_of(await database.fetch(self._sql["lock_limits"], list(claim.queues)))
                runs, queues = await self._choose(database, claim, limits, self._candidates)
                if runs:
                    ids = [run.run_id for run in runs]
                    await database.execute(self._sql["reserve"], ids, claim.process_id, claim.reserve)
                    rated = [queue for queue in queues if queue in limits and limits[queue].rate is not None]
                    periods = [each.period for each in limits.values()]
                    await database.execute(self._sql["hand_out"], rated, list(limits), periods)
                return runs

    async def _choose(
        self, database: asyncpg.Connection, claim: Claim, limits: dict[str, QueueLimits], statement: str
    ) -> tuple[list[RunSummary], list[str]]:
        """Return the runs that a claim gets, and the queue of each; note those that cannot be read."""
        damaged: list[DamagedRun] = []
        if self._damaged:
            rows = await database.fetch(self._sql["summaries"], [run.run_id for run in self._damaged])
            damaged += _readable(rows)[1]
        active = await database.fetch(self._sql["active"], list(limits))
        rates = await database.fetch(self._sql["recent"], list(limits), [each.period for each in limits.values()])
        recent = {row["queue"]: row["runs"] for row in rates}
        counted = [(row["queue"], _text(row["concurrency_key"])) for row in active for _ in range(row["runs"])]
        left = Slots(limits, counted, recent)
        full, keys = left.full_queues(), left.full_keys()
        without_slot = (full, [queue for queue, _ in keys], [key.encode() for _, key in keys])
        most = max(_FEW, 2 * claim.limit) if limits else claim.limit
        while True:
            rows = await database.fetch(statement, *_asked(claim), most, claim.silent_after, *without_slot)
            while True:
                left_out = {run.run_id for run in damaged}
                slots = Slots(limits, counted, recent)
                chosen = [
                    row
                    for row in rows
                    if row["run_id"] not in left_out
                    and slots.take(row["queue"], _text(row["concurrency_key"]), is_active=row["is_active"])
                ][: claim.limit]
                runs, found = _readable(chosen)
                if not found:
                    break
                # All of these rows, so that many of them do not take as many rounds.
                damaged += _readable([row for row in rows if row["run_id"] not in left_out])[1]
            if len(chosen) == claim.limit or len(rows) < most:
                self._damaged = tuple(damaged)
                return runs, [row["queue"] for row in chosen]
            most *= 4

    async def _fetch(self, name: str, *parameters: object) -> list[asyncpg.Record]:
        return await self._retries.run(
            lambda: self._connections.fetch(self._sql[name], *parameters), "the request was not answered"
        )


def _asked(claim: Claim) -> tuple[list[str], list[bytes] | None]:
    return list(claim.queues), None if claim.fits is None else [version_key(version) for version in claim.fits]


def _readable(rows: Sequence[asyncpg.Record]) -> tuple[list[RunSummary], list[DamagedRun]]:
    return readable_summaries([(row["run_id"], row["summary"] or b"null") for row in rows])


def _limits_of(rows: Sequence[asyncpg.Record], queues: Collection[str] | None = None) -> dict[str, QueueLimits]:
    """Return the limits of the queues that have some: of all queues, or of these, whatever the others have."""
    return {
        row["queue"]: model_from_json(QueueLimits, row["limits"], f"the limits of queue {row['queue']!r}")
        for row in rows
        if queues is None or row["queue"] in queues
    }


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode()
