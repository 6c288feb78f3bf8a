"""Handles that are not closed, and loops that are."""

from __future__ import annotations

import asyncio
import os
import time

import asyncpg
import pytest
from support import sqlite_processes
from support.postgres_records import genesis

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.errors import CheckpointError

PRELUDE = """
import asyncio, gc, sys
from support.records import chain, first
from stargraph.checkpoint.postgres import PostgresCheckpointer

server, schema = sys.argv[1:]

def new():
    return PostgresCheckpointer(server, schema=schema)

async def use(store, run_id="run-1"):
    await store.bootstrap()
    await store.write(first(run_id))
    assert await store.read_latest(run_id)
"""

NEVER_CLOSED = {
    "a local name": """
async def main():
    await use(new())

asyncio.run(main())
""",
    "a global name": """
store = new()
asyncio.run(use(store))
""",
    "one loop after the other": """
store = new()
for number in range(3):
    asyncio.run(use(store, f"run-{number}"))
    gc.collect()
assert len(asyncio.run(store.list_runs())) == 3
""",
    "one loop after the other, and closed in the last one": """
store = new()
asyncio.run(use(store))

async def main():
    await use(store, "run-2")
    await store.close()

asyncio.run(main())
""",
    "several connections at once": """
store = new()

async def main():
    await store.bootstrap()
    await asyncio.gather(*(store.write(first(f"run-{number}")) for number in range(8)))
    await asyncio.gather(*(store.read_latest(f"run-{number}") for number in range(8)))

asyncio.run(main())
""",
    "gone while its loop goes on": """
async def main():
    await use(new())
    gc.collect()
    other = new()
    await use(other, "run-2")
    await other.close()

asyncio.run(main())
""",
    "calls in flight": """
async def main():
    store = new()
    await store.bootstrap()
    calls = [asyncio.ensure_future(store.write(first(f"run-{number}"))) for number in range(8)]
    calls += [asyncio.ensure_future(store.list_runs()) for _ in range(8)]
    await asyncio.sleep(0)

asyncio.run(main())
""",
    "a history half read": """
store = new()

async def main():
    await store.bootstrap()
    await store.write_many(chain(length=100))
    async for checkpoint in store.history("run-1"):
        break

asyncio.run(main())
""",
    "a loop that its program shuts down": """
store = new()
loop = asyncio.new_event_loop()
loop.run_until_complete(use(store))
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
""",
}


@pytest.mark.parametrize("code", NEVER_CLOSED.values(), ids=NEVER_CLOSED.keys())
def test_a_handle_that_is_not_closed_says_nothing(server: str, schema: str, code: str) -> None:
    sqlite_processes.run(PRELUDE + code + "gc.collect()\n", server, schema, flags=("-W", "error"))


def test_the_connections_of_a_loop_end_with_it(server: str, schema: str) -> None:
    name = f"ended-{schema}"
    dsn = f"{server}{'&' if '?' in server else '?'}application_name={name}"
    store = PostgresCheckpointer(dsn, schema=schema)

    async def use() -> None:
        await store.bootstrap()
        await asyncio.gather(*(store.list_runs() for _ in range(4)))

    async def connected() -> int:
        connection = await asyncpg.connect(server)
        try:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
            return int(await connection.fetchval(sql, name))
        finally:
            await connection.close()

    asyncio.run(use())
    until = time.monotonic() + 60
    while asyncio.run(connected()) and time.monotonic() < until:
        time.sleep(0.01)
    assert asyncio.run(connected()) == 0


def test_nothing_is_kept_of_loops_that_have_ended(server: str, schema: str) -> None:
    store = PostgresCheckpointer(server, schema=schema)
    for _ in range(3):
        asyncio.run(store.bootstrap())
    assert len(store._attached) == 1

    async def end() -> None:
        await store.write(genesis(state={"text": "x" * 1_000_000}))
        assert store._threads._pool is not None
        await store.close()

    asyncio.run(end())
    assert not store._attached
    assert store._threads._pool is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_that_ends_its_loop_leaves_the_connections_of_its_parent(server: str, schema: str) -> None:
    code = """
import os

async def session(store):
    return await store._attach().connections.fetch("SELECT pg_backend_pid()")

async def main():
    store = new()
    await store.bootstrap()
    before = await session(store)
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    assert await session(store) == before
    await store.close()

asyncio.run(main())
"""
    sqlite_processes.run(PRELUDE + code, server, schema)


def test_a_handle_on_a_pool_says_that_it_serves_one_loop(server: str, schema: str) -> None:
    handles = []

    async def use_pool() -> None:
        async with asyncpg.create_pool(server, min_size=0) as pool:
            handles.append(PostgresCheckpointer(pool=pool, schema=schema))
            await handles[0].bootstrap()
            assert await handles[0].list_runs() == []

    async def use_again() -> None:
        for call in (handles[0].bootstrap, handles[0].list_runs):
            with pytest.raises(CheckpointError) as caught:
                await call()
            assert (type(caught.value), caught.value.reason) == (CheckpointError, "other-loop")
        await handles[0].close()

    asyncio.run(use_pool())
    asyncio.run(use_again())
