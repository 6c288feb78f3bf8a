"""Several that watch one run, and those that look away."""

from __future__ import annotations

import asyncio
import gc

from support.graphs import SEQUENCE, graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import StoreUnavailableError
from stargraph.graph import Run


async def _types(run: Run) -> list[str]:
    return [event.type async for event in run.stream()]


async def test_several_listeners_see_the_same(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    first, second, third = await asyncio.gather(_types(run), _types(run), _types(run))
    assert first == second == third
    assert first.count("completed") == 3


async def test_a_listener_that_stops_early_stops_the_run_that_it_started(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    stream = run.stream()
    async for event in stream:
        if event.type == "completed":
            break
    await stream.aclose()  # type: ignore[attr-defined]
    assert store.runs["r"][-1].status == "running"
    assert (await run.resume()).status == "done"


async def test_a_listener_that_looks_away_hides_no_failure_behind_a_warning(store: MemoryCheckpointer) -> None:
    def refuse(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "completed":
            raise StoreUnavailableError("gone", reason="unavailable")

    store.before_write = refuse
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    stream = run.stream()
    async for _ in stream:
        await asyncio.sleep(0.05)
        break
    await stream.aclose()  # type: ignore[attr-defined]
    del run, stream
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_listener_after_the_end_is_told_nothing(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    await run.start()
    assert await asyncio.wait_for(_types(run), 60) == []


async def test_the_summary_follows_what_this_object_did(store: MemoryCheckpointer) -> None:
    asked = 'nodes: [{id: a, kind: interrupt, prompt: "?", into: x}, {id: b, kind: interrupt, prompt: "?", into: y}]'
    run = await graph(asked).start(checkpointer=store, run_id="r")
    await run.start()
    answered = await run.answer(store.runs["r"][-1].interrupts[0].id, 1)
    assert run.summary == answered
    cancelled = await run.cancel(grace=0)
    assert run.summary == cancelled
