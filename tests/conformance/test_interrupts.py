"""What is left of a check that is interrupted, wherever the interrupt comes: nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stargraph.checkpoint.conformance import Check, Session, Target, _runner
from stargraph.checkpoint.conformance._kit import Kit, Surroundings
from stargraph.checkpoint.conformance._target import fresh_directory
from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore

PATIENCE = 60.0


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the kit makes its stores; a check that is interrupted has a minute to end."""
    monkeypatch.setattr(_runner, "INTERRUPTED", PATIENCE)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def execute(session: Session, body: Any) -> None:
    session._execute(Check("test.body", "A reason.", "a contract", "A cause.", body))


def join_check() -> None:
    """Wait for the thread of the check to end."""
    for thread in threading.enumerate():
        if thread.name == "test.body":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def memory(_: str) -> MemoryCheckpointer:
    return MemoryCheckpointer(MemoryStore())


def test_an_interrupt_while_the_thread_starts_ends_the_check(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()
    start = threading.Thread.start

    async def body(kit: Kit) -> None:
        Path(kit.location).touch()
        began.set()
        try:
            await asyncio.sleep(2 * PATIENCE)
        finally:
            ended.set()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "test.body":
            assert began.wait(PATIENCE)
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with Session(Target(memory)) as session, pytest.raises(KeyboardInterrupt):
        execute(session, body)
    assert ended.is_set()
    assert list(stores.iterdir()) == []


def test_a_check_that_is_interrupted_before_it_begins_never_does(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = threading.Event()
    run_check = _runner._in_thread
    bodies: list[Kit] = []

    async def body(kit: Kit) -> None:
        bodies.append(kit)

    def late(*arguments: Any) -> None:
        assert interrupted.wait(PATIENCE)
        run_check(*arguments)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_runner, "_in_thread", late)
    monkeypatch.setattr(Session, "_await_end", interrupt)
    with Session(Target(memory)) as session, pytest.raises(KeyboardInterrupt):
        execute(session, body)
    interrupted.set()
    join_check()
    assert bodies == []
    assert list(stores.iterdir()) == []


def test_an_interrupt_leaves_the_closing_of_handles_alone(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closing, cancelled = threading.Event(), threading.Event()
    closed: list[str] = []
    cancel = _runner._Outcome.cancel

    class Slow(MemoryCheckpointer):
        async def close(self) -> None:
            closing.set()
            await asyncio.to_thread(cancelled.wait, PATIENCE)
            # A cancellation that was asked for has come by now.
            for _ in range(3):
                await asyncio.sleep(0)
            closed.append("all of it")

    async def body(kit: Kit) -> None:
        await kit.open()

    def asked(outcome: _runner._Outcome) -> bool:
        began = cancel(outcome)
        cancelled.set()
        return began

    def interrupt(*_: object) -> None:
        assert closing.wait(PATIENCE)
        raise KeyboardInterrupt

    monkeypatch.setattr(_runner._Outcome, "cancel", asked)
    monkeypatch.setattr(Session, "_await_end", interrupt)
    with Session(Target(lambda _: Slow(MemoryStore()))) as session, pytest.raises(KeyboardInterrupt):
        execute(session, body)
    assert closed == ["all of it"]
    assert list(stores.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupt_while_handles_are_closed_waits_for_that(stores: Path) -> None:
    closing, released = threading.Event(), threading.Event()

    class Slow(MemoryCheckpointer):
        async def close(self) -> None:
            closing.set()
            await asyncio.to_thread(released.wait, PATIENCE)

    async def body(kit: Kit) -> None:
        Path(kit.location).touch()
        await kit.open()

    def interrupt() -> None:
        assert closing.wait(PATIENCE)
        # By then the session waits for the end of the thread. If it is late, it is interrupted where it makes no
        # difference.
        time.sleep(0.6)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.3)
        released.set()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with Session(Target(lambda _: Slow(MemoryStore()))) as session, pytest.raises(KeyboardInterrupt):
        execute(session, body)
    assert list(stores.iterdir()) == []
    interrupting.join()


def test_a_second_interrupt_leaves_no_store_behind(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, released = threading.Event(), threading.Event()
    cancel = _runner._Outcome.cancel

    async def body(kit: Kit) -> None:
        Path(kit.location).touch()
        began.set()
        released.wait(2 * PATIENCE)

    def interrupt(*_: object, **__: object) -> bool:
        assert began.wait(PATIENCE)
        raise KeyboardInterrupt

    def asked(outcome: _runner._Outcome) -> bool:
        monkeypatch.setattr(outcome.ended, "wait", interrupt)
        return cancel(outcome)

    monkeypatch.setattr(_runner._Outcome, "cancel", asked)
    monkeypatch.setattr(Session, "_await_end", interrupt)
    with Session(Target(memory)) as session, pytest.raises(KeyboardInterrupt):
        execute(session, body)
    assert session.abandoned == 1
    assert list(stores.iterdir()) == []
    released.set()
    join_check()


def test_the_store_of_a_check_that_never_ends_goes_with_the_session(
    stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, released = threading.Event(), threading.Event()

    async def body(kit: Kit) -> None:
        Path(kit.location).touch()
        began.set()
        released.wait(2 * PATIENCE)  # it holds the event loop of the check, so nothing there can remove the store

    def interrupt(*_: object) -> None:
        assert began.wait(PATIENCE)
        raise KeyboardInterrupt

    monkeypatch.setattr(_runner, "INTERRUPTED", 0.0)
    monkeypatch.setattr(Session, "_await_end", interrupt)
    with Session(Target(memory)) as session:
        with pytest.raises(KeyboardInterrupt):
            execute(session, body)
        assert [folder.name for folder in stores.glob("*/store")] == ["store"]
    assert list(stores.iterdir()) == []
    released.set()
    join_check()


class _Lost:
    """A child process whose end cannot be learnt."""

    def end_group(self) -> None:
        return

    async def end(self) -> None:
        raise ConnectionResetError("the fork server has died")


async def test_stores_are_removed_although_a_process_cannot_be_waited_for(stores: Path) -> None:
    kit = await Kit(Surroundings(Target(memory)), "test.body").__aenter__()
    Path(kit.location).touch()
    kit._children.append(_Lost())  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError):
        await kit.__aexit__(None, None, None)
    assert list(stores.iterdir()) == []


_KILLED = """
import asyncio, os, pathlib, signal
from stargraph.checkpoint.conformance import fresh_directory

async def main():
    async with fresh_directory() as location:
        pathlib.Path(location).touch()
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not lock directories")
async def test_the_store_of_a_process_that_was_killed_is_removed_by_the_next_run(stores: Path) -> None:
    assert subprocess.run([sys.executable, "-c", _KILLED], check=False).returncode == -signal.SIGKILL
    (left,) = stores.iterdir()
    assert (left / "store").exists()
    async with fresh_directory() as location:
        Path(location).touch()
        Session(Target(memory)).close()
        assert list(stores.iterdir()) == [Path(location).parent]
    assert list(stores.iterdir()) == []


async def test_a_directory_that_fills_up_while_it_is_removed_is_removed(
    stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmdir = os.rmdir
    made: list[str] = []

    def late_file(path: Any, **options: Any) -> None:
        if len(made) < 3:
            made.append(location)
            Path(location + "-wal").touch()
        rmdir(path, **options)

    async with fresh_directory() as location:
        Path(location).touch()
        monkeypatch.setattr(os, "rmdir", late_file)
    assert len(made) == 3
    assert list(stores.iterdir()) == []
