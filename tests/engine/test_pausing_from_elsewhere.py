"""A run is paused by another handle than the one that executes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support import nodes
from support.graphs import PATH, graph
from support.memory import MemoryCheckpointer
from support.places import Place

from stargraph.checkpoint.protocol import Checkpoint, Checkpointer
from stargraph.errors import CheckpointError
from stargraph.graph import Context, Run, cancel, pause, requeue

TEXT = f"""{PATH}
nodes:
  - {{id: a, kind: "support.nodes:step"}}
  - {{id: b, kind: "support.nodes:awaits_path"}}
  - {{id: c, kind: "support.nodes:step"}}
"""
ASKS = f'{PATH}\nnodes: [{{id: ask, kind: interrupt, prompt: "?", into: path}}]'
PARENT = "nodes: [{id: down, kind: subgraph, graph: inner.yaml}]"


class Held:
    """A run whose node `b` lasts until it is let go."""

    def __init__(self) -> None:
        self.entered, self.released = asyncio.Event(), asyncio.Event()
        self.cancelled = False

    def body(self, ctx: Context) -> Any:
        return self._hold() if ctx.node == "b" else None

    def let_go(self, ctx: Context) -> Any:
        self.released.set()
        return self.body(ctx)

    async def _hold(self) -> None:
        self.entered.set()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def begin(self, store: Checkpointer, text: str = TEXT, **options: Any) -> tuple[Run, asyncio.Task[Any]]:
        nodes.before = self.body
        run = await graph(text).start(checkpointer=store, run_id="r", **options)
        work = asyncio.create_task(run.start())
        await self.entered.wait()
        return run, work


async def events(store: Checkpointer, run_id: str = "r") -> list[str]:
    tail = await store.read_latest(run_id)
    assert tail is not None
    found = [await store.read_at_step(run_id, step) for step in range(tail.step + 1)]
    return [each.event for each in found if each is not None]


async def asked(store: Checkpointer) -> None:
    """Wait until the pause is requested."""
    async with asyncio.timeout(60):
        while (await events(store))[-1] != "pause_requested":
            await asyncio.sleep(0.01)


async def test_the_executor_finishes_its_nodes_and_pauses(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    held, looked = Held(), asyncio.Event()
    async with place.open() as store, place.open() as other:
        run, work = await held.begin(store)
        tail = await pause(other, "r", grace=None)
        assert (tail.event, tail.status) == ("pause_requested", "running")
        assert (await pause(other, "r", grace=None)).step == tail.step  # asked once
        read_latest = other.read_latest

        async def seen(run_id: str) -> Checkpoint | None:
            found = await read_latest(run_id)
            looked.set()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(other, "read_latest", seen)
            pausing = asyncio.create_task(pause(other, "r", grace=300))
            await looked.wait()  # who asks behind the end of the node asks again
        held.released.set()
        assert (await pausing).status == "paused"
        assert (await work).status == "paused"
        assert await events(other) == ["started", "completed", "pause_requested", "completed", "paused"]
        assert (await pause(other, "r")).event == "paused"
        assert (await run.resume()).status == "done"
        assert run.state == {"path": ["a", "b", "c"]}
        assert not (await run.replay()).differences
        with pytest.raises(CheckpointError, match="is done: there is nothing to pause"):
            await pause(other, "r")


async def test_whoever_does_not_pause_in_time_loses_the_run(store: MemoryCheckpointer) -> None:
    held = Held()
    _, work = await held.begin(store, watch=0.01)
    assert (await pause(store, "r", grace=0)).status == "paused"
    assert (await work).status == "paused"
    assert held.cancelled
    assert store.events("r") == ["started", "completed a", "pause_requested", "paused"]


async def test_a_loss_that_only_a_write_finds_ends_the_execution_quietly(store: MemoryCheckpointer) -> None:
    held = Held()
    _, work = await held.begin(store, watch=0)
    await pause(store, "r", grace=0)
    held.released.set()
    assert (await work).status == "paused"
    assert store.events("r") == ["started", "completed a", "pause_requested", "paused"]


async def test_a_request_reaches_the_nodes_of_a_child_run(store: MemoryCheckpointer, tmp_path: Any) -> None:
    (tmp_path / "inner.yaml").write_text(f"id: inner\n{TEXT}")
    held = Held()
    nodes.before = held.body
    run = await graph(PARENT, tmp_path).start(checkpointer=store, run_id="r", watch=0.01)
    work = asyncio.create_task(run.start())
    await held.entered.wait()
    (child,) = set(store.runs) - {"r"}
    with pytest.raises(CheckpointError) as caught:
        await pause(store, child)
    assert (caught.value.reason, caught.value.hint) == ("child-run", "Pause the parent, run 'r'.")
    await pause(store, "r", grace=None)
    async with asyncio.timeout(60):
        while run._execution is not None and run._execution._engine._stop is None:  # it has heard
            await asyncio.sleep(0.01)
    held.released.set()
    assert (await work).status == "paused"
    assert {log[-1].status for log in store.runs.values()} == {"paused"}
    assert (await run.resume()).status == "done"


async def test_a_cancellation_goes_before_a_pause(store: MemoryCheckpointer) -> None:
    held = Held()
    _, work = await held.begin(store, watch=0.01)
    await pause(store, "r", grace=None)
    assert (await cancel(store, "r", grace=300)).status == "cancelled"
    assert (await work).status == "cancelled"
    assert held.cancelled


async def test_a_worker_that_stops_does_not_requeue_what_was_to_pause(store: MemoryCheckpointer) -> None:
    held = Held()
    run, work = await held.begin(store, watch=0)
    await asyncio.wait_for(pause(store, "r", grace=None), 60)
    run.pause(grace=300, requeue=True)
    held.released.set()
    assert (await work).status == "paused"


async def _orphan(store: MemoryCheckpointer) -> Checkpoint:
    """A run that was to pause, and whose executor has died."""
    held = Held()
    _, work = await held.begin(store)
    tail = await pause(store, "r", grace=None)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    nodes.before = Held().let_go
    return tail


async def test_a_worker_leaves_an_orphan_that_was_to_pause_paused(store: MemoryCheckpointer) -> None:
    tail = await _orphan(store)
    run = await graph(TEXT).start(checkpointer=store, run_id="r")
    assert (await run.resume(only_at_step=tail.step)).status == "paused"
    assert store.events("r")[-2:] == ["pause_requested", "paused"]


async def test_a_resume_by_hand_goes_on_with_what_was_to_pause(store: MemoryCheckpointer) -> None:
    await _orphan(store)
    run = await graph(TEXT).start(checkpointer=store, run_id="r")
    assert (await run.resume()).status == "done"


async def test_a_queued_run_pauses_at_once_and_what_rests_stays(store: MemoryCheckpointer) -> None:
    made = graph(TEXT)
    await made.enqueue(store, run_id="q")
    assert (await pause(store, "q", grace=None)).status == "paused"
    assert (await requeue(store, "q")).status == "queued"
    asking = await graph(ASKS).start(checkpointer=store, run_id="w")
    await asking.start()
    before = store.events("w")
    assert (await pause(store, "w", grace=0)).status == "awaiting_input"
    assert store.events("w") == before
