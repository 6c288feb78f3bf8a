"""Whole graphs: what LangGraph's own saver in memory gives, this one gives too, on every driver."""

from __future__ import annotations

import asyncio
import operator
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from support.places import Place

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver

Saver = BaseCheckpointSaver[Any]
Graph = Any
"""A compiled graph; its types say nothing that these stories need."""
Story = Callable[[Saver], Awaitable[list[Any]]]


class Notes(TypedDict):
    n: int
    log: Annotated[list[str], operator.add]


class Order(BaseModel):
    total: float = 0.0
    tags: list[str] = []


def config(thread: str = "thread/1 ü") -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


def approval(saver: Saver) -> Graph:
    def ask(state: Notes) -> dict[str, Any]:
        return {"log": [f"answer {interrupt({'question': 'go on?'})}"]}

    def count(state: Notes) -> dict[str, Any]:
        return {"n": state["n"] + 1, "log": ["count"]}

    builder = StateGraph(Notes)
    builder.add_node("count", count)
    builder.add_node("ask", ask)
    for name in ("left", "right", "last"):
        builder.add_node(name, lambda state, name=name: {"log": [name]})
    builder.add_edge(START, "count")
    builder.add_edge("count", "ask")
    builder.add_edge("ask", "left")
    builder.add_edge("ask", "right")
    builder.add_edge(["left", "right"], "last")
    builder.add_edge("last", END)
    return builder.compile(checkpointer=saver)


async def history(graph: Graph, where: dict[str, Any]) -> list[Any]:
    return [
        (
            state.values,
            state.next,
            [(task.name, task.error, task.interrupts, task.result) for task in state.tasks],
            {name: value for name, value in (state.metadata or {}).items() if name != "parents"},
            state.parent_config is not None,
        )
        async for state in graph.aget_state_history(where)
    ]


async def interrupted_and_resumed(saver: Saver) -> list[Any]:
    graph = approval(saver)
    asked = await graph.ainvoke({"n": 0, "log": []}, config())
    state = await graph.aget_state(config())
    answered = await graph.ainvoke(Command(resume="yes"), config())
    return [asked["log"], state.next, answered, await history(graph, config())]


async def travelled_in_time(saver: Saver) -> list[Any]:
    graph = approval(saver)
    await graph.ainvoke({"n": 0, "log": []}, config())
    await graph.ainvoke(Command(resume="yes"), config())
    (past,) = [state async for state in graph.aget_state_history(config()) if state.next == ("ask",)]
    replayed = await graph.ainvoke(None, past.config)
    edited = await graph.aupdate_state(past.config, {"n": 100})
    again = await graph.ainvoke(None, edited)
    newest = await graph.aget_state(config())
    return [replayed, again["n"], newest.values, newest.next, await history(graph, config())]


async def failed_and_retried(saver: Saver) -> list[Any]:
    broken = [True]
    thread: Any = config()

    async def pending_writes() -> list[Any]:
        stored = await saver.aget_tuple(thread)
        return [] if stored is None else list(stored.pending_writes or [])

    async def flaky(state: Notes) -> dict[str, Any]:
        if broken.pop():
            # Until the other node is done, and what it wrote is stored; __start__ has written before both.
            while ["good"] not in [value for *_, value in await pending_writes()]:
                await asyncio.sleep(0.01)
            raise RuntimeError("the network is away")
        return {"log": ["flaky"]}

    builder = StateGraph(Notes)
    builder.add_node("good", lambda state: {"log": ["good"]})
    builder.add_node("flaky", flaky)
    builder.add_edge(START, "good")
    builder.add_edge(START, "flaky")
    graph: Graph = builder.compile(checkpointer=saver)
    with pytest.raises(RuntimeError, match="away"):
        await graph.ainvoke({"n": 0, "log": []}, config())
    between = await history(graph, config())
    broken.append(False)
    return [between, await graph.ainvoke(None, config()), await history(graph, config())]


