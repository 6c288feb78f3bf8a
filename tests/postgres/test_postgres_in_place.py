"""A write runs within the task of the executor that awaits it, and its deadlines hold there too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import asyncpg
import pytest
from support.postgres_deadlines import hurried
from support.postgres_records import chain

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._errors import UNSURE, Advice, Retries
from stargraph.errors import StoreUnavailableError
from stargraph.runtime import dispatch
from stargraph.runtime._cancellation import InPlace

Opener = Callable[..., PostgresCheckpointer]


async def test_a_write_takes_no_task_of_its_own(checkpointer: PostgresCheckpointer) -> None:
    run = chain(4)
    for checkpoint in run[:3]:  # connects, and prepares its statements
        await dispatch.write(checkpointer, checkpoint)
    loop = asyncio.get_running_loop()
    begun: list[object] = []

    def noted(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
    ) -> asyncio.Task[Any]:
        begun.append(work)
        return asyncio.Task(work, loop=loop, **options)

    loop.set_task_factory(noted)
    try:
        await dispatch.write(checkpointer, run[3])
    finally:
        loop.set_task_factory(None)
    assert not begun
    assert await checkpointer.read_latest(run[0].run_id) == run[3]


async def test_it_waits_for_a_connection_no_longer_than_its_deadline(opened: Opener) -> None:
    handle = opened(max_connections=1)
    await handle.bootstrap()
    run = chain(2)
    await handle.write(run[0])
    async with handle._attach().connections.lend(), asyncio.timeout(60):
        with hurried(handle, 0.2), pytest.raises(StoreUnavailableError):
            await dispatch.write(handle, run[1])


async def test_it_waits_for_an_earlier_write_no_longer_than_its_deadline() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailableError, match="the writes of this run before it took too long"):
            await InPlace(Retries(0.05, Advice(lambda: "the server")).acquire(lock, run_id="r", step=1))
    lock.release()
    await asyncio.sleep(0)
    assert not lock.locked()


@pytest.mark.parametrize("released_first", [True, False])
@pytest.mark.parametrize("turns", range(4))
async def test_a_write_that_is_cancelled_while_it_waits_for_an_earlier_one_keeps_no_lock(
    turns: int, released_first: bool
) -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    waiting = asyncio.ensure_future(Retries(30, Advice(lambda: "the server")).acquire(lock, run_id="r", step=1))
    for _ in range(3):
        await asyncio.sleep(0)
    if released_first:
        lock.release()
        for _ in range(turns):
            await asyncio.sleep(0)
    waiting.cancel()
    for _ in range(4):
        await asyncio.sleep(0)
    if not released_first:
        lock.release()
    if not waiting.cancelled():
        lock.release()  # it was there before the cancellation
    await asyncio.sleep(0)
    assert not lock.locked()


async def test_a_loop_that_ends_while_a_write_waits_for_an_earlier_one_leaves_the_lock_to_that_one() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    waiting = asyncio.ensure_future(Retries(30, Advice(lambda: "the server")).acquire(lock, run_id="r", step=1))
    before = asyncio.all_tasks()
    await asyncio.sleep(0)
    (inner,) = asyncio.all_tasks() - before
    inner.cancel()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert lock.locked()


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ([ConnectionRefusedError()], "this attempt did not store it"),
        ([ConnectionResetError(), ConnectionRefusedError()], UNSURE),
    ],
    ids=["refused", "lost, then refused"],
)
async def test_an_error_of_a_write_says_what_is_known_of_it(failures: list[Exception], said: str) -> None:
    async def request() -> None:
        raise failures.pop(0) if len(failures) > 1 else failures[0]

    with pytest.raises(StoreUnavailableError, match=said):
        await Retries(0.2, Advice(lambda: "the server")).run(request, UNSURE, run_id="r", step=1)


async def test_a_statement_that_does_not_end_is_given_up(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(3)
    for checkpoint in run[:2]:
        await dispatch.write(checkpointer, checkpoint)
    async with sql.transaction(), asyncio.timeout(60):
        await sql.execute(f'LOCK TABLE "{schema}".runs IN ACCESS EXCLUSIVE MODE')
        with hurried(checkpointer, 0.2), pytest.raises(StoreUnavailableError):
            await dispatch.write(checkpointer, run[2])
