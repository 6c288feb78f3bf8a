"""The index of the runs of queues: written with each step, and repaired from the runs if it was damaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from stargraph.checkpoint.driver import QueuedRow, queued_row, readable_summaries, repaired_entry
from stargraph.checkpoint.postgres._connection import Connections
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary

_PAGE: Final = 1_000

_PUT: Final = """, queued AS (
    INSERT INTO {schema}.queued AS known
        (run_id, queue, state, priority, order_at, wake_at, version, concurrency_key, process_id)
    SELECT q.* FROM unnest(
        {1}::text[], {2}::text[], {3}::text[], {4}::integer[], {5}::timestamptz[], {6}::timestamptz[], {7}::bytea[],
        {8}::bytea[], {9}::text[]
    ) AS q (run_id, queue, state, priority, order_at, wake_at, version, concurrency_key, process_id)
    WHERE q.run_id IN (SELECT run_id FROM taken) ORDER BY q.run_id
    ON CONFLICT (run_id) DO UPDATE SET
        queue = excluded.queue, state = excluded.state, priority = excluded.priority, order_at = excluded.order_at,
        wake_at = excluded.wake_at, version = excluded.version, concurrency_key = excluded.concurrency_key,
        process_id = excluded.process_id, reserved_by = NULL, reserved_until = NULL
    WHERE (known.queue, known.state, known.priority, known.order_at, known.wake_at, known.version,
           known.concurrency_key, known.process_id, known.reserved_by)
        IS DISTINCT FROM (excluded.queue, excluded.state, excluded.priority, excluded.order_at, excluded.wake_at,
                          excluded.version, excluded.concurrency_key, excluded.process_id, NULL)
), unqueued AS (
    DELETE FROM {schema}.queued WHERE run_id = ANY ({10}::text[]) AND run_id IN (SELECT run_id FROM taken)
)"""
"""A part of the statement that appends: written only if it says something new."""

# Whatever finds nothing to change locks nothing, which a conflict of an INSERT does.
_REFRESH: Final = """, queued AS (
    UPDATE {schema}.queued AS known
    SET queue = {1}, state = {2}, priority = {3}::integer, order_at = {4}::timestamptz, wake_at = {5}::timestamptz,
        version = {6}::bytea, concurrency_key = {7}::bytea, process_id = {8}, reserved_by = NULL, reserved_until = NULL
    WHERE known.run_id IN (SELECT run_id FROM taken)
        AND (known.queue, known.state, known.priority, known.order_at, known.wake_at, known.version,
             known.concurrency_key, known.process_id, known.reserved_by)
        IS DISTINCT FROM ({1}::text, {2}::text, {3}, {4}, {5}, {6}, {7}, {8}::text, NULL)
)"""
"""Likewise for a single run that has a row already, which mostly says the same."""

# $1 the statuses of runs that are not open, $2 the run to begin after, $3 how many; of the pages in the order of ids.
_OPEN_RUNS: Final = """
SELECT run_id, summary, {columns} FROM {schema}.runs AS r LEFT JOIN {schema}.queued AS q USING (run_id)
WHERE r.status <> ALL ($1::text[]) AND r.summary IS NOT NULL AND run_id > $2 ORDER BY run_id LIMIT $3
"""

_OUTLIVED: Final = """
SELECT run_id FROM {schema}.queued AS q WHERE NOT EXISTS (
    SELECT FROM {schema}.runs AS r WHERE r.run_id = q.run_id AND r.status <> ALL ($1::text[])
) ORDER BY run_id
"""

# The row of the run first, as in an append: so that the two cannot block each other in a circle.
_LOCK: Final = """
SELECT run_id, summary, {columns}
FROM {schema}.runs AS r LEFT JOIN {schema}.queued AS q USING (run_id)
WHERE run_id = $1 AND r.status <> ALL ($2::text[]) FOR UPDATE OF r
"""

_REPAIR: Final = "WITH taken AS (SELECT $1::text AS run_id){put} SELECT"

_REMOVE: Final = "DELETE FROM {schema}.queued WHERE run_id = $1"

_REMOVE_OUTLIVED: Final = """
DELETE FROM {schema}.queued AS q WHERE run_id = $1 AND NOT EXISTS (
    SELECT FROM {schema}.runs AS r WHERE r.run_id = q.run_id AND r.status <> ALL ($2::text[])
) RETURNING run_id
"""

_NOT_OPEN: Final = [*sorted(ENDED), "deleted"]


def put(first: int) -> str:
    """Return the part of a statement that keeps runs here as `queue_parameters` says, if it has taken them.

    Args:
        first: the number of the first of its parameters.
    """
    return _numbered(_PUT, first)


def refresh(first: int) -> str:
    """Return the part of a statement that keeps the row of one run here as `refresh_parameters` says.

    Args:
        first: the number of the first of its parameters.
    """
    return _numbered(_REFRESH, first)


def _numbered(text: str, first: int) -> str:
    for number in range(10, 0, -1):
        text = text.replace(f"{{{number}}}", f"${first + number - 1}")
    return text


def queue_parameters(latest: Sequence[Checkpoint | RunSummary]) -> tuple[list[Any], ...]:
    """Return the parameters of `put`, for the latest checkpoints of runs."""
    rows = [(step.run_id, queued_row(step)) for step in latest if step.queue is not None]
    kept = [(run_id, *_values(row)) for run_id, row in rows if row is not None]
    columns = [list(column) for column in zip(*kept, strict=True)] or [[] for _ in range(9)]
    return (*columns, [run_id for run_id, row in rows if row is None])


def refresh_parameters(latest: Checkpoint) -> tuple[object, ...]:
    """Return the parameters of `refresh`, for the latest checkpoint of a run of a queue that has not ended."""
    row = queued_row(latest)
    assert row is not None
    return _values(row)


def _values(row: QueuedRow) -> tuple[object, ...]:
    return (*row[:-1], row.process_id or "")


def is_at_work(checkpoint: Checkpoint) -> bool:
    """Return whether a step of a run most likely leaves its row here as it is."""
    return checkpoint.step > 0 and checkpoint.status == "running" and checkpoint.event in ("completed", "called")


class QueueIndex:
    """The index as a whole.

    Args:
        connections: of the loop that asks.
        schema: where the tables are.
    """

    def __init__(self, connections: Connections, schema: Schema) -> None:
        self._connections = connections
        columns = ", ".join(f"q.{name}" for name in QueuedRow._fields)
        self._open_runs = schema.sql(_OPEN_RUNS, columns=columns)
        self._outlived = schema.sql(_OUTLIVED)
        self._lock = schema.sql(_LOCK, columns=columns)
        self._repair = schema.sql(_REPAIR, put=put(2))
        self._remove_outlived = schema.sql(_REMOVE_OUTLIVED)
        self._remove = schema.sql(_REMOVE)

    async def repair(self) -> list[str]:
        """Put right what is wrong, and say so, one sentence for each run."""
        repaired = []
        after = ""
        while rows := await self._connections.fetch(self._open_runs, _NOT_OPEN, after, _PAGE):
            repaired += [await self._put_right(run.run_id) for run in _wrong(rows)]
            after = rows[-1]["run_id"]
        for row in await self._connections.fetch(self._outlived, _NOT_OPEN):
            if await self._connections.fetch(self._remove_outlived, row["run_id"], _NOT_OPEN):
                repaired.append(repaired_entry(row["run_id"], was_there=True, belongs_there=False))
        return [sentence for sentence in repaired if sentence is not None]

    async def _put_right(self, run_id: str) -> str | None:
        """Put the row of a run right that seemed wrong; return None if it is right or was put right meanwhile."""
        async with self._connections.lend() as lent, lent.connection.transaction(isolation="read_committed"):
            rows = await lent.connection.fetch(self._lock, run_id, _NOT_OPEN)
            for run in _wrong(rows):
                belongs_there = queued_row(run) is not None
                if belongs_there:
                    await lent.connection.fetch(self._repair, run_id, *queue_parameters([run]))
                else:
                    await lent.connection.execute(self._remove, run_id)
                return repaired_entry(run_id, was_there=rows[0]["queue"] is not None, belongs_there=belongs_there)
        return None


def _wrong(rows: Sequence[asyncpg.Record]) -> list[RunSummary]:
    """Return the open runs whose row in the index is not what their latest checkpoint says."""
    wrong = []
    # What a damaged summary says is not known, and no reason to leave the others as they are.
    readable = {run.run_id: run for run in readable_summaries([(row["run_id"], row["summary"]) for row in rows])[0]}
    for row in rows:
        if (run := readable.get(row["run_id"])) is None:
            continue
        wanted = queued_row(run)
        found = tuple(row[name] for name in QueuedRow._fields)
        if wanted is None:
            is_right = row["queue"] is None
        else:
            # The claim that finds a run whose time has come notes it as ready.
            state = row["state"] if (row["state"], wanted.state) == ("ready", "scheduled") else wanted.state
            is_right = found == _values(wanted._replace(state=state))
        if not is_right:
            wrong.append(run)
    return wrong
