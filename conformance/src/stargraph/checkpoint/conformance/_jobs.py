"""Run checks side by side, in processes that each have a session of their own (`_job`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn, Self

from stargraph.checkpoint.conformance._catalogue import catalogue
from stargraph.checkpoint.conformance._expect import HarnessError
from stargraph.checkpoint.conformance._interpreters import python_path
from stargraph.checkpoint.conformance._registry import Check
from stargraph.checkpoint.conformance._report import Result
from stargraph.checkpoint.conformance._runner import INTERRUPTED, Session

_ARGUMENTS: Final = ("spec", "seed", "deadline", "thorough", "patience")

STANDSTILL: Final = 60
"""Seconds that a process is silent until it counts as one that stands still. A busy machine may be silent for some."""

_POLL: Final = 0.25
"""Seconds between looks at whether ctrl-C was pressed, which interrupts no longer wait on Windows."""

_LEAVING: Final = 20.0
"""Seconds that a job has to end its processes and itself, once its check has ended or was left behind."""


class Jobs:
    """Processes that run the checks of a session.

    Args:
        session: gets the results.
        checks: what is run, with the checks that these need.
        progress: called with each result of `checks` as it comes, from any thread, one call at a time.
    """

    def __init__(
        self, session: Session, checks: Iterable[Check], progress: Callable[[Result], None] | None = None
    ) -> None:
        if not isinstance(session.spec, str):
            raise HarnessError("the target was given as an object: other processes need package.module:name")
        self._session = session
        self._chosen = list(checks)
        wanted = _with_needed(self._chosen)
        awaited = {check.id for check in _with_needed(check for check in wanted if check.waits)}
        # What takes long begins early, so that no job is left with it at the end, and before it what those need that
        # wait, which run beside the others; what measures time has the machine for itself.
        self._waiting = sorted(
            wanted, key=lambda check: (check.advisory, check.id not in awaited or not check.quick, check.quick)
        )
        self._running: set[str] = set()
        self._progress = progress
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._failures: list[BaseException] = []
        self._stopped = False

    def run(self, count: int) -> None:
        """Run all of them, so many at a time, and beside them, in one job more, one that waits.

        Raises:
            HarnessError: a job could not be started.
        """
        kinds = [False] * count + [True] * any(check.waits for check in self._waiting)
        threads = [threading.Thread(target=self._serve, args=(kind,), daemon=True) for kind in kinds]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_POLL)
        finally:
            self._stop()
        for failure in self._failures:
            raise failure

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
        self._begin_no_more()
        jobs = list(self._jobs)
        for job in jobs:
            job.terminate()
        for job in jobs:
            job.end()

    def _begin_no_more(self) -> None:
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def _serve(self, is_beside: bool) -> None:
        job = _Job(self._session)
        self._jobs.append(job)
        try:
            while (check := self._next(is_beside)) is not None:
                needed = {check_id: self._session.results[check_id] for check_id in check.needs}
                self._note(job.run(check, needed))
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits for all
            self._failures.append(error)
            self._begin_no_more()
        finally:
            job.end()

    def _next(self, is_beside: bool) -> Check | None:
        """Wait for a check that can be run now, and take it; None if there is none left.

        Args:
            is_beside: take none but those that wait. The others leave these for the end.
        """
        with self._changed:
            while left := [check for check in self._waiting if check.waits or not is_beside]:
                check = min(filter(self._can_run, left), key=lambda check: check.waits, default=None)
                if check is not None:
                    self._waiting.remove(check)
                    self._running.add(check.id)
                    return check
                self._changed.wait()
        return None

    def _can_run(self, check: Check) -> bool:
        if not self._is_ready(check):
            return False
        # One that measures has the machine for itself, once no other is left but those that need it.
        return not check.advisory or not (
            self._running or any(self._is_ready(other) for other in self._waiting if not other.advisory)
        )

    def _is_ready(self, check: Check) -> bool:
        return all(needed in self._session.results for needed in check.needs)

    def _note(self, result: Result) -> None:
        with self._changed:
            if self._stopped:
                return  # its process was told to end
            self._session.results[result.check.id] = result
            self._running.discard(result.check.id)
            if self._progress is not None and result.check in self._chosen:
                self._progress(result)
            self._changed.notify_all()


def _with_needed(checks: Iterable[Check]) -> list[Check]:
    known = {check.id: check for check in catalogue()}
    wanted: set[str] = set()
    open_ids = [check.id for check in checks]
    while open_ids:
        check_id = open_ids.pop()
        if check_id not in wanted:
            wanted.add(check_id)
            open_ids.extend(known[check_id].needs)
    return [check for check in catalogue() if check.id in wanted]


_STOOD_STILL: Final = (
    "the interpreter stood still: a call of the driver waits and holds the GIL meanwhile, so that nothing else in its "
    "process runs, not even a timeout; stderr tells what each thread was doing"
)


class _Watch:
    """Ends a process that does not say a word while it is asked something."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._word = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.stood_still = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._word.set()
        self._thread.join()

    def heard(self) -> None:
        """Take note of a word."""
        self._word.set()

    def _look(self) -> None:
        # Seconds are counted one by one: of those in which both processes were stopped (ctrl-Z) only one counts.
        silent = 0
        while not self._ended and silent < STANDSTILL:
            silent = 0 if self._word.wait(1) else silent + 1
            self._word.clear()
        if not self._ended:
            self.stood_still = True
            # SIGTERM waits for the interpreter; this does not, and tells where it stands.
            self._process.send_signal(signal.SIGABRT if sys.platform != "win32" else signal.SIGTERM)


