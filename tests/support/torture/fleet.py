"""Worker processes: started from a warm process, watched, and replaced when they were killed."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from support.torture import worker
from support.torture.worker import Assignment

_POLL = 0.02

TESTS = Path(__file__).parents[2]


@dataclass
class _Member:
    assignment: Assignment
    process: ForkServerProcess
    commands: Connection
    killed: bool = False
    stopped: bool = False
    retired: bool = False


class Fleet:
    """Workers that share one store.

    Args:
        assignments: one for each worker.

    Attributes:
        unexpected: exits that nobody caused.
    """

    def __init__(self, assignments: list[Assignment]) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["support.torture.worker", "support.torture.arenas"])
        self.unexpected: list[str] = []
        self._members = [self._spawn(assignment) for assignment in assignments]

    def _spawn(self, assignment: Assignment) -> _Member:
        # The warm process reads the path when it starts, with the first worker.
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(TESTS) if path is None else f"{TESTS}{os.pathsep}{path}"
        theirs, ours = self._context.Pipe(duplex=False)
        process = self._context.Process(target=worker.main, args=(assignment, theirs), daemon=True)
        try:
            process.start()
        finally:
            theirs.close()
            if path is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = path
        return _Member(assignment, process, ours)

    @property
    def at_work(self) -> list[int]:
        """The workers that have not finished, by their numbers."""
        return [number for number, member in enumerate(self._members) if not member.retired]

    def open_runs(self, number: int) -> list[str]:
        """Return the runs that a worker is most likely executing.

        Args:
            number: the worker.
        """
        assignment = self._members[number].assignment
        done = set(assignment.finished.read_text().split()) if assignment.finished.exists() else set()
        return [run_id for run_id in assignment.run_ids if run_id not in done][: assignment.at_once]

    def kill(self, number: int) -> None:
        """End a worker at once; another one takes its place."""
        self._members[number].killed = True
        self._members[number].process.kill()

    def stop(self, number: int) -> None:
        """Stop a worker, which does not notice."""
        self._members[number].stopped = True
        self._signal(number, signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        """Let a stopped worker go on."""
        self._members[number].stopped = False
        self._signal(number, signal.SIGCONT)

    def command(self, number: int, command: str, argument: object) -> None:
        """Tell a worker to do something; one that is gone hears nothing."""
        try:
            self._members[number].commands.send((command, argument))
        except OSError:
            return

    def _signal(self, number: int, what: signal.Signals) -> None:
        process = self._members[number].process
        if process.pid is not None and process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, what)

    async def watch(self) -> None:
        """Replace workers that were killed, until all have finished."""
        while self.at_work:
            for number in self.at_work:
                member = self._members[number]
                code = member.process.exitcode
                if code is None:
                    continue
                member.commands.close()
                member.process.close()
                if code == 0:
                    member.retired = True
                    continue
                if not member.killed:
                    self.unexpected.append(f"worker {number} exited with {code}")
                self._members[number] = self._spawn(member.assignment)
            await asyncio.sleep(_POLL)

    async def ask_what_runs(self) -> None:
        """Have every worker write down where it stands."""
        for number in self.at_work:
            self._signal(number, signal.SIGUSR1)
        await asyncio.sleep(1)

    def end(self) -> None:
        """Kill what is left."""
        for member in self._members:
            if not member.retired:
                member.process.kill()
                member.process.join()
                member.commands.close()
                member.process.close()
                member.retired = True
