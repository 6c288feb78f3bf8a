"""Handles that are not closed, loops that are, forks, and cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import sqlite_processes
from support.records import chain, endless, first, following

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _connection, _errors
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
    sqlite_processes.run(PRELUDE + code, path, flags=flags, timeout=20)
    assert sorted(found.name for found in path.parent.iterdir()) == ["run.sqlite"]


def test_the_interpreter_asks_the_threads_to_end_before_it_waits_for_them(path: Path) -> None:
    asyncio.run(SQLiteCheckpointer(path).bootstrap())  # so that the thread of the writer starts with the write
    code = """
from stargraph.checkpoint.sqlite import _thread

_thread._EXIT_WAIT = 60.0
"""
    sqlite_processes.run(PRELUDE + code + NEVER_CLOSED["a global name"], path, timeout=30)


def test_a_lock_held_elsewhere_does_not_keep_the_interpreter_alive(path: Path) -> None:
    asyncio.run(SQLiteCheckpointer(path).bootstrap())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        code = """
import logging
logging.disable()  # of that the store is locked
store = SQLiteCheckpointer(path, busy_timeout=60)

async def main():
    await store.bootstrap()
    task = asyncio.ensure_future(store.write(first()))
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
        begun = time.monotonic()
        sqlite_processes.run(PRELUDE + code, path, timeout=30)
        assert time.monotonic() - begun < 15


async def test_a_handle_that_is_dropped_ends_its_threads(path: Path) -> None:
    before = set(threading.enumerate())

    def ours() -> int:
        return sum(thread.name == "stargraph-sqlite" for thread in set(threading.enumerate()) - before)

    async def settled() -> bool:
        for _ in range(500):
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
    async with SQLiteCheckpointer(path) as store:
        assert await store.read_latest("run-1") == begun
        assert len(set(threading.enumerate()) - before) == 1
        await store.write(then := following(begun))
        assert len(set(threading.enumerate()) - before) == 2
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
        await asyncio.wait_for(last, 10)
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
    async with SQLiteCheckpointer(path) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.write(first())
            assert time.monotonic() - begun < 10
            other.execute("ROLLBACK")
        assert await store.read_latest("run-1") is None
        await store.write(first())


async def test_a_second_cancellation_does_not_wait(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            task = asyncio.ensure_future(store.write(first()))
            await asyncio.sleep(0.02)
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
    for _ in range(500):
        if not ours():
            break
        await asyncio.sleep(0.01)
    assert not ours()
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())


async def test_a_lock_held_for_too_long_is_reported(path: Path) -> None:
    async with SQLiteCheckpointer(path, busy_timeout=0.3) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            outcomes = await asyncio.gather(
                *(store.write(first(f"run-{number}")) for number in range(3)), return_exceptions=True
            )
            assert [getattr(outcome, "reason", None) for outcome in outcomes] == ["locked"] * 3
            assert await store.list_runs() == []  # reading goes on
            other.execute("ROLLBACK")
        await store.write(first())


async def test_a_short_lock_is_waited_for_and_told_in_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with SQLiteCheckpointer(path, busy_timeout=20) as store:
        await store.write(first("other"))
        assert caplog.records == []
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writes = [asyncio.ensure_future(store.write(checkpoint)) for checkpoint in chain(length=5)]
            await asyncio.sleep(0.6)
            assert caplog.records == []
            await asyncio.sleep(1)
            assert not any(write.done() for write in writes)
            other.execute("COMMIT")
            await asyncio.gather(*writes)
        assert len([checkpoint async for checkpoint in store.history("run-1")]) == 5
    messages = {(record.name, record.levelname, record.getMessage()) for record in caplog.records}
    expected = f"{path}: another connection keeps the write lock; trying again for up to 20 s"
    assert messages == {("stargraph.checkpoint.sqlite", "WARNING", expected)}


async def test_a_store_that_is_locked_while_it_is_opened_is_waited_for_and_told_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        store = SQLiteCheckpointer(path, busy_timeout=60)
        opening = asyncio.ensure_future(store.bootstrap())
        deadline = asyncio.get_running_loop().time() + 30
        while not caplog.records and not opening.done():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        assert not opening.done()
    await opening
    assert (await store.search()).items[0].run_id == "run-1"
    await store.close()
    expected = f"{path}: another connection keeps the write lock; trying again for up to 60 s"
    assert {record.getMessage() for record in caplog.records} == {expected}


async def test_a_store_that_stays_locked_is_refused_after_the_timeout(path: Path) -> None:
    async with SQLiteCheckpointer(path):
        pass
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match="busy_timeout"):
            await SQLiteCheckpointer(path, busy_timeout=0).bootstrap()


@pytest.mark.parametrize("name", ["new", "existing"])
async def test_locks_that_follow_one_another_share_the_timeout(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "existing":
        async with SQLiteCheckpointer(path):
            pass
    clock = 0.0

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    def locked_for_six_seconds(work: Callable[..., Any]) -> Callable[..., Any]:
        """What meets a lock of its own when it is first called."""
        since: list[float] = []

        def meets_a_lock(*args: Any) -> Any:
            since.append(clock)
            if clock < since[0] + 6:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
                raise error
            return work(*args)

        return meets_a_lock

    monkeypatch.setattr(_errors, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(_connection, "time", SimpleNamespace(sleep=sleep))
    for step in ("stored_version", "_use_wal", "migrate"):
        monkeypatch.setattr(_connection, step, locked_for_six_seconds(getattr(_connection, step)))
    if name == "new":
        with pytest.raises(StoreUnavailableError, match="busy_timeout"):
            await SQLiteCheckpointer(path, busy_timeout=10).bootstrap()
        assert clock == pytest.approx(10, abs=0.1)
    clock = 0.0
    async with SQLiteCheckpointer(path, busy_timeout=20) as store:
        await store.write(first())
    assert clock <= 20


async def test_an_error_after_a_lock_names_the_way_out(path: Path) -> None:
    async with SQLiteCheckpointer(path, busy_timeout=0) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailableError, match="busy_timeout"):
                await store.write(first())
            other.execute("ROLLBACK")


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
    _, errors = process.communicate(timeout=20)
    assert "was deleted before being closed" in errors, sys.version
    assert next(endless()).step == 0
