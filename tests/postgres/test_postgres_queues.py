"""Claims of 200,000 queued runs: each way to a run leads through an index, and no worker waits for another."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._queues import _COLUMNS, _DUE, _SOURCES, _WAKE
from stargraph.checkpoint.postgres._schema import Schema

pytestmark = pytest.mark.thorough

_FILL = """
INSERT INTO {schema}.queued (run_id, queue, state, priority, order_at, wake_at, version, process_id)
SELECT 'r' || n, 'q' || n % 3, CASE WHEN n % 10 = 0 THEN 'scheduled' WHEN n % 1000 = 1 THEN 'running' ELSE 'ready' END,
    n % 5, now() - n * interval '1 ms', CASE WHEN n % 10 = 0 THEN now() + interval '1 hour' END,
    decode(lpad(to_hex(n % 4), 32, '0'), 'hex'), CASE WHEN n % 1000 = 1 THEN 'p' || n % 7 ELSE '' END
FROM generate_series(1, 200000) AS n
"""


async def _plan(sql: asyncpg.Connection, statement: str, *parameters: object) -> tuple[set[str], int]:
    """Return the nodes of a plan that read a table, and how many rows they looked at."""
    (row,) = await sql.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *parameters)
    found: set[str] = set()
    rows = 0

    def walk(node: dict[str, Any]) -> None:
        nonlocal rows
        if "Relation Name" in node:
            found.add(f"{node['Node Type']} on {node['Relation Name']}")
            looked = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            rows += int(looked * node["Actual Loops"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(json.loads(row[0])[0]["Plan"])
    return found, rows


async def test_a_claim_of_200_000_runs_reads_a_few_rows(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    tables = Schema(schema)
    await sql.execute(tables.sql(_FILL))
    await sql.execute(tables.sql("ANALYZE {schema}.queued"))
    versions = [bytes(15) + bytes([number]) for number in range(2)]
    chosen = "{sources} SELECT * FROM found ORDER BY priority DESC, order_at, run_id LIMIT $3"
    locking, looking = (
        tables.sql(chosen, sources=_SOURCES, due=due, columns=_COLUMNS, locking=lock)
        for due, lock in (("", "FOR UPDATE OF r SKIP LOCKED"), (_DUE, ""))
    )
    for statement in (locking, looking):
        for fits in (versions, None):
            found, rows = await _plan(sql, statement, ["q0", "q1", "q2"], fits, 8, 30.0, [], [], [])
            assert not {each for each in found if each == "Seq Scan on queued"}, found
            assert 0 < rows < 1_000, (rows, found)
    found, rows = await _plan(sql, tables.sql(_WAKE), ["q0"])
    assert "Seq Scan on queued" not in found
    assert rows < 100


async def test_claims_beside_each_other_get_different_runs_and_do_not_wait(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    tables = Schema(schema)
    await sql.execute(tables.sql(_FILL.replace("200000", "2000")))
    database = tables.sql("SELECT run_id FROM {schema}.queued WHERE state = 'ready' FOR UPDATE")
    async with sql.transaction():
        # Somebody holds every ready row: a claim passes over them all, and is answered.
        await sql.fetch(database)
        async with asyncio.timeout(60):
            assert await checkpointer.claimable("b" * 16, ["q0", "q1", "q2"], limit=5) == []
