"""What a cancelled call leaves behind: a step that is stored or not, and nothing that is open or printed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from support.records import first, following

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.checkpoint.sqlite._connection import Store
from stargraph.checkpoint.sqlite._writer import Writer


async def test_cancelled_at_random_moments(path: Path) -> None:
    chance = random.Random(20260131)
    store = SQLiteCheckpointer(path)
    await store.bootstrap()
    tail: Checkpoint | None = None
    outcomes = {True: 0, False: 0}
    for turn in range(200):
        step = first() if tail is None else following(tail)
        task = asyncio.ensure_future(store.write(step))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.002)
        if turn % 10 == 0:
            await asyncio.wait([task])  # on a busy machine, all others may be withdrawn in time
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            assert not task.cancelled()
        found = await store.read_latest("run-1")
        stored = found == step
        assert stored or found == tail, f"turn {turn}: a checkpoint that nobody wrote"
        assert stored or task.cancelled(), f"turn {turn}: acknowledged, and not there"
        outcomes[stored] += 1
        tail = found
        if chance.random() < 0.2:
            reading = asyncio.ensure_future(store.read_latest("run-1"))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
    assert outcomes[True] > 10
    assert outcomes[False] > 10
    assert tail is not None
    await store.write(following(tail))
    assert [checkpoint.step async for checkpoint in store.history("run-1")] == list(range(tail.step + 2))
    await store.close()
    assert [found.name for found in path.parent.iterdir()] == ["run.sqlite"]


async def test_a_cancelled_write_that_waits_is_withdrawn(path: Path) -> None:
    async with SQLiteCheckpointer(path, busy_timeout=300) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.write(first())
            assert time.monotonic() - begun < 60
            other.execute("ROLLBACK")
        assert await store.read_latest("run-1") is None
        await store.write(first())


async def test_a_second_cancellation_does_not_wait(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert isinstance(store._store, Store)
            begun: list[str] = []
            await store._store._writing.run(lambda connection: connection.set_trace_callback(begun.append))
            task = asyncio.ensure_future(store.write(first()))
            while "BEGIN IMMEDIATE" not in begun:  # by then it can no longer be withdrawn
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert task.cancelled()
            other.execute("ROLLBACK")


async def test_an_error_after_a_second_cancellation_is_not_printed(path: Path) -> None:
    heard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    async with SQLiteCheckpointer(path, busy_timeout=0.3) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            path.rename(path.with_name("away"))  # so that the commit fails
            task = asyncio.ensure_future(store.write(first()))
            await asyncio.sleep(0.02)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0)
            other.execute("ROLLBACK")
        await asyncio.sleep(0.5)
    gc.collect()
    assert heard == []


async def test_a_close_that_is_cancelled_while_it_waits_for_a_write_closes_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())

    def ours() -> bool:
        return any(thread.name == "stargraph-sqlite" for thread in set(threading.enumerate()) - before)

    draining = asyncio.Event()

    async def drain(self: Writer) -> None:
        draining.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Writer, "drain", drain)
    store = SQLiteCheckpointer(path, latest_cache_bytes=1_000_000)
    await store.bootstrap()
    await store.write(first("run"))
    assert store._latest._entries
    closing = asyncio.create_task(store.close())
    await draining.wait()
    assert ours()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for _ in range(6000):
        if not ours():
            break
        await asyncio.sleep(0.01)
    assert not ours()
    assert not store._latest._entries


async def test_a_cancelled_bootstrap_leaves_nothing_open(path: Path) -> None:
    before = set(threading.enumerate())

    def ours() -> bool:
        return any(thread.name == "stargraph-sqlite" for thread in set(threading.enumerate()) - before)

    for ticks in range(6):
        store = SQLiteCheckpointer(path)
        task = asyncio.ensure_future(store.bootstrap())
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await store.close()
    for _ in range(6000):
        if not ours():
            break
        await asyncio.sleep(0.01)
    assert not ours()
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
