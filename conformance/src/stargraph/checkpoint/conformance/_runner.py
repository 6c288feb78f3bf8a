"""Run checks, each in a thread and an event loop of its own, so that no driver can hang the kit."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from stargraph.checkpoint.conformance._catalogue import catalogue
from stargraph.checkpoint.conformance._findings import Finding, HarnessError, NotEvaluated, told
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import HOOKS, PROTOCOLS, Capability, Check
from stargraph.checkpoint.conformance._report import Report, Result, Verdict, describe_driver, environment
from stargraph.checkpoint.conformance._target import Target, load_target

_GRACE: Final = 2.0
"""Seconds that a cancelled check has to end before it is left behind."""


@dataclass(slots=True)
class _Outcome:
    """What a check's thread leaves behind."""

    verdict: Verdict = "pass"
    message: str = ""
    details: str = ""
    kit: Kit | None = None
    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Session:
    """One target, and what became of the checks that were run on it so far.

    Attributes:
        spec: the target as `package.module:name`, or the target itself.
        seed: what chance is seeded with.
        deadline: how much longer than by default a check may take.
        thorough: whether a check that can look longer should.
        results: what became of the checks that were run, by their ids.
        abandoned: how many checks could not be ended; their threads are left behind.
    """

    spec: str | Target
    seed: int = 0
    deadline: float = 1.0
    thorough: bool = True
    results: dict[str, Result] = field(default_factory=dict)
    abandoned: int = 0
    _target: Target | None = None
    _driver: str | None = None
    _declared: frozenset[Capability] | None = None
    _provided: frozenset[Capability] = frozenset()

    @property
    def target(self) -> Target:
        """The target, imported at first use.

        Raises:
            HarnessError: it cannot be imported, or names a check that there is not.
        """
        if self._target is None:
            target = load_target(self.spec) if isinstance(self.spec, str) else self.spec
            unknown = sorted(set(target.expected_failures) - {check.id for check in catalogue()})
            if unknown:
                raise HarnessError(f"expected_failures names {', '.join(unknown)}: there is no such check")
            self._target = target
        return self._target

    @property
    def driver(self) -> str:
        """The driver in words."""
        self._look()
        return self._driver or "unknown"

    def result(self, check: Check) -> Result:
        """Return what becomes of a check; it is run once, and first the checks that it needs."""
        if check.id not in self.results:
            self.results[check.id] = self._judge(check)
        return self.results[check.id]

    def report(self) -> Report:
        """The report of what was run so far."""
        order = {check.id: place for place, check in enumerate(catalogue())}
        return Report(
            self.spec if isinstance(self.spec, str) else repr(self.spec.open),
            self.driver,
            self.seed,
            catalogue(),
            tuple(sorted(self.results.values(), key=lambda result: order[result.check.id])),
            environment(),
        )

    def _judge(self, check: Check) -> Result:
        known = {other.id: other for other in catalogue()}
        for needed in check.needs:
            before = self.result(known[needed])
            if before.verdict in ("skip", "blocked"):
                return Result(check, before.verdict, before.message)
            if before.verdict != "pass":
                return Result(check, "blocked", f"{needed} did not pass ({before.verdict})")
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
        """Open the driver once to see what it is."""
        if self._declared is not None:
            return
        target = self.target
        hooks = (target.stored_bytes, target.newer_format)
        provided = {name for name, hook in zip(HOOKS, hooks, strict=True) if hook is not None}
        seen: list[object] = []

        async def look(kit: Kit) -> None:
            seen.append((await kit.unready()).driver)

        self._execute(Check("kit.look", "", "", "", look))
        for driver in seen:
            self._driver = describe_driver(driver)
            provided |= {name for name, protocol in PROTOCOLS.items() if isinstance(driver, protocol)}
        self._provided = frozenset(provided)
        self._declared = self._provided if target.capabilities is None else target.capabilities

    def _execute(self, check: Check) -> Result:
        spec = self.spec if isinstance(self.spec, str) else None
        kit = Kit(self.target, spec, self.seed, check.id, thorough=self.thorough)
        outcome = _Outcome(kit=kit)
        seconds = check.deadline * self.deadline
        thread = threading.Thread(target=_in_thread, args=(check, outcome), name=check.id, daemon=True)
        started = time.perf_counter()
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            outcome = self._overdue(thread, outcome, seconds)
        return Result(
            check,
            outcome.verdict,
            outcome.message,
            outcome.details,
            time.perf_counter() - started,
            tuple(kit.measurements),
        )

    def _overdue(self, thread: threading.Thread, outcome: _Outcome, seconds: float) -> _Outcome:
        """End a check that has had its time; leave its thread behind where it does not end."""
        assert outcome.kit is not None
        doing = "; ".join(list(outcome.kit.log.current.values())[:3]) or "no call of the driver"
        message = f"it did not finish within {seconds:g} seconds; unfinished: {doing}"
        if outcome.loop is not None and outcome.task is not None and not outcome.loop.is_closed():
            outcome.loop.call_soon_threadsafe(outcome.task.cancel)
        thread.join(_GRACE)
        if not thread.is_alive():
            return _Outcome("fail", message, kit=outcome.kit)
        self.abandoned += 1
        frame = sys._current_frames().get(thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)[-4:]) if frame else ""
        return _Outcome("fail", f"{message}; it cannot be cancelled either", stack, outcome.kit)


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


