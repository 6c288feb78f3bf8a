"""What readers and rival writers of runs call, as rules of the state machine."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from stargraph.checkpoint.conformance._compare import (
    absent,
    rows_of,
    same,
    same_rows,
    same_runs,
    same_steps,
    same_summary,
    show,
)
from stargraph.checkpoint.conformance._expect import expect, refused
from stargraph.checkpoint.conformance._handle import naming
from stargraph.checkpoint.conformance._model import HANDLES, RUNS, Machine, needing
from stargraph.checkpoint.conformance._runs import NOON, begin, follow, rivals
from stargraph.checkpoint.conformance._views import in_order, matches, pages
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary, Status, StepKey
from stargraph.errors import CheckpointConflictError, CheckpointError


class RunMachine(Machine):
    """Every read of runs, and the writes that are refused or change nothing."""

    @rule(run_id=RUNS, handle=HANDLES, back=st.integers(0, 3))
    def write_again(self, run_id: str, handle: int, back: int) -> None:
        if steps := self._runs.get(run_id):
            self._do(self._handles[handle].write(steps[max(self._floors.get(run_id, 0), len(steps) - 1 - back)]))

    @rule(run_id=RUNS, handle=HANDLES, back=st.integers(0, 3), who=st.integers(0, 4))
    def conflict(self, run_id: str, handle: int, back: int, who: int) -> None:
        if steps := self._runs.get(run_id):
            step = max(self._floors.get(run_id, 0), len(steps) - 1 - back)
            other, _ = list(rivals(steps[step], steps[step - 1] if step else None))[who]
            call = self._handles[handle].write(other)
            self._do(refused(call, f"{naming(other)} by a rival", CheckpointConflictError, "step-taken", other))

    @rule(run_id=RUNS, handle=HANDLES, ahead=st.integers(1, 3))
    def gap(self, run_id: str, handle: int, ahead: int) -> None:
        steps = self._runs.get(run_id)
        late = steps[-1] if steps else begin(run_id)
        for _ in range(ahead + 1 if steps else ahead):
            late = follow(late, status="running")
        call = self._handles[handle].write(late)
        if run_id in self._gone:
            self._do(refused(call, f"{naming(late)} of a deleted run", CheckpointError, "run-deleted", late))
            return
        self._do(refused(call, f"{naming(late)}, beyond the next step", CheckpointError, "step-gap", late))

    @rule(run_id=RUNS, handle=HANDLES)
    def read(self, run_id: str, handle: int) -> None:
        steps = self._runs.get(run_id, [])
        latest = self._do(self._handles[handle].read_latest(run_id))
        if steps:
            same(steps[-1], latest, f"read_latest({run_id!r})")
        else:
            absent(latest, f"read_latest({run_id!r})")

    @rule(run_id=RUNS, handle=HANDLES, step=st.integers(0, 6))
    def read_step(self, run_id: str, handle: int, step: int) -> None:
        steps = self._runs.get(run_id, [])
        found = self._do(self._handles[handle].read_at_step(run_id, step))
        if step < len(steps):
            if found is not None or step >= self._floors.get(run_id, 0):
                same(steps[step], found, f"read_at_step({run_id!r}, {step})")
        else:
            absent(found, f"read_at_step({run_id!r}, {step})")

    @needing("batch")
    @rule(run_id=RUNS, handle=HANDLES, count=st.integers(1, 5), back=st.integers(0, 2), ended=st.booleans())
    def append_batch(self, run_id: str, handle: int, count: int, back: int, ended: bool) -> None:
        steps = self._runs.get(run_id, [])
        if steps and steps[-1].status in ENDED:
            return
        self._made += 1
        batch: list[Checkpoint] = []
        for number in range(count):
            last = batch[-1] if batch else steps[-1] if steps else None
            status: Status = "done" if ended and number == count - 1 else "running"
            if last is None:
                batch.append(self._first(run_id, metadata={"made": str(self._made % 3)}))
            else:
                key = "k" if number % 2 else None
                batch.append(follow(last, status=status, changes={"made": [self._made, number]}, key=key))
        # What is stored already may come first.
        stored = steps[len(steps) - back :] if back and run_id not in self._floors else []
        call = self._handles[handle].write_many([*stored, *batch])
        if run_id in self._gone:
            self._do(refused(call, "write_many of a deleted run", CheckpointError, "run-deleted"))
            return
        self._do(call)
        self._runs.setdefault(run_id, []).extend(batch)

    @needing("pruned-start")
    @rule(run_id=RUNS, handle=HANDLES, step=st.integers(0, 3))
    def write_below(self, run_id: str, handle: int, step: int) -> None:
        if run_id in self._runs and step < self._began_at.get(run_id, 0):
            checkpoint = self._runs[run_id][step]
            absent(self._do(self._handles[handle].read_at_step(run_id, step)), f"read_at_step({run_id!r}, {step})")
            what = f"{naming(checkpoint)}, below the step that the run began with"
            self._do(refused(self._handles[handle].write(checkpoint), what, CheckpointError, "pruned", checkpoint))

    @needing("history")
    @rule(run_id=RUNS, handle=HANDLES, newest_first=st.booleans())
    def history(self, run_id: str, handle: int, newest_first: bool) -> None:
        found = self._do(self._history(handle, run_id, newest_first))
        wanted = self._left(run_id, len(found))
        same_steps(wanted[::-1] if newest_first else wanted, found, f"history({run_id!r}, {newest_first=})")
        if self._has("timeline"):
            rows = self._do(self._handles[handle].timeline(run_id))
            same_rows(rows_of(self._left(run_id, len(rows))), rows, f"timeline({run_id!r})")

    def _left(self, run_id: str, found: int) -> list[Checkpoint]:
        """Return what a prune has left, if so many steps were found: a driver may keep more, to decode from."""
        steps = self._runs.get(run_id, [])
        return steps[len(steps) - max(found, len(steps) - self._floors.get(run_id, 0)) :] if steps else []

    @needing("keys")
    @rule(run_id=RUNS, handle=HANDLES)
    def find_by_key(self, run_id: str, handle: int) -> None:
        floor = self._floors.get(run_id, 0)
        steps = [step for step in self._runs.get(run_id, []) if step.key is not None]
        listed = self._do(self._handles[handle].step_keys(run_id))
        # A driver may keep more than it must, to decode from.
        there = [step for step in steps if step.step >= floor or (step.key, step.step) in listed]
        highest = {step.key: step for step in there}
        wanted = sorted((StepKey(str(key), step.step) for key, step in highest.items()), reverse=True)
        expect(listed == wanted, f"step_keys({run_id!r}) gave {show(listed)}; the contract wants {show(wanted)}")
        for key in ("k", "K"):
            found = self._do(self._handles[handle].read_at_key(run_id, key))
            what = f"read_at_key({run_id!r}, {key!r})"
            if key in highest:
                same(highest[key], found, what)
            else:
                absent(found, what)

    async def _history(self, handle: int, run_id: str, newest_first: bool) -> list[Checkpoint]:
        return [found async for found in self._handles[handle].history(run_id, newest_first=newest_first)]

    @needing("search")
    @rule(handle=HANDLES, status=st.sampled_from((None, "running", "done", "failed")), limit=st.integers(1, 3))
    def search(self, handle: int, status: Status | None, limit: int) -> None:
        chosen = [steps[-1] for steps in self._runs.values() if status in (None, steps[-1].status)]
        wanted = in_order(map(RunSummary.from_checkpoint, chosen))
        found = self._do(pages(self._handles[handle], limit=limit, status=status))
        what = f"the pages of search(limit={limit}, status={status!r})"
        same_runs([item.run_id for item in wanted], found, what)
        for before, after in zip(wanted, found, strict=True):
            same_summary(before, after, what)

    @needing("search")
    @rule(handle=HANDLES, status=st.sampled_from((None, "running", "done", "failed")), roots_only=st.booleans())
    def count_runs(self, handle: int, status: Status | None, roots_only: bool) -> None:
        filters: dict[str, Any] = {"roots_only": roots_only} | ({} if status is None else {"status": status})
        chosen = [item for item in self._summaries() if matches(item, filters)]
        counts = dict(Counter(item.status for item in chosen))
        found = self._do(self._handles[handle].count_runs(**filters))
        expect(found == counts, f"count_runs({filters}) gave {found}; there are {counts}")

    @needing("trees")
    @rule(handle=HANDLES, run_id=RUNS)
    def children(self, handle: int, run_id: str) -> None:
        wanted = [item for item in self._summaries() if (item.parent_run_id, item.origin) == (run_id, "subgraph")]
        found = self._do(self._handles[handle].children(run_id))
        same_runs([item.run_id for item in wanted], found, f"children({run_id!r})")
        for before, after in zip(wanted, found, strict=True):
            same_summary(before, after, f"children({run_id!r})")

    @rule(handle=HANDLES, limit=st.sampled_from((0, 1, 2, 100)), seconds=st.sampled_from((None, 0, 1, 2)))
    def list_runs(self, handle: int, limit: int, seconds: int | None) -> None:
        since = None if seconds is None else NOON + timedelta(seconds=seconds)
        chosen = [steps[-1] for steps in self._runs.values() if since is None or steps[0].started_at >= since]
        chosen.sort(key=lambda latest: (-latest.started_at.timestamp(), latest.run_id))
        arguments = {"limit": limit} if since is None else {"limit": limit, "since": since}
        listed = self._do(self._handles[handle].list_runs(**arguments))
        what = f"list_runs(limit={limit}, since={since})"
        same_runs([latest.run_id for latest in chosen[:limit]], listed, what)
        for latest, summary in zip(chosen, listed, strict=False):
            same_summary(latest, summary, what)
