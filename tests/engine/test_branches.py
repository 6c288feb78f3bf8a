"""Parallel branches and maps: the order of their updates, their conflicts, their failures, their frontier."""

from __future__ import annotations

import asyncio
import random

from support import nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import FanOut, Task
from stargraph.graph import Context

PARALLEL = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}, x: {type: any, default: null}}
nodes:
  - {id: begin, kind: echo}
  - {id: left, kind: "support.nodes:LEFT"}
  - {id: right, kind: "support.nodes:RIGHT"}
  - {id: meet, kind: "support.nodes:step"}
rules: [{id: both, when: {node: begin}, then: [{kind: parallel, targets: [left, right], join: meet}]}]
"""

MAP = """
state_schema:
  items: list[int]
  squares: {type: "list[int]", reduce: append, default: []}
nodes: [{id: begin, kind: echo}, {id: square, kind: "support.nodes:square"}, {id: meet, kind: echo}]
max_steps: 100000
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "state.items", target: square, join: meet, max_concurrency: 8}]
"""


def parallel(left: str, right: str) -> str:
    return PARALLEL.replace("LEFT", left).replace("RIGHT", right)


async def test_updates_reach_the_state_together_in_declared_order(store: MemoryCheckpointer) -> None:
    run = await graph(parallel("slow", "step")).start(checkpointer=store, run_id="r")
    await run.start()
    assert store.events("r") == [
        "started",
        "completed begin",
        "completed right",
        "completed left",
        "completed meet",
    ]
    assert [checkpoint.state["path"] for checkpoint in store.runs["r"]] == [
        [],
        [],
        [],
        ["left[0]", "right[1]"],
        ["left[0]", "right[1]", "meet"],
    ]


async def test_two_branches_that_replace_one_field(store: MemoryCheckpointer, ledger: list[str]) -> None:
    run = await graph(parallel("set_x", "set_x")).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.reason == "branch-conflict"
    assert "node 'left' and node 'right' both replace state.x" in summary.error.message
    assert "reducer" in summary.error.message
    assert run.state == {"path": [], "x": None}


async def test_a_finished_sibling_of_a_failed_branch_never_runs_again(
    store: MemoryCheckpointer, ledger: list[str]
) -> None:
    def fail_left(context: Context) -> None:
        if context.node == "left" and ledger.count("left[0]") == 1:
            raise RuntimeError("no luck")

    nodes.before = fail_left
    run = await graph(parallel("step", "slow")).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == "failed"
    assert store.events("r") == ["started", "completed begin", "completed right", "failed left"]
    assert (await run.resume()).status == "done"
    assert sorted(ledger) == ["left[0]", "left[0]", "meet", "right[1]"]
    assert run.state is not None
    assert run.state["path"] == ["left[0]", "right[1]", "meet"]


async def test_after_a_failure_no_new_branch_starts(store: MemoryCheckpointer, ledger: list[str]) -> None:
    def fail_first(context: Context) -> None:
        if context.index == 0:
            raise RuntimeError("no luck")

    nodes.before = fail_first
    run = await graph(MAP).start(checkpointer=store, inputs={"items": list(range(50))}, run_id="r")
    assert (await run.start()).status == "failed"
    assert len(ledger) == 8
    nodes.before = lambda context: None
    assert (await run.resume()).status == "done"
    assert len(ledger) == 51
    assert run.state is not None
    assert run.state["squares"] == [item**2 for item in range(50)]


async def test_the_result_does_not_depend_on_the_order_of_completion() -> None:
    rng = random.Random(7)
    states = set()
    for _ in range(10):
        store = MemoryCheckpointer()
        await store.bootstrap()
        original = nodes.square

        async def late(state: object, context: Context) -> dict[str, object]:
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            return {"squares": [context.item**2]}

        nodes.square = late
        try:
            run = await graph(MAP).start(checkpointer=store, inputs={"items": list(range(20))}, run_id="r")
            await run.start()
        finally:
            nodes.square = original
        states.add(str(run.state))
    assert len(states) == 1


async def test_an_empty_map_goes_straight_to_its_join(store: MemoryCheckpointer, ledger: list[str]) -> None:
    run = await graph(MAP).start(checkpointer=store, inputs={"items": []}, run_id="r")
    assert (await run.start()).status == "done"
    assert store.events("r") == ["started", "completed begin", "completed meet"]


async def test_the_frontier_of_a_large_map_stays_small(store: MemoryCheckpointer) -> None:
    run = await graph(MAP).start(checkpointer=store, inputs={"items": list(range(1000))}, run_id="r")
    assert (await run.start()).status == "done"
    widest = max(store.runs["r"], key=lambda checkpoint: len(checkpoint.frontier))
    assert len([item for item in widest.frontier if isinstance(item, Task)]) == 8
    assert len([item for item in widest.frontier if isinstance(item, FanOut)]) == 1
    frontier_bytes = [
        sum(len(item.model_dump_json()) for item in checkpoint.frontier) for checkpoint in store.runs["r"]
    ]
    assert max(frontier_bytes) < 2_000


async def test_a_map_over_what_is_no_list(store: MemoryCheckpointer) -> None:
    run = await graph(MAP.replace("state.items", "state.items.size()")).start(
        checkpointer=store, inputs={"items": [1]}, run_id="r"
    )
    summary = await run.start()
    assert summary.error is not None
    assert summary.error.reason == "not-a-list"
