"""The state machine of `stateful.agrees_with_model`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from stargraph.checkpoint.conformance._capabilities import Capability
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
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, refused
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import LATER, NOON, begin, follow, rivals
from stargraph.checkpoint.conformance._views import in_order, matches, pages
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary, Status, StepKey
from stargraph.errors import CheckpointConflictError, CheckpointError

T = TypeVar("T")
Rule = TypeVar("Rule", bound=Callable[..., None])

_RUNS = st.sampled_from(("a", "A", "a.b", "a:1"))
_ORIGINS: Final = {"a.b": "subgraph", "a:1": "fork"}
"""How some of the runs came from the run a."""

_HANDLES = st.integers(0, 1)
_KEYS = st.sampled_from((None, "k", "K"))
_STATUSES = st.sampled_from(("running", "running", "running", "failed", "paused", "done"))
_VALUES: st.SearchStrategy[object] = st.sampled_from(
    (0, -0.0, 1.0, True, None, "é\u0000", [], {}, {"": [1]}, "x" * 200)
)


def run_model(kit: Kit, *, examples: int, steps: int) -> str | None:
    """Run the model against the driver in the calling thread.

    Args:
        kit: makes the stores.
        examples: how many sequences of calls.
        steps: how many calls in each, at most.

    Returns:
        What was found, with the calls that lead to it; None if all agrees.
    """

    class Bound(_Machine):
        surroundings = kit

    seeded = hypothesis.seed(kit.seed)(Bound)
    try:
        run_state_machine_as_test(
            seeded,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                print_blob=False,
                verbosity=Verbosity.quiet,
                phases=(Phase.generate, Phase.shrink) if kit.thorough else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Violation as found:
        return "\n".join([str(found), *_calls_of(found)])
    except Flaky as error:
        return "the same calls on a new store did not end in the same way twice: " + error_line(error)
    except Exception as error:
        if (source := kit.log.source_of(error)) is None:
            raise
        return "\n".join([f"{source} raised {error_line(error)}", *_calls_of(error)])
    return None


def _calls_of(error: BaseException) -> list[str]:
    notes = "\n".join(getattr(error, "__notes__", ())).splitlines()
    return [line for line in notes if line.strip().startswith(("state.", "Falsifying"))]


def _with(capability: Capability) -> Callable[[Rule], Rule]:
    """Let a rule be chosen only if the driver has a capability: else calls are spent on nothing."""
    return precondition(lambda machine: capability in machine.surroundings.declared)


class _Machine(RuleBasedStateMachine):
    """Calls on two handles of one store, and what a dict says of them."""

    surroundings: Kit

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._runs: dict[str, list[Checkpoint]] = {}
        self._floors: dict[str, int] = {}
        self._gone: set[str] = set()
        self._handles: list[Handle] = []
        self._made = 0

    def _do(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    @initialize()
    def open_store(self) -> None:
        self._do(self._open())

    async def _open(self) -> None:
        kit = self.surroundings
        self._inner = Kit(kit.surroundings, "stateful", kit.log)
        await self._stack.enter_async_context(self._inner)
        self._handles = [await self._inner.open(), await self._inner.open()]

    def teardown(self) -> None:
        self._do(self._stack.aclose())
        self._runner.close()

    @rule(run_id=_RUNS, handle=_HANDLES, status=_STATUSES, value=_VALUES, key=_KEYS)
    def append(self, run_id: str, handle: int, status: Status, value: object, key: str | None) -> None:
        self._made += 1
        steps = self._runs.get(run_id, [])
        if not steps:
            started = NOON + timedelta(seconds=self._made % 3)
            checkpoint = self._first(run_id, state={"value": value}, timestamp=started, key=key)
        else:
            checkpoint = follow(steps[-1], status=status, changes={"value": value, "made": self._made}, key=key)
        if run_id in self._gone:
            what = f"{naming(checkpoint)} of a deleted run"
            self._do(refused(self._handles[handle].write(checkpoint), what, CheckpointError, "run-deleted"))
        elif steps and steps[-1].status in ENDED:
            what = f"{naming(checkpoint)} of an ended run"
            self._do(refused(self._handles[handle].write(checkpoint), what, CheckpointError, "run-ended"))
        else:
            self._do(self._handles[handle].write(checkpoint))
            self._runs.setdefault(run_id, []).append(checkpoint)

    def _first(self, run_id: str, **fields: Any) -> Checkpoint:
        """Step 0 of a run, of which some are child runs and some are forks."""
        origin = _ORIGINS.get(run_id)
        parents = {"parent_run_id": "a", "parent_step": 0, "origin": origin} if origin else {}
        return begin(run_id, **fields, **parents)

    @rule(run_id=_RUNS, handle=_HANDLES, back=st.integers(0, 3))
    def write_again(self, run_id: str, handle: int, back: int) -> None:
        if steps := self._runs.get(run_id):
            self._do(self._handles[handle].write(steps[max(self._floors.get(run_id, 0), len(steps) - 1 - back)]))

    @rule(run_id=_RUNS, handle=_HANDLES, back=st.integers(0, 3), who=st.integers(0, 4))
    def conflict(self, run_id: str, handle: int, back: int, who: int) -> None:
        if steps := self._runs.get(run_id):
            step = max(self._floors.get(run_id, 0), len(steps) - 1 - back)
            other, _ = list(rivals(steps[step], steps[step - 1] if step else None))[who]
            call = self._handles[handle].write(other)
            self._do(refused(call, f"{naming(other)} by a rival", CheckpointConflictError, "step-taken", other))

    @rule(run_id=_RUNS, handle=_HANDLES, ahead=st.integers(1, 3))
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

    @rule(run_id=_RUNS, handle=_HANDLES)
    def read(self, run_id: str, handle: int) -> None:
        steps = self._runs.get(run_id, [])
        latest = self._do(self._handles[handle].read_latest(run_id))
        if steps:
            same(steps[-1], latest, f"read_latest({run_id!r})")
        else:
            absent(latest, f"read_latest({run_id!r})")

    @rule(run_id=_RUNS, handle=_HANDLES, step=st.integers(0, 6))
    def read_step(self, run_id: str, handle: int, step: int) -> None:
        steps = self._runs.get(run_id, [])
        found = self._do(self._handles[handle].read_at_step(run_id, step))
        if step < len(steps):
            if found is not None or step >= self._floors.get(run_id, 0):
                same(steps[step], found, f"read_at_step({run_id!r}, {step})")
        else:
            absent(found, f"read_at_step({run_id!r}, {step})")

    @_with("batch")
    @rule(run_id=_RUNS, handle=_HANDLES, count=st.integers(1, 5), back=st.integers(0, 2), ended=st.booleans())
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

    @_with("deletion")
    @rule(run_id=_RUNS, handle=_HANDLES)
    def delete(self, run_id: str, handle: int) -> None:
        there = self._do(self._handles[handle].delete_run(run_id))
        expect(there is (run_id in self._runs), f"delete_run({run_id!r}) gave {there}")
        if there:
            self._delete(run_id)

    def _delete(self, run_id: str) -> None:
        del self._runs[run_id]
        self._floors.pop(run_id, None)
        self._gone.add(run_id)

    @_with("deletion")
    @rule(handle=_HANDLES, keep=st.integers(0, 3), status=st.sampled_from(("running", "failed", "done", "paused")))
    def prune(self, handle: int, keep: int, status: Status) -> None:
        self._do(self._handles[handle].prune(older_than=LATER, statuses=(status,), keep_last=keep))
        # A child run whose parent goes on stays; what goes with this very prune does not.
        stays = {run_id for run_id in self._runs if keep == 0 and self._is_awaited(run_id)}
        for run_id, steps in list(self._runs.items()):
            if run_id in stays:
                continue
            if steps[-1].status == status and keep == 0:
                self._delete(run_id)
            elif steps[-1].status == status:
                self._floors[run_id] = min(len(steps) - 1, max(self._floors.get(run_id, 0), len(steps) - keep))
        for run_id in sorted(stays):
            # If its parent went in this very prune, the contract leaves open whether the child went too.
            first, last = self._runs[run_id][0], self._runs[run_id][-1]
            may_go = last.status == status and first.parent_run_id in self._gone
            if may_go and self._do(self._handles[handle].read_latest(run_id)) is None:
                self._delete(run_id)

    def _is_awaited(self, run_id: str) -> bool:
        parent = self._runs.get("a")
        return _ORIGINS.get(run_id) == "subgraph" and parent is not None and parent[-1].status not in ENDED

    @_with("history")
    @rule(run_id=_RUNS, handle=_HANDLES, newest_first=st.booleans())
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

    @_with("keys")
    @rule(run_id=_RUNS, handle=_HANDLES)
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

    @_with("search")
    @rule(handle=_HANDLES, status=st.sampled_from((None, "running", "done", "failed")), limit=st.integers(1, 3))
    def search(self, handle: int, status: Status | None, limit: int) -> None:
        chosen = [steps[-1] for steps in self._runs.values() if status in (None, steps[-1].status)]
        wanted = in_order(map(RunSummary.from_checkpoint, chosen))
        found = self._do(pages(self._handles[handle], limit=limit, status=status))
        what = f"the pages of search(limit={limit}, status={status!r})"
        same_runs([item.run_id for item in wanted], found, what)
        for before, after in zip(wanted, found, strict=True):
            same_summary(before, after, what)

    @_with("search")
    @rule(handle=_HANDLES, status=st.sampled_from((None, "running", "done", "failed")), roots_only=st.booleans())
    def count_runs(self, handle: int, status: Status | None, roots_only: bool) -> None:
        filters: dict[str, Any] = {"roots_only": roots_only} | ({} if status is None else {"status": status})
        chosen = [item for item in self._summaries() if matches(item, filters)]
        counts = dict(Counter(item.status for item in chosen))
        found = self._do(self._handles[handle].count_runs(**filters))
        expect(found == counts, f"count_runs({filters}) gave {found}; there are {counts}")

    @_with("trees")
    @rule(handle=_HANDLES, run_id=_RUNS)
    def children(self, handle: int, run_id: str) -> None:
        wanted = [item for item in self._summaries() if (item.parent_run_id, item.origin) == (run_id, "subgraph")]
        found = self._do(self._handles[handle].children(run_id))
        same_runs([item.run_id for item in wanted], found, f"children({run_id!r})")
        for before, after in zip(wanted, found, strict=True):
            same_summary(before, after, f"children({run_id!r})")

    def _summaries(self) -> list[RunSummary]:
        return in_order(RunSummary.from_checkpoint(steps[-1]) for steps in self._runs.values())

    def _has(self, capability: Capability) -> bool:
        return capability in self.surroundings.declared

    @rule(handle=_HANDLES, limit=st.sampled_from((0, 1, 2, 100)), seconds=st.sampled_from((None, 0, 1, 2)))
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

    @rule(handle=_HANDLES)
    def reopen(self, handle: int) -> None:
        self._do(self._reopen(handle))

    async def _reopen(self, handle: int) -> None:
        await self._handles[handle].release()
        self._handles[handle] = await self._inner.open()
