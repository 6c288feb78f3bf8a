"""A worker process: it executes its runs to their ends, whatever happens to it, and does what the nemesis commands."""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import logging
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeVar

import time_machine

from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError
from stargraph_torture import nodes
from stargraph_torture.graphs import answer_all, durability_of, graph_of, load_graphs
from stargraph_torture.ledger import Ledger
from stargraph_torture.planted import PLANTED
from stargraph_torture.recorder import Recorder, Store

T = TypeVar("T")

FOUGHT: Final = "fought"
"""The file in the folder of a round that says that faults have come."""

_LOST_RACES = frozenset({"run-ended", "no-such-question", "busy-run"})
"""Refusals that a run meets when another executor was quicker."""


@dataclass(frozen=True)
class Assignment:
    """What a worker is to do.

    Attributes:
        number: which worker it is.
        folder: holds the graphs, the ledger, and what is written about the worker.
        open_store: makes its handle.
        run_ids: its runs, in order.
        at_once: how many of them it executes at the same time.
        environment: variables to set.
        planted: a bug to put between the engine and the driver, or nothing.
        is_fought: its last run waits for the file `FOUGHT`: however late the nemesis comes, somebody is at work.
    """

    number: int
    folder: Path
    open_store: Callable[[], Store]
    run_ids: tuple[str, ...]
    at_once: int
    environment: dict[str, str]
    planted: str | None = None
    is_fought: bool = False

    @property
    def finished(self) -> Path:
        """The file that names the runs of this worker that have ended."""
        return self.folder / f"finished-{self.number}"

    @property
    def complaints(self) -> Path:
        """The file that takes what the worker writes to its standard error."""
        return self.folder / f"stderr-{self.number}"


