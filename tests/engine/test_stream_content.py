"""What the events of a stream say: updates, calls, attempts, branches, questions, answers, and what nodes emit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.graphs import everything
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.memory import MemoryCheckpointer as Store
from stargraph.errors import NodeError, StateError
from stargraph.graph import CallInfo, Context, Graph, GraphBuilder, Middleware, Run, RunEvent


async def talks(state: Any, ctx: Context) -> dict[str, Any]:
    for word in ("two", "words"):
        await ctx.emit({"token": word})
    return {"n": 1}


def talks_in_a_thread(state: Any, ctx: Context) -> dict[str, Any]:
    ctx.emit("one")
    ctx.emit("two", stored=True)
    return {"n": 2}


async def stores_what_it_says(state: Any, ctx: Context) -> dict[str, Any]:
    await ctx.emit("kept", stored=True)
    ctx.interrupt("More?")
    return {"n": 3}


async def stores_a_list(state: Any, ctx: Context) -> dict[str, Any]:
    words = ["kept"]
    await ctx.emit(words, stored=True)
    ctx.interrupt("Go on?", ["kept"])
    return {"words": words}


def says_no_json(state: Any, ctx: Context) -> dict[str, Any]:
    ctx.emit({1, 2})
    return {}


async def fails_twice(state: Any, ctx: Context) -> dict[str, Any]:
    if ctx.attempt < 3:
        raise OSError(f"no route {ctx.attempt}")
    return {"n": ctx.attempt}


async def fails(state: Any, ctx: Context) -> dict[str, Any]:
    raise OSError("no route at all")


async def calls(state: Any, ctx: Context) -> dict[str, Any]:
    async def refuse() -> int:
        raise ValueError("refused")

    async def fetch() -> int:
        return 7

    try:
        await ctx.call("refuse", refuse)
    except Exception:
        return {"n": await ctx.call("fetch", fetch, key="k")}
    return {}


LEFT: list[asyncio.Task[None]] = []


async def leaves_work(state: Any, ctx: Context) -> dict[str, Any]:
    async def later() -> None:
        while not ctx._call_log or not ctx._call_log._closed:
            await asyncio.sleep(0)
        ctx.emit("late")

    LEFT.append(asyncio.create_task(later()))
    return {}


async def asks(state: Any, ctx: Context) -> dict[str, Any]:
    return {"n": ctx.interrupt("How many?", {"most": 3})}


def graph(node: Any, **options: Any) -> Graph:
    builder = GraphBuilder("g").state(n=(int, 0))
    builder.node(id="node", **options)(node)
    return Graph(builder)


async def events(run: Run) -> list[RunEvent]:
    return [event async for event in run.stream()]


async def one(store: MemoryCheckpointer, node: Any, **options: Any) -> list[RunEvent]:
    return await events(await graph(node, **options).start(checkpointer=store, run_id="r"))


def of(told: list[RunEvent], kind: str) -> list[RunEvent]:
    return [event for event in told if event.type == kind]


async def test_a_completion_says_the_update_and_how_long_it_took(store: MemoryCheckpointer) -> None:
    told = await one(store, talks)
    (completed,) = of(told, "completed")
    assert (completed.update, completed.attempt, completed.index) == ({"n": 1}, 1, None)
    assert completed.seconds is not None
    assert completed.seconds >= 0
    assert RunEvent.model_validate(completed.model_dump()) == completed


async def test_what_a_node_emits_comes_in_order_and_is_not_stored(store: MemoryCheckpointer) -> None:
    told = await one(store, talks)
    assert [event.type for event in told] == ["started", "node_started", "emitted", "emitted", "completed"]
    assert [event.value for event in of(told, "emitted")] == [{"token": "two"}, {"token": "words"}]
    assert all(event.node == "node" and not event.durable for event in of(told, "emitted"))
    assert store.events("r") == ["started", "completed node"]


async def test_a_thread_emits_too_and_what_is_stored_is_a_call(store: MemoryCheckpointer) -> None:
    told = await one(store, talks_in_a_thread)
    assert [event.type for event in told] == ["started", "node_started", "emitted", "emitted", "called", "completed"]
    (called,) = of(told, "called")
    assert called.call is not None
    assert (called.call.name, called.call.result) == ("emit", "two")


async def test_what_is_stored_is_told_once_and_replays(store: MemoryCheckpointer) -> None:
    run = await graph(stores_what_it_says).start(checkpointer=store, run_id="r")
    told = await events(run)
    (question,) = run.questions
    await run.answer(question, "no")
    again = asyncio.ensure_future(run.resume())
    told += await events(run)
    assert (await again).status == "done"
    assert [event.value for event in of(told, "emitted")] == ["kept"]
    report = await run.replay()
    assert not report.differences


@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_a_listener_that_changes_what_it_gets_changes_nothing_that_is_stored(durability: Any) -> None:
    changed = asyncio.Event()

    class UntilChanged(Middleware):
        @asynccontextmanager
        async def call(self, call: CallInfo) -> AsyncIterator[None]:
            yield
            await changed.wait()

    builder = GraphBuilder("g").state(words=(list[str], []))
    builder.node(id="node")(stores_a_list)
    store = Store()
    await store.bootstrap()
    run = await Graph(builder).start(checkpointer=store, run_id="r", middleware=[UntilChanged()], durability=durability)
    async for event in run.stream():
        if event.type == "emitted":
            event.value.append("changed")
            changed.set()
        if event.call is not None:
            event.call.result.append("changed")
        if event.update:
            event.update["words"].append("changed")
        for question in event.questions:
            question.payload.append("changed")
    assert run.questions[0].payload == ["kept"]
    await run.answer(run.questions[0], ["kept"])
    assert (await run.resume()).status == "done"
    called, latest = await store.read_at_step("r", 1), await store.read_latest("r")
    assert called is not None
    assert latest is not None
    assert (called.calls[0].result, latest.state) == (["kept"], {"words": ["kept"]})
    await store.close()


async def test_what_is_no_json_is_refused(store: MemoryCheckpointer) -> None:
    run = await graph(says_no_json).start(checkpointer=store)
    summary = await run.start()
    assert summary.error is not None
    assert summary.error.type.endswith(StateError.__name__)
    assert "ctx.emit()" in summary.error.message


async def test_nothing_is_emitted_after_the_node(store: MemoryCheckpointer) -> None:
    LEFT.clear()
    await one(store, leaves_work)
    with pytest.raises(NodeError) as caught:
        await LEFT.pop()
    assert caught.value.reason == "node-ended"


async def test_tries_that_fail_are_told_and_kept_with_the_next_step(store: MemoryCheckpointer) -> None:
    told = await one(store, fails_twice, retry={"attempts": 3, "initial_delay": 0.001})
    failed = of(told, "attempt_failed")
    assert [(event.attempt, event.error and event.error.message) for event in failed] == [
        (1, "no route 1"),
        (2, "no route 2"),
    ]
    assert of(told, "completed")[0].attempt == 3
    assert store.events("r") == ["started", "completed node"]
    kept = [call for call in store.runs["r"][-1].calls if call.kind == "attempt"]
    assert [(call.occurrence, call.error and call.error.message) for call in kept] == [
        (0, "no route 1"),
        (1, "no route 2"),
    ]


@pytest.mark.parametrize("recorded", [False, True])
async def test_recorded_or_not_they_replay(store: MemoryCheckpointer, recorded: bool) -> None:
    loaded = graph(fails_twice, retry={"attempts": 3, "initial_delay": 0.001})
    run = await loaded.start(checkpointer=store, run_id="r", record_attempts=recorded)
    await run.start()
    assert store.events("r") == ["started", *["called node"] * (2 if recorded else 0), "completed node"]
    assert not (await run.replay()).differences


async def test_a_failure_says_its_attempt_and_its_error(store: MemoryCheckpointer) -> None:
    told = await one(store, fails, retry={"attempts": 2, "initial_delay": 0.001})
    (failed,) = of(told, "failed")
    assert failed.error is not None
    assert (failed.attempt, failed.error.message, failed.error.node) == (2, "no route at all", "node")
    run = await graph(fails, retry={"attempts": 2, "initial_delay": 0.001}).start(checkpointer=store, run_id="r")
    assert not (await run.replay()).differences


async def test_calls_say_their_outcome(store: MemoryCheckpointer) -> None:
    first, second = of(await one(store, calls), "called")
    assert first.call is not None
    assert first.call.error is not None
    assert (first.call.name, first.call.error.message) == ("refuse", "refused")
    assert second.call is not None
    assert (second.call.name, second.call.key, second.call.result, second.call.error) == ("fetch", "k", 7, None)
    assert second.seconds is not None


async def test_questions_and_answers_are_told(store: MemoryCheckpointer) -> None:
    run = await graph(asks).start(checkpointer=store, run_id="r")
    (asked,) = of(await events(run), "asked")
    ((prompt, payload),) = [(question.prompt, question.payload) for question in asked.questions]
    assert (prompt, payload) == ("How many?", {"most": 3})


async def test_branches_say_their_position(store: MemoryCheckpointer, tmp_path: Path) -> None:
    run = await everything(tmp_path).start(checkpointer=store, run_id="r")
    squares = [event for event in await events(run) if event.type == "completed" and event.node == "square"]
    assert sorted((event.index, event.task_id) for event in squares if event.run_id == squares[0].run_id)
    assert all(str(event.task_id).endswith(f".{event.index}") for event in squares)
    assert squares
