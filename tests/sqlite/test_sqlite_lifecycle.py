"""Handles that are not closed, loops that are, and forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import sys
import threading
import warnings
from pathlib import Path

import pytest
from support import sqlite_processes
from support.records import chain, endless, first, following

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointError, StoreUnavailableError

STRICT = ("-W", "error")

PRELUDE = """
import asyncio, os, sys, time
from support.records import chain, endless, first, following
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import StargraphError

path = sys.argv[1]
"""

NEVER_CLOSED = {
    "a local name": """
async def main():
    store = SQLiteCheckpointer(path)
    await store.bootstrap()
    await store.write(first())
    assert await store.read_latest("run-1")

asyncio.run(main())
""",
    "a global name": """
store = SQLiteCheckpointer(path)

async def main():
    await store.bootstrap()
    await store.write(first())
    await store.read_latest("run-1")

asyncio.run(main())
""",
    "several": """
stores = [SQLiteCheckpointer(path) for _ in range(5)]

async def main():
    for store in stores:
        await store.bootstrap()
    await stores[0].write(first())

asyncio.run(main())
""",
    "a write and a read in flight, their loop closed": """
import sqlite3

store = SQLiteCheckpointer(path)
loop = asyncio.new_event_loop()
loop.run_until_complete(store.bootstrap())
other = sqlite3.connect(path, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
calls = [store.write(first()), store.read_latest("run-1")]

async def begin():
    for call in calls:
        call.send(None)  # on its way, and nobody will wait for it

loop.run_until_complete(begin())
loop.close()
other.execute("ROLLBACK")
other.close()
for call in calls:
    call.close()
assert asyncio.run(store.write(first("run-2"))) is None
assert len(asyncio.run(store.list_runs())) == 2
""",
    "a bootstrap in flight": """
async def main():
    task = asyncio.ensure_future(SQLiteCheckpointer(path).bootstrap())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

asyncio.run(main())
asyncio.run(SQLiteCheckpointer(path).bootstrap())
""",
    "sys.exit in the middle": """
async def main():
    store = SQLiteCheckpointer(path)
    await store.bootstrap()
    for checkpoint in chain(length=3):
        await store.write(checkpoint)
    sys.exit(0)

asyncio.run(main())
""",
    "a history half read": """
store = SQLiteCheckpointer(path)

async def main():
    await store.bootstrap()
    await store.write_many(chain(length=100))
    async for checkpoint in store.history("run-1"):
        break

asyncio.run(main())
""",
}


@pytest.mark.parametrize("flags", [(), STRICT], ids=["plain", "strict"])
@pytest.mark.parametrize("code", NEVER_CLOSED.values(), ids=NEVER_CLOSED.keys())
def test_a_handle_that_is_not_closed_says_nothing(path: Path, code: str, flags: tuple[str, ...]) -> None:
    sqlite_processes.run(PRELUDE + code, path, flags=flags)
    assert sorted(found.name for found in path.parent.iterdir()) == ["run.sqlite"]


def test_the_interpreter_asks_the_threads_to_end_before_it_waits_for_them(path: Path) -> None:
    asyncio.run(SQLiteCheckpointer(path).bootstrap())  # so that the thread of the writer starts with the write
    code = """
from stargraph.checkpoint.sqlite import _thread

_thread._EXIT_WAIT = 60.0
"""
    sqlite_processes.run(PRELUDE + code + NEVER_CLOSED["a global name"], path, timeout=60)


def test_a_lock_held_elsewhere_does_not_keep_the_interpreter_alive(path: Path) -> None:
    asyncio.run(SQLiteCheckpointer(path).bootstrap())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        code = """
import logging
logging.disable()  # of that the store is locked
store = SQLiteCheckpointer(path, busy_timeout=300)

async def main():
    await store.bootstrap()
    task = asyncio.ensure_future(store.write(first()))
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
        sqlite_processes.run(PRELUDE + code, path, timeout=60)


async def test_a_handle_that_is_dropped_ends_its_threads(path: Path) -> None:
    before = set(threading.enumerate())

    def ours() -> int:
        return sum(thread.name == "stargraph-sqlite" for thread in set(threading.enumerate()) - before)

    async def settled() -> bool:
        for _ in range(6000):
            if not ours():
                return True
            await asyncio.sleep(0.01)
        return False

    store = SQLiteCheckpointer(path)
    await store.bootstrap()
    await store.write(first())
    assert ours() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del store
        gc.collect()
    assert await settled()
    assert [found.name for found in path.parent.iterdir()] == ["run.sqlite"]


async def test_a_handle_that_only_reads_has_one_thread_and_leaves_one_file(path: Path) -> None:
    begun = first()
    async with SQLiteCheckpointer(path) as store:
        await store.write(begun)
    before = set(threading.enumerate())

    def ours() -> int:
        return sum(thread.name == "stargraph-sqlite" for thread in set(threading.enumerate()) - before)

    async with SQLiteCheckpointer(path) as store:
        assert await store.read_latest("run-1") == begun
        assert ours() == 1
        await store.write(then := following(begun))
        assert ours() == 2
    async with SQLiteCheckpointer(path) as store:
        assert await store.read_latest("run-1") == then
    assert [found.name for found in path.parent.iterdir()] == ["run.sqlite"]


async def test_the_log_that_a_lost_process_left_is_moved_by_who_only_reads(path: Path) -> None:
    begun = first()
    async with SQLiteCheckpointer(path) as store:
        await store.write(begun)
        for suffix in ("", "-wal"):
            Path(f"{path.parent}/copy{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    copy = path.parent / "copy"
    async with SQLiteCheckpointer(copy) as store:
        assert await store.read_latest("run-1") == begun
    assert sorted(found.name for found in path.parent.iterdir()) == ["copy", "run.sqlite"]
    async with SQLiteCheckpointer(copy) as store:
        assert await store.read_latest("run-1") == begun


async def test_a_file_that_took_the_place_of_the_store_before_the_first_write_stays_as_it_is(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write(begun := first())
    async with SQLiteCheckpointer(path) as store:
        for found in path.parent.iterdir():
            found.unlink()
        path.touch()
        with pytest.raises(StoreUnavailableError) as caught:
            await store.write(following(begun))
        assert caught.value.reason == "store-replaced"
        assert path.read_bytes() == b""


def test_any_loop_may_use_a_handle(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    checkpoints = chain(length=4, end="done")
    asyncio.run(store.bootstrap())
    for checkpoint in checkpoints:
        asyncio.run(store.write(checkpoint))
        assert asyncio.run(store.read_latest("run-1")) == checkpoint
    asyncio.run(store.close())


def test_loops_in_several_threads_may_share_a_handle(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    asyncio.run(store.bootstrap())
    failures: list[BaseException] = []

    def work(run_id: str) -> None:
        async def writes() -> None:
            for checkpoint in chain(run_id, 25):
                await store.write(checkpoint)

        try:
            asyncio.run(writes())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [run.last_step for run in asyncio.run(store.list_runs())] == [24] * 4
    asyncio.run(store.close())


async def test_a_closed_loop_takes_no_answer_from_another(path: Path) -> None:
    def write_and_go(run_id: str) -> None:
        loop = asyncio.new_event_loop()
        writing = store.write(first(run_id))

        async def begin() -> None:
            writing.send(None)

        loop.run_until_complete(begin())
        loop.close()
        writing.close()

    async with SQLiteCheckpointer(path) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(3):  # these keep the thread, and end up in one commit with the last
                await asyncio.to_thread(write_and_go, f"gone-{number}")
            last = asyncio.ensure_future(store.write(first("last")))
            await asyncio.sleep(0.01)
            other.execute("ROLLBACK")
        await asyncio.wait_for(last, 60)
        assert len(await store.list_runs()) == 4


async def test_a_closed_handle_says_so_and_opens_again(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    await store.close()
    async with store:
        await store.write(first("run-1"))
    await store.close()
    for call in (store.write(first("run-2")), store.read_latest("run-1"), store.list_runs()):
        with pytest.raises(CheckpointError) as caught:
            await call
        assert caught.value.reason == "closed"
    await store.bootstrap()
    assert await store.read_latest("run-1") is not None
    await store.close()


async def test_close_finishes_the_writes_that_wait(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    await store.bootstrap()
    checkpoints = chain(length=30)
    writes = [asyncio.ensure_future(store.write(checkpoint)) for checkpoint in checkpoints]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*writes) == [None] * 30
    async with store:
        assert await store.read_latest("run-1") == checkpoints[-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_and_harms_nothing(path: Path) -> None:
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
store = SQLiteCheckpointer(path)
records = endless()

async def before():
    await store.bootstrap()
    await store.write(next(records))

asyncio.run(before())
child = os.fork()

async def in_child():
    for call in (store.write(first("run-2")), store.read_latest("run-1"), store.bootstrap(), store.close()):
        try:
            await call
        except StargraphError as error:
            assert error.reason == "forked", error
        else:
            raise AssertionError("a forked child used its parent's connection")
    own = SQLiteCheckpointer(path)
    await own.bootstrap()
    await own.write(first("run-2"))

async def in_parent():
    for _ in range(20):
        await store.write(next(records))
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(20):
        await store.write(next(records))
    assert {run.run_id: run.last_step for run in await store.list_runs()} == {"run-1": 40, "run-2": 0}

if child == 0:
    asyncio.run(in_child())
    sys.exit(0)
asyncio.run(in_parent())
"""
    sqlite_processes.run(PRELUDE + code, path, flags=STRICT)
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_strict_flags_would_show_a_leak() -> None:
    """The tests above prove something only if an unclosed connection of aiosqlite itself is heard."""
    code = """
import asyncio, aiosqlite, gc
async def main():
    connection = aiosqlite.connect(":memory:")
    connection._thread.daemon = True
    await connection
    del connection
    gc.collect()
asyncio.run(main())
"""
    process = sqlite_processes.start(code, flags=STRICT)
    _, errors = process.communicate(timeout=60)
    assert "was deleted before being closed" in errors, sys.version
    assert next(endless()).step == 0
