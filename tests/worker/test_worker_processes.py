"""Workers on a SQLite file: signals, blocked loops, and runs that end the process that executes them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.cli import command
from support.processes import is_gone

from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph
from stargraph.worker import Worker
from stargraph.worker._taken import TakenRuns

pytestmark = pytest.mark.thorough

GRAPH = """\
id: demo
state_schema:
  how: {type: str, default: fine}
  pids: {type: "list[int]", default: []}
nodes:
  - {id: first, kind: "steps:first"}
  - {id: second, kind: "steps:second"}
  - {id: third, kind: "steps:first"}
"""

STEPS = """\
import asyncio, os, threading, time
from pathlib import Path

HERE = Path(__file__).parent

def listens():
    return any(thread.name == "stargraph-worker" for thread in threading.enumerate())

def first(state):
    return {"pids": [*state.pids, os.getpid()]}

async def second(state, ctx):
    (HERE / f"begun-{ctx.run_id}").write_text(str(os.getpid()))
    if state.how == "dies":
        os._exit(9)
    while state.how == "blocks" and not (HERE / "released").exists():
        time.sleep(0.02)
    while state.how == "waits" and not (HERE / "released").exists():
        await asyncio.sleep(0.02)
    while state.how == "outlives" and listens():  # until it has heard of the end of its worker
        await asyncio.sleep(0.02)
    await asyncio.sleep(0)  # what it has heard is on the loop by now
    if state.how == "endless":
        await asyncio.sleep(600)
    return {"pids": [*state.pids, os.getpid()]}
