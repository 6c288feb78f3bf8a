"""What networks, servers and operators do to a client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from support.ports import free_port
from support.postgres_deadlines import hurried, reported
from support.postgres_records import chain, following, genesis
from support.postgres_server import DEBIAN_BINARIES, LocalServer, embedded_binaries
from support.records import noise
from support.tcp_proxy import TcpProxy

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointError, StoreUnavailableError

pytestmark = pytest.mark.thorough

Opener = Callable[..., PostgresCheckpointer]


def through(dsn: str, port: int) -> str:
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[TcpProxy]:
    parts = urlsplit(dsn)
    async with TcpProxy(parts.hostname or "127.0.0.1", parts.port or 5432) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy: TcpProxy, dsn: str, opened: Opener) -> PostgresCheckpointer:
    handle = opened(dsn=through(dsn, proxy.port), timeout=60)
    await handle.bootstrap()
    return handle


async def steps(checkpointer: PostgresCheckpointer, run_id: str) -> list[int]:
    return [checkpoint.step async for checkpoint in checkpointer.history(run_id)]


async def stored(sql: asyncpg.Connection, schema: str, wanted: int) -> int:
    """Wait until so many checkpoints are stored; return how many there are."""
    async with asyncio.timeout(60):
        while (found := await sql.fetchval(f'SELECT count(*) FROM "{schema}".checkpoints')) < wanted:
            await asyncio.sleep(0.01)
    return int(found)


@contextmanager
def lost_contact(proxy: TcpProxy) -> Iterator[None]:
    """Let nobody connect for a while: who loses the answer to a request cannot ask what became of it."""
    proxy.refusing = True
    try:
        yield
    finally:
        proxy.refusing = False


async def test_connections_that_were_dropped_are_replaced(proxied: PostgresCheckpointer, proxy: TcpProxy) -> None:
    run = chain(6)
    for checkpoint in run:
        await proxied.write(checkpoint)
        proxy.cut()
    for _ in range(3):
        assert await proxied.read_latest(run[0].run_id) == run[5]
        proxy.cut()
    assert await steps(proxied, run[0].run_id) == list(range(6))


async def test_an_answer_that_was_lost_is_found_out(
    proxied: PostgresCheckpointer, proxy: TcpProxy, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(3)
    for checkpoint in run[:2]:  # the second one prepares the statement
        await proxied.write(checkpoint)
    proxy.cut_after_request = 100
    with lost_contact(proxy):
        write = asyncio.create_task(proxied.write(run[2]))
        await stored(sql, schema, 3)
        assert not write.done()
    await write
    assert await proxied.read_latest(run[0].run_id) == run[2]
    assert await stored(sql, schema, 3) == 3


async def test_answers_of_a_whole_batch_that_were_lost_are_found_out(
    dsn: str, proxy: TcpProxy, opened: Opener, sql: asyncpg.Connection, schema: str
) -> None:
    # Its one connection has the statement prepared by then: nothing else that is sent is as long as a batch.
    async with opened(dsn=through(dsn, proxy.port), timeout=60, max_connections=1) as handle:
        runs = [[genesis(state={"text": noise(1_000)})] for _ in range(30)]
        await asyncio.gather(*(handle.write(run[0]) for run in runs))
        for _ in range(2):
            for run in runs:
                run.append(following(run[-1], changes={"text": noise(1_000)}))
        await asyncio.gather(*(handle.write(run[1]) for run in runs))
        proxy.cut_after_request = 20_000
        with lost_contact(proxy):
            writes = [asyncio.create_task(handle.write(run[2])) for run in runs]
            await stored(sql, schema, 90)
            assert sum(write.done() for write in writes) < 5  # the first ones, which know of no others
        await asyncio.gather(*writes)
        for run in runs:
            assert await handle.read_latest(run[0].run_id) == run[2]
        assert await stored(sql, schema, 90) == 90


async def test_a_request_cut_in_the_middle_is_made_again(proxied: PostgresCheckpointer, proxy: TcpProxy) -> None:
    first = genesis(state={"n": 0, "blob": "x" * 500_000})
    await proxied.write(first)
    proxy.cut_inside_request = True
    second = following(first)
    await proxied.write(second)
    assert not proxy.cut_inside_request
    assert await proxied.read_latest(first.run_id) == second


async def test_a_silent_connection_is_given_up_for_another(proxied: PostgresCheckpointer, proxy: TcpProxy) -> None:
    run = chain(2)
    await proxied.write(run[0])
    proxy.swallowing = True
    proxied._attach().connections._timeout = 1  # type: ignore[attr-defined]  # of one attempt
    write = asyncio.create_task(proxied.write(run[1]))
    await asyncio.sleep(0.3)
    assert not write.done()
    proxy.swallowing = False
    proxied._attach().connections._timeout = 60  # type: ignore[attr-defined]  # of those that begin from now on
    await write
    assert await proxied.read_latest(run[0].run_id) == run[1]


async def test_silence_for_good_is_an_error_and_no_hang(proxied: PostgresCheckpointer, proxy: TcpProxy) -> None:
    run = chain(2)
    await proxied.write(run[0])
    proxy.swallowing = True
    async with asyncio.timeout(60):
        with hurried(proxied, 3):
            outcomes = await asyncio.gather(
                proxied.write(run[1]), proxied.read_latest(run[0].run_id), proxied.list_runs(), return_exceptions=True
            )
    for outcome in outcomes:
        assert isinstance(outcome, StoreUnavailableError)
        assert outcome.reason == "timeout"
        assert outcome.hint
    written = outcomes[0]
    assert isinstance(written, StoreUnavailableError)
    assert (written.run_id, written.step) == (run[0].run_id, 1)
    proxy.swallowing = False
    await proxied.write(run[1])
    assert await steps(proxied, run[0].run_id) == [0, 1]


async def test_writes_that_wait_for_each_other_end_with_their_deadline(
    proxied: PostgresCheckpointer, proxy: TcpProxy
) -> None:
    run = chain(51)
    await proxied.write(run[0])
    proxy.swallowing = True
    async with asyncio.timeout(60):  # of one after the other, each would take three seconds
        with hurried(proxied, 3):
            outcomes = await asyncio.gather(*map(proxied.write, run[1:]), return_exceptions=True)
    assert {getattr(outcome, "reason", None) for outcome in outcomes} == {"timeout"}
    proxy.swallowing = False
    await proxied.write(run[1])
    assert await steps(proxied, run[0].run_id) == [0, 1]


async def test_a_write_that_is_cancelled_in_silence_ends(proxied: PostgresCheckpointer, proxy: TcpProxy) -> None:
    # To cancel a statement, asyncpg opens a connection of its own, which nobody answers either.
    run = chain(2)
    await proxied.write(run[0])
    proxy.swallowing = True
    write = asyncio.create_task(proxied.write(run[1]))
    await asyncio.sleep(0.2)
    write.cancel()
    await asyncio.wait([write], timeout=60)
    assert write.cancelled()
    proxy.swallowing = False
    await proxied.write(run[1])
    assert await steps(proxied, run[0].run_id) == [0, 1]


async def test_a_slow_network_is_only_slow(dsn: str, proxy: TcpProxy, opened: Opener) -> None:
    proxy.delay = 0.05
    async with opened(dsn=through(dsn, proxy.port)) as patient:
        runs = [chain(2) for _ in range(20)]
        await asyncio.gather(*(patient.write_many(run) for run in runs))
        assert len(await patient.list_runs()) == 20


async def test_nobody_there_is_an_error_that_says_so(opened: Opener) -> None:
    handle = opened(dsn=f"postgresql://postgres:hush@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(StoreUnavailableError) as caught:
        async with asyncio.timeout(60):
            await handle.bootstrap()
    assert caught.value.reason == "unreachable"
    assert "hush" not in str(caught.value)


async def test_a_wrong_database_is_an_error_at_once(opened: Opener, dsn: str) -> None:
    handle = opened(dsn=urlunsplit(urlsplit(dsn)._replace(path="/nowhere")), timeout=300)
    with pytest.raises(StoreUnavailableError) as caught:
        async with asyncio.timeout(60):
            await handle.bootstrap()
    assert caught.value.reason == "no-such-database"


@pytest.mark.parametrize(
    "dsn_text",
    [
        "postgresql://user:hu/sh@host/db",
        "postgresql://user:hush@host:port/db",
        "mysql://user:hush@host/db",
        "postgresql://user:hush@host/db?sslmode=perhaps",
    ],
)
async def test_a_dsn_that_cannot_be_read_keeps_its_secret(dsn_text: str) -> None:
    handle = PostgresCheckpointer(dsn_text, timeout=0.5)
    with pytest.raises(StoreUnavailableError) as caught:
        await handle.bootstrap()
    chain_of_errors: BaseException | None = caught.value
    while chain_of_errors is not None:
        assert "hush" not in str(chain_of_errors)
        assert "hu/sh" not in str(chain_of_errors)
        chain_of_errors = chain_of_errors.__cause__
    assert caught.value.reason == "bad-dsn"
    assert "hush" not in repr(handle)
    assert "sh@" not in repr(handle)


async def fail_with(sql: asyncpg.Connection, schema: str, code: str, times: int) -> None:
    """Make the server refuse the next updates of a run with an error code."""
    await sql.execute(f"""
        CREATE SEQUENCE "{schema}".failures;
        CREATE FUNCTION "{schema}".fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('"{schema}".failures') <= {times} THEN
                RAISE EXCEPTION 'made up' USING ERRCODE = '{code}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE UPDATE ON "{schema}".runs FOR EACH ROW EXECUTE FUNCTION "{schema}".fail();
    """)


TRANSIENT = ["40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P03", "08006", "25006", "58030"]


@pytest.mark.parametrize("code", TRANSIENT)
async def test_errors_that_may_pass_are_tried_again(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, code: str
) -> None:
    run = chain(2)
    await checkpointer.write(run[0])
    await fail_with(sql, schema, code, 2)
    await checkpointer.write(run[1])
    assert await checkpointer.read_latest(run[0].run_id) == run[1]
    assert await sql.fetchval(f'SELECT last_value FROM "{schema}".failures') == 3


@pytest.mark.parametrize(
    ("code", "reason"),
    [("53100", "disk-full"), ("25006", "read-only"), ("40001", "unavailable")],
)
async def test_errors_that_stay_say_what_to_do(
    opened: Opener, sql: asyncpg.Connection, schema: str, code: str, reason: str
) -> None:
    handle = opened()
    await handle.bootstrap()
    run = chain(2)
    await handle.write(run[0])
    await fail_with(sql, schema, code, 10**6)
    with hurried(handle, 2):
        error = await reported(lambda: handle.write(run[1]))
    assert error.reason == reason
    assert error.hint
    assert "made up" in str(error)
    assert await handle.read_latest(run[0].run_id) == run[0]


async def test_other_errors_are_not_tried_again(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(2)
    await checkpointer.write(run[0])
    await fail_with(sql, schema, "P0001", 10**6)
    with pytest.raises(StoreUnavailableError):
        await checkpointer.write(run[1])
    assert await sql.fetchval(f'SELECT last_value FROM "{schema}".failures') == 1


async def test_too_few_connections_are_shared(sql: asyncpg.Connection, schema: str, dsn: str, opened: Opener) -> None:
    role = f"few_{schema}"
    await sql.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 2; GRANT CREATE ON DATABASE postgres TO {role};")
    handles = [opened(dsn=dsn.replace("//postgres@", f"//{role}@", 1), max_connections=1) for _ in range(2)]
    greedy = opened(dsn=dsn.replace("//postgres@", f"//{role}@", 1), timeout=4)
    try:
        for handle in handles:
            await handle.bootstrap()
        assert (await reported(greedy.bootstrap)).reason == "too-many-connections"
        runs = [chain(5) for _ in range(10)]
        await asyncio.gather(*(handles[n % 2].write_many(run) for n, run in enumerate(runs)))
        await asyncio.gather(*(handles[n % 2].read_latest(run[0].run_id) for n, run in enumerate(runs)))
        waiting = opened(dsn=dsn.replace("//postgres@", f"//{role}@", 1))
        bootstrap = asyncio.create_task(waiting.bootstrap())
        await asyncio.sleep(0.2)
        await handles[0].close()
        await bootstrap
    finally:
        for handle in (*handles, greedy, waiting):
            await handle.close()
        await asyncio.sleep(0.1)
        await sql.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role};")


async def test_a_statement_timeout_of_the_server_is_tried_again(
    sql: asyncpg.Connection, schema: str, dsn: str, opened: Opener
) -> None:
    role = f"hasty_{schema}"
    await sql.execute(f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET statement_timeout = '150ms';")
    handle = opened(dsn=dsn.replace("//postgres@", f"//{role}@", 1))
    try:
        await opened().bootstrap()  # which may take longer
        await handle.bootstrap()
        run = chain(2)
        await handle.write(run[0])
        holder = await asyncpg.connect(dsn)
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(f'SELECT FROM "{schema}".runs FOR UPDATE')
        write = asyncio.create_task(handle.write(run[1]))
        await asyncio.sleep(0.6)
        assert not write.done()
        await transaction.rollback()
        await holder.close()
        await write
        assert await handle.read_latest(run[0].run_id) == run[1]
    finally:
        await handle.close()
        await sql.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role};")


async def test_a_server_that_takes_no_writes_is_refused(
    sql: asyncpg.Connection, schema: str, dsn: str, opened: Opener
) -> None:
    role = f"standby_{schema}"
    await sql.execute(f"CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET default_transaction_read_only = on;")
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            async with asyncio.timeout(60):
                await opened(dsn=dsn.replace("//postgres@", f"//{role}@", 1)).bootstrap()
        assert caught.value.reason == "read-only"
    finally:
        await sql.execute(f"DROP ROLE {role}")


async def test_lost_history_is_reported_as_such(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(6)
    await checkpointer.write_many(run[:5])
    # What a failover to a replica that lagged behind leaves.
    await sql.execute(f'DELETE FROM "{schema}".checkpoints WHERE step > 2')
    await sql.execute(f'UPDATE "{schema}".runs SET last_step = 2, digest = $1', bytes.fromhex(run[2].digest))
    with pytest.raises(CheckpointError) as caught:
        await checkpointer.write(run[5])
    assert caught.value.reason == "history-lost"
    assert "acknowledged step 4" in str(caught.value)
    resumed = following(run[2])
    await checkpointer.write(resumed)
    assert await steps(checkpointer, run[0].run_id) == [0, 1, 2, 3]
    await sql.execute(f'DELETE FROM "{schema}".runs; DELETE FROM "{schema}".checkpoints')
    with pytest.raises(CheckpointError) as caught:
        await checkpointer.write(following(resumed))
    assert caught.value.reason == "history-lost"
    await checkpointer.write(run[0])


@pytest.fixture
def own_server() -> Iterator[LocalServer]:
    binaries = embedded_binaries() or DEBIAN_BINARIES
    with LocalServer(binaries) as server:
        yield server


async def test_a_server_that_is_killed_and_comes_back(own_server: LocalServer) -> None:
    async with PostgresCheckpointer(own_server.dsn, timeout=200) as checkpointer:
        run = chain(3)
        await checkpointer.write(run[0])
        own_server.kill()
        write = asyncio.create_task(checkpointer.write(run[1]))
        await asyncio.sleep(0.3)
        assert not write.done()
        await asyncio.to_thread(own_server.start)
        await write
        assert [c async for c in checkpointer.history(run[0].run_id)] == run[:2]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_storm_loses_nothing_and_repeats_nothing(own_server: LocalServer) -> None:
    length, acknowledged = 40, set[str]()
    runs = [chain(length) for _ in range(64)]
    chance = random.Random(5)
    async with TcpProxy("127.0.0.1", own_server.port) as proxy:
        handles = [PostgresCheckpointer(through(own_server.dsn, proxy.port), timeout=6) for _ in range(4)]
        for handle in handles:
            await handle.bootstrap()

        async def drive(handle: PostgresCheckpointer, run: list[Checkpoint]) -> None:
            for checkpoint in run:
                while True:
                    try:
                        await handle.write(checkpoint)
                    except StoreUnavailableError:
                        continue
                    acknowledged.add(checkpoint.digest)
                    await asyncio.sleep(chance.random() * 0.5)
                    break

        driving = asyncio.gather(*(drive(handles[n % 4], run) for n, run in enumerate(runs)))
        kills = 0
        while not driving.done():
            match chance.randrange(6) if kills else 5:  # a quick machine may be done before chance wants a kill
                case 0:
                    proxy.cut()
                case 1:
                    proxy.cut_after_request = 100
                case 2:
                    proxy.cut_inside_request = True
                case 3:
                    proxy.delay = 0.2
                    await asyncio.sleep(0.5)
                    proxy.delay = 0
                case 4:
                    proxy.swallowing = True
                    await asyncio.sleep(2.5)
                    proxy.swallowing = False
                case 5:
                    own_server.kill()
                    kills += 1
                    await asyncio.to_thread(own_server.start)
            await asyncio.sleep(chance.random())
        await driving
        assert kills
        for handle in handles:
            await handle.close()
    async with PostgresCheckpointer(own_server.dsn) as checkpointer:
        for run in runs:
            assert [c async for c in checkpointer.history(run[0].run_id)] == run
            assert all(checkpoint.digest in acknowledged for checkpoint in run)
        assert len(await checkpointer.list_runs(limit=1000)) == len(runs)