async def mapped_over_items(saver: Saver) -> list[Any]:
    builder = StateGraph(Notes)
    builder.add_node("work", lambda state: {"log": [f"item {state['n']}"]})
    builder.add_conditional_edges(START, lambda state: [Send("work", {"n": n, "log": []}) for n in range(12)])
    graph: Graph = builder.compile(checkpointer=saver)
    return [await graph.ainvoke({"n": 0, "log": []}, config()), await history(graph, config())]


async def with_a_subgraph(saver: Saver) -> list[Any]:
    inner = StateGraph(Notes)
    inner.add_node("inside", lambda state: {"log": [f"inside {interrupt('name?')}"]})
    inner.add_edge(START, "inside")
    outer = StateGraph(Notes)
    outer.add_node("sub", inner.compile())
    outer.add_node("after", lambda state: {"log": ["after"]})
    outer.add_edge(START, "sub")
    outer.add_edge("sub", "after")
    graph: Graph = outer.compile(checkpointer=saver)
    await graph.ainvoke({"n": 0, "log": []}, config())
    state = await graph.aget_state(config(), subgraphs=True)
    inside = state.tasks[0].state
    answered = await graph.ainvoke(Command(resume="Ada"), config())
    return [state.next, inside.next if hasattr(inside, "next") else inside, answered, await history(graph, config())]


async def a_conversation(saver: Saver) -> list[Any]:
    def reply(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"re: {state['messages'][-1].content}", id=f"a{len(state['messages'])}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("reply", reply)
    builder.add_edge(START, "reply")
    graph: Graph = builder.compile(checkpointer=saver)
    for number in range(4):
        message: BaseMessage = HumanMessage(f"message {number}", id=f"h{number}")
        state = await graph.ainvoke({"messages": [message]}, config())
    kept = await graph.aget_state(config())
    return [state["messages"], kept.values["messages"], await history(graph, config())]


async def with_a_model_as_state(saver: Saver) -> list[Any]:
    builder = StateGraph(Order)
    builder.add_node("price", lambda state: {"total": state.total + 9.5, "tags": [*state.tags, "priced"]})
    builder.add_edge(START, "price")
    graph: Graph = builder.compile(checkpointer=saver)
    await graph.ainvoke(Order(tags=["new"]), config())
    return [await graph.ainvoke({"total": 1.0}, config()), await history(graph, config())]


STORIES: list[Story] = [
    interrupted_and_resumed,
    travelled_in_time,
    failed_and_retried,
    mapped_over_items,
    with_a_subgraph,
    a_conversation,
    with_a_model_as_state,
]
each_story = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)


def comparable(value: Any) -> Any:
    """Leave out what is another one in each run: ids and times."""
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items() if name not in ("checkpoint_id", "run_id")}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value.value if type(value).__name__ == "Interrupt" else value


async def same(story: Story, saver: Saver) -> None:
    assert comparable(await story(saver)) == comparable(await story(InMemorySaver()))


@each_story
async def test_it_does_what_the_saver_in_memory_does(story: Story) -> None:
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        await same(story, saver)


@pytest.mark.thorough
@each_story
async def test_it_does_so_on_every_driver(story: Story, saver: StargraphSaver) -> None:
    await same(story, saver)


@pytest.mark.thorough
async def test_the_uuids_of_an_application_are_left_to_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """LangGraph's tests, and those of its users, replace `uuid.uuid4` by a sequence and count on each value of it."""
    taken: list[str] = []
    original = uuid.uuid4

    def counted() -> uuid.UUID:
        taken.append("".join(traceback.format_stack(limit=4)))
        return original()

    monkeypatch.setattr(uuid, "uuid4", counted)
    async with place.open() as store, StargraphSaver(store) as saver:
        await saver.setup()
        thread: Any = config()
        graph = approval(saver)
        await graph.ainvoke({"n": 0, "log": []}, thread)
        await graph.ainvoke(Command(resume="yes"), thread)
        assert len([each async for each in graph.aget_state_history(thread)]) == 6
        await saver.adelete_thread(thread["configurable"]["thread_id"])
    ours = [each for each in taken if "stargraph/checkpoint" in each or "stargraph/langgraph" in each]
    assert not ours, ours[0]