"""


class Place:
    """A folder with a graph and a store."""

    def __init__(self, folder: Path, store: SQLiteCheckpointer) -> None:
        self.folder = folder
        self.store = store
        self.target = str(folder / "graph.yaml")
        self.url = str(folder / "runs.sqlite")

    async def enqueue(self, run_id: str, how: str = "fine", deaths: int = 0) -> None:
        """Enqueue a run, and leave it as so many processes would that have died with it."""
        await Graph.from_file(self.target).enqueue(self.store, {"how": how}, run_id=run_id)
        for number in range(deaths):
            record = (await self.latest(run_id)).next(
                event="resumed",
                status="running",
                executor_id=f"{number:032x}",
                timestamp=datetime.now(UTC),
                process=ProcessInfo(host="gone", pid=1, version="1", id=f"{number:016x}"),
            )
            await self.store.write(record)

    async def latest(self, run_id: str) -> Checkpoint:
        found = await self.store.read_latest(run_id)
        assert found is not None
        return found

    def worker(self, **options: Any) -> Worker:
        return Worker(self.url, [self.target], **{"until_idle": True, "handle_signals": False, "poll": 0.1, **options})

    def spawn(self, *words: str) -> subprocess.Popen[str]:
        call = command("worker", self.target, "--checkpoint", self.url, "--poll", "0.1", *words)
        return subprocess.Popen(call, cwd=self.folder, stderr=subprocess.PIPE, text=True)

    def pid_of(self, run_id: str) -> int | None:
        path = self.folder / f"begun-{run_id}"
        text = path.read_text() if path.exists() else ""
        return int(text) if text else None


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "graph.yaml").write_text(GRAPH)
    (tmp_path / "steps.py").write_text(STEPS)
    async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
        yield Place(tmp_path, store)


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await met():  # another process does what it waits for
            await asyncio.sleep(0.05)


async def begun(place: Place, run_id: str) -> int:
    async def has_begun() -> bool:
        return place.pid_of(run_id) is not None

    await until(has_begun)
    pid = place.pid_of(run_id)
    assert pid is not None
    return pid


async def test_a_node_that_blocks_the_loop_does_not_silence_the_worker(place: Place) -> None:
    await place.enqueue("r", "blocks")
    beats = 0

    async def listen() -> None:
        """Count how often it is heard again while the node blocks; give up after a minute."""
        nonlocal beats
        silent, deadline = 0.0, time.monotonic() + 60
        try:
            async with SQLiteCheckpointer(place.url) as store:
                while beats < 3 and time.monotonic() < deadline:
                    if place.pid_of("r") is not None:
                        (heard,) = await store.processes()
                        beats += heard.silent_seconds < silent
                        silent = heard.silent_seconds
                    await asyncio.sleep(0.02)
        finally:
            (place.folder / "released").touch()

    listening = threading.Thread(target=lambda: asyncio.run(listen()))
    listening.start()
    await place.worker(silent_after=1.5).run()
    listening.join()
    assert beats == 3


@pytest.mark.parametrize(("how", "status"), [("fine", "done"), ("dies", "failed")])
async def test_a_suspicious_run_is_executed_in_a_process_of_its_own(
    place: Place, how: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    await place.enqueue("suspect", how, deaths=2)
    await place.enqueue("neighbour")
    with caplog.at_level(logging.INFO, "stargraph"):
        metrics = await place.worker(silent_after=5.0).run()
    suspect, neighbour = await place.latest("suspect"), await place.latest("neighbour")
    assert (suspect.status, neighbour.status) == (status, "done")
    assert set(neighbour.state["pids"]) == {os.getpid()}
    assert place.pid_of("suspect") != os.getpid()
    # Its first node completes in the first of them, so that four deaths are counted again.
    assert metrics.isolated == (1 if how == "fine" else 4)
    if how == "fine":
        assert set(suspect.state["pids"]) == {place.pid_of("suspect")}
        # Its log is written as that of the worker is.
        (ended,) = [record for record in caplog.records if record.getMessage().startswith("run suspect: done")]
        assert (ended.process, getattr(ended, "run_id", None)) == (place.pid_of("suspect"), "suspect")
    else:
        assert suspect.error is not None
        assert (suspect.error.reason, suspect.error.node) == ("poison", "second")
    assert await place.store.processes() == []


async def test_a_run_whose_process_has_died_is_taken_again_however_late_its_task_ends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the queue in between reserves the run: whoever then leaves it alone keeps it from all others."""
    await place.enqueue("suspect", "dies", deaths=2)
    claimable, leave, looks = SQLiteCheckpointer.claimable, SQLiteCheckpointer.leave, list[int]()
    left: list[str] = []

    async def counted(self: SQLiteCheckpointer, *arguments: Any, **options: Any) -> Any:
        found = await claimable(self, *arguments, **options)
        looks.append(len(found))
        return found

    async def late(self: SQLiteCheckpointer, process_id: str) -> None:
        await leave(self, process_id)
        left.append(process_id)
        if process_id != ProcessInfo.current().id:
            before = len(looks)

            async def has_looked() -> bool:
                return len(looks) > before + 1  # one may have been under way

            await until(has_looked)

    monkeypatch.setattr(SQLiteCheckpointer, "claimable", counted)
    monkeypatch.setattr(SQLiteCheckpointer, "leave", late)
    metrics = await place.worker(silent_after=60.0).run()
    suspect = await place.latest("suspect")
    assert (suspect.status, metrics.isolated, metrics.poisoned) == ("failed", 4, 1)
    assert len(left) == 5


