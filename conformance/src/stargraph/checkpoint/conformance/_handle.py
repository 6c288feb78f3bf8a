"""A driver as the checks call it: every call is noted, and what it returns is what the contract says."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, TypeVar

from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import Violation
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    Checkpoint,
    Checkpointer,
    ProcessInfo,
    ProcessPresence,
    PruneReport,
    QueueCounts,
    QueueLimits,
    RunPage,
    RunSummary,
    Schedule,
    Status,
    StepKey,
    StepSummary,
)

T = TypeVar("T")


class DriverCalls:
    """What the driver is doing, and what it raised.

    Attributes:
        current: the calls that have not returned, in words, oldest first.
        raised: the exceptions that came out of the driver, with the call in words.
        ended: how many calls have ended.
    """

    def __init__(self) -> None:
        self.current: dict[int, str] = {}
        self.raised: list[tuple[BaseException, str]] = []
        self.ended = 0
        self._number = 0
        self._began: dict[int, float] = {}

    def enter(self, what: str) -> int:
        """Note that a call begins; return its number."""
        self._number += 1
        self.current[self._number] = what
        self._began[self._number] = time.monotonic()
        return self._number

    def longest(self) -> float:
        """Seconds for which the oldest unfinished call has been running; 0 if there is none."""
        began = list(self._began.values())
        return time.monotonic() - min(began) if began else 0.0

    def leave(self, number: int, error: BaseException | None = None) -> None:
        """Note that a call ended."""
        what = self.current.pop(number)
        del self._began[number]
        self.ended += 1
        if error is not None:
            self.raised.append((error, what))

    def source_of(self, error: BaseException) -> str | None:
        """Return the call that an exception came out of, or None if the driver did not raise it."""
        return next((what for raised, what in self.raised if raised is error), None)


def naming(checkpoint: Checkpoint) -> str:
    """A write in words."""
    return f"write(run {checkpoint.run_id!r}, step {checkpoint.step})"


class Handle:
    """One handle of the driver.

    Attributes:
        driver: the driver's own object.
    """

    def __init__(self, driver: Checkpointer, log: DriverCalls, closing: AsyncExitStack) -> None:
        self.driver: Any = driver
        self._log = log
        self._closing = closing

    async def release(self) -> None:
        """Close the handle as the target closes it."""
        await self._call("closing the handle", self._closing.aclose)

    async def bootstrap(self) -> None:
        await self._call("bootstrap()", self.driver.bootstrap)

    async def write(self, checkpoint: Checkpoint) -> None:
        await self._call(naming(checkpoint), lambda: self.driver.write(checkpoint))

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        what = f"read_latest({run_id!r})"
        return _checkpoint(await self._call(what, lambda: self.driver.read_latest(run_id)), what)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        what = f"read_at_step({run_id!r}, {step})"
        return _checkpoint(await self._call(what, lambda: self.driver.read_at_step(run_id, step)), what)

    async def list_runs(self, **arguments: Any) -> list[RunSummary]:
        what = _worded("list_runs", arguments)
        found = await self._call(what, lambda: self.driver.list_runs(**arguments))
        if not isinstance(found, list) or not all(isinstance(item, RunSummary) for item in found):
            raise Violation(f"{what} gave {show(found)}; the contract wants a list of RunSummary")
        return found

    def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        given = {"from_step": from_step, "to_step": to_step, "newest_first": newest_first}
        arguments = {name: value for name, value in given.items() if value is not None and value is not False}
        return self._iterate(_worded(f"history({run_id!r})", arguments), run_id, arguments)

    async def _iterate(self, what: str, run_id: str, arguments: dict[str, Any]) -> AsyncIterator[Checkpoint]:
        iterator = await self._call(what, lambda: _at_once(self.driver.history, run_id, arguments))
        if not hasattr(iterator, "__anext__"):
            raise Violation(f"{what} gave {show(iterator)}; the contract wants an async iterator")
        try:
            while True:
                try:
                    item = await self._call(what, iterator.__anext__)
                except StopAsyncIteration:
                    return
                if not isinstance(item, Checkpoint):
                    raise Violation(f"{what} yielded {show(item)}; the contract wants Checkpoints")
                yield item
        finally:
            if (aclose := getattr(iterator, "aclose", None)) is not None:
                await aclose()

    async def timeline(self, run_id: str, **arguments: Any) -> list[StepSummary]:
        what = _worded(f"timeline({run_id!r})", arguments)
        found = await self._call(what, lambda: self.driver.timeline(run_id, **arguments))
        if not isinstance(found, list) or not all(isinstance(item, StepSummary) for item in found):
            raise Violation(f"{what} gave {show(found)}; the contract wants a list of StepSummary")
        return found

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        what = f"watch({run_id!r}, after_step={after_step})"
        iterator = await self._call(what, lambda: _at_once(self.driver.watch, run_id, {"after_step": after_step}))
        if not hasattr(iterator, "__anext__") or not hasattr(iterator, "aclose"):
            raise Violation(f"{what} gave {show(iterator)}; the contract wants an async generator")
        try:
            while True:
                try:
                    step = await anext(iterator)
                except StopAsyncIteration:
                    raise Violation(f"{what} ended by itself") from None
                except Exception as error:
                    # Not as a call that is under way: it may well wait for as long as nothing happens.
                    self._log.leave(self._log.enter(what), error)
                    raise
                if type(step) is not int:
                    raise Violation(f"{what} yielded {show(step)}; the contract wants the number of a step")
                yield step
        finally:
            await self._call(f"aclose() of {what}", iterator.aclose)

    async def search(self, **filters: Any) -> RunPage:
        arguments = {name: value for name, value in filters.items() if value is not None}
        what = _worded("search", arguments)
        page = await self._call(what, lambda: self.driver.search(**arguments))
        if not isinstance(page, RunPage):
            raise Violation(f"{what} gave {show(page)}; the contract wants a RunPage")
        return page

    async def count_runs(self, **filters: Any) -> dict[Status, int]:
        what = _worded("count_runs", filters)
        found = await self._call(what, lambda: self.driver.count_runs(**filters))
        if not isinstance(found, dict) or not all(type(number) is int for number in found.values()):
            raise Violation(f"{what} gave {show(found)}; the contract wants a number for each status")
        return found

    async def children(self, run_id: str) -> list[RunSummary]:
        what = f"children({run_id!r})"
        found = await self._call(what, lambda: self.driver.children(run_id))
        if not isinstance(found, list) or not all(isinstance(item, RunSummary) for item in found):
            raise Violation(f"{what} gave {show(found)}; the contract wants a list of RunSummary")
        return found

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        what = f"read_at_key({run_id!r}, {key!r})"
        return _checkpoint(await self._call(what, lambda: self.driver.read_at_key(run_id, key)), what)

    async def step_keys(self, run_id: str, **arguments: Any) -> list[StepKey]:
        what = _worded(f"step_keys({run_id!r})", arguments)
        found = await self._call(what, lambda: self.driver.step_keys(run_id, **arguments))
        if not isinstance(found, list) or not all(isinstance(item, StepKey) for item in found):
            raise Violation(f"{what} gave {show(found)}; the contract wants a list of StepKey")
        return found

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        what = _worded(f"claimable({process_id!r}, {queues!r})", arguments)
        found = await self._call(what, lambda: self.driver.claimable(process_id, queues, **arguments))
        if not isinstance(found, list) or not all(isinstance(item, RunSummary) for item in found):
            raise Violation(f"{what} gave {show(found)}; the contract wants a list of RunSummary")
        return found

    async def queue_counts(self) -> list[QueueCounts]:
        found: list[QueueCounts] = await self._call("queue_counts()", self.driver.queue_counts)
        return found

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        await self._call(f"set_limits({queue!r}, {limits!r})", lambda: self.driver.set_limits(queue, limits))

    async def beat(self, process: ProcessInfo) -> None:
        await self._call(f"beat({process.id!r})", lambda: self.driver.beat(process))

    async def processes(self) -> list[ProcessPresence]:
        found: list[ProcessPresence] = await self._call("processes()", self.driver.processes)
        return found

    async def leave(self, process_id: str) -> None:
        await self._call(f"leave({process_id!r})", lambda: self.driver.leave(process_id))

    async def put_schedule(self, schedule: Schedule) -> None:
        await self._call(f"put_schedule({schedule.id!r})", lambda: self.driver.put_schedule(schedule))

    async def schedules(self) -> list[Schedule]:
        found: list[Schedule] = await self._call("schedules()", self.driver.schedules)
        return found

    async def remove_schedule(self, schedule_id: str) -> bool:
        found: bool = await self._call(
            f"remove_schedule({schedule_id!r})", lambda: self.driver.remove_schedule(schedule_id)
        )
        return found

    async def delete_run(self, run_id: str) -> bool:
        what = f"delete_run({run_id!r})"
        there = await self._call(what, lambda: self.driver.delete_run(run_id))
        if not isinstance(there, bool):
            raise Violation(f"{what} gave {show(there)}; the contract wants a bool")
        return there

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        dry_run: bool = False,
        run_id: str | None = None,
    ) -> PruneReport:
        one = {} if run_id is None else {"run_id": run_id}
        given = {
            "older_than": older_than,
            "statuses": tuple(statuses),
            "keep_last": keep_last,
            "dry_run": dry_run,
            **one,
        }
        what = _worded("prune", given)
        report = await self._call(
            what,
            lambda: self.driver.prune(
                older_than=older_than, statuses=statuses, keep_last=keep_last, dry_run=dry_run, **one
            ),
        )
        if not isinstance(report, PruneReport):
            raise Violation(f"{what} gave {show(report)}; the contract wants a PruneReport")
        return report

    async def prune_by_default(self, *, older_than: datetime) -> PruneReport:
        """Call prune with nothing but the instant: all else is the driver's own default."""
        report = await self._call(f"prune(older_than={older_than})", lambda: self.driver.prune(older_than=older_than))
        if not isinstance(report, PruneReport):
            raise Violation(f"prune(older_than={older_than}) gave {show(report)}; the contract wants a PruneReport")
        return report

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        steps = ", ".join(str(checkpoint.step) for checkpoint in checkpoints[:8])
        more = ", …" if len(checkpoints) > 8 else ""
        await self._call(f"write_many(steps {steps}{more})", lambda: self.driver.write_many(checkpoints))

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        steps = ", ".join(str(checkpoint.step) for checkpoint in checkpoints)
        await self._call(f"start_pruned(steps {steps})", lambda: self.driver.start_pruned(checkpoints))

    async def close(self) -> None:
        await self._call("close()", self.driver.close)

    async def _call(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        number = self._log.enter(what)
        try:
            result = await call()
        except BaseException as error:
            self._log.leave(number, error)
            raise
        self._log.leave(number)
        return result


async def _at_once(call: Callable[..., Any], run_id: str, arguments: dict[str, Any]) -> Any:
    return call(run_id, **arguments)


def _checkpoint(found: object, what: str) -> Checkpoint | None:
    if found is None or isinstance(found, Checkpoint):
        return found
    raise Violation(f"{what} gave {show(found)}; the contract wants a Checkpoint or None")


def _worded(name: str, arguments: Mapping[str, object]) -> str:
    inside = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name}({inside})" if "(" not in name else f"{name}{f' with {inside}' if inside else ''}"
