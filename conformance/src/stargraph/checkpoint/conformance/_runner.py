"""Run checks, each in a thread and an event loop of its own, so that no driver can hang the kit."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from stargraph.checkpoint.conformance import _forks
from stargraph.checkpoint.conformance._capabilities import HOOKS, PROTOCOLS, Capability, hook_name
from stargraph.checkpoint.conformance._catalogue import catalogue
from stargraph.checkpoint.conformance._expect import HarnessError, NotEvaluated, Violation, error_line
from stargraph.checkpoint.conformance._forks import ForkServer
from stargraph.checkpoint.conformance._kit import PATIENCE, Kit, Surroundings
from stargraph.checkpoint.conformance._neighbours import Neighbours
from stargraph.checkpoint.conformance._registry import Check
from stargraph.checkpoint.conformance._report import Report, Result, Verdict, environment
from stargraph.checkpoint.conformance._target import Target, load_target, remove_abandoned_stores

_GRACE: Final = 2.0
"""Seconds that a cancelled check has to end before it is left behind."""

INTERRUPTED: Final = 10.0
"""Seconds that a check has to end, with its processes and stores, once the kit is interrupted."""

_TEARDOWN: Final = 60.0
"""Seconds that closing the handles and removing the stores of a check may take, after the check itself."""

_ROUND_TRIPS: Final = 4
"""How many round trips a call of the driver may take before the deadline of its check counts it."""

_STRETCH: Final = 4
"""How many times its deadline a check gets while its calls come back: the machine may be busy with something else."""

_LOOK: Final = 0.25
"""Seconds between two looks at a check."""

_LOOKS: Final = 20
"""How many round trips a driver may need for what it does a little later, beside the patience of the kit."""

_PROBES: Final = 5

_LEAST_TOLERANCE: Final = timedelta(minutes=1)
"""What every server allows: clocks that are synchronised differ, and requests take time."""


@dataclass(slots=True)
class _Outcome:
    """What a check's thread leaves behind.

    Attributes:
        body_ended: the check itself has ended; its handles are still to be closed and its stores to be removed.
        ended: all has ended. Not `Thread.join`, which takes a thread for ended once it was interrupted (Python 3.11).
    """

    verdict: Verdict = "pass"
    message: str = ""
    details: str = ""
    kit: Kit | None = None
    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[None] | None = None
    body_ended: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _cancelled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Let the current task be the one that `cancel` cancels.

        Raises:
            CancelledError: it was cancelled before it began.
        """
        with self._lock:
            if self._cancelled:
                raise asyncio.CancelledError
            self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel(self, *, teardown: bool = False) -> bool:
        """Cancel the check, from another thread; one that has not begun then never does.

        Args:
            teardown: also cancel the closing of its handles and the removal of its stores, which is otherwise left to
                run to its end.

        Returns:
            Whether the check has begun, so that its thread has an end to wait for.
        """
        with self._lock:
            self._cancelled = True
            if self.loop is None:
                return False
            with suppress(RuntimeError):  # the loop has closed meanwhile
                self.loop.call_soon_threadsafe(self._cancel_task, teardown)
            return True

    def _cancel_task(self, teardown: bool) -> None:
        # Asked only here, on the loop of the check, where its body cannot end in between.
        if self.task is not None and (teardown or not self.body_ended.is_set()):
            self.task.cancel()


