"""What ends a run without its nodes' doing, and what a resume refuses: no false verdicts, and none left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from support import nodes
from support.graphs import graph
from support.memory import Killed, MemoryCheckpointer
from support.places import Place

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointCorruptedError, CheckpointNotFoundError, HashMismatchError
from stargraph.graph import Context
from stargraph.runtime import dispatch

CALLS = """
max_steps: 2
state_schema: {x: {type: any, default: null}}
nodes: [{id: a, kind: "support.nodes:sync_x"}, {id: b, kind: echo}]
"""

FLAT = """
max_steps: 3
state_schema: {x: {type: "list[any]", reduce: append, default: []}}
nodes: [{id: begin, kind: echo}, {id: a, kind: "support.nodes:appends_x"}, {id: end, kind: echo}]
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "[1, 2, 3, 4]", target: a, join: end, max_concurrency: 1}]
"""

LOOP = """
max_steps: 3
nodes: [{id: a, kind: echo}, {id: b, kind: echo}]
rules: [{id: again, when: {node: b}, then: [{kind: goto, target: a}]}]
"""


async def test_recorded_calls_and_resumes_are_no_completed_nodes(store: MemoryCheckpointer) -> None:
    def body(ctx: Context) -> Any:
        for number in range(9):
            ctx.call_sync("number", lambda number=number: number)
        return ctx.interrupt("Go on?")

    nodes.before = body
    run = await graph(CALLS).start(checkpointer=store, run_id="r")
    await run.start()
    await run.answer(store.runs["r"][-1].interrupts[0].id, True)
    assert (await run.resume()).status == "done"


@pytest.mark.parametrize("is_loop", [False, True])
async def test_a_graph_without_a_loop_is_not_told_to_end_it(store: MemoryCheckpointer, is_loop: bool) -> None:
    run = await graph(LOOP if is_loop else FLAT).start(checkpointer=store, run_id="r")
    for _ in range(2):
        summary = await (run.resume() if "r" in store.runs else run.start())
        assert summary.error is not None
        assert summary.error.reason == "max-steps"
        assert summary.error.message.startswith("3 nodes of the run have completed, but the graph allows 3 (max_steps)")
        assert ("loop" in summary.error.message) == is_loop
    more = (LOOP if is_loop else FLAT).replace("max_steps: 3", "max_steps: 30")
    assert (await (await graph(more).start(checkpointer=store)).resume("r")).status == ("failed" if is_loop else "done")


async def test_a_run_that_is_done_is_refused_in_another_graph(place: Place) -> None:
    async with place.open() as store:
        old, new = graph("nodes: [{id: a, kind: echo}]"), graph("nodes: [{id: b, kind: echo}]")
        assert (await (await old.start(checkpointer=store, run_id="r")).start()).status == "done"
        assert (await (await old.start(checkpointer=store)).resume("r")).status == "done"
        run = await new.start(checkpointer=store)
        for refused in (run.resume, run.check):
            with pytest.raises(HashMismatchError) as caught:
                await refused("r")
            assert caught.value.reason == "graph-hash"
        assert (await run.resume("r", accept=("graph",))).status == "done"


async def test_a_run_whose_records_are_gone_is_no_unknown_run(store: MemoryCheckpointer) -> None:
    run = await graph("nodes: [{id: a, kind: echo}]").start(checkpointer=store, run_id="r")
    await run.start()
    for run_id, step in store.records:
        store.damage(run_id, step, None)
    with pytest.raises(CheckpointCorruptedError) as caught:
        await run.resume()
    assert (caught.value.reason, caught.value.step) == ("missing-step", 1)
    with pytest.raises(CheckpointNotFoundError):
        await run.resume("another")


class Shuffled(MemoryCheckpointer):
    """Returns the steps of a run in the order of `order`, some from `other`."""

    order: Sequence[tuple[str, int]] = ()

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        for name, step in self.order or [(run_id, step) for step in range(from_step or 0, len(self.runs[run_id]))]:
            yield self.runs[name][step]


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ([("r", 0), ("r", 1), ("r", 0)], "wrong-record"),
        ([("r", 0), ("r", 1), ("r", 1)], "wrong-record"),
        ([("r", 0), ("q", 1)], "wrong-record"),
        ([("r", 0), ("r", 2)], "missing-step"),  # this store does not prune
    ],
)
async def test_a_log_is_read_in_order(order: list[tuple[str, int]], reason: str) -> None:
    store = Shuffled()
    await store.bootstrap()
    for name in "rq":
        await (await graph(LOOP).start(checkpointer=store, run_id=name)).start()
    store.order = order
    with pytest.raises(CheckpointCorruptedError) as caught:
        [record async for record in dispatch.history(store, "r", to_step=9)]
    assert caught.value.reason == reason


async def test_a_record_that_does_not_follow_the_one_before_is_refused() -> None:
    store = Shuffled()
    await store.bootstrap()
    run = await graph(LOOP).start(checkpointer=store, run_id="r")
    await run.start()
    first, second = store.runs["r"][:2]
    store.runs["r"][1] = first.next(event="resumed", executor_id="f" * 32, timestamp=second.timestamp)
    store.order = [("r", 0), ("r", 1), ("r", 2)]
    with pytest.raises(CheckpointCorruptedError) as caught:
        [record async for record in dispatch.history(store, "r", to_step=9)]
    assert (caught.value.reason, caught.value.step) == ("broken-chain", 2)


async def test_one_poisonous_run_has_no_other_run_of_its_process_fail(store: MemoryCheckpointer) -> None:
    loaded = graph('nodes: [{id: a, kind: "support.nodes:returns_nothing"}, {id: b, kind: echo}]')
    names = ["healthy-1", "poison", "healthy-2", "healthy-3"]
    is_dead = False

    def refuse_the_dead(checkpoint: Checkpoint) -> None:
        if is_dead:
            raise Killed

    async def body(ctx: Context) -> None:
        nonlocal is_dead
        if ctx.run_id == "poison":
            is_dead = True
            raise Killed
        await asyncio.sleep(0.02)  # more than the poison needs

    async def life() -> bool:
        """One process: all runs that have not ended go on at once, until one kills it; tell whether none did."""
        nonlocal is_dead
        is_dead = False
        going = []
        for name in names:
            run = await loaded.start(checkpointer=store, run_id=name)
            tail = await store.read_latest(name)
            if tail is None or tail.status == "running":
                going.append(asyncio.ensure_future(run.start() if tail is None else run.resume()))
        await asyncio.wait(going, return_when=asyncio.FIRST_EXCEPTION)
        for each in going:
            each.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        return not is_dead

    nodes.before = body
    store.before_write = refuse_the_dead
    lives = 1
    while not await life():
        lives += 1
    assert lives < 15
    ends = {name: store.runs[name][-1].status for name in names}
    assert ends == {"healthy-1": "done", "poison": "failed", "healthy-2": "done", "healthy-3": "done"}


async def test_a_suspect_may_start_a_run_of_its_own(store: MemoryCheckpointer) -> None:
    loaded = graph('nodes: [{id: a, kind: "support.nodes:returns_nothing"}]')

    def kill(ctx: Context) -> None:
        raise Killed

    for name in ("inner", "outer"):
        nodes.before = kill
        with pytest.raises(Killed):
            await (await loaded.start(checkpointer=store, run_id=name)).start()
        for _ in range(5):
            with pytest.raises(Killed):
                await (await loaded.start(checkpointer=store)).resume(name)

    async def body(ctx: Context) -> None:
        if ctx.run_id == "outer":
            await (await loaded.start(checkpointer=store)).resume("inner")

    nodes.before = body
    async with asyncio.timeout(60):
        assert (await (await loaded.start(checkpointer=store)).resume("outer")).status == "done"
    assert store.runs["inner"][-1].status == "done"
