"""Calls whose node or executor is stopped: by a timeout, a takeover, a store that fails, a cancellation."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from support import calling_nodes
from support.call_runs import PLAY, PLAY_IN_A_THREAD, Durability, play, resume, start
from support.calling_nodes import EFFECTS, do
from support.graphs import graph
from support.loop_clock import LoopClock
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, StoreUnavailableError
from stargraph.graph import Context


@pytest.fixture(autouse=True)
def effects() -> None:
    calling_nodes.reset()


async def test_a_timed_out_node_leaves_no_call_half_recorded(store: MemoryCheckpointer) -> None:
    """The node's time ends while the outcome of its call is being written; the next attempt is told the outcome."""
    text = PLAY.replace("retry:", "timeout: 60, retry:").replace("ConnectionError", "TimeoutError")
    clock, writing = LoopClock(), asyncio.Event()

    async def slow_write(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "called" and not writing.is_set():
            writing.set()
            clock.pass_(60)
            await asyncio.sleep(0.1)
        await MemoryCheckpointer.write(store, checkpoint)

    async def script(state: Any, context: Context) -> Any:
        return {"x": [await context.call("f", do, "f", 1), context.attempt]}

    play(script)
    store.write = slow_write  # type: ignore[method-assign]
    assert (await start(store, text)).status == "done"
    assert EFFECTS == ["f"]
    assert store.runs["r"][-1].state == {"x": [1, 2]}
    assert store.events("r") == ["started", "called a", "completed a"]


@pytest.mark.parametrize("text", [PLAY, PLAY_IN_A_THREAD])
@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_takeover_stops_the_node_at_its_call(
    store: MemoryCheckpointer, text: str, durability: Durability
) -> None:
    """Two processes: the second takes the run over while a call of the first is under way."""
    entered, opened = threading.Event(), threading.Event()
    first = True

    def gate() -> str:
        nonlocal first
        if first:
            first = False
            entered.set()
            opened.wait(60)
            return "late"
        return "in time"

    after: list[str] = []

    async def script(state: Any, context: Context) -> Any:
        try:
            shown = await context.call("f", gate)
        except Exception as error:
            after.append(type(error).__name__)
            raise
        after.append(shown)
        return {"x": shown}

    def sync_script(state: Any, context: Context) -> Any:
        try:
            shown = context.call_sync("f", gate)
        except Exception as error:
            after.append(type(error).__name__)
            raise
        after.append(shown)
        return {"x": shown}

    play(script)
    calling_nodes.sync_script = sync_script
    loser = asyncio.ensure_future(start(store, text, durability))
    await asyncio.to_thread(entered.wait, 60)
    assert (await resume(store, text)).status == "done"
    opened.set()
    with pytest.raises(CheckpointConflictError):
        await loser
    # With `async` a call may return before it is durable, and what follows is refused at the next write.
    assert after in (["in time"], ["in time", "late"])
    assert after == ["in time"] or durability == "async"
    assert store.events("r") == ["started", "resumed", "called a", "completed a"]


@pytest.mark.parametrize("text", [PLAY, PLAY_IN_A_THREAD])
async def test_a_store_that_fails_ends_the_execution_and_not_the_run(store: MemoryCheckpointer, text: str) -> None:
    failing = True

    def refuse(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "called" and failing:
            raise StoreUnavailableError("gone", reason="unavailable")

    async def script(state: Any, context: Context) -> Any:
        try:
            return {"x": await context.call("f", do, "f", 1)}
        except Exception as error:  # the store's fault is not the node's to handle
            EFFECTS.append(repr(error))

    def sync_script(state: Any, context: Context) -> Any:
        try:
            return {"x": context.call_sync("f", do, "f", 1)}
        except Exception as error:
            EFFECTS.append(repr(error))

    play(script)
    calling_nodes.sync_script = sync_script
    store.before_write = refuse
    with pytest.raises(StoreUnavailableError):
        await start(store, text)
    failing = False
    assert (await resume(store, text)).status == "done"
    assert EFFECTS == ["f", "f"]
    assert store.runs["r"][-1].state == {"x": 1}


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_an_answer_from_elsewhere_may_come_between(store: MemoryCheckpointer, durability: Durability) -> None:
    text = """
state_schema: {x: {type: any, default: null}, yes: {type: any, default: null}}
nodes:
  - {id: begin, kind: echo}
  - {id: ask, kind: interrupt, prompt: "Sure?", into: yes}
  - {id: a, kind: "support.calling_nodes:play"}
  - {id: end, kind: echo}
rules: [{id: both, when: {node: begin}, then: [{kind: parallel, targets: [ask, a], join: end}]}]
"""
    elsewhere = await graph(text).start(checkpointer=store, run_id="r")

    async def script(state: Any, context: Context) -> Any:
        while not (store.runs["r"][-1].interrupts):
            await asyncio.sleep(0.001)
        (interrupt,) = store.runs["r"][-1].interrupts
        first = await context.call("first", do, "first", 1)
        await elsewhere.answer(interrupt.id, "yes")
        return {"x": [first, await context.call("second", do, "second", 2)]}

    play(script)
    assert (await start(store, text, durability)).status == "done"
    assert store.runs["r"][-1].state == {"x": [1, 2], "yes": "yes"}
    assert EFFECTS == ["first", "second"]
    events = store.events("r")
    assert events.count("called a") == 2
    assert events.index("answered ask") > events.index("asked ask")


async def test_a_node_can_be_cancelled_in_a_call(store: MemoryCheckpointer) -> None:
    begun = asyncio.Event()

    async def for_ever() -> None:
        begun.set()
        await asyncio.sleep(60)

    async def script(state: Any, context: Context) -> Any:
        await context.call("f", for_ever)

    play(script)
    run = await graph(PLAY).start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start())
    await begun.wait()
    assert (await run.cancel()).status == "cancelled"
    await work
    assert store.events("r")[:2] == ["started", "cancel_requested"] or store.events("r") == ["started", "cancelled"]


async def test_a_thread_that_was_left_behind_records_nothing(store: MemoryCheckpointer) -> None:
    entered, opened, ended = threading.Event(), threading.Event(), threading.Event()

    def gate() -> None:
        entered.set()
        opened.wait(60)

    def sync_script(state: Any, context: Context) -> Any:
        try:
            context.call_sync("f", gate)
        except BaseException as error:
            EFFECTS.append(type(error).__name__)
            ended.set()
            raise

    calling_nodes.sync_script = sync_script
    run = await graph(PLAY_IN_A_THREAD).start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start())
    await asyncio.to_thread(entered.wait, 60)
    run.pause(grace=0)
    assert (await work).status == "paused"
    opened.set()
    assert await asyncio.to_thread(ended.wait, 60)
    assert EFFECTS == ["CancelledError"]
    assert store.events("r") == ["started", "paused"]


async def test_no_record_of_a_call_is_under_way_when_the_execution_ends(store: MemoryCheckpointer) -> None:
    """A thread cannot be stopped; what it has begun to append is waited for, so that a resume meets no late write."""
    writing = asyncio.Event()
    under_way = 0

    async def slow_write(checkpoint: Checkpoint) -> None:
        nonlocal under_way
        under_way += 1
        if checkpoint.event == "called":
            writing.set()
            await asyncio.sleep(0.2)
        await MemoryCheckpointer.write(store, checkpoint)
        under_way -= 1

    calling_nodes.sync_script = lambda state, context: {"x": context.call_sync("f", do, "f", 1)}
    store.write = slow_write  # type: ignore[method-assign]
    run = await graph(PLAY_IN_A_THREAD).start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start())
    await writing.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert under_way == 0
    assert store.events("r") == ["started", "called a"]
    assert (await run.resume()).status == "done"
    assert EFFECTS == ["f"]