@dataclass(slots=True)
class Session:
    """One target, and what became of the checks that were run on it so far.

    Use it as a context manager, or `close` it: it may hold processes.

    Attributes:
        spec: the target as `package.module:name`, or the target itself.
        seed: what chance is seeded with.
        deadline: how much longer than by default a check may take.
        thorough: whether a check that can look longer should.
        keep: the folder for the stores of checks that fail, or None.
        patience: seconds that checks wait for what a driver may do a little later; round trips come on top.
        results: what became of the checks that were run, by their ids.
        abandoned: how many checks could not be ended; their threads are left behind.
        round_trip: seconds that a read of the driver takes, as measured before the first check.
    """

    spec: str | Target
    seed: int = 0
    deadline: float = 1.0
    thorough: bool = True
    keep: Path | None = None
    patience: float = PATIENCE
    results: dict[str, Result] = field(default_factory=dict)
    abandoned: int = 0
    round_trip: float = 0.0
    _target: Target | None = None
    _driver: str | None = None
    _declared: frozenset[Capability] | None = None
    _provided: frozenset[Capability] = frozenset()
    _versions: dict[str, str] | None = None
    _neighbours: Neighbours | None = None
    _fork_server: ForkServer | None = None
    _left_behind: list[Kit] = field(default_factory=list)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of this session, and remove the stores that checks and processes have left behind."""
        if self._neighbours is not None:
            self._neighbours.end()
        if self._fork_server is not None:
            self._fork_server.close()
        for kit in self._left_behind:
            kit._discard()
        remove_abandoned_stores()

    @property
    def target(self) -> Target:
        """The target, imported at first use.

        Raises:
            HarnessError: it cannot be imported, or names a check or a module that there is not.
        """
        if self._target is None:
            target = load_target(self.spec) if isinstance(self.spec, str) else self.spec
            unknown = sorted(set(target.expected_failures) - {check.id for check in catalogue()})
            if unknown:
                raise HarnessError(f"expected_failures names {', '.join(unknown)}: there is no such check")
            missing = [module for module in target.preload if not _is_found(module)]
            if missing:
                raise HarnessError(f"preload names {', '.join(missing)}: there is no such module")
            if target.clock_tolerance is not None and target.clock_tolerance < _LEAST_TOLERANCE:
                raise HarnessError(f"clock_tolerance is {target.clock_tolerance}; it must be at least a minute")
            self._target = target
            if isinstance(self.spec, str) and target.processes:
                self._neighbours = Neighbours(self.spec)
                self._fork_server = ForkServer(target.preload) if _forks.AVAILABLE else None
        return self._target

    @property
    def driver(self) -> str:
        """The class of the driver."""
        self._look()
        return self._driver or "unknown"

    def result(self, check: Check) -> Result:
        """Return what becomes of a check; it is run once, and first the checks that it needs."""
        if check.id not in self.results:
            self.results[check.id] = self._judge(check)
        return self.results[check.id]

    def prepare(self) -> None:
        """Learn what each report says of the driver and its server; once interrupted, a session asks them nothing."""
        self._look()
        if self._versions is None:
            try:
                self._versions = {} if self.target.versions is None else dict(self.target.versions())
            except Exception as error:
                raise HarnessError(f"the target could not tell its versions: {error_line(error)}") from error

    def report(self, *, interrupted: int | None = None) -> Report:
        """The report of what was run so far.

        Args:
            interrupted: the exit code if checks are left that were to be run; None if all of them were.
        """
        if interrupted is None:
            self.prepare()
        order = {check.id: place for place, check in enumerate(catalogue())}
        return Report(
            self.spec if isinstance(self.spec, str) else repr(self.spec.open),
            self._driver or "unknown",
            self.seed,
            catalogue(),
            tuple(sorted(self.results.values(), key=lambda result: order[result.check.id])),
            environment(),
            started=self._started,
            options={"quick": not self.thorough, "deadline": self.deadline},
            capabilities=tuple(sorted(self._declared or ())),
            versions=self._versions or {},
            interrupted=interrupted,
        )

    def _judge(self, check: Check) -> Result:
        known = {other.id: other for other in catalogue()}
        for needed in check.needs:
            before = self.result(known[needed])
            if before.verdict in ("skip", "blocked"):
                return Result(check, before.verdict, before.message)
            if before.verdict != "pass":
                return Result(check, "blocked", f"{needed} did not pass ({before.verdict})")
        self._look()
        if check.processes and not self.target.processes:
            return Result(check, "skip", "the target says that other processes cannot open its store")
        if check.capability is not None and check.capability not in self.declared():
            return Result(check, "skip", f"{check.capability}: not declared")
        if check.capability is not None and check.capability not in self._provided:
            return Result(check, "fail", f"{check.capability}: declared, but {_lacking(check.capability)}")
        result = self._execute(check)
        link = None if check.required else self.target.expected_failures.get(check.id)
        if link is None or result.verdict not in ("pass", "fail"):
            return result
        if result.verdict == "pass":
            return Result(check, "fail", f"it passes, but is an expected failure ({link}): take it off that list")
        return Result(check, "expected-failure", f"{result.message} ({link})", result.details, result.seconds)

    def declared(self) -> frozenset[Capability]:
        """The capabilities that the target declares, or that the driver's methods say."""
        self._look()
        return self._declared or frozenset()

    def _look(self) -> None:
        """Open the driver once to see what it is, and how long it takes to answer."""
        if self._declared is not None:
            return
        target = self.target
        provided = {name for name in HOOKS if getattr(target, hook_name(name)) is not None}
        seen: list[object] = []

        async def look(kit: Kit) -> None:
            handle = await kit.unready()
            seen.append(handle.driver)
            await handle.bootstrap()
            times = []
            for _ in range(_PROBES):
                began = time.perf_counter()
                await handle.read_latest("nobody")
                times.append(time.perf_counter() - began)
            self.round_trip = sorted(times)[_PROBES // 2]

        self._declared = frozenset()
        self._execute(Check("kit.look", "", "", "", look))
        for driver in seen:
            self._driver = f"{type(driver).__module__}.{type(driver).__qualname__}"
            provided |= {name for name, protocol in PROTOCOLS.items() if isinstance(driver, protocol)}
            own = [module for module in target.preload if f"{type(driver).__module__}.".startswith(f"{module}.")]
            if own:
                self._declared = None
                raise HarnessError(f"preload names {', '.join(own)}, which is the driver's own: take it off")
        self._provided = frozenset(provided)
        self._declared = self._provided if target.capabilities is None else target.capabilities

    def _execute(self, check: Check) -> Result:
        spec = self.spec if isinstance(self.spec, str) else None
        declared = self._declared or frozenset()
        surroundings = Surroundings(
            self.target,
            spec,
            self.seed,
            self.thorough,
            declared,
            self._neighbours,
            self._fork_server,
            self.keep,
            self.patience + _LOOKS * self.round_trip,
        )
        kit = Kit(surroundings, check.id)
        outcome = _Outcome(kit=kit)
        thread = threading.Thread(target=_in_thread, args=(check, outcome), name=check.id, daemon=True)
        started = time.perf_counter()
        try:
            # It waits until the thread runs, and that wait can be interrupted too.
            thread.start()
            outcome = self._await_end(thread, outcome, check.deadline * self.deadline)
        except BaseException:  # ctrl-C, or a signal that ends the process
            try:
                if outcome.cancel():
                    outcome.ended.wait(INTERRUPTED)
            finally:  # that wait can be interrupted as well
                if outcome.loop is not None and not outcome.ended.is_set():
                    self._leave_behind(kit)
            raise
        return Result(
            check,
            outcome.verdict,
            outcome.message,
            "\n".join(filter(None, (outcome.details, kit.unkept))),
            time.perf_counter() - started,
            tuple(kit.measurements),
        )

    def _await_end(self, thread: threading.Thread, outcome: _Outcome, seconds: float) -> _Outcome:
        """Wait for a check, for so many seconds and a few round trips for each call that it has made.

        If a call has not come back by then, the check ends; if its calls come back, it gets `_STRETCH` times as long.
        """
        assert outcome.kit is not None
        log, passed, looked = outcome.kit.log, 0.0, time.monotonic()
        while not outcome.body_ended.wait(min(seconds, _LOOK)):
            allowed = seconds + log.ended * _ROUND_TRIPS * self.round_trip
            # Of a time in which this process stood still as well, next to nothing counts: the machine did, or slept.
            passed, looked = passed + min(time.monotonic() - looked, 2 * _LOOK), time.monotonic()
            if passed > allowed and log.longest() > allowed / 2:
                return self._overdue(thread, outcome, allowed)
            if passed > allowed * _STRETCH:
                return self._overdue(thread, outcome, allowed * _STRETCH)
        if not outcome.ended.wait(_TEARDOWN):
            return self._overdue(thread, outcome, _TEARDOWN)
        return outcome

    def _overdue(self, thread: threading.Thread, outcome: _Outcome, seconds: float) -> _Outcome:
        """End a check that has had its time; leave its thread behind if it does not end."""
        assert outcome.kit is not None
        log = outcome.kit.log
        hangs = log.longest() > seconds / 2
        doing = "; ".join(list(log.current.values())[:3]) or "no call of the driver"
        if hangs:
            message = f"it did not finish within {seconds:.3g} seconds; unfinished: {doing}"
        else:
            message = (
                f"it was still going on after {seconds:.3g} seconds and {log.ended} calls, of which none hung"
                f" (a read takes {self.round_trip * 1000:.3g} ms); --deadline gives it more time"
            )
        outcome.cancel(teardown=True)
        if outcome.ended.wait(_GRACE):
            return _Outcome("fail" if hangs else "too-slow", message, kit=outcome.kit)
        self._leave_behind(outcome.kit)
        frame = sys._current_frames().get(thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)[-4:]) if frame else ""
        return _Outcome("fail", f"{message}; it cannot be cancelled either", stack, outcome.kit)

    def _leave_behind(self, kit: Kit) -> None:
        self.abandoned += 1
        self._left_behind.append(kit)


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _lacking(capability: Capability) -> str:
    protocol = PROTOCOLS.get(capability)
    return f"the driver lacks methods of {protocol.__name__}" if protocol else "the target has no hook for it"