async def test_what_goes_wrong_after_a_process_has_died_is_logged_with_the_run(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await place.enqueue("suspect", "dies", deaths=2)
    leave, refused = SQLiteCheckpointer.leave, list[str]()

    async def refuses(self: SQLiteCheckpointer, process_id: str) -> None:
        if process_id != ProcessInfo.current().id and not refused:
            refused.append(process_id)
            raise RuntimeError("no")
        await leave(self, process_id)

    def logged() -> list[str]:
        return [text for text in caplog.messages if "could not execute it" in text]

    async def is_logged() -> bool:
        return bool(logged())

    monkeypatch.setattr(SQLiteCheckpointer, "leave", refuses)
    at_work = asyncio.create_task(place.worker(silent_after=60.0).run())
    try:
        await until(is_logged)
    finally:
        at_work.cancel()
        await asyncio.gather(at_work, return_exceptions=True)
    assert [text.partition(":")[0] for text in logged()] == ["run suspect"]


async def test_a_culprit_ends_one_worker_if_runs_are_isolated_after_one_death(place: Place) -> None:
    await place.enqueue("suspect", "dies", deaths=1)
    await place.enqueue("neighbour")
    metrics = await place.worker(silent_after=5.0, isolate_after=1).run()
    suspect, neighbour = await place.latest("suspect"), await place.latest("neighbour")
    assert (suspect.status, neighbour.status) == ("failed", "done")
    assert suspect.error is not None
    assert suspect.error.reason == "poison"
    assert place.pid_of("suspect") != os.getpid()
    assert metrics.isolated == 4


async def test_a_drain_reaches_the_process_of_an_isolated_run(place: Place) -> None:
    await place.enqueue("r", "endless", deaths=2)
    worker = place.worker(until_idle=False, grace=0.2)
    running = asyncio.ensure_future(worker.run())
    pid = await begun(place, "r")
    worker.drain()
    await running
    record = await place.latest("r")
    assert (record.event, record.status) == ("queued", "queued")
    assert is_gone(pid)


async def test_a_drain_reaches_a_process_that_just_begins(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.enqueue("r", "endless", deaths=2)
    worker = place.worker(until_idle=False, grace=0.2)
    create, pause, paused = asyncio.create_subprocess_exec, TakenRuns.pause, list[TakenRuns]()

    def counted(taken: TakenRuns) -> None:
        paused.append(taken)
        pause(taken)

    async def both() -> bool:
        return len(paused) == 2

    async def drained_meanwhile(*words: str, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*words, **options)
        worker.drain()
        await until(both)  # the worker says it again when it ends its executions
        return process

    monkeypatch.setattr(TakenRuns, "pause", counted)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", drained_meanwhile)
    await worker.run()
    record = await place.latest("r")
    assert (record.event, record.status) == ("queued", "queued")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
async def test_an_isolated_run_does_not_outlive_its_worker(place: Place) -> None:
    await place.enqueue("r", "outlives", deaths=2)
    member = place.spawn()
    pid = await begun(place, "r")
    member.kill()
    member.communicate()

    async def is_left() -> bool:
        return (await place.latest("r")).status == "queued"

    await until(is_left)
    assert len((await place.latest("r")).state["pids"]) == 2  # what ran has ended, and nothing more has begun

    async def has_ended() -> bool:
        return is_gone(pid)

    await until(has_ended)


async def drains(member: subprocess.Popen[str]) -> str:
    """Wait until a worker says that it drains, and return the line."""
    assert member.stderr is not None
    while "the worker drains" not in (line := await asyncio.to_thread(member.stderr.readline)):
        assert line, "it ended at the first signal"
    return line


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
async def test_the_first_signal_drains_and_the_second_ends_at_once(place: Place) -> None:
    await place.enqueue("r", "waits")
    member = place.spawn("--grace", "300")
    await begun(place, "r")
    member.send_signal(signal.SIGTERM)
    said = await drains(member)
    assert "the worker drains: 1 runs have 300 s to come to rest" in said
    (place.folder / "released").touch()
    said += (await asyncio.to_thread(member.communicate))[1]
    assert member.returncode == 0, said
    record = await place.latest("r")
    assert (record.status, len(record.state["pids"])) == ("queued", 2)
    await place.enqueue("e", "endless")
    member = place.spawn("--grace", "600")
    await begun(place, "e")
    member.send_signal(signal.SIGTERM)
    await drains(member)  # two signals that are sent at once may arrive as one
    member.send_signal(signal.SIGTERM)
    await asyncio.to_thread(member.communicate)
    assert member.returncode == 128 + signal.SIGTERM
    assert (await place.latest("e")).status == "running"


async def test_a_store_that_is_refused_ends_the_worker_with_a_reason(place: Place) -> None:
    (place.folder / "no-store.sqlite").write_text("this is no database, whatever its name says" * 100)
    call = command("worker", place.target, "--checkpoint", str(place.folder / "no-store.sqlite"), "--log-level", "off")
    ended = await asyncio.to_thread(subprocess.run, call, capture_output=True, text=True, check=False)
    assert ended.returncode == 7
    assert ended.stderr.startswith("error: ")
