"""A primary that dies, and a standby that takes over."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from support.postgres_records import chain, following
from support.postgres_server import LocalServer

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.errors import CheckpointError

pytestmark = pytest.mark.thorough


@pytest.fixture
def dsn(primary: LocalServer, standby: LocalServer) -> str:
    """Both hosts; the one that takes writes is found."""
    return f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"


async def caught_up(primary: LocalServer, standby: LocalServer) -> None:
    """Wait until the standby has all that the primary has."""
    leader, follower = await asyncpg.connect(primary.dsn), await asyncpg.connect(standby.dsn)
    written = await leader.fetchval("SELECT pg_current_wal_lsn()::text")
    while not await follower.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written):
        await asyncio.sleep(0.02)
    await leader.close()
    await follower.close()


async def test_history_that_an_asynchronous_standby_lacks_is_reported_as_lost(
    primary: LocalServer, standby: LocalServer, dsn: str
) -> None:
    run = chain(6)
    async with PostgresCheckpointer(dsn, timeout=200) as checkpointer:
        await checkpointer.write_many(run[:3])
        await caught_up(primary, standby)
        standby.kill()
        await checkpointer.write_many(run[3:5])
        primary.kill()
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.promote)
        with pytest.raises(CheckpointError) as caught:
            await checkpointer.write(run[5])
        assert caught.value.reason == "history-lost"
        assert "acknowledged step 4 and now ends at step 2" in str(caught.value)
        latest = await checkpointer.read_latest(run[0].run_id)
        assert latest == run[2]
        resumed = following(latest)
        await checkpointer.write(resumed)
        assert [c async for c in checkpointer.history(run[0].run_id)] == [*run[:3], resumed]


async def test_a_synchronous_standby_has_all_that_was_acknowledged(
    primary: LocalServer, standby: LocalServer, dsn: str
) -> None:
    sql = await asyncpg.connect(primary.dsn)
    await sql.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await sql.execute("SELECT pg_reload_conf()")
    while await sql.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 0:
        await asyncio.sleep(0.02)
    await sql.close()
    run = chain(6)
    async with PostgresCheckpointer(dsn, timeout=200) as checkpointer:
        for checkpoint in run[:4]:
            await checkpointer.write(checkpoint)
        primary.kill()
        write = asyncio.create_task(checkpointer.write(run[4]))
        await asyncio.sleep(0.2)
        assert not write.done()
        await asyncio.to_thread(standby.promote)
        await write
        await checkpointer.write(run[5])
        assert [c async for c in checkpointer.history(run[0].run_id)] == run
