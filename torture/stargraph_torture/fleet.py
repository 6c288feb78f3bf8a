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

from support.workspace import ROOT

from stargraph_torture import worker
from stargraph_torture.worker import Assignment

_POLL = 0.02

SEARCH_PATH = os.pathsep.join((str(ROOT / "torture"), str(ROOT / "tests")))
"""The `PYTHONPATH` of processes that import this package."""


@dataclass
class _Member:
    assignment: Assignment
    process: ForkServerProcess
    commands: Connection
    handle: int  # a file descriptor that means this very process, while its number may soon be another's
    killed: bool = False
    retired: bool = False

    def signal(self, what: signal.Signals) -> None:
        if self.retired:
            return  # its handle is closed, and may be something else by now
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            signal.pidfd_send_signal(self.handle, what)

    def close(self) -> None:
        self.commands.close()
        self.process.close()
        os.close(self.handle)


class Fleet:
    """Workers that share one store.

    Args:
        assignments: one for each worker.

    Attributes:
        unexpected: exits that nobody caused.
    """

    def __init__(self, assignments: list[Assignment]) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["stargraph_torture.worker", "stargraph_torture.arenas"])
        self.unexpected: list[str] = []
        self._members = [self._spawn(assignment) for assignment in assignments]

    def _spawn(self, assignment: Assignment) -> _Member:
        # The warm process reads the path when it starts, with the first worker.
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = SEARCH_PATH if path is None else f"{SEARCH_PATH}{os.pathsep}{path}"
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
        assert process.pid is not None
        return _Member(assignment, process, ours, os.pidfd_open(process.pid))

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
        self._members[number].signal(signal.SIGKILL)

    def stop(self, number: int) -> None:
        """Stop a worker, which does not notice."""
        self._members[number].signal(signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        """Let a stopped worker go on."""
        self._members[number].signal(signal.SIGCONT)

    def command(self, number: int, command: str, argument: object) -> None:
        """Tell a worker to do something; one that is gone hears nothing."""
        try:
            self._members[number].commands.send((command, argument))
        except OSError:
            return

    async def watch(self) -> None:
        """Replace workers that were killed, until all have finished."""
        while self.at_work:
            for number in self.at_work:
                member = self._members[number]
                code = member.process.exitcode
                if code is None:
                    continue
                member.close()
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
            self._members[number].signal(signal.SIGUSR1)
        await asyncio.sleep(1)

    def end(self) -> None:
        """Kill what is left."""
        for member in self._members:
            if not member.retired:
                member.signal(signal.SIGKILL)
                member.process.join()
                member.close()
                member.retired = True
