"""Crashes at each step of a run, to see whether a graph can be resumed from there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import JsonValue
from stargraph.graph import Graph, Middleware, RunResult, StoreInfo
from stargraph.runtime._given import check_callable, check_count
from stargraph.testing._runs import run_graph


class Crashed(BaseException):
    """Stands for the loss of the process; not an Exception, so that no node catches it."""


class _CrashAfter(Middleware):
    def __init__(self, step: int) -> None:
        self._step = step
        self._crashed = False

    @asynccontextmanager
    async def store(self, store: StoreInfo) -> AsyncIterator[None]:
        if self._crashed:
            raise Crashed  # nothing of a lost process reaches the store
        yield
        if any(each.step >= self._step and each.origin != "subgraph" for each in store.checkpoints):
            self._crashed = True
            raise Crashed


def crash_after(step: int) -> Middleware:
    """Return a middleware that loses the process, as far as the store can tell, once a step of the run is stored.

    Whoever started or resumed the run gets `Crashed`, and nothing that the run still does is stored.

    Args:
        step: the step; child runs do not count.
    """
    check_count(step, "step", least=0)
    return _CrashAfter(step)


def check_resumable(
    graph: Graph[Any],
    *,
    inputs: Mapping[str, JsonValue] | None = None,
    answers: Mapping[str, Any] | None = None,
    calls: Callable[[], Mapping[str, Any]] | None = None,
) -> int:
    """Run a graph once, then once more for each step with a crash after it and a resume; compare how they end.

    Nodes that are not deterministic, or that keep something in the process, are what this finds.

    Args:
        inputs: as for `run_graph`.
        answers: as for `run_graph`.
        calls: makes what stands in for calls, once for each run; the functions themselves are called if None.

    Returns:
        How many crashes were survived.

    Raises:
        AssertionError: a run ended otherwise after a crash.
    """
    check_callable(calls, "calls", "a function that makes the dict of what stands in for calls, or None")

    def run(store: MemoryCheckpointer, fakes: Mapping[str, Any] | None, *middleware: Middleware) -> RunResult[Any]:
        return run_graph(
            graph,
            inputs=inputs,
            answers=answers,
            calls=fakes,
            checkpointer=store,
            run_id="run",
            middleware=middleware,
        )

    def fakes() -> Mapping[str, Any] | None:
        return None if calls is None else calls()

    expected = run(MemoryCheckpointer(), fakes())
    crashes = 0
    for step in range(expected.last_step):
        store, its_fakes = MemoryCheckpointer(), fakes()
        try:
            run(store, its_fakes, crash_after(step))
        except Crashed:
            crashes += 1
        found = run(store, its_fakes)
        _compare(expected, found, step)
    return crashes


def _compare(expected: RunResult[Any], found: RunResult[Any], step: int) -> None:
    where = f"after a crash that followed step {step}"
    if found.status != expected.status:
        reason = "" if found.error is None else f" ({found.error.type}: {found.error.message})"
        raise AssertionError(f"{where} the run is {found.status}{reason}, and without it {expected.status}")
    before, after = expected.stored_state, found.stored_state
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            raise AssertionError(
                f"{where} state.{name} is {after.get(name)!r:.200}, and without it {before.get(name)!r:.200}"
            )
