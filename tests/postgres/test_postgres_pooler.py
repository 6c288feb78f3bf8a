"""Behind a pooler that lends a server connection for one transaction at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from support.cli import own_folder
from support.pgbouncer import POOL_SIZE, PROGRAM, PgBouncer
from support.postgres_records import chain, following

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.errors import StoreUnavailableError

pytestmark = pytest.mark.thorough

Opener = Callable[..., PostgresCheckpointer]
SERVERS = ["pooler"]


async def named_statements(sql: asyncpg.Connection, schema: str) -> int:
    # Of this test alone: the pooler gives the connections of others again.
    count: int = await sql.fetchval(
        "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'stargraph%' AND statement LIKE $1",
        f'%"{schema}"%',
    )
    return count


async def test_many_clients_share_few_connections(opened: Opener) -> None:
    handles = [opened() for _ in range(12)]
    await asyncio.gather(*(handle.bootstrap() for handle in handles))
    runs = [chain(6) for _ in range(48)]
    for step in range(6):
        await asyncio.gather(*(handles[n % 12].write(run[step]) for n, run in enumerate(runs)))
    for number, run in enumerate(runs):
        assert [c async for c in handles[(number + 5) % 12].history(run[0].run_id)] == run


async def test_it_keeps_no_statements_on_the_server(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(4)
    for checkpoint in run:
        await checkpointer.write(checkpoint)
        await checkpointer.read_latest(checkpoint.run_id)
    assert await named_statements(sql, schema) == 0


async def test_statements_are_kept_where_nothing_lies_between(server: str, schema: str) -> None:
    async with PostgresCheckpointer(server, schema=schema, max_connections=1, timeout=300) as direct:
        run = chain(4)
        for checkpoint in run:
            await direct.write(checkpoint)
        (attached,) = direct._attached.values()
        async with attached.connections.lend() as lent:
            names = await lent.connection.fetchval("SELECT count(*) FROM pg_prepared_statements")
        assert names == 2


async def test_what_the_pooler_rejects_is_reported_soon(dsn: str) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        async with asyncio.timeout(60):
            await PostgresCheckpointer(f"{dsn}?options=-c%20geqo%3Doff", timeout=300).bootstrap()
    assert caught.value.reason == "connection-rejected"
    assert "options" in str(caught.value)


async def test_forced_statements_say_what_is_wrong(opened: Opener, dsn: str) -> None:
    handle = opened(prepared_statements=True, max_connections=1)
    async with contextlib.AsyncExitStack() as clients:

        async def take_a_connection() -> asyncpg.transaction.Transaction:
            """Have the pooler lend one of its connections to the server until the transaction ends."""
            client = await asyncpg.connect(dsn, statement_cache_size=0)
            clients.push_async_callback(client.close)
            transaction = client.transaction()
            await transaction.start()
            return transaction

        # Only one of the pooler's connections is free: there the statement is prepared …
        _, *others = [await take_a_connection() for _ in range(POOL_SIZE - 1)]
        await handle.bootstrap()
        assert await handle.list_runs() == []
        # … and now only another one, where it is not.
        await take_a_connection()
        for other in others:
            await other.rollback()
        with pytest.raises(StoreUnavailableError) as caught:
            await handle.list_runs()
        assert caught.value.reason == "prepared-statements"


ASKING = """
id: asking
state_schema: {count: {type: int, default: 1}, ok: {type: "bool | None", default: null}}
nodes: [{id: first, kind: "steps:increase"}, {id: ask, kind: interrupt, prompt: "ok?", into: ok}]
"""


def test_the_command_line_works_through_it(dsn: str, schema: str, tmp_path: Path) -> None:
    store = ("--checkpoint", f"{dsn}?schema={schema}")
    with own_folder(tmp_path) as folder:
        folder.write("asking.yaml", ASKING)
        steps: list[tuple[tuple[str, ...], int]] = [
            (("migrate", store[1]), 0),
            (("run", "asking.yaml", "--run-id", "r1", *store), 3),
            (("respond", "r1", "--value", "yes", *store), 0),
            (("resume", "r1", "asking.yaml", *store), 0),
            (("enqueue", "asking.yaml", "--run-id", "q1", *store), 0),
            (("worker", "asking.yaml", "--until-idle", "--poll", "0.05", *store), 0),
            (("cancel", "q1", *store), 0),
            (("verify", *store), 0),
            (("copy", store[1], "copied.sqlite", "--all"), 0),
            (("delete", "r1", *store), 0),
        ]
        for words, code in steps:
            answer = folder.call(*words)
            assert answer.code == code, (words, answer)
        listed = folder.call("runs", "--json", *store)
        assert [(run["run_id"], run["status"]) for run in listed.json] == [("q1", "cancelled")]


def test_the_command_line_says_which_option_a_pooler_needs(dsn: str, schema: str) -> None:
    advised = PostgresCheckpointer.from_url(f"{dsn}?schema={schema}")._advice
    gone = asyncpg.InvalidSQLStatementNameError.new(
        {"C": "26000", "M": 'prepared statement "s" does not exist', "H": "set statement_cache_size to 0"}
    )
    error = advised.unavailable(gone, "this attempt did not store it")
    assert error.reason == "prepared-statements"
    assert error.hint == "A pooler shares server connections: set ?prepared_statements=false."
    assert "statement_cache_size" not in str(error)


async def test_a_pool_of_the_callers_works_too(dsn: str, schema: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=3, statement_cache_size=0) as pool:
        checkpointer = PostgresCheckpointer(pool=pool, schema=schema)
        async with checkpointer:
            runs = [chain(3) for _ in range(10)]
            await asyncio.gather(*(checkpointer.write_many(run) for run in runs))
            assert [s.last_step for s in await checkpointer.list_runs()] == [2] * 10
        assert await pool.fetchval("SELECT 1") == 1
        assert "pool=…" in repr(checkpointer)


async def test_a_pool_that_is_not_open_yet_is_opened(server: str, schema: str) -> None:
    pool = asyncpg.create_pool(server, min_size=0, max_size=2)
    async with PostgresCheckpointer(pool=pool, schema=schema) as checkpointer:
        run = chain(2)
        await checkpointer.write_many(run)
        assert await checkpointer.read_latest(run[0].run_id) == run[1]
    await pool.close()


@pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not here: apt-get install pgbouncer")
async def test_a_pooler_that_is_restarted(server: str, schema: str) -> None:
    pooler = PgBouncer(server)
    pooler.__enter__()
    async with PostgresCheckpointer(pooler.dsn, schema=schema, timeout=200) as checkpointer:
        run = chain(2)
        await checkpointer.write_many(run)
        pooler.kill()
        write = asyncio.create_task(checkpointer.write(following(run[1])))
        await asyncio.sleep(0.2)
        assert not write.done()
        await asyncio.to_thread(pooler.__enter__)
        await write
        latest = await checkpointer.read_latest(run[0].run_id)
        assert latest is not None
        assert latest.step == 2
    pooler.__exit__(None, None, None)
