"""What workers share, as rules of the state machine: queues and their limits, presence, schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from stargraph.checkpoint.conformance._compare import same_runs, same_summary, show
from stargraph.checkpoint.conformance._expect import attempt, expect
from stargraph.checkpoint.conformance._model import HANDLES, OF_A_QUEUE, Machine, needing
from stargraph.checkpoint.conformance._runs import NOON, follow, process_info
from stargraph.checkpoint.driver import Slots, can_go_on, claim_order, counted_state, counts_of, process_of, queue_state
from stargraph.checkpoint.protocol import ENDED, ProcessInfo, QueueEntry, QueueLimits, RunSummary, Schedule

_ENQUEUED = st.sampled_from((OF_A_QUEUE, "q1", "q2", "q3"))
_PROCESSES = st.integers(1, 2)
_QUEUES = st.sampled_from(("default", "default", "mail"))
_LONG: Final = 3600.0
"""Seconds for which nothing expires while a sequence runs."""

_LIMITS = st.sampled_from((None, QueueLimits(concurrency=1), QueueLimits(concurrency=2, per_key=1)))
_SCHEDULES = st.sampled_from(("a", "A"))


class _Reserved(NamedTuple):
    """For whom a run is reserved, and its last step when it was handed out."""

    process_id: str
    step: int


class FleetMachine(Machine):
    """The calls of workers beside those of runs, and what dicts say of them."""

    def __init__(self) -> None:
        super().__init__()
        self._reserved: dict[str, _Reserved] = {}
        self._limits: dict[str, QueueLimits] = {}
        self._living: dict[str, ProcessInfo] = {}
        self._schedules: dict[str, Schedule] = {}

    @initialize()
    def open_store(self) -> None:
        super().open_store()
        # Most sequences would else hand out nothing, and see nobody leave.
        if self._has("queues"):
            self.enqueue("q1", 0, "default", 0, None)
        if self._has("presence"):
            self.beat(0, 1, None)
        if self._has("schedules"):
            self.put_schedule(0, "a", 1, None)

    @needing("queues")
    @rule(run_id=_ENQUEUED, handle=HANDLES, queue=_QUEUES, priority=st.integers(0, 1), key=st.sampled_from((None, "k")))
    def enqueue(self, run_id: str, handle: int, queue: str, priority: int, key: str | None) -> None:
        if run_id in self._runs or run_id in self._gone:
            return
        entry = QueueEntry(name=queue, priority=priority, concurrency_key=key)
        first = self._first(run_id, status="queued", queue=entry)
        self._do(self._handles[handle].write(first))
        self._runs[run_id] = [first]

    @needing("queues")
    @rule(run_id=_ENQUEUED, handle=HANDLES, process=_PROCESSES)
    def take(self, run_id: str, handle: int, process: int) -> None:
        steps = self._runs.get(run_id)
        if steps and steps[0].queue is not None and steps[-1].status not in ENDED:
            taken = follow(steps[-1], event="resumed", status="running", process=process_info(process))
            self._do(self._handles[handle].write(taken))
            steps.append(taken)

    @needing("queues")
    @rule(
        handle=HANDLES,
        process=_PROCESSES,
        queues=st.sampled_from((("default",), ("mail", "default"))),
        limit=st.sampled_from((1, 2, 100)),
        reserve=st.sampled_from((0.0, _LONG, _LONG)),
    )
    def claim(self, handle: int, process: int, queues: tuple[str, ...], limit: int, reserve: float) -> None:
        if self.surroundings.target.late_claims:
            self.reopen(handle)
        process_id = str(process_info(process).id)
        runs = self._queued()
        active = [
            (run.queue.name, run.queue.concurrency_key)
            for run in runs
            if run.queue is not None and (process_of(run) is not None or run.run_id in self._reserved)
        ]
        slots = Slots(self._limits, active, {})
        wanted = [
            run
            for run in sorted((run for run in runs if run.queue and run.queue.name in queues), key=claim_order)
            if run.queue is not None
            and run.run_id not in self._reserved
            and can_go_on(run, datetime.now(UTC), self._living)
            and slots.take(run.queue.name, run.queue.concurrency_key, is_active=process_of(run) is not None)
        ][:limit]
        found = self._do(
            self._handles[handle].claimable(process_id, queues, limit=limit, silent_after=_LONG, reserve=reserve)
        )
        what = f"claimable({process_id!r}, {queues}, {limit=}, {reserve=})"
        same_runs([run.run_id for run in wanted], found, what)
        for before, after in zip(wanted, found, strict=True):
            same_summary(before, after, what)
        if reserve:
            self._reserved |= {run.run_id: _Reserved(process_id, run.last_step) for run in wanted}

    def _queued(self) -> list[RunSummary]:
        """Return the runs of queues that have not ended; forget the reservations of those that have gone on."""
        runs = [run for run in self._summaries() if queue_state(run) is not None]
        steps = {run.run_id: run.last_step for run in runs}
        self._reserved = {run_id: held for run_id, held in self._reserved.items() if steps.get(run_id) == held.step}
        return runs

    @needing("queues")
    @rule(handle=HANDLES)
    def queue_counts(self, handle: int) -> None:
        now, states = datetime.now(UTC), []
        for run in self._queued():
            state = counted_state(run, now, is_reserved=run.run_id in self._reserved)
            if run.queue is not None and state is not None:
                states.append((run.queue.name, state, 1))
        found, wanted = self._do(self._handles[handle].queue_counts()), counts_of(states, self._limits)
        expect(found == wanted, f"queue_counts() gave {show(found)}; the contract wants {show(wanted)}")

    @needing("queues")
    @rule(handle=HANDLES, queue=_QUEUES, limits=_LIMITS, times=st.integers(1, 2))
    def set_limits(self, handle: int, queue: str, limits: QueueLimits | None, times: int) -> None:
        self.claim(handle, 1, ("default", "mail"), 100, _LONG)
        for _ in range(times):
            refusal = self._do(attempt(self._handles[handle].set_limits(queue, limits)))
            if refusal is not None:
                expect(refusal.reason == "no-limits", f"set_limits({queue!r}) was refused as {refusal.reason!r}")
                return
        self._limits.pop(queue, None)
        if limits is not None:
            self._limits[queue] = limits
        self.queue_counts(1 - handle)

    @needing("presence")
    @rule(handle=HANDLES, process=_PROCESSES, worker=st.sampled_from((None, "blue")))
    def beat(self, handle: int, process: int, worker: str | None) -> None:
        info = process_info(process).model_copy(update={"worker": worker})
        self._do(self._handles[handle].beat(info))
        self._living[str(info.id)] = info
        self._all_live(1 - handle)

    @needing("presence")
    @rule(handle=HANDLES, process=_PROCESSES, returns=st.booleans())
    def leave(self, handle: int, process: int, returns: bool) -> None:
        process_id = str(process_info(process).id)
        self._do(self._handles[handle].leave(process_id))
        known = self._living.pop(process_id, None)
        self._reserved = {run_id: held for run_id, held in self._reserved.items() if held.process_id != process_id}
        self._all_live(1 - handle)
        if returns and known is not None:
            self.beat(handle, process, "blue" if known.worker is None else None)

    def _all_live(self, handle: int) -> None:
        found = {str(each.process.id): each.process for each in self._do(self._handles[handle].processes())}
        expect(found == self._living, f"processes() gave {show(found)}; the contract wants {show(self._living)}")

    @needing("schedules")
    @rule(handle=HANDLES, schedule_id=_SCHEDULES, hour=st.integers(1, 2), tag=st.sampled_from((None, "red")))
    def put_schedule(self, handle: int, schedule_id: str, hour: int, tag: str | None) -> None:
        metadata = {} if tag is None else {"team": tag}
        schedule = Schedule(id=schedule_id, cron=f"0 {hour} * * *", graph_id="g", since=NOON, metadata=metadata)
        self._do(self._handles[handle].put_schedule(schedule))
        self._schedules[schedule_id] = schedule
        self._all_scheduled(1 - handle)

    @needing("schedules")
    @rule(handle=HANDLES, schedule_id=_SCHEDULES, returns=st.booleans())
    def remove_schedule(self, handle: int, schedule_id: str, returns: bool) -> None:
        there = self._do(self._handles[handle].remove_schedule(schedule_id))
        expect(there is (schedule_id in self._schedules), f"remove_schedule({schedule_id!r}) gave {there}")
        known = self._schedules.pop(schedule_id, None)
        self._all_scheduled(1 - handle)
        if returns and known is not None:
            self.put_schedule(handle, schedule_id, 3, None)

    def _all_scheduled(self, handle: int) -> None:
        found = self._do(self._handles[handle].schedules())
        wanted = [self._schedules[schedule_id] for schedule_id in sorted(self._schedules)]
        expect(found == wanted, f"schedules() gave {show(found)}; the contract wants {show(wanted)}")
