"""A plan that the server keeps follows the table as it grows."""

from __future__ import annotations

import asyncpg

from stargraph.checkpoint.postgres._connection import _PLAN_USES, PreparedConnection

FILLED = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.runs (run_id text COLLATE "C" PRIMARY KEY, digest text) WITH (autovacuum_enabled = false);
INSERT INTO {schema}.runs SELECT number::text, repeat('x', 500) FROM generate_series(1, 60) AS number;
ANALYZE {schema}.runs
"""
GROWN = "INSERT INTO {schema}.runs SELECT number::text, repeat('x', 500) FROM generate_series(61, 3000) AS number"


async def test_a_statement_that_was_planned_for_a_small_table_is_planned_again(dsn: str, schema: str) -> None:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        await connection.execute(FILLED.format(schema=schema))
        prepared = PreparedConnection(connection, caches=False, named=True)
        sql = f"SELECT digest FROM {schema}.runs WHERE run_id = $1"

        async def plan() -> str:
            (name,) = await connection.fetch("SELECT name FROM pg_prepared_statements WHERE statement = $1", sql)
            return "\n".join(line for (line,) in await connection.fetch(f"EXPLAIN EXECUTE {name['name']} ('7')"))

        for _ in range(_PLAN_USES):
            await prepared.fetch(sql, "7")
        await connection.execute(GROWN.format(schema=schema))
        assert "Seq Scan" in await plan()
        assert await prepared.fetch(sql, "7") == [("x" * 500,)]
        assert "Index Scan" in await plan()
        for _ in range(7):
            await prepared.fetch(sql, "7")
        assert "Index Scan" in await plan()
    finally:
        await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        await connection.close()
