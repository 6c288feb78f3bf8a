"""The event loop in a thread of its own that sync methods run their coroutines on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stargraph.errors import StargraphError
from stargraph.runtime._loop_thread import LoopThread


class Interrupts(set[Any]):
    """Presses Ctrl-C while work is handed over to the loop."""

    def add(self, waiting: Any) -> None:
        super().add(waiting)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("moment", ["before it is handed over", "when it has begun"])
def test_ctrl_c_while_work_is_handed_over_ends_it_on_its_own_loop(
    thread: LoopThread, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ends = threading.Event(), list[str]()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ends.append(type(error).__name__)
            raise

    thread.run(asyncio.sleep(0))
    loop = thread._loop
    assert loop is not None
    call_soon = loop.call_soon_threadsafe

    def interrupted(callback: Callable[[], object]) -> object:
        monkeypatch.undo()
        handle = call_soon(callback)
        assert begun.wait(60)
        signal.raise_signal(signal.SIGINT)
        return handle

    if moment == "when it has begun":
        monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    else:
        monkeypatch.setattr(thread, "_waiting", Interrupts())
    with pytest.raises(KeyboardInterrupt):
        thread.run(work())
    assert ends == (["CancelledError"] if moment == "when it has begun" else [])
    assert begun.is_set() == (moment == "when it has begun")


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread("test-loop")
    yield thread
    thread.close()


def within(seconds: float, work: Callable[[], object]) -> object:
    """Return what work returns, or raise what it raises, in a thread that may hang."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(seconds)
    finally:
        pool.shutdown(wait=False)


async def answer() -> int:
    return 42


async def leave() -> None:
    sys.exit(3)


def test_all_work_shares_one_thread(thread: LoopThread) -> None:
    async def who() -> str:
        return threading.current_thread().name

    assert not thread.has_started
    assert {thread.run(who()) for _ in range(3)} == {"test-loop"}
    assert thread.has_started


def test_what_ends_a_process_is_raised_to_its_caller_and_the_loop_goes_on(thread: LoopThread) -> None:
    with pytest.raises(SystemExit) as raised:
        within(60, lambda: thread.run(leave()))
    assert raised.value.code == 3
    assert within(60, lambda: thread.run(answer())) == 42


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_task_that_would_end_the_process_ends_no_other(thread: LoopThread) -> None:
    async def work() -> int:
        stray = asyncio.create_task(leave())
        await asyncio.wait([stray])
        assert isinstance(stray.exception(), SystemExit)
        await asyncio.sleep(0.01)
        return 42

    assert within(60, lambda: thread.run(work())) == 42


def test_a_close_cancels_what_runs(thread: LoopThread) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(thread.run, work())
        assert begun.wait(60)
        thread.close()
        with pytest.raises(CancelledError):
            waiting.result(60)
    assert ended.is_set()
    assert thread.run(answer()) == 42


def test_a_close_is_not_lost_by_a_task_that_would_end_the_process(thread: LoopThread) -> None:
    async def work() -> None:
        thread.close()
        stray = asyncio.create_task(leave())  # raises in the turn in which the loop is told to stop
        try:
            await asyncio.Event().wait()
        finally:
            assert isinstance(stray.exception(), SystemExit)

    with pytest.raises(CancelledError):
        within(60, lambda: thread.run(work()))


def test_a_task_that_stops_the_loop_ends_no_other(thread: LoopThread) -> None:
    async def work() -> int:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return 42

    assert within(60, lambda: thread.run(work())) == 42
    assert within(60, lambda: thread.run(work())) == 42


def test_its_own_loop_is_refused(thread: LoopThread) -> None:
    async def nested() -> int:
        return thread.run(answer())

    with pytest.raises(StargraphError) as refused:
        thread.run(nested())
    assert refused.value.reason == "sync-in-async"


def test_a_thread_that_cannot_start_leaves_nothing_behind(thread: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            thread.run(answer())
    assert not thread.has_started
    assert within(60, lambda: thread.run(answer())) == 42


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_starts_a_thread_of_its_own(thread: LoopThread) -> None:
    assert thread.run(answer()) == 42
    child = os.fork()
    if child == 0:
        gc.disable()
        found: list[int] = []
        worker = threading.Thread(target=lambda: found.append(thread.run(answer())), daemon=True)
        worker.start()
        worker.join(60)
        os._exit(0 if found == [42] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


EXITS = """
import atexit, sys, threading, time
atexit.register(time.sleep, 0.5)  # runs last, when the store is closed
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph, GraphBuilder

graph = GraphBuilder("g").state(n=(int, 0))
executing = threading.Event()

@graph.node
async def count(state):
    if state.n == 5:
        executing.set()
    return {"n": state.n + 1}

graph.after(count).goto(count)
threading.Thread(
    target=Graph(graph).run_sync, kwargs={"checkpointer": SQLiteCheckpointer(sys.argv[1])}, daemon=True
).start()
assert executing.wait(60)
"""


def test_a_daemon_thread_whose_process_exits_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text(EXITS)
    assert exited(tmp_path, "import exits", "runs.sqlite") == (0, "", "")


JOINED = """
import asyncio, atexit, threading
working = threading.Event()

def stop() -> None:
    daemon.join(60)
    print("ended" if not daemon.is_alive() else "waits")

atexit.register(stop)  # runs after what the import registers
from stargraph.runtime._loop_thread import LoopThread

thread = LoopThread("exits")

async def work():
    working.set()
    await asyncio.sleep(seconds)

def repeat():
    try:
        while True:
            thread.run(work())
    finally:
        print("left")

daemon = threading.Thread(target=repeat, daemon=True)
daemon.start()
assert working.wait(60)
"""


@pytest.mark.parametrize("seconds", [0, 3600], ids=["between two runs", "in a run"])
def test_a_daemon_thread_ends_when_its_process_exits(tmp_path: Path, seconds: int) -> None:
    assert exited(tmp_path, f"seconds = {seconds}\n{JOINED}") == (0, "left\nended\n", "")


def exited(folder: Path, script: str, *arguments: str) -> tuple[int, str, str]:
    """Run a script in a process of its own; return its exit code and what it wrote."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr
