"""Cancelling and pausing a run, from here and from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.graphs import PATH, SEQUENCE, everything, graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.engine import NodePools
from stargraph.errors import CheckpointError
from stargraph.graph import Graph, Middleware, Run, RunInfo

SLOW = f"""{PATH}
nodes:
  - {{id: a, kind: "support.nodes:step"}}
  - {{id: b, kind: "support.nodes:slow"}}
  - {{id: c, kind: "support.nodes:step"}}
"""


async def at_work(
    text: str, store: MemoryCheckpointer, ledger: list[str], **options: Any
) -> tuple[Graph, Run, asyncio.Task[object]]:
    """A run that is in its slow node."""
    made = graph(text)
    run = await made.start(checkpointer=store, run_id="r", **options)
    work: asyncio.Task[object] = asyncio.ensure_future(run.start())
    while "b" not in ledger:
        await asyncio.sleep(0.001)
    return made, run, work


async def test_cancel_stops_the_nodes_and_keeps_the_state(store: MemoryCheckpointer, ledger: list[str]) -> None:
    _, run, work = await at_work(SLOW, store, ledger)
    summary = await run.cancel()
    assert summary.status == "cancelled"
    assert await work == summary
    assert store.events("r") == ["started", "completed a", "cancelled"]
    assert run.state == {"path": ["a"]}
    with pytest.raises(CheckpointError) as caught:
        await run.resume()
    assert caught.value.reason == "run-ended"


async def test_cancel_from_elsewhere_is_seen_at_the_next_write(store: MemoryCheckpointer, ledger: list[str]) -> None:
    made, _, work = await at_work(SLOW, store, ledger, watch=0)  # or it may be seen while b is at work
    other = await made.start(checkpointer=store, run_id="r")
    summary = await other.cancel(grace=300)
    assert summary.status == "cancelled"
    assert store.events("r") == ["started", "completed a", "cancel_requested", "completed b", "cancelled"]
    assert (await work) == summary
    assert store.runs["r"][-1].state == {"path": ["a", "b"]}
    assert ledger == ["a", "b"]


async def test_cancel_from_elsewhere_does_not_wait_for_the_dead(store: MemoryCheckpointer, ledger: list[str]) -> None:
    made, _, work = await at_work(SLOW, store, ledger)
    other = await made.start(checkpointer=store, run_id="r")
    summary = await other.cancel(grace=0)
    assert summary.status == "cancelled"
    assert store.events("r") == ["started", "completed a", "cancel_requested", "cancelled"]
    assert (await work) == summary
    assert "c" not in ledger


async def test_cancel_of_a_waiting_run_ends_its_child_too(store: MemoryCheckpointer, tmp_path: Path) -> None:
    run = await everything(tmp_path).start(checkpointer=store, run_id="r")
    await run.start()
    await run.answer(store.runs["r"][-1].interrupts[0].id, "yes")
    await run.resume()
    child = store.runs["r"][-1].interrupts[0].child_run_id
    assert child is not None
    assert (await run.cancel()).status == "cancelled"
    assert store.runs[child][-1].status == "cancelled"
    assert (await run.cancel()).status == "cancelled"


async def test_cancel_reaches_the_children_of_children(store: MemoryCheckpointer, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text('id: inner\nnodes: [{id: ask, kind: interrupt, prompt: "?", into: x}]\n')
    (tmp_path / "middle.yaml").write_text("id: middle\nnodes: [{id: deeper, kind: subgraph, graph: inner.yaml}]\n")
    run = await graph("nodes: [{id: down, kind: subgraph, graph: middle.yaml}]", tmp_path).start(
        checkpointer=store, run_id="r"
    )
    assert (await run.start()).status == "awaiting_input"
    assert len(store.runs) == 3
    await run.cancel()
    assert {log[-1].status for log in store.runs.values()} == {"cancelled"}


async def test_a_cancelled_task_leaves_no_write_behind(store: MemoryCheckpointer, ledger: list[str]) -> None:
    write = store.write
    entered, released = asyncio.Event(), asyncio.Event()

    async def held(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "completed":
            entered.set()
            await released.wait()
        await write(checkpoint)

    store.write = held  # type: ignore[method-assign]
    run = await graph(SLOW).start(checkpointer=store, run_id="r", durability="async")
    work = asyncio.create_task(run.start())
    await entered.wait()
    work.cancel()
    await asyncio.sleep(0.01)
    assert not work.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert store.events("r") == ["started", "completed a"]


async def test_cancel_of_a_done_run(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    await run.start()
    with pytest.raises(CheckpointError) as caught:
        await run.cancel()
    assert caught.value.reason == "run-ended"


async def test_pause_lets_the_node_end_and_starts_no_other(store: MemoryCheckpointer, ledger: list[str]) -> None:
    _, run, work = await at_work(SLOW, store, ledger)
    run.pause(grace=300)
    await work
    assert store.events("r") == ["started", "completed a", "completed b", "paused"]
    assert (await run.resume()).status == "done"
    assert ledger == ["a", "b", "c"]


async def test_pause_gives_up_on_a_node_after_the_grace(store: MemoryCheckpointer, ledger: list[str]) -> None:
    _, run, work = await at_work(SLOW, store, ledger)
    run.pause(grace=0.01)
    await work
    assert store.events("r") == ["started", "completed a", "paused"]
    assert (await run.resume()).status == "done"
    assert ledger == ["a", "b", "b", "c"]


async def test_a_node_that_somebody_cancels_before_it_begins_ends_the_run(
    store: MemoryCheckpointer, ledger: list[str]
) -> None:
    def cancelling(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        if work.__qualname__ == "Engine._run_task":
            cancelled.append(task.cancel())
        return task

    cancelled: list[bool] = []
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    asyncio.get_running_loop().set_task_factory(cancelling)
    try:
        summary = await asyncio.wait_for(run.start(), 60)
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert cancelled == [True]
    assert ledger == []
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.reason == "node-cancelled"


@pytest.mark.parametrize("begin", ["start", "resume"])
async def test_pause_in_the_turn_in_which_a_task_was_made(
    store: MemoryCheckpointer, ledger: list[str], begin: str
) -> None:
    made = graph(SEQUENCE)
    if begin == "resume":
        await made.enqueue(store, run_id="r")
    run = await made.start(checkpointer=store, run_id="r")
    work = asyncio.create_task(run.start() if begin == "start" else run.resume())
    run.pause()
    assert (await work).status == "paused"
    assert ledger == []
    assert (await run.resume()).status == "done"


async def test_pause_of_what_was_not_begun_does_nothing(store: MemoryCheckpointer, ledger: list[str]) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    run.pause()
    assert (await asyncio.create_task(run.start())).status == "done"
    await asyncio.to_thread(run.pause)
    assert ledger == ["a", "b", "c"]


async def test_pause_before_an_awaited_start_does_nothing(store: MemoryCheckpointer, ledger: list[str]) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    run.pause()
    assert (await run.start()).status == "done"


@pytest.mark.parametrize("begin", ["start", "resume", "start_or_resume"])
async def test_cancel_in_the_turn_in_which_a_task_was_made(
    store: MemoryCheckpointer, ledger: list[str], begin: str
) -> None:
    made = graph(SLOW)
    if begin == "resume":
        await made.enqueue(store, run_id="r")
    opened = made.start_or_resume if begin == "start_or_resume" else made.start
    run = await opened(checkpointer=store, run_id="r")
    work = asyncio.create_task(run.resume() if begin == "resume" else run.start())
    assert (await asyncio.wait_for(run.cancel(), 60)).status == "cancelled"
    assert (await work).status == "cancelled"
    assert "c" not in ledger


async def test_cancel_while_the_first_step_is_stored(store: MemoryCheckpointer, ledger: list[str]) -> None:
    write = store.write
    entered, released = asyncio.Event(), asyncio.Event()

    async def held(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 0:
            entered.set()
            await released.wait()
        await write(checkpoint)

    store.write = held  # type: ignore[method-assign]
    run = await graph(SLOW).start(checkpointer=store, run_id="r")
    work = asyncio.create_task(run.start())
    await entered.wait()
    cancelling = asyncio.create_task(run.cancel())
    await asyncio.sleep(0)
    released.set()
    assert (await asyncio.wait_for(cancelling, 60)).status == "cancelled"
    assert (await work).status == "cancelled"
    assert store.events("r")[0] == "started"


async def test_cancel_of_a_run_whose_start_fails_does_not_wait_for_it(store: MemoryCheckpointer) -> None:
    async def failing(checkpoint: Checkpoint) -> None:
        await asyncio.sleep(0)
        raise CheckpointError("no", reason="refused")

    store.write = failing  # type: ignore[method-assign]
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    work = asyncio.create_task(run.start())
    with pytest.raises(CheckpointError) as caught:
        await asyncio.wait_for(run.cancel(), 60)
    assert caught.value.reason == "run-not-found"
    with pytest.raises(CheckpointError, match="no"):
        await work


@pytest.mark.parametrize("in_task", [False, True])
async def test_middleware_that_cancels_the_run_before_it_is_stored_is_refused(
    store: MemoryCheckpointer, in_task: bool
) -> None:
    class Refusing(Middleware):
        @asynccontextmanager
        async def run(self, info: RunInfo) -> AsyncIterator[None]:
            await (asyncio.create_task(run.cancel()) if in_task else run.cancel())
            yield

    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", middleware=(Refusing(),))
    with pytest.raises(CheckpointError) as caught:
        await asyncio.wait_for(run.start(), 60)
    assert caught.value.reason == "run-not-found"


async def test_a_run_that_middleware_starts_may_cancel_the_run_that_waits_for_it(store: MemoryCheckpointer) -> None:
    class Nested(Middleware):
        @asynccontextmanager
        async def run(self, info: RunInfo) -> AsyncIterator[None]:
            await (run.cancel() if info.run_id == "inner" else inner.start())
            yield

    run, inner = [
        await graph(SEQUENCE).start(checkpointer=store, run_id=run_id, middleware=(Nested(),))
        for run_id in ("outer", "inner")
    ]
    with pytest.raises(CheckpointError) as caught:
        await asyncio.wait_for(run.start(), 60)
    assert caught.value.reason == "run-not-found"


async def test_cancel_returns_although_the_start_is_cancelled_while_it_stops(
    store: MemoryCheckpointer, ledger: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run, work = await at_work(SLOW, store, ledger)
    closing, may_close = asyncio.Event(), asyncio.Event()

    async def close(self: NodePools) -> None:
        closing.set()
        await may_close.wait()  # as long as the processes of nodes take to end

    monkeypatch.setattr(NodePools, "close", close)
    cancelling = asyncio.create_task(run.cancel())
    await closing.wait()
    work.cancel()
    may_close.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (await asyncio.wait_for(cancelling, 60)).status == "cancelled"