class _Job:
    """One process, started at its first check, and again after one that it had to leave behind."""

    def __init__(self, session: Session) -> None:
        order = {name: getattr(session, name) for name in _ARGUMENTS}
        order |= {"keep": session.keep and str(session.keep), "path": sys.path}
        self._order = json.dumps(order)
        self._process: subprocess.Popen[str] | None = None
        self._is_new = True
        self._lock = threading.Lock()
        self._terminated = False

    def run(self, check: Check, needed: dict[str, Result]) -> Result:
        """Run a check; what the process was asked last is an error if it dies."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        known = {check_id: [result.verdict, result.message] for check_id, result in needed.items()}
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"check": check.id, "needed": known}) + "\n")
            process.stdin.flush()
        if self._is_new:
            process.stdout.readline()  # its first word: from now on it beats
            self._is_new = False
        with _Watch(process) as watch:
            while (line := process.stdout.readline()) == "\n":
                watch.heard()
        if not line.endswith("\n"):
            self.end()
            if watch.stood_still:
                return Result(check, "fail", _STOOD_STILL)
            return Result(check, "error", f"the process that ran it died with exit code {process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if answer.pop("last"):
            self.end()
        measurements = tuple((name, value, unit) for name, value, unit in answer.pop("measurements"))
        return Result(check, measurements=measurements, **answer)

    def _started(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._terminated:
                raise HarnessError("the kit was interrupted")
            if self._process is None:
                try:
                    self._process = subprocess.Popen(  # noqa: S603  # this interpreter
                        [sys.executable, "-m", "stargraph.checkpoint.conformance._job", self._order],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        env=os.environ | {"PYTHONPATH": python_path()},
                        encoding="utf-8",
                        # Out of reach of ctrl-C, except on Windows: `terminate` alone ends it, and nothing interrupts
                        # its cleaning up.
                        process_group=0,
                    )
                except OSError as error:
                    raise HarnessError(f"no process could be started: {error}") from error
                self._is_new = True
            return self._process

    def terminate(self) -> None:
        """Tell the process to end its check and itself; no other one is started."""
        with self._lock:
            self._terminated = True
            # On Windows it would end at once, with nothing cleaned up; there ctrl-C has reached it too.
            if self._process is not None and sys.platform != "win32":
                self._process.terminate()

    def end(self) -> None:
        """Wait for the end of the process, which has nothing more to do."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(INTERRUPTED + _LEAVING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def exit_when_terminated() -> None:
    """Let SIGTERM end this process as ctrl-C does: with what it leaves behind cleaned up."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _: FrameType | None) -> NoReturn:
    # `timeout` sends two of them, and the second one must not interrupt the cleaning up.
    signal.signal(number, _ignore)
    raise SystemExit(128 + number)


def _ignore(_: int, __: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN, this is not handed on to the processes that this one starts."""
