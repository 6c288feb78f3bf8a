"""The private names of aiosqlite that the driver uses: one function, `_new_worker`, and these tests."""

from __future__ import annotations

import ast
import asyncio
import os
import sqlite3
import threading
from queue import SimpleQueue

import aiosqlite
import pytest
from support.workspace import ROOT

from stargraph.checkpoint.sqlite._thread import THREAD_NAME, ConnectionThread, _Answer, _new_worker
from stargraph.errors import CheckpointError

SOURCES = ROOT / "packages/sqlite/src/stargraph/checkpoint/sqlite"


def test_aiosqlite_runs_what_is_put_until_it_is_told_to_stop() -> None:
    """If this fails, aiosqlite has changed inside: adapt `_new_worker`, and the bounds in pyproject.toml."""
    worker = _new_worker()
    assert not worker.thread.is_alive()
    worker.thread.start()
    seen: SimpleQueue[str] = SimpleQueue()

    def fails() -> None:
        raise ValueError("a failure does not end the thread")

    worker.put(fails)
    worker.put(lambda: seen.put(threading.current_thread().name))
    worker.put(lambda: worker.stop)
    worker.thread.join(60)
    assert not worker.thread.is_alive()
    assert seen.get_nowait() == worker.thread.name


def test_no_other_code_uses_a_private_name_of_aiosqlite() -> None:
    found = []
    for source in SOURCES.glob("*.py"):
        text = source.read_text()
        if "aiosqlite" not in text.replace("aiosqlite's", ""):
            continue
        private = {name for name in vars(aiosqlite.Connection(lambda: sqlite3.connect(""), 1)) if name.startswith("_")}
        private |= {name for name in dir(aiosqlite.Connection) if name.startswith("_") and not name.startswith("__")}
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                        of_aiosqlite = node.value.id in ("aiosqlite", "core") or (
                            node.value.id != "self" and node.attr in private
                        )
                        if of_aiosqlite and node.attr.startswith("_"):
                            found.append((source.name, function.name))
    assert set(found) == {("_thread.py", "_new_worker")}


async def test_work_runs_if_the_system_makes_no_pipe_that_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows with Python 3.11 does."""
    monkeypatch.delattr(os, "set_blocking")
    thread = ConnectionThread(lambda: sqlite3.connect(":memory:"))
    await thread.open()
    assert [await thread.run(lambda _: "done") for _ in range(100)] == ["done"] * 100
    thread.shut()


async def test_work_runs_on_one_thread_in_order_and_errors_are_raised_where_it_is_awaited() -> None:
    thread = ConnectionThread(lambda: sqlite3.connect(":memory:"))
    await thread.open()
    names = [await thread.run(lambda _: threading.current_thread().name) for _ in range(2)]
    assert names == [THREAD_NAME] * 2
    with pytest.raises(sqlite3.OperationalError):
        await thread.run(lambda connection: connection.execute("nonsense"))
    thread.shut()
    thread.shut()
    with pytest.raises(CheckpointError) as caught:
        await thread.run(lambda _: None)
    assert caught.value.reason == "closed"


async def test_work_that_comes_while_the_thread_is_busy_or_asleep_is_done_once_and_in_order() -> None:
    thread = ConnectionThread(lambda: sqlite3.connect(":memory:"))
    await thread.open()
    done: list[int] = []

    def note(number: int) -> asyncio.Future[None]:
        return thread.submit(lambda _: done.append(number))

    for start in range(0, 3000, 3):
        first, second = note(start), note(start + 1)
        await second
        assert first.done()
        await note(start + 2)  # mostly it sleeps by now
    assert done == list(range(3000))
    thread.shut()


async def test_a_thread_that_has_ended_holds_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        thread = ConnectionThread(lambda: sqlite3.connect(":memory:"))
        await thread.open()
        thread.shut()
        assert thread._worker is not None
        await asyncio.to_thread(thread._worker.thread.join, 60)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # a thread of the loop's own pool may have come


async def test_who_waits_for_an_answer_goes_on_in_the_turn_that_brings_it() -> None:
    loop = asyncio.get_running_loop()
    answer = _Answer[int](loop, None)
    turns: list[str] = []

    async def wait() -> None:
        turns.append(f"got {await answer}")

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    loop.call_soon(answer.succeed, 7)
    loop.call_soon(turns.append, "the next of this turn")
    await waiting
    assert turns == ["got 7", "the next of this turn"]


async def test_a_cancelled_wait_for_work_that_cannot_be_withdrawn_ends_at_once() -> None:
    answer = _Answer[int](asyncio.get_running_loop(), None)
    waiting = asyncio.ensure_future(asyncio.wait_for(answer, 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert answer.cancelled()


async def test_a_cancelled_wait_for_work_that_can_be_withdrawn_ends_with_it() -> None:
    withdrawn: list[bool] = []
    answer = _Answer[int](asyncio.get_running_loop(), lambda: withdrawn.append(True))

    async def wait() -> int:
        return await answer

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    asyncio.get_running_loop().call_soon(answer.succeed, 7)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert withdrawn == [True]
    assert answer.result() == 7


async def test_work_connects_again_after_a_connection_that_failed() -> None:
    attempts: list[int] = []

    def connect() -> sqlite3.Connection:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("no room")
        return sqlite3.connect(":memory:")

    thread = ConnectionThread(connect)
    afterwards: list[object] = []
    with pytest.raises(OSError, match="no room"):
        await thread.submit(lambda _: None, afterwards.append)
    assert await thread.run(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)
    assert (len(attempts), afterwards) == (2, [])
    thread.shut()