def main(assignment: Assignment, commands: Connection) -> None:
    """Be a worker process.

    Args:
        assignment: what to do.
        commands: from the nemesis.
    """
    os.environ.update(assignment.environment)
    descriptor = os.open(assignment.complaints, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    faulthandler.enable()
    warnings.simplefilter("error")
    logging.getLogger("stargraph").propagate = False
    asyncio.run(_Worker(assignment, commands).work())


class _Worker:
    def __init__(self, assignment: Assignment, commands: Connection) -> None:
        self._assignment = assignment
        self._commands = commands
        self._ledger = nodes.ledger = Ledger(assignment.folder / "ledger")
        self._graphs = load_graphs(assignment.folder)
        self._store = assignment.open_store()
        planted = self._store if assignment.planted is None else PLANTED[assignment.planted](self._store)
        self._recorder = Recorder(planted, self._ledger)
        self._sessions = itertools.count()
        self._executions: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(assignment.at_once)
        self._rng = random.Random(os.getpid())
        self._clock: time_machine.travel | None = None

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, _tell_what_runs)
        loop.set_exception_handler(_complain)
        logging.getLogger("stargraph").addHandler(_Logged(self._ledger))
        await self._patiently(self._recorder.bootstrap)
        loop.add_reader(self._commands.fileno(), self._obey)
        done = self._read_finished()
        async with asyncio.TaskGroup() as runs:
            for run_id in self._assignment.run_ids:
                if run_id not in done:
                    runs.create_task(self._drive(run_id))
        loop.remove_reader(self._commands.fileno())
        await asyncio.gather(*self._others)
        if self._clock is not None:
            self._clock.stop()
        await self._store.close()

    def _read_finished(self) -> set[str]:
        path = self._assignment.finished
        return set(path.read_text().split()) if path.exists() else set()

    async def _drive(self, run_id: str) -> None:
        """Execute a run again and again, until it has ended."""
        async with self._slots:
            if self._assignment.is_fought and run_id == self._assignment.run_ids[-1]:
                while not (self._assignment.folder / FOUGHT).exists():
                    await asyncio.sleep(0.02)
            while True:
                latest = await self._patiently(lambda: self._recorder.read_latest(run_id))
                if latest is not None and latest.status in ENDED:
                    break
                error = await self._supervised(run_id, latest)
                if isinstance(error, CheckpointConflictError):
                    await self._until_idle(run_id)
                elif error is not None:
                    await asyncio.sleep(self._rng.random() * 0.2)
        with self._assignment.finished.open("a") as finished:
            finished.write(f"{run_id}\n")

    async def _supervised(self, run_id: str, latest: Checkpoint | None) -> BaseException | None:
        work = asyncio.create_task(self._execute(run_id, latest))
        self._executions[run_id] = work
        await asyncio.wait({work})
        self._executions.pop(run_id, None)
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        self._judge(run_id, error)
        return error

    async def _execute(self, run_id: str, latest: Checkpoint | None) -> None:
        nodes.SESSION.set(f"{os.getpid()}-{next(self._sessions)}")
        run = await self._graphs[graph_of(run_id)].start(
            checkpointer=self._recorder, run_id=run_id, durability=durability_of(run_id)
        )
        summary = await (run.start() if latest is None else run.resume(max_resumes=10**6))
        if summary.status == "awaiting_input":
            asking = await self._recorder.read_latest(run_id)
            assert asking is not None
            await answer_all(run, asking)
        elif summary.status == "failed":
            self._ledger.add("odd", run=run_id, text=f"failed: {summary.error}")

    async def _rival(self, run_id: str) -> None:
        """Take a run over from whoever executes it."""
        latest = await self._patiently(lambda: self._recorder.read_latest(run_id))
        if latest is not None and latest.status not in ENDED:
            await self._supervised(run_id, latest)

    async def _cancel_run(self, run_id: str) -> None:
        self._ledger.add("cancelling", run=run_id)
        run = await self._graphs[graph_of(run_id)].start(checkpointer=self._recorder, run_id=run_id)
        try:
            await run.cancel(grace=self._rng.random())
        except CheckpointError as error:
            if error.reason != "run-not-found":
                self._judge(run_id, error)

    async def _until_idle(self, run_id: str) -> None:
        """Wait until a run that another executor has taken is ended, or makes no progress."""
        before: str | None = None
        while True:
            await asyncio.sleep(0.3 + self._rng.random())
            latest = await self._patiently(lambda: self._recorder.read_latest(run_id))
            if latest is None or latest.status in ENDED or latest.digest == before:
                return
            before = latest.digest

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except StoreUnavailableError as error:
                self._judge(None, error)
                await asyncio.sleep(self._rng.random() * 0.2)

    def _judge(self, run_id: str | None, error: BaseException | None) -> None:
        """Tell the ledger what went wrong; `odd` is what no fault excuses."""
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        if isinstance(error, (StoreUnavailableError, CheckpointConflictError)) or (
            isinstance(error, CheckpointError) and error.reason in _LOST_RACES
        ):
            self._ledger.add("refused", run=run_id, text=f"{type(error).__name__}({error.reason})")
        else:
            self._ledger.add("odd", run=run_id, text="".join(traceback.format_exception(error)))

    def _obey(self) -> None:
        while self._commands.poll():
            try:
                command, argument = self._commands.recv()
            except EOFError:
                os._exit(1)  # the harness is gone
            if command == "cancel":
                for work in list(self._executions.values()):
                    if self._rng.random() < argument:
                        work.cancel()
            elif command == "skew":
                self._skew(argument)
            else:
                act = {"rival": self._rival, "cancel run": self._cancel_run}[command]
                task = asyncio.create_task(act(argument))
                self._others.add(task)
                task.add_done_callback(self._others.discard)

    def _skew(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.stop()
        self._clock = time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True)
        self._clock.start()


class _Logged(logging.Handler):
    """Counts what a driver logs among what it raises."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.WARNING)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("stargraph.checkpoint."):  # the engine reports attempts and takeovers, as it should
            self._ledger.add("refused", run=None, text=f"logged: {record.msg}")


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Let nothing pass that nobody waited for, but what the clients leave behind when a connection is cut.

    aiohttp's ClientRequest.write_bytes ends in write_eof() outside of its own try, and nobody looks at that task.
    asyncpg's TLSUpgradeProto puts an error where nobody looks when connecting is given up in the first moment.
    """
    future = context.get("future")
    of_aiohttp = isinstance(future, asyncio.Task) and "ClientRequest.write_bytes" in repr(future.get_coro())
    of_asyncpg = str(context.get("exception")) == "unexpected connection_lost() call"
    if not (of_aiohttp or of_asyncpg):
        loop.default_exception_handler(context)


def _tell_what_runs() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)
    faulthandler.dump_traceback()