async def _play(check: Check, outcome: _Outcome) -> None:
    assert outcome.kit is not None
    outcome.loop, outcome.task = asyncio.get_running_loop(), asyncio.current_task()
    async with outcome.kit as kit:
        await check.body(kit)


def _classify(error: BaseException, outcome: _Outcome) -> None:
    """Tell the driver's failures from the kit's own."""
    assert outcome.kit is not None
    source = outcome.kit.log.source_of(error)
    if isinstance(error, Finding):
        outcome.verdict, outcome.message = "fail", str(error)
    elif isinstance(error, NotEvaluated):
        outcome.verdict, outcome.message = "skip", str(error)
    elif source is not None and not isinstance(error, HarnessError):
        outcome.verdict, outcome.message = "fail", f"{source} raised {told(error)}"
    else:
        outcome.verdict, outcome.message = "error", told(error)
        outcome.details = "" if isinstance(error, HarnessError) else "".join(traceback.format_exception(error)[-8:])
        return
    raised = error.__cause__ if isinstance(error, Finding) else error
    if raised is not None:
        outcome.details = _driver_frames(raised)


def _driver_frames(error: BaseException) -> str:
    """The part of a traceback that is neither the kit's nor asyncio's, and the exception with its notes."""
    others = (str(Path(__file__).parent), str(Path(asyncio.__file__).parent))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return "".join(traceback.format_list(frames[-6:])) + "".join(traceback.format_exception_only(error))


def select(only: Sequence[str] = (), *, quick: bool = False) -> list[Check]:
    """Return the checks that are asked for, in the order of the catalogue.

    Args:
        only: ids, groups, or patterns of ids with `*`; all checks where empty.
        quick: leave out the checks that need child processes or much time.

    Raises:
        HarnessError: nothing in the catalogue fits one of them.
    """
    checks = catalogue()
    for pattern in only:
        if not any(_fits(check, pattern) for check in checks):
            raise HarnessError(f"no check fits {pattern!r}; --list shows them all")
    return [
        check
        for check in checks
        if (check.quick or not quick) and (not only or any(_fits(check, pattern) for pattern in only))
    ]


def _fits(check: Check, pattern: str) -> bool:
    return check.group == pattern or fnmatchcase(check.id, pattern)


def run(
    target: str | Target,
    *,
    only: Collection[str] = (),
    quick: bool = False,
    seed: int | None = None,
    deadline: float = 1.0,
    progress: Callable[[Result], None] | None = None,
) -> Report:
    """Run the kit against a driver.

    Args:
        target: the target as `package.module:name`, or a `Target`; child processes need the first.
        only: ids, groups, or patterns of ids with `*`; all checks where empty. Checks that these need run too.
        quick: leave out the checks that need child processes or much time.
        seed: what chance is seeded with; a random one where None. The report tells it.
        deadline: how much longer than by default a check may take; 2 doubles the time.
        progress: is told every result as it comes.

    Returns:
        The report.

    Raises:
        HarnessError: the target cannot be imported, or no check fits `only`.
    """
    chosen = select(tuple(only), quick=quick)
    number = random.SystemRandom().randrange(2**31) if seed is None else seed
    session = Session(target, number, deadline, thorough=not quick)
    session.target  # noqa: B018  # a target that cannot be imported is told at once
    for check in chosen:
        result = session.result(check)
        if progress is not None:
            progress(result)
    return session.report()
