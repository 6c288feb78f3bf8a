"""A setting of another type is refused by name, wherever it is given, and never taken for something else.

Those that a run and a worker take as seconds and counts are in test_given_arguments.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.workers import graph

from stargraph.audit import verify
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.graph import Graph, Run
from stargraph.testing import FakeContext
from stargraph.transfer import copy_runs, delete_runs, export_runs, move_runs
from stargraph.worker import Worker, living_processes, orphaned_runs, stranded_runs


async def _run(store: Any) -> Run[Any]:
    return await graph.start(checkpointer=store, inputs={"n": 1}, run_id="r")


async def _of_run(store: Any, call: Callable[[Run[Any]], Any]) -> None:
    found = call(await _run(store))
    if isinstance(found, Awaitable):
        await found


def of_run(call: Callable[[Run[Any], Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda store, value: _of_run(store, lambda run: call(run, value))


# Each calls one function with a value for one of its arguments.
FLAGS: dict[str, Callable[[Any, Any], Any]] = {
    "start wait": of_run(lambda run, value: run.start(wait=value)),
    "resume wait": of_run(lambda run, value: run.resume(wait=value)),
    "resume allow_effects": of_run(lambda run, value: run.resume(allow_effects=value)),
    "fork allow_effects": of_run(lambda run, value: run.fork(allow_effects=value)),
    "pause requeue": of_run(lambda run, value: run.pause(requeue=value)),
    "start record_attempts": lambda store, value: graph.start(checkpointer=store, record_attempts=value),
    "run_sync resume": lambda store, value: graph.run_sync(checkpointer=store, resume=value),
    "run_sync wait": lambda store, value: graph.run_sync(checkpointer=store, wait=value),
    "resume_sync wait": lambda store, value: graph.resume_sync("r", checkpointer=store, wait=value),
    "Worker until_idle": lambda store, value: Worker(store, graph, until_idle=value),
    "Worker handle_signals": lambda store, value: Worker(store, graph, handle_signals=value),
    "with_options repeatable": lambda store, value: FakeContext().with_options(repeatable=value),
    "emit stored": lambda store, value: FakeContext().emit("a", stored=value),
    "verify children": lambda store, value: verify(store, children=value),
    "copy_runs children": lambda store, value: copy_runs(store, MemoryCheckpointer(), children=value),
    "move_runs children": lambda store, value: move_runs(store, MemoryCheckpointer(), ["r"], children=value),
    "export_runs children": lambda store, value: export_runs(store, io.BytesIO(), children=value),
    "delete_runs children": lambda store, value: delete_runs(store, ["r"], children=value),
}

SECONDS: dict[str, Callable[[Any, Any], Any]] = {
    "start watch": lambda store, value: graph.start(checkpointer=store, watch=value),
    "living_processes silent_after": lambda store, value: living_processes(store, silent_after=value),
    "orphaned_runs silent_after": lambda store, value: orphaned_runs(store, silent_after=value),
    "stranded_runs after": lambda store, value: stranded_runs(store, after=value),
}

COUNTS: dict[str, Callable[[Any, Any], Any]] = {
    "fork step": of_run(lambda run, value: run.fork(value)),
    "replay from_step": of_run(lambda run, value: run.replay(from_step=value)),
}

TIMES: dict[str, Callable[[Any, Any], Any]] = {
    "copy_runs since": lambda store, value: copy_runs(store, MemoryCheckpointer(), since=value),
    "export_runs since": lambda store, value: export_runs(store, io.BytesIO(), since=value),
}

OTHERS: dict[str, tuple[Callable[[Any, Any], Any], object]] = {
    "Worker queues": (lambda store, value: Worker(store, graph, value), "default"),
    "Worker accept": (lambda store, value: Worker(store, graph, accept=value), "runtime"),
    "Worker middleware": (lambda store, value: Worker(store, graph, middleware=value), {1}),
    "check accept": (of_run(lambda run, value: run.check(accept=value)), "runtime"),
    "fork accept": (of_run(lambda run, value: run.fork(accept=value)), "graph"),
    "fork overlay": (of_run(lambda run, value: run.fork(overlay=value)), {"state": {"n": 2}}),
    "load code": (lambda store, value: Graph.load("support.workers:graph", code=value), "src"),
    "from_file code": (lambda store, value: Graph.from_file("graph.yaml", code=value), "src"),
}


NAIVE = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)


VALUES: tuple[tuple[dict[str, Callable[[Any, Any], Any]], tuple[object, ...]], ...] = (
    (FLAGS, ("yes", "no", 1, 0, [])),
    (SECONDS, ("3", True, timedelta(seconds=3), -1)),
    (COUNTS, ("3", True, 3.0)),
    (TIMES, ("2026-01-01", 0.0, NAIVE)),
)


def cases() -> list[Any]:
    found = [(name, call, value) for calls, values in VALUES for name, call in calls.items() for value in values]
    found += [(name, call, value) for name, (call, value) in OTHERS.items()]
    return [pytest.param(*case, id=f"{case[0]}={case[2]!r:.30}") for case in found]


@pytest.mark.parametrize(("name", "call", "value"), cases())
async def test_it_is_refused_by_name(name: str, call: Callable[[Any, Any], Any], value: object) -> None:
    async with MemoryCheckpointer() as store:
        with pytest.raises((TypeError, ValueError), match=rf"^{name.split()[1]} (is|holds) "):
            await _called(call, store, value)
        assert await store.list_runs() == []


async def _called(call: Callable[[Any, Any], Any], store: MemoryCheckpointer, value: object) -> None:
    found = call(store, value)
    if isinstance(found, Awaitable):
        await found
