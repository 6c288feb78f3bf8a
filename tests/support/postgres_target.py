"""The PostgreSQL driver as the conformance kit opens it; a location is a DSN with its schema."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._options import split_url

SERVER_VARIABLE = "STARGRAPH_CONFORMANCE_POSTGRES_DSN"
"""Names the server, for the process that makes locations."""


@asynccontextmanager
async def connection_to(location: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """Yield a plain connection, and the quoted schema."""
    dsn, options = split_url(location)
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        yield connection, f'"{options["schema"]}"'
    finally:
        await connection.close()


@asynccontextmanager
async def fresh_schema() -> AsyncIterator[str]:
    location = f"{os.environ[SERVER_VARIABLE]}?schema=kit_{uuid.uuid4().hex}"
    try:
        yield location
    finally:
        async with connection_to(location) as (connection, schema):
            await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


class Records:
    """Reads and edits records behind the driver's back."""

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        async with connection_to(location) as (connection, schema):
            record: bytes = await connection.fetchval(
                f"SELECT record FROM {schema}.checkpoints WHERE run_id = $1 AND step = $2", run_id, step
            )
        return record

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        async with connection_to(location) as (connection, schema):
            await connection.execute(
                f"UPDATE {schema}.checkpoints SET record = $3 WHERE run_id = $1 AND step = $2", run_id, step, data
            )


@asynccontextmanager
async def newer_format(location: str) -> AsyncIterator[None]:
    async with connection_to(location) as (connection, schema):
        await connection.execute(f"INSERT INTO {schema}.migrations (version) VALUES (1000)")
        try:
            yield
        finally:
            await connection.execute(f"DELETE FROM {schema}.migrations WHERE version = 1000")


target = Target(
    open=PostgresCheckpointer.from_url,
    location=fresh_schema,
    stored_bytes=Records(),
    newer_format=newer_format,
    url=lambda location: location,
)
