"""What waits for a lock of a PostgreSQL server."""

from __future__ import annotations

import asyncio

import asyncpg


async def waits_for_a_lock(sql: asyncpg.Connection, schema: str) -> None:
    """Wait until a statement waits for another transaction: it has its snapshot by then.

    Args:
        sql: a connection of somebody else.
        schema: whose tables the statement names.
    """
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
    async with asyncio.timeout(60):
        while not await sql.fetchval(query, f'%"{schema}"%'):
            await asyncio.sleep(0.01)
