from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from support.postgres_server import any_server

from stargraph.checkpoint.postgres import PostgresCheckpointer

Opener = Callable[..., PostgresCheckpointer]


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """A server for the whole session."""
    with any_server() as dsn:
        yield dsn


@pytest.fixture
def schema() -> str:
    """A schema for one test; the server goes away with all of them, or is the developer's own."""
    return f"test_{uuid.uuid4().hex}"


@pytest.fixture
async def opened(dsn: str, schema: str) -> AsyncIterator[Opener]:
    """Makes handles on the test's schema, and closes them."""
    handles: list[PostgresCheckpointer] = []

    def make(**options: Any) -> PostgresCheckpointer:
        handle = PostgresCheckpointer(options.pop("dsn", dsn), **{"schema": schema, **options})
        handles.append(handle)
        return handle

    yield make
    for handle in handles:
        await handle.close()
    connection = await asyncpg.connect(dsn)
    await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
    await connection.close()


@pytest.fixture
async def checkpointer(opened: Opener) -> PostgresCheckpointer:
    """A handle on an empty store."""
    handle = opened()
    await handle.bootstrap()
    return handle


@pytest.fixture
async def sql(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection of the superuser."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()
