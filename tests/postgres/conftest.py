from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import pytest
from support.pgbouncer import PROGRAM, PgBouncer
from support.postgres_server import (
    DEBIAN_BINARIES,
    DSN_VARIABLE,
    LocalServer,
    any_server,
    embedded_binaries,
    given_binaries,
)

from stargraph.checkpoint.postgres import PostgresCheckpointer

Opener = Callable[..., PostgresCheckpointer]


def _missing(what: str) -> NoReturn:
    """Skip; fail if the gate has installed what the tests need."""
    if os.environ.get("STARGRAPH_TESTS_REQUIRE_SERVERS"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A server for the whole session."""
    with any_server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def debian_server() -> Iterator[str]:
    """Debian's PostgreSQL 15."""
    if not DEBIAN_BINARIES.is_dir():
        _missing("PostgreSQL 15 is not here: apt-get install postgresql")
    with LocalServer(DEBIAN_BINARIES) as server:
        yield server.dsn


@pytest.fixture(scope="session")
def server_from() -> Iterator[Callable[[str], str]]:
    """Starts a server from a directory of programs, once, and returns its DSN."""
    with contextlib.ExitStack() as servers:

        @functools.cache
        def start(binaries: str) -> str:
            return servers.enter_context(LocalServer(Path(binaries))).dsn

        yield start


@pytest.fixture(scope="session")
def pooler(server: str) -> Iterator[str]:
    """PgBouncer in transaction mode before the server."""
    if PROGRAM is None:
        _missing("PgBouncer is not here: apt-get install pgbouncer")
    with PgBouncer(server) as pgbouncer:
        yield pgbouncer.dsn


@pytest.fixture(scope="session")
def dsn(request: pytest.FixtureRequest) -> str:
    """The DSN that a test uses; a module with `SERVERS` runs on each of them, and on those that are given."""
    given: str = getattr(request, "param", "server")
    dsn: str = request.getfixturevalue("server_from")(given) if "/" in given else request.getfixturevalue(given)
    return dsn


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    servers: list[Any] | None = getattr(metafunc.module, "SERVERS", None)
    if servers and "dsn" in metafunc.fixturenames:
        more = given_binaries() if "server" in servers else []
        dsns = servers[:1] + [_thorough(server) for server in servers[1:] + more]
        metafunc.parametrize("dsn", dsns, indirect=True, scope="session")


def _thorough(server: Any) -> Any:
    """Leave a server to the second stage, unless it is marked already."""
    return pytest.param(server, marks=pytest.mark.thorough) if isinstance(server, str) else server


@pytest.fixture
def schema() -> str:
    """A schema for one test; the server goes away with all of them, or is the developer's own."""
    return f"test_{uuid.uuid4().hex}"


@pytest.fixture
async def opened(dsn: str, schema: str) -> AsyncIterator[Opener]:
    """Makes handles on the test's schema, and closes them."""
    handles: list[PostgresCheckpointer] = []

    def make(**options: Any) -> PostgresCheckpointer:
        # A machine that stands still for a while is no fault: who tests a deadline gives one.
        handle = PostgresCheckpointer(options.pop("dsn", dsn), **{"schema": schema, "timeout": 300, **options})
        handles.append(handle)
        return handle

    yield make
    for handle in handles:
        await handle.close()
    if os.environ.get(DSN_VARIABLE):
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
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    yield connection
    await connection.close()


@pytest.fixture
def primary() -> Iterator[LocalServer]:
    """A server that has, or may get, a standby."""
    with LocalServer(embedded_binaries() or DEBIAN_BINARIES) as server:
        yield server


@pytest.fixture
def standby(primary: LocalServer) -> Iterator[LocalServer]:
    """A server that follows the primary."""
    with LocalServer(embedded_binaries() or DEBIAN_BINARIES, standby_of=primary) as server:
        yield server
