"""The state machine of `stateful.agrees_with_model`."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from stargraph.checkpoint.conformance._capabilities import Capability
from stargraph.checkpoint.conformance._compare import absent, same
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, refused
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import LATER, NOON, begin, follow
from stargraph.checkpoint.conformance._views import in_order
from stargraph.checkpoint.protocol import ENDED, Checkpoint, QueueEntry, RunSummary, Status
from stargraph.errors import CheckpointConflictError, CheckpointError

T = TypeVar("T")
Rule = TypeVar("Rule", bound=Callable[..., None])

RUNS = st.sampled_from(("a", "A", "a.b", "a:1"))
"""Few runs, so that calls meet; some differ by case or punctuation alone."""

_ORIGINS: Final = {"a.b": "subgraph", "a:1": "fork"}
"""How some of the runs came from the run a."""

OF_A_QUEUE: Final = "A"
"""The run that is of a queue even if it was not enqueued."""

SHRINK_SECONDS: Final = 15.0
"""For how long after a failure a shorter sequence of calls is looked for."""

_NOT_TWICE: Final = "the same calls on a new store did not end in the same way twice: "

HANDLES = st.integers(0, 1)
_KEYS = st.sampled_from((None, "k", "K"))
_STATUSES = st.sampled_from(("running", "running", "running", "failed", "paused", "done"))
_VALUES: st.SearchStrategy[object] = st.sampled_from(
    (0, -0.0, 1.0, True, None, "é\u0000", [], {}, {"": [1]}, "x" * 200)
)


class _ShrunkEnough(KeyboardInterrupt):
    """Ends a run of Hypothesis, which takes everything else for a failure of what it tests."""


def run_model(kit: Kit, machine: type[Machine], *, examples: int, steps: int) -> str | None:
    """Run the model against the driver in the calling thread.

    Args:
        kit: makes the stores.
        machine: the calls, and what they must give.
        examples: how many sequences of calls.
        steps: how many calls in each, at most.

    Returns:
        What was found, with the calls that lead to it; None if all agrees.
    """
    room, ends = SHRINK_SECONDS, math.inf

    class Bound(machine):  # type: ignore[valid-type,misc]
        surroundings = kit

        def __init__(self) -> None:
            if time.monotonic() > ends:
                raise _ShrunkEnough
            super().__init__()

        def teardown(self) -> None:
            nonlocal ends
            super().teardown()
            if isinstance(sys.exception(), Exception):
                ends = min(ends, time.monotonic() + room)

    seeded = hypothesis.seed(kit.seed)(Bound)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=InMemoryExampleDatabase(),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.normal,  # a quiet one tells no calls
        phases=(Phase.generate, Phase.shrink) if kit.thorough else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    try:
        try:
            run_state_machine_as_test(seeded, settings=chosen)
        except _ShrunkEnough:
            room = ends = math.inf
            # The database has the sequences that failed; the shortest one is run first.
            run_state_machine_as_test(seeded, settings=settings(chosen, phases=(Phase.reuse,)))
            return _NOT_TWICE + "they failed, and then did not"
    except Violation as found:
        return "\n".join([str(found), *_calls_of(found)])
    except Flaky as error:
        return _NOT_TWICE + error_line(error)
    except Exception as error:
        if (source := kit.log.source_of(error)) is None:
            raise
        return "\n".join([f"{source} raised {error_line(error)}", *_calls_of(error)])
    return None


def _calls_of(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("state.")]


def needing(capability: Capability) -> Callable[[Rule], Rule]:
    """Let a rule be chosen only if the driver has a capability: else calls are spent on nothing."""
    return precondition(lambda machine: capability in machine.surroundings.declared)


class Machine(RuleBasedStateMachine):
    """Calls on two handles of one store, and what a dict says of them."""

    surroundings: Kit

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._runs: dict[str, list[Checkpoint]] = {}
        self._floors: dict[str, int] = {}
        self._began_at: dict[str, int] = {}
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

    @rule(run_id=RUNS, handle=HANDLES, status=_STATUSES, value=_VALUES, key=_KEYS)
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
        queue = {"queue": QueueEntry()} if run_id == OF_A_QUEUE and self._has("queues") else {}
        return begin(run_id, **(queue | fields | parents))

    @needing("pruned-start")
    @rule(run_id=RUNS, handle=HANDLES, step=st.integers(1, 4), status=_STATUSES, goes_on=st.booleans())
    def start_pruned(self, run_id: str, handle: int, step: int, status: Status, goes_on: bool) -> None:
        self._made += 1
        steps = [self._first(run_id, metadata={"made": str(self._made % 3)}, state={"made": self._made})]
        for number in range(step):
            steps.append(follow(steps[-1], status=status if number == step - 1 else "running", key="K"))
        call = self._handles[handle].start_pruned(steps[-1:])
        if run_id in self._gone:
            self._do(refused(call, "start_pruned of a deleted run", CheckpointError, "run-deleted"))
        elif run_id in self._runs:
            self._do(refused(call, "start_pruned of a run that is there", CheckpointConflictError, "run-exists"))
        else:
            self._do(call)
            self._runs[run_id] = steps
            self._floors[run_id] = self._began_at[run_id] = step
            self._do(self._agree(run_id, 1 - handle))
            if goes_on:
                self.append(run_id, handle, "running", 0, None)
                if self._has("deletion"):
                    self.prune_one(run_id, handle, 1)

    @needing("deletion")
    @rule(run_id=RUNS, handle=HANDLES)
    def delete(self, run_id: str, handle: int) -> None:
        there = self._do(self._handles[handle].delete_run(run_id))
        expect(there is (run_id in self._runs), f"delete_run({run_id!r}) gave {there}")
        if there:
            self._delete(run_id)

    def _delete(self, run_id: str) -> None:
        del self._runs[run_id]
        self._floors.pop(run_id, None)
        self._began_at.pop(run_id, None)
        self._gone.add(run_id)

    @needing("deletion")
    @rule(handle=HANDLES, keep=st.integers(0, 3), status=st.sampled_from(("running", "failed", "done", "paused")))
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

    @needing("deletion")
    @rule(run_id=RUNS, handle=HANDLES, keep=st.integers(0, 2))
    def prune_one(self, run_id: str, handle: int, keep: int) -> None:
        if (steps := self._runs.get(run_id)) is None:
            return
        given: dict[str, Any] = {"older_than": LATER, "statuses": (steps[-1].status,), "keep_last": keep}
        self._do(self._handles[handle].prune(run_id=run_id, **given))
        if keep:
            self._floors[run_id] = max(self._floors.get(run_id, 0), len(steps) - keep)
        elif not self._is_awaited(run_id):
            self._delete(run_id)
        self._do(self._agree(run_id, 1 - handle))

    async def _agree(self, run_id: str, handle: int) -> None:
        """Expect that the reads of a run find what a prune must have left of it."""
        reader, steps = self._handles[handle], self._runs.get(run_id, [])
        for checkpoint in steps:
            what = f"read_at_step({run_id!r}, {checkpoint.step})"
            found = await reader.read_at_step(run_id, checkpoint.step)
            if found is not None or checkpoint.step >= self._floors.get(run_id, 0):
                same(checkpoint, found, what)
        if not steps:
            absent(await reader.read_latest(run_id), f"read_latest({run_id!r})")

    def _is_awaited(self, run_id: str) -> bool:
        parent = self._runs.get("a")
        return _ORIGINS.get(run_id) == "subgraph" and parent is not None and parent[-1].status not in ENDED

    def _summaries(self) -> list[RunSummary]:
        return in_order(RunSummary.from_checkpoint(steps[-1]) for steps in self._runs.values())

    def _has(self, capability: Capability) -> bool:
        return capability in self.surroundings.declared

    @rule(handle=HANDLES)
    def reopen(self, handle: int) -> None:
        self._do(self._reopen(handle))

    async def _reopen(self, handle: int) -> None:
        await self._handles[handle].release()
        self._handles[handle] = await self._inner.open()
