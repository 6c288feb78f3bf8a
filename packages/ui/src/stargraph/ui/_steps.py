"""The steps of a run without its states: what the list of steps, the timeline and the graph are drawn from."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from stargraph.checkpoint.protocol import CallSummary, Checkpoint, Checkpointer, ProcessInfo, StepSummary
from stargraph.runtime import dispatch
from stargraph.ui._store import Store

_KEPT_LOGS: Final = 8
"""Of so many runs, the steps are kept in memory: about 2 kB for each step."""

_PAGE: Final = 2_000


class StepLogs:
    """The steps of the runs that were looked at last, read once and then only as they grow.

    Args:
        store: where the runs are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._logs: OrderedDict[str, list[StepSummary]] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}

    async def all(self, latest: Checkpoint) -> Sequence[StepSummary]:
        """Return every stored step up to the latest one.

        Args:
            latest: the latest checkpoint of the run.
        """
        async with self._locks.setdefault(latest.run_id, asyncio.Lock()):
            log = list(self._logs.pop(latest.run_id, ()))
            following = log[-1].step + 1 if log else 0
            if following <= latest.step:
                log += await self._read(latest.run_id, following, latest.step)
            self._logs[latest.run_id] = log
            while len(self._logs) > _KEPT_LOGS:
                dropped, _ = self._logs.popitem(last=False)
                self._locks.pop(dropped, None)
        return log

    async def window(self, latest: Checkpoint, first: int, last: int) -> Sequence[StepSummary]:
        """Return the stored steps of a range, both ends included.

        Args:
            latest: the latest checkpoint of the run.
            first: the lowest step.
            last: the highest step.
        """
        first, last = max(first, 0), min(last, latest.step)
        log = self._logs.get(latest.run_id, ())
        if log and log[-1].step >= last:
            return [row for row in log if first <= row.step <= last]
        return await self._read(latest.run_id, first, last)

    def forget(self, run_id: str) -> None:
        """Drop what is kept of a run."""
        self._logs.pop(run_id, None)

    async def _read(self, run_id: str, first: int, last: int) -> list[StepSummary]:
        return await read_steps(await self._store.opened(), run_id, first, last)


async def read_steps(store: Checkpointer, run_id: str, first: int, last: int) -> list[StepSummary]:
    """Return the stored steps of a range, both ends included."""
    found: list[StepSummary] = []
    while first <= last:
        page = await dispatch.timeline(store, run_id, from_step=first, to_step=last, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            break
        first = page[-1].step + 1
    return found


def call_name(call: CallSummary) -> str:
    """Return the name of a call with its key, as in `fetch[3]`."""
    return call.name if call.key is None else f"{call.name}[{call.key}]"


def index_of(row: StepSummary) -> str:
    """Return the position of the branch that a step concerns, as in `[3]`; empty outside a fan-out."""
    place = (row.task_id or "").rpartition("-")[2].partition(".")[2]
    return f"[{place}]" if place.isdigit() else ""


def began(row: StepSummary) -> datetime | None:
    """Return when the work that a step records began, or None."""
    if row.task_started_at is not None:
        return row.task_started_at
    return next((call.started_at for call in row.calls if call.kind == "call"), None)


def seconds_of(row: StepSummary) -> float | None:
    """Return how long the work that a step records took, in seconds, or None."""
    since = began(row)
    return None if since is None else max((row.timestamp - since).total_seconds(), 0.0)


def said(row: StepSummary) -> Iterator[tuple[str, str]]:
    """Yield what a step says beside the changes of the state, as (kind, text); the kind is `ok`, `bad` or `note`."""
    if row.event == "asked":
        for each in [each for each in row.interrupts if each.task_id == row.task_id] or row.interrupts[-1:]:
            if each.due_at is None:
                yield "note", f"? asks: {each.prompt}"
            else:
                yield "note", f"◷ waits until {each.due_at:%Y-%m-%d %H:%M:%S} UTC"
    for call in row.calls:
        if call.kind == "call" and call.outcome == "returned":
            yield "ok", f"✓ {call_name(call)}"
        elif call.kind == "call":
            yield "bad", f"✕ {call_name(call)}: {call.error_type}"
        elif call.kind == "attempt" and call.outcome == "raised":
            yield "bad", f"✕ attempt failed: {call.error_type}"
    if row.error is not None:
        yield "bad", f"✕ {row.error.type}: {row.error.message}"


def process_words(process: ProcessInfo | None) -> str:
    """Return a process for a person, as in `host, pid 12, worker w1`; empty for None."""
    if process is None:
        return ""
    worker = f", worker {process.worker}" if process.worker else ""
    return f"{process.host}, pid {process.pid}{worker}"


def shown(row: StepSummary) -> tuple[StepSummary, str, float | None, list[tuple[str, str]], str]:
    """Return a step as the templates list it: with its index, its seconds, what it says and its process."""
    return row, index_of(row), seconds_of(row), list(said(row)), process_words(row.process)
