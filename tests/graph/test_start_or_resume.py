"""`graph.start_or_resume`: one call for the first time and for every time after it."""

from __future__ import annotations

import asyncio

import pytest

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.errors import CheckpointConflictError, StateError
from stargraph.graph import Graph, GraphBuilder

RAN: list[int] = []

builder = GraphBuilder("once")
builder.state(n=int, yes=(bool | None, None))


@builder.node
async def count(state):  # type: ignore[no-untyped-def]
    await asyncio.sleep(0)
    RAN.append(state.n)
    return {"n": state.n + 1}


builder.add_node("ask", "interrupt", prompt="Well?", into="yes")
graph = Graph(builder)


@pytest.fixture
async def store() -> MemoryCheckpointer:
    RAN.clear()
    store = MemoryCheckpointer()
    await store.bootstrap()
    return store


async def test_it_starts_and_then_resumes(store: MemoryCheckpointer) -> None:
    for inputs in ({"n": 1}, {"n": 5}, None):
        run = await graph.start_or_resume(checkpointer=store, run_id="r", inputs=inputs)
        result = await run.start()
        assert (result.status, result.state) == ("awaiting_input", {"n": 2, "yes": None})
    assert RAN == [1]
    await run.answer(result.questions[0], True)
    again = await graph.start_or_resume(checkpointer=store, run_id="r")
    assert [event.type async for event in again.stream()] == ["resumed", "node_started", "completed"]
    assert again.state == {"n": 2, "yes": True}
    assert (await (await graph.start_or_resume(checkpointer=store, run_id="r")).start()).status == "done"


async def test_inputs_are_checked_when_it_starts(store: MemoryCheckpointer) -> None:
    with pytest.raises(StateError, match="'n' is missing"):
        await (await graph.start_or_resume(checkpointer=store, run_id="r")).start()
    assert await store.read_latest("r") is None


async def test_of_two_at_once_one_goes_on(store: MemoryCheckpointer) -> None:
    runs = [await graph.start_or_resume(checkpointer=store, run_id="r", inputs={"n": 1}) for _ in range(2)]
    ended = await asyncio.gather(*(run.start() for run in runs), return_exceptions=True)
    assert [isinstance(each, CheckpointConflictError) for each in ended].count(True) <= 1
    latest = await store.read_latest("r")
    assert latest is not None
    assert latest.state == {"n": 2, "yes": None}
    assert latest.status == "awaiting_input"
