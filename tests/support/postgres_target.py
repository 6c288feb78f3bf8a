"""The PostgreSQL driver as the conformance kit opens it; a location is a DSN with its schema."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._options import split_url
from support.relay import Relay

SERVER_VARIABLE = "STARGRAPH_CONFORMANCE_POSTGRES_DSN"
"""Names the server, for the process that makes locations."""

TIMEOUT_VARIABLE = "STARGRAPH_CONFORMANCE_POSTGRES_TIMEOUT"
"""Seconds after which a call gives up, for the same process; few, since checks with an outage wait for that."""


@asynccontextmanager
async def connection_to(location: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """Yield a plain connection, and the quoted schema."""
    dsn, options = split_url(location)
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        yield connection, f'"{options["schema"]}"'
    finally:
        await connection.close()


@cache
def _relay_to(dsn: str) -> Relay:
    """The only way to the server, in the process that makes locations; what it does, other processes feel too."""
    server = urlsplit(dsn)
    return Relay(server.hostname or "127.0.0.1", server.port or 5432)


def _relay() -> Relay:
    return _relay_to(os.environ[SERVER_VARIABLE])


@asynccontextmanager
async def fresh_schema() -> AsyncIterator[str]:
    server = urlsplit(os.environ[SERVER_VARIABLE])
    relayed = server._replace(netloc=f"{server.netloc.rpartition('@')[0]}@127.0.0.1:{_relay().port}")
    timeout = os.environ.get(TIMEOUT_VARIABLE, "10")
    location = f"{urlunsplit(relayed)}?schema=kit_{uuid.uuid4().hex}&timeout={timeout}"
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


async def lose_step(location: str, run_id: str, step: int) -> None:
    async with connection_to(location) as (connection, schema):
        await connection.execute(f"DELETE FROM {schema}.checkpoints WHERE run_id = $1 AND step = $2", run_id, step)


@asynccontextmanager
async def newer_format(location: str) -> AsyncIterator[None]:
    async with connection_to(location) as (connection, schema):
        await connection.execute(f"INSERT INTO {schema}.stargraph_version (version) VALUES (1000)")
        try:
            yield
        finally:
            await connection.execute(f"DELETE FROM {schema}.stargraph_version WHERE version = 1000")


@asynccontextmanager
async def older_format(location: str) -> AsyncIterator[None]:
    async with connection_to(location) as (connection, schema):
        await connection.execute(f"ALTER TABLE {schema}.stargraph_version RENAME TO migrations")
        try:
            yield
        finally:
            await connection.execute(f"ALTER TABLE {schema}.migrations RENAME TO stargraph_version")


def outage(_: str) -> AbstractAsyncContextManager[None]:
    return _relay().outage()


def open_ungrouped(location: str) -> PostgresCheckpointer:
    return PostgresCheckpointer.from_url(f"{location}&group_commit=false")


def open_caching(location: str) -> PostgresCheckpointer:
    return PostgresCheckpointer.from_url(f"{location}&latest_cache_bytes=67108864")


def read_only(location: str) -> PostgresCheckpointer:
    return PostgresCheckpointer.from_url(f"{location}&read_only=true")


def versions() -> dict[str, str]:
    return {"stargraph-checkpoint-postgres": version("stargraph-checkpoint-postgres"), **asyncio.run(_server())}


async def _server() -> dict[str, str]:
    connection = await asyncpg.connect(os.environ[SERVER_VARIABLE], statement_cache_size=0)
    try:
        return {"PostgreSQL": await connection.fetchval("SELECT current_setting('server_version')")}
    finally:
        await connection.close()


target = Target(
    open=PostgresCheckpointer.from_url,
    location=fresh_schema,
    stored_bytes=Records(),
    lost_step=lose_step,
    newer_format=newer_format,
    older_format=older_format,
    outage=outage,
    encryption=PostgresCheckpointer.from_url,
    read_only=read_only,
    url=lambda location: location,
    versions=versions,
)
ungrouped = dataclasses.replace(target, open=open_ungrouped)
caching = dataclasses.replace(target, open=open_caching, encryption=open_caching)
