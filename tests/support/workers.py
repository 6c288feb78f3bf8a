"""What the tests of workers share: a graph, its workers, and what dead processes leave of its runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpointer, ProcessInfo
from stargraph.graph import Context, Graph, GraphBuilder
from stargraph.worker import Worker
from support.runs import latest

EFFECTS: list[str] = []
"""The executions of nodes so far, as `run/node`; empty at the start of each test, like the others."""

BLOCKED: dict[str, asyncio.Event] = {}
"""The runs whose second node waits, and for what."""

FAILS: set[str] = set()
"""The runs whose second node fails."""


def reset() -> None:
    EFFECTS.clear()
    BLOCKED.clear()
    FAILS.clear()


def build(name: str = "g", *, more: bool = False) -> Graph[Any]:
    builder = GraphBuilder(name)
    builder.state(n=int, answer=(bool | None, None))
    builder.add_node("first", f"{__name__}:first")
    builder.add_node("second", f"{__name__}:second")
    if more:
        builder.add_node("third", f"{__name__}:second")
    return Graph(builder)


def first(state: Any, context: Context) -> dict[str, Any]:
    EFFECTS.append(f"{context.run_id}/first")
    return {"n": state.n + 1}


async def second(state: Any, context: Context) -> dict[str, Any]:
    EFFECTS.append(f"{context.run_id}/second")
    if context.run_id in BLOCKED:
        await BLOCKED[context.run_id].wait()
    if context.run_id in FAILS:
        raise ValueError("no")
    return {"n": state.n * 10}


graph = build()


def worker(store: Checkpointer, graphs: Graph[Any] | Sequence[Graph[Any] | str] = graph, **options: Any) -> Worker:
    given: dict[str, Any] = {"until_idle": True, "poll": 0.02, "handle_signals": False, **options}
    return Worker(store, graphs, **given)


async def statuses(store: MemoryCheckpointer) -> dict[str, str]:
    return {run.run_id: str(run.status) for run in await store.list_runs()}


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not met():  # what it waits for has no event
            await asyncio.sleep(0.005)


async def orphan(store: MemoryCheckpointer, run_id: str, deaths: int = 1) -> None:
    """Leave a queued run as processes would that have died with it, each before it stored a step."""
    for number in range(deaths):
        tail = await latest(store, run_id)
        process = ProcessInfo(host="gone", pid=number, version="1", id=f"{number:016x}")
        await store.write(
            tail.next(
                event="resumed",
                status="running",
                executor_id=f"{number:016x}{'0' * 16}",
                timestamp=datetime.now(UTC),
                process=process,
            )
        )
