"""Handles that never write: for auditors, backups and hot standbys."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from support.postgres_records import START, chain, following, genesis
from support.postgres_server import LocalServer

from stargraph.checkpoint.driver import ReadOnly
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import PruneReport, RunSummary
from stargraph.errors import CheckpointError, StoreUnavailableError, StoreVersionError

pytestmark = pytest.mark.thorough

Opener = Callable[..., PostgresCheckpointer]


@pytest.fixture
async def auditor(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, dsn: str
) -> AsyncIterator[str]:
    """The DSN of a role that may read, and that the server lets write nothing at all."""
    role = f"auditor_{schema}"
    await sql.execute(f"""
        CREATE ROLE {role} LOGIN;
        ALTER ROLE {role} SET default_transaction_read_only = on;
        GRANT USAGE ON SCHEMA "{schema}" TO {role};
        GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO {role};
    """)
    yield dsn.replace("//postgres@", f"//{role}@", 1)
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role};")


async def changes(sql: asyncpg.Connection, schema: str) -> list[Any]:
    """What the tables hold, and where each row of it lies: a write would move one."""
    found: list[Any] = []
    for table in ("stargraph_version", "runs", "checkpoints"):
        found += await sql.fetch(f'SELECT ctid::text, xmin::text, t::text FROM "{schema}".{table} AS t ORDER BY 1')
    return found


async def test_a_role_that_may_only_select_reads_everything_and_writes_nothing(
    checkpointer: PostgresCheckpointer, auditor: str, schema: str, sql: asyncpg.Connection
) -> None:
    run = chain(5, metadata={"team": "a"})
    child = genesis(parent_run_id=run[0].run_id, parent_step=1, origin="subgraph")
    gone = chain(2)
    for steps in (run, [child], gone):
        await checkpointer.write_many(steps)
    await checkpointer.delete_run(gone[0].run_id)
    before = await changes(sql, schema)
    reader = PostgresCheckpointer.from_url(f"{auditor}?schema={schema}&read_only=true&timeout=300")
    async with asyncio.timeout(60):  # it does not wait for a server that takes writes
        await reader.bootstrap()
    async with reader:
        assert isinstance(reader, ReadOnly)
        assert reader.read_only
        assert "read_only=True" in repr(reader)
        run_id = run[0].run_id
        assert await reader.read_latest(run_id) == run[4]
        assert await reader.read_at_step(run_id, 2) == run[2]
        assert [c async for c in reader.history(run_id)] == run
        assert len(await reader.list_runs()) == 2
        assert (await reader.search(metadata={"team": "a"})).items == (RunSummary.from_checkpoint(run[4]),)
        assert await reader.count_runs() == {"running": 2}
        assert [summary.run_id for summary in await reader.children(run_id)] == [child.run_id]
        refused: list[Awaitable[Any]] = [
            reader.write(following(run[4])),
            reader.write_many([following(run[4])]),
            reader.delete_run(run_id),
            reader.prune(older_than=START),
        ]
        for call in refused:
            with pytest.raises(CheckpointError) as caught:
                await call
            assert caught.value.reason == "read-only"
            assert not isinstance(caught.value, StoreUnavailableError)  # the handle refuses, not the server
        soon = datetime.now(UTC) + timedelta(days=1)
        counted = await reader.prune(older_than=soon, statuses=["running"], keep_last=1, dry_run=True)
        assert counted == PruneReport(runs=1, checkpoints=4, dry_run=True)
    assert await changes(sql, schema) == before


async def test_what_is_not_there_is_not_made(dsn: str, schema: str, sql: asyncpg.Connection, opened: Opener) -> None:
    reader = opened(read_only=True)
    with pytest.raises(StoreUnavailableError) as caught:
        await reader.bootstrap()
    assert caught.value.reason == "no-store"
    assert schema in str(caught.value)
    with pytest.raises(CheckpointError) as refused:
        await reader.list_runs()
    assert refused.value.reason == "not-bootstrapped"
    await sql.execute(f'CREATE SCHEMA "{schema}"')
    with pytest.raises(StoreUnavailableError):
        await reader.bootstrap()
    assert await sql.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = $1::text::regnamespace", schema) == 0


async def test_another_version_of_the_tables_is_refused(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, opened: Opener
) -> None:
    await sql.execute(f'INSERT INTO "{schema}".stargraph_version (version) VALUES (99)')
    with pytest.raises(StoreVersionError) as caught:
        await opened(read_only=True).bootstrap()
    assert caught.value.reason == "newer-format"


async def port_of(checkpointer: PostgresCheckpointer) -> int:
    async with checkpointer._attach().connections.lend() as lent:
        port: int = await lent.connection.fetchval("SELECT inet_server_port()")
    return port


async def test_a_hot_standby_is_read_and_the_target_of_the_session_is_respected(
    primary: LocalServer, standby: LocalServer
) -> None:
    run = chain(3)
    async with PostgresCheckpointer(primary.dsn) as writer:
        await writer.write_many(run)
        began = time.monotonic()
        reader = PostgresCheckpointer(standby.dsn, read_only=True)
        while True:
            assert time.monotonic() - began < 60
            with contextlib.suppress(StoreUnavailableError):  # the tables are still on their way
                await reader.bootstrap()
                if await reader.read_latest(run[0].run_id) == run[2]:
                    break
            await asyncio.sleep(0.02)
        await reader.close()
        # To write, a server that takes no writes is refused soon, and the way out is named.
        for url in (standby.dsn, f"{standby.dsn}?timeout=300"):
            with pytest.raises(StoreUnavailableError) as caught:
                async with asyncio.timeout(60):
                    await PostgresCheckpointer.from_url(url).bootstrap()
            assert caught.value.reason == "read-only"
            assert "?read_only=true" in (caught.value.hint or "")
        both = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"
        expected = {
            "": {False: primary.port, True: standby.port},
            "?target_session_attrs=any": {False: standby.port, True: standby.port},
            "?target_session_attrs=primary": {False: primary.port, True: primary.port},
            "?target_session_attrs=standby": {True: standby.port},
            "?target_session_attrs=read-write": {True: primary.port},
        }
        for query, ports in expected.items():
            for read_only, port in ports.items():
                # Each host gets a share of the time: the one that is asked first must not lose its turn by a pause.
                async with PostgresCheckpointer(both + query, read_only=read_only, timeout=1200) as handle:
                    assert await port_of(handle) == port, (query, read_only)
