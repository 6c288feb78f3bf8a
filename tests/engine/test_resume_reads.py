"""How much a resume reads: a map of many items and a task with many calls cost a bounded number of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import calling_nodes
from support.calling_nodes import EFFECTS, do
from support.graphs import graph
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint, RunHistory
from stargraph.graph import Context

ITEMS = 150
MAP = f"""
state_schema:
  items: {{type: "list[int]", default: {list(range(ITEMS))}}}
  x: {{type: "list[int]", reduce: append, default: []}}
nodes: [{{id: begin, kind: echo}}, {{id: work, kind: "support.calling_nodes:play"}}, {{id: meet, kind: echo}}]
max_steps: 100000
rules:
  - id: each
    when: {{node: begin}}
    then: [{{kind: map, over: "state.items", target: work, join: meet, max_concurrency: 4}}]
"""
LOOP = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: work, kind: "support.calling_nodes:play"}]
max_steps: 100000
"""


class CountingStore(MemoryCheckpointer):
    """Counts what is asked of it, and can read ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self.requests.append(f"step {step}")
        return await super().read_at_step(run_id, step)

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        self.requests.append(f"steps {from_step} to {to_step}")
        assert from_step is not None
        assert to_step is not None
        for step in range(from_step, to_step + 1):
            found = await super().read_at_step(run_id, step)
            if found is not None:
                yield found


@pytest.fixture
async def counting() -> CountingStore:
    calling_nodes.reset()
    store = CountingStore()
    await store.bootstrap()
    assert isinstance(store, RunHistory)
    return store


async def killed_and_resumed(store: CountingStore, text: str, at_step: int) -> list[Any]:
    """Kill a run at a step, resume it, and return what its calls did."""

    def kill(checkpoint: Checkpoint) -> None:
        if checkpoint.step >= at_step:
            raise Killed

    store.before_write = kill
    with pytest.raises(Killed):
        await (await graph(text).start(checkpointer=store, run_id="r")).start()
    store.before_write = lambda checkpoint: None
    store.requests.clear()
    # Without looking for what others do to the run, which takes a read now and then: more of them if it takes longer.
    summary = await (await graph(text).start(checkpointer=store, watch=0)).resume("r")
    assert summary.status == "done"
    return list(EFFECTS)


async def test_a_map_is_resumed_by_few_reads(counting: CountingStore) -> None:
    async def script(state: Any, context: Context) -> Any:
        done = await context.call("square", do, str(context.item), context.item**2)
        await asyncio.sleep(0)
        return {"x": [done]}

    calling_nodes.script = script
    effects = await killed_and_resumed(counting, MAP, at_step=2 * ITEMS - 20)
    assert counting.runs["r"][-1].state["x"] == [item**2 for item in range(ITEMS)]
    assert len(counting.requests) <= 8, counting.requests
    # Those that were at work when the process died may be done again.
    assert len(effects) <= ITEMS + 4


async def test_the_calls_of_a_task_are_read_together(counting: CountingStore) -> None:
    async def script(state: Any, context: Context) -> Any:
        return {"x": [await context.call("count", do, str(n), n) for n in range(ITEMS)]}

    calling_nodes.script = script
    effects = await killed_and_resumed(counting, LOOP, at_step=ITEMS - 5)
    assert counting.runs["r"][-1].state["x"] == list(range(ITEMS))
    assert len(counting.requests) <= 8, counting.requests
    assert len(effects) == ITEMS + 1


async def test_a_store_without_ranges_is_read_step_by_step() -> None:
    calling_nodes.reset()
    store = MemoryCheckpointer()
    await store.bootstrap()

    async def script(state: Any, context: Context) -> Any:
        return {"x": [await context.call("count", do, str(n), n) for n in range(9)]}

    def kill(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 6:
            raise Killed

    calling_nodes.script = script
    store.before_write = kill
    with pytest.raises(Killed):
        await (await graph(LOOP).start(checkpointer=store, run_id="r")).start()
    store.before_write = lambda checkpoint: None
    assert (await (await graph(LOOP).start(checkpointer=store)).resume("r")).status == "done"
    assert len(EFFECTS) == 10


async def test_a_run_that_records_a_call_in_each_life_is_no_crash_loop() -> None:
    calling_nodes.reset()
    store = MemoryCheckpointer()
    await store.bootstrap()

    async def script(state: Any, context: Context) -> Any:
        return {"x": [await context.call("count", do, str(n), n) for n in range(9)]}

    def kill_after_a_call(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "called":
            raise Killed

    calling_nodes.script = script
    store.after_write = kill_after_a_call
    with pytest.raises(Killed):
        await (await graph(LOOP).start(checkpointer=store, run_id="r")).start()
    for _ in range(8):
        with pytest.raises(Killed):
            await (await graph(LOOP).start(checkpointer=store)).resume("r", max_resumes=2)
    assert (await (await graph(LOOP).start(checkpointer=store)).resume("r", max_resumes=2)).status == "done"
    assert len(EFFECTS) == 9
