"""What workers share of a store in memory: presence, reservations, limits, schedules."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from stargraph.checkpoint.driver import (
    FORGET_AFTER,
    Claim,
    DamagedRun,
    Slots,
    can_go_on,
    claim_order,
    counted_state,
    counts_of,
    fits_claim,
    process_of,
    queue_state,
)
from stargraph.checkpoint.protocol import (
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueLimits,
    RunSummary,
    Schedule,
)


class _Reservation(NamedTuple):
    """A run that was handed out: for whom, at which of its steps, and until when by `time.monotonic`."""

    process_id: str
    step: int
    until: float


@dataclass(slots=True)
class _Living:
    """A process that lives, and the readings of `time.monotonic` at which it said so last."""

    process: ProcessInfo
    first_seen: datetime
    seen: float


class MemoryQueues:
    """The queues that several handles share, in one process.

    Args:
        lock: guards the runs.
        summaries: returns the summaries of the runs as far as they can be read, and the others; called while the lock
            is held.
    """

    def __init__(
        self, lock: threading.Lock, summaries: Callable[[], tuple[list[RunSummary], list[DamagedRun]]]
    ) -> None:
        self._lock = lock
        self._summaries = summaries
        self._met_damage = False
        self._reservations: dict[str, _Reservation] = {}
        self._limits: dict[str, QueueLimits] = {}
        self._handed_out: dict[str, deque[float]] = {}
        self._living: dict[str, _Living] = {}
        self._schedules: dict[str, Schedule] = {}

    async def claim(self, claim: Claim) -> list[RunSummary]:
        """Return runs that can go on now, and reserve them."""
        async with self._turn():
            readable, damaged = self._summaries()
            self._met_damage = bool(damaged)
            runs = [run for run in readable if queue_state(run) is not None]
            self._forget_reservations(runs)
            living = {
                process_id
                for process_id, process in self._living.items()
                if time.monotonic() - process.seen < claim.silent_after
            }
            now = datetime.now(UTC)
            slots = self._slots(runs)
            found: list[RunSummary] = []
            for run in sorted(filter(lambda run: fits_claim(run, claim), runs), key=claim_order):
                if len(found) == claim.limit:
                    break
                assert run.queue is not None
                if (
                    run.run_id not in self._reservations
                    and can_go_on(run, now, living)
                    and slots.take(run.queue.name, run.queue.concurrency_key, is_active=process_of(run) is not None)
                ):
                    found.append(run)
            if claim.reserve:
                self._reserve(found, claim)
            return found

    async def damaged(self) -> list[DamagedRun]:
        """Return the runs that no claim hands out, since they cannot be read; none if the latest one met none."""
        async with self._turn():
            return self._summaries()[1] if self._met_damage else []

    async def counts(self) -> list[QueueCounts]:
        """Return how the runs of each queue stand."""
        async with self._turn():
            runs, _ = self._summaries()
            self._forget_reservations(runs)
            now = datetime.now(UTC)
            states = [
                (run.queue.name, state, 1)
                for run in runs
                if run.queue is not None
                and (state := counted_state(run, now, is_reserved=run.run_id in self._reservations)) is not None
            ]
            return counts_of(states, self._limits)

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        """Set the limits of a queue, or remove them."""
        async with self._turn():
            self._limits.pop(queue, None)
            if limits is not None:
                self._limits[queue] = limits

    async def beat(self, process_id: str, process: ProcessInfo) -> None:
        """Note that a process lives."""
        async with self._turn():
            known = self._living.get(process_id)
            first_seen = datetime.now(UTC) if known is None else known.first_seen
            self._living[process_id] = _Living(process, first_seen, time.monotonic())

    async def processes(self) -> list[ProcessPresence]:
        """Return the processes that have not left."""
        async with self._turn():
            now = time.monotonic()
            for process_id, living in list(self._living.items()):
                if now - living.seen > FORGET_AFTER:
                    del self._living[process_id]
            return [
                ProcessPresence(
                    process=living.process, first_seen=living.first_seen, silent_seconds=max(0.0, now - living.seen)
                )
                for _, living in sorted(self._living.items(), key=lambda item: (item[1].first_seen, item[0]))
            ]

    async def leave(self, process_id: str) -> None:
        """Note that a process ends."""
        async with self._turn():
            self._living.pop(process_id, None)
            for run_id, reservation in list(self._reservations.items()):
                if reservation.process_id == process_id:
                    del self._reservations[run_id]

    async def repair(self) -> list[str]:
        """Find nothing to repair: every claim looks at the runs themselves."""
        return []

    async def put_schedule(self, schedule: Schedule) -> None:
        """Store a schedule."""
        async with self._turn():
            self._schedules[schedule.id] = schedule

    async def schedules(self) -> list[Schedule]:
        """Return all schedules, in the order of their ids."""
        async with self._turn():
            return [self._schedules[schedule_id] for schedule_id in sorted(self._schedules)]

    async def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule; return whether there was one."""
        async with self._turn():
            return self._schedules.pop(schedule_id, None) is not None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Take a turn of the loop, as a store on a disk does, and then hold the lock."""
        await asyncio.sleep(0)
        with self._lock:
            yield

    def _reserve(self, runs: Iterable[RunSummary], claim: Claim) -> None:
        now = time.monotonic()
        for run in runs:
            assert run.queue is not None
            self._reservations[run.run_id] = _Reservation(claim.process_id, run.last_step, now + claim.reserve)
            self._handed_out.setdefault(run.queue.name, deque()).append(now)

    def _forget_reservations(self, runs: Iterable[RunSummary]) -> None:
        """Forget those that have expired, or whose run has gone on since."""
        steps, now = {run.run_id: run.last_step for run in runs}, time.monotonic()
        for run_id, reservation in list(self._reservations.items()):
            if reservation.until <= now or steps.get(run_id) != reservation.step:
                del self._reservations[run_id]

    def _slots(self, runs: Iterable[RunSummary]) -> Slots:
        active = [
            (run.queue.name, run.queue.concurrency_key)
            for run in runs
            if run.queue is not None and (process_of(run) is not None or run.run_id in self._reservations)
        ]
        now = time.monotonic()
        for queue, moments in self._handed_out.items():
            period = self._limits[queue].period if queue in self._limits else 0.0
            while moments and now - moments[0] >= period:
                moments.popleft()
        return Slots(self._limits, active, {queue: len(moments) for queue, moments in self._handed_out.items()})