def _in_thread(check: Check, outcome: _Outcome) -> None:
    try:
        asyncio.run(_play(check, outcome))
    except asyncio.CancelledError:
        return
    except BaseException as error:  # noqa: BLE001  # judged, never dropped: it becomes the verdict
        _classify(error, outcome)
    finally:
        outcome.body_ended.set()
        outcome.ended.set()


async def _play(check: Check, outcome: _Outcome) -> None:
    assert outcome.kit is not None
    outcome.begin()
    async with outcome.kit as kit:
        try:
            await check.body(kit)
        finally:
            outcome.body_ended.set()


def _classify(error: BaseException, outcome: _Outcome) -> None:
    """Tell the driver's failures from the kit's own."""
    assert outcome.kit is not None
    source = outcome.kit.log.source_of(error)
    if isinstance(error, Violation):
        outcome.verdict, outcome.message = "fail", str(error)
    elif isinstance(error, NotEvaluated):
        outcome.verdict, outcome.message = "skip", str(error)
    elif source is not None and not isinstance(error, HarnessError):
        outcome.verdict, outcome.message = "fail", f"{source} raised {error_line(error)}"
    else:
        outcome.verdict, outcome.message = "error", error_line(error)
        outcome.details = "" if isinstance(error, HarnessError) else "".join(traceback.format_exception(error)[-8:])
        return
    raised = error.__cause__ if isinstance(error, Violation) else error
    if raised is not None:
        outcome.details = _driver_frames(raised)


def _driver_frames(error: BaseException) -> str:
    """The part of a traceback that is neither the kit's nor asyncio's, and the exception with its notes."""
    others = (str(Path(__file__).parent), str(Path(asyncio.__file__).parent))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return "".join(traceback.format_list(frames[-6:])) + "".join(traceback.format_exception_only(error))
