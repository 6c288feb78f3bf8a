"""More of what graphs do with a saver, with and without an event loop: this one does as LangGraph's saver in memory."""

from __future__ import annotations

import asyncio
import enum
import operator
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypedDict
from zoneinfo import ZoneInfo

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Overwrite, RetryPolicy, Send, StateUpdate, interrupt
from pydantic import BaseModel

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver

from .test_graphs import Notes, comparable, config, history

Saver = BaseCheckpointSaver[Any]
Compiled = Callable[[Any, Saver], Any]
"""Makes a graph of a builder; or one that is called without an event loop."""
Story = Callable[[Saver, Compiled], Awaitable[list[Any]]]


def awaited(builder: Any, saver: Saver, **options: Any) -> Any:
    return builder.compile(checkpointer=saver, **options)


class Threaded:
    """A graph whose synchronous methods are called, in a thread."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    async def ainvoke(self, *words: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self._graph.invoke, *words, **options)

    async def aget_state(self, *words: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self._graph.get_state, *words, **options)

    async def aupdate_state(self, *words: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self._graph.update_state, *words, **options)

    async def abulk_update_state(self, *words: Any, **options: Any) -> Any:
        return await asyncio.to_thread(self._graph.bulk_update_state, *words, **options)

    async def aget_state_history(self, *words: Any, **options: Any) -> AsyncIterator[Any]:
        for state in await asyncio.to_thread(lambda: list(self._graph.get_state_history(*words, **options))):
            yield state

    async def astream(self, *words: Any, **options: Any) -> AsyncIterator[Any]:
        for item in await asyncio.to_thread(lambda: list(self._graph.stream(*words, **options))):
            yield item


def threaded(builder: Any, saver: Saver, **options: Any) -> Any:
    return Threaded(builder.compile(checkpointer=saver, **options))


def notes(*names: str, ask: tuple[str, ...] = ()) -> StateGraph[Any]:
    """A graph with a node for each name, which notes it; some ask a question first."""
    builder: Any = StateGraph(Notes)

    def node(name: str) -> Callable[[Notes], dict[str, Any]]:
        def run(state: Notes) -> dict[str, Any]:
            answer = f" {interrupt(f'{name}?')}" if name in ask else ""
            return {"log": [name + answer], "n": state["n"] + 1}

        return run

    for name in names:
        builder.add_node(name, node(name))
    return builder  # type: ignore[no-any-return]


def in_a_row(builder: Any, *names: str) -> Any:
    for before, after in zip((START, *names), names, strict=False):
        builder.add_edge(before, after)
    return builder


BEGIN = {"n": 0, "log": []}


async def stopped_before_and_after_nodes(saver: Saver, compiled: Compiled) -> list[Any]:
    builder = in_a_row(notes("a", "b", "c"), "a", "b", "c")
    graph = compiled(builder, saver, interrupt_before=["b"], interrupt_after=["b"])  # type: ignore[call-arg]
    states = [await graph.ainvoke(BEGIN, config())]
    for _ in range(3):
        state = await graph.aget_state(config())
        states.append((state.next, state.values))
        states.append(await graph.ainvoke(None, config()))
    return [states, await history(graph, config())]


async def asked_by_two_nodes_at_once(saver: Saver, compiled: Compiled) -> list[Any]:
    class Log(TypedDict):
        log: Annotated[list[str], operator.add]

    builder: Any = StateGraph(Log)
    for name in ("a", "b"):
        builder.add_node(name, lambda state, name=name: {"log": [f"{name} {interrupt(name)}"]})
        builder.add_edge(START, name)
    graph = compiled(builder, saver)
    await graph.ainvoke({"log": []}, config())
    state = await graph.aget_state(config())
    answers = {each.id: f"answer to {each.value}" for each in state.interrupts}
    first = await graph.ainvoke(Command(resume=dict([next(iter(answers.items()))])), config())
    between = await graph.aget_state(config())
    done = await graph.ainvoke(Command(resume=answers), config())
    return [sorted(answers.values()), len(first["log"]), between.next, done, await history(graph, config())]


async def asked_twice_in_one_node_and_in_a_loop(saver: Saver, compiled: Compiled) -> list[Any]:
    builder: Any = StateGraph(Notes)

    def ask(state: Notes) -> dict[str, Any]:
        return {"log": [f"{interrupt('first')} {interrupt('second')}"], "n": state["n"] + 1}

    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda state: "ask" if state["n"] < 2 else END)
    graph = compiled(builder, saver)
    states = [await graph.ainvoke(BEGIN, config())]
    states += [await graph.ainvoke(Command(resume=answer), config()) for answer in ("a", "b", "c", "d")]
    return [states, await history(graph, config())]


async def asked_inside_a_subgraph_that_keeps_its_state(saver: Saver, compiled: Compiled) -> list[Any]:
    inner = in_a_row(notes("x", "y", ask=("y",)), "x", "y")
    outer: Any = notes("a", "z")
    outer.add_node("sub", inner.compile(checkpointer=True))
    outer = in_a_row(outer, "a", "sub", "z")
    graph = compiled(outer, saver)
    states = []
    for turn in range(2):
        await graph.ainvoke(BEGIN, config())
        inside = await graph.aget_state(config(), subgraphs=True)
        states.append(inside.tasks[0].state.values)
        states.append(await graph.ainvoke(Command(resume=f"yes {turn}"), config()))
    return [states, await history(graph, config())]


async def subgraphs_of_subgraphs(saver: Saver, compiled: Compiled) -> list[Any]:
    innermost = in_a_row(notes("deep", ask=("deep",)), "deep").compile()
    middle: Any = notes("m")
    middle.add_node("deeper", innermost)
    middle = in_a_row(middle, "m", "deeper").compile()
    outer: Any = notes("a", "z")
    outer.add_node("sub", middle)
    graph = compiled(in_a_row(outer, "a", "sub", "z"), saver)
    await graph.ainvoke(BEGIN, config())
    state = await graph.aget_state(config(), subgraphs=True)
    inside = state.tasks[0].state
    deepest = inside.tasks[0].state
    place = inside.config
    edited = await graph.aupdate_state(place, {"log": ["edited inside"]})
    assert edited is not None
    return [
        (state.next, inside.next, deepest.next),
        await history(graph, {"configurable": {**place["configurable"]}}),
        await graph.ainvoke(Command(resume="yes"), config()),
        await history(graph, config()),
    ]


async def commands_that_go_to_nodes_and_to_the_parent(saver: Saver, compiled: Compiled) -> list[Any]:
    inner: Any = StateGraph(Notes)
    inner.add_node("leave", lambda state: Command(graph=Command.PARENT, goto="last", update={"log": ["left"]}))
    inner.add_edge(START, "leave")
    outer: Any = notes("last")
    outer.add_node("go", lambda state: Command(goto="sub", update={"log": ["went"], "n": 5}), destinations=("sub",))
    outer.add_node("sub", inner.compile())
    outer.add_edge(START, "go")
    graph = compiled(outer, saver)
    return [await graph.ainvoke(BEGIN, config()), await history(graph, config())]


async def items_sent_to_a_subgraph_that_asks(saver: Saver, compiled: Compiled) -> list[Any]:
    inner = in_a_row(notes("work", ask=("work",)), "work").compile()

    class Counted(TypedDict):
        n: Annotated[int, operator.add]
        log: Annotated[list[str], operator.add]

    outer: Any = StateGraph(Counted)
    outer.add_node("sub", inner)
    outer.add_node("last", lambda state: {"log": [f"{len(state['log'])} done"]})
    outer.add_conditional_edges(START, lambda state: [Send("sub", {"n": n, "log": []}) for n in range(3)], ["sub"])
    outer.add_edge("sub", "last")
    graph = compiled(outer, saver)
    await graph.ainvoke(BEGIN, config())
    state = await graph.aget_state(config())
    answers = {each.id: "yes" for each in state.interrupts}
    return [len(answers), await graph.ainvoke(Command(resume=answers), config()), await history(graph, config())]


async def edited_and_forked(saver: Saver, compiled: Compiled) -> list[Any]:
    graph = compiled(in_a_row(notes("a", "b", "c"), "a", "b", "c"), saver)
    await graph.ainvoke(BEGIN, config())
    states = {state.next: state async for state in graph.aget_state_history(config())}
    branch = await graph.aupdate_state(states[("b",)].config, {"log": ["as if a"], "n": 50}, as_node="a")
    left = await graph.ainvoke(None, branch)
    right = await graph.ainvoke(None, states[("c",)].config)
    copy = await graph.aupdate_state(states[("c",)].config, None, as_node="__copy__")
    copied = await graph.aget_state(copy)
    ended = await graph.aupdate_state(config(), None, as_node=END)
    return [left, right, copied.next, (await graph.aget_state(ended)).next, await history(graph, config())]


async def many_updates_at_once(saver: Saver, compiled: Compiled) -> list[Any]:
    graph = compiled(in_a_row(notes("a", "b"), "a", "b"), saver)
    await graph.abulk_update_state(
        config(),
        [
            [StateUpdate({"n": 1, "log": ["input"]}, as_node="__input__")],
            [StateUpdate({"n": 2, "log": ["a"]}, as_node="a")],
            [StateUpdate({"log": ["b"]}, as_node="b"), StateUpdate({"log": ["b again"]}, as_node="b")],
        ],
    )
    return [(await graph.aget_state(config())).values, await history(graph, config())]


async def histories_with_limits_and_filters(saver: Saver, compiled: Compiled) -> list[Any]:
    graph = compiled(in_a_row(notes("a", "b", "c", "d"), "a", "b", "c", "d"), saver)
    for turn in range(3):
        await graph.ainvoke({"n": turn, "log": []}, {**config(), "metadata": {"turn": turn}})
    states = [state async for state in graph.aget_state_history(config())]

    async def pages(**options: Any) -> list[Any]:
        return [state.values async for state in graph.aget_state_history(config(), **options)]

    return [
        await pages(limit=3),
        await pages(filter={"source": "input"}),
        await pages(filter={"turn": 1}),
        await pages(filter={"turn": 1, "source": "loop"}, limit=2),
        await pages(before=states[4].config),
        await pages(before=states[4].config, limit=2),
        await pages(filter={"turn": 9}),
        await pages(limit=0),
    ]


async def streams(saver: Saver, compiled: Compiled) -> list[Any]:
    graph = compiled(in_a_row(notes("a", "b", ask=("b",)), "a", "b"), saver)
    found: list[Any] = []
    givens: list[Any] = [BEGIN, Command(resume="yes")]
    for given in givens:
        for mode in ("values", "updates"):
            place = config(f"thread of {mode}")
            found.append([item async for item in graph.astream(given, place, stream_mode=mode)])
        modes = ["checkpoints", "tasks"]
        items = [item async for item in graph.astream(given, config("both"), stream_mode=modes)]
        for mode, item in items:
            found.append((mode, item.get("values"), item.get("next"), item.get("name"), item.get("error")))
    return found


async def durable_only_at_exit(saver: Saver, compiled: Compiled) -> list[Any]:
    graph = compiled(in_a_row(notes("a", "b", "c", ask=("b",)), "a", "b", "c"), saver)
    found: list[Any] = []
    for durability in ("exit", "async", "sync"):
        place = config(durability)
        await graph.ainvoke(BEGIN, place, durability=durability)
        found.append(await history(graph, place))
        found.append(await graph.ainvoke(Command(resume="yes"), place, durability=durability))
        found.append(await history(graph, place))
    return found


async def failures_that_are_retried_and_failures_that_are_not(saver: Saver, compiled: Compiled) -> list[Any]:
    attempts: list[int] = []

    def flaky(state: Notes) -> dict[str, Any]:
        attempts.append(1)
        if len(attempts) in (1, 3):
            raise ConnectionError("away")
        if len(attempts) == 4:
            raise ValueError("not retried")
        return {"log": [f"attempt {len(attempts)}"]}

    policy = RetryPolicy(initial_interval=0.001, jitter=False, max_attempts=2, retry_on=ConnectionError)
    builder: Any = notes("a")
    builder.add_node("flaky", flaky, retry_policy=policy)
    graph = compiled(in_a_row(builder, "a", "flaky"), saver)
    found: list[Any] = [await graph.ainvoke(BEGIN, config())]
    with pytest.raises(ValueError, match="not retried"):
        await graph.ainvoke(BEGIN, config())
    state = await graph.aget_state(config())
    found += [state.next, [each.error for each in state.tasks]]
    found += [await graph.ainvoke(None, config()), await history(graph, config())]
    return found


async def functions_with_tasks(saver: Saver, compiled: Compiled) -> list[Any]:
    calls: list[int] = []

    @task
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    class Entry:
        def compile(self, checkpointer: Saver) -> Any:
            @entrypoint(checkpointer=checkpointer)
            def program(numbers: list[int], *, previous: Any = None) -> Any:
                doubled = [double(number) for number in numbers]
                total = sum(each.result() for each in doubled)
                answer = interrupt(f"{total}?")
                return entrypoint.final(value=[total, answer, previous], save=total + (previous or 0))

            return program

    program = Threaded(Entry().compile(saver))
    found: list[Any] = []
    for numbers in ([1, 2], [3]):
        await program.ainvoke(numbers, config())
        found.append((await program.aget_state(config())).next)
        found.append(await program.ainvoke(Command(resume="ok"), config()))
    return [found, sorted(calls), (await program.aget_state(config())).values]


async def values_that_are_not_kept(saver: Saver, compiled: Compiled) -> list[Any]:
    class Secretive(TypedDict):
        log: Annotated[list[str], operator.add]
        secret: Annotated[str, UntrackedValue]

    builder: Any = StateGraph(Secretive)
    builder.add_node("a", lambda state: {"log": [f"saw {state['secret']}"], "secret": "new"})
    builder.add_node("b", lambda state: {"log": [f"saw {state.get('secret')} {interrupt('?')}"]})
    graph = compiled(in_a_row(builder, "a", "b"), saver)
    await graph.ainvoke({"log": [], "secret": "old"}, config())
    return [(await graph.aget_state(config())).values, await graph.ainvoke(Command(resume="yes"), config())]


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"{city}: sunny"


async def an_agent_that_calls_tools(saver: Saver, compiled: Compiled) -> list[Any]:
    def model(state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1]
        number = len(state["messages"])
        if isinstance(last, ToolMessage):
            return {
                "messages": [AIMessage(f"It is {last.content}", id=f"m{number}", response_metadata={"t": [1.5, 2]})]
            }
        calls = [{"name": "weather", "args": {"city": "Ulm"}, "id": f"c{number}", "type": "tool_call"}]
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        return {"messages": [AIMessage("", tool_calls=calls, id=f"m{number}", usage_metadata=usage)]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_node("tools", ToolNode([weather]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    graph = compiled(builder, saver, interrupt_before=["tools"])  # type: ignore[call-arg]
    found = []
    for number in range(2):
        await graph.ainvoke({"messages": [HumanMessage("weather?", id=f"h{number}")]}, config())
        found.append((await graph.aget_state(config())).next)
        found.append(len((await graph.ainvoke(None, config()))["messages"]))
    await graph.aupdate_state(config(), {"messages": [RemoveMessage(id="h0"), HumanMessage("edited", id="h1")]})
    messages = [state.values.get("messages", []) async for state in graph.aget_state_history(config())]
    return [
        found,
        [[(type(each), each.content, getattr(each, "tool_calls", None)) for each in state] for state in messages],
    ]


class Color(enum.Enum):
    RED = "red"


class Inner(BaseModel):
    name: str
    when: datetime


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


@dataclass
class Everything:
    """A state that is a dataclass, of values of many classes."""

    color: Color = Color.RED
    inner: Inner | None = None
    points: list[Point] = field(default_factory=list)
    moment: datetime = datetime(2026, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    day: date = date(2026, 1, 31)
    span: timedelta = timedelta(days=-1, microseconds=5)
    price: Decimal = Decimal("1.10")
    id: uuid.UUID = field(default_factory=lambda: uuid.UUID(int=7))
    data: bytes = b"\x00\xff"
    names: set[str] = field(default_factory=set)
    frozen: frozenset[int] = frozenset({1})
    pair: tuple[int, str] = (1, "a")
    by_number: dict[int, Any] = field(default_factory=dict)
    text: str = "a\x00b 🜁"
    big: int = 2**63
    floats: list[float] = field(default_factory=list)


async def values_of_many_classes(saver: Saver, compiled: Compiled) -> list[Any]:
    builder: Any = StateGraph(Everything)

    def fill(state: Everything) -> dict[str, Any]:
        return {
            "inner": Inner(name="n", when=datetime(2026, 2, 1, tzinfo=UTC)),
            "points": [*state.points, Point(1, ["a"])],
            "names": {"x", "y"},
            "by_number": {1: "a", 2: {"$": b"b"}},
            "floats": [0.1, float("inf"), -0.0, 1e300],
        }

    builder.add_node("fill", fill)
    builder.add_node("again", fill)
    graph = compiled(in_a_row(builder, "fill", "again"), saver)
    done = await graph.ainvoke(Everything(), config())
    kept = (await graph.aget_state(config())).values
    assert kept["moment"].utcoffset() == timedelta(hours=1)
    return [done, kept, {name: type(value) for name, value in kept.items()}, await history(graph, config())]


def fold(messages: list[AnyMessage], writes: list[Any]) -> list[AnyMessage]:
    for write in writes:
        messages = add_messages(messages, write)  # type: ignore[assignment, arg-type]  # its stub says less
    return messages


async def conversations_in_a_delta_channel(saver: Saver, compiled: Compiled) -> list[Any]:
    class Talk(TypedDict):
        messages: Annotated[list[AnyMessage], DeltaChannel(fold, snapshot_frequency=4)]

    def reply(state: Talk) -> dict[str, Any]:
        number = len(state["messages"])
        if number == 5:
            return {"messages": [AIMessage(f"re {interrupt('?')}", id="asked")]}
        return {"messages": [AIMessage(f"reply {number}", id=f"a{number}")]}

    builder: Any = StateGraph(Talk)
    builder.add_node("reply", reply)
    builder.add_edge(START, "reply")
    graph = compiled(builder, saver)

    def shown(values: Any) -> list[Any]:
        return [(each.type, each.content, each.id) for each in values.get("messages", [])]

    found: list[Any] = []
    for number, durability in enumerate(("async", "sync", "async", "exit", "async")):
        message = HumanMessage(f"message {number}", id=f"h{number}")
        await graph.ainvoke({"messages": [message]}, config(), durability=durability)
        if number == 2:
            await graph.ainvoke(Command(resume="yes"), config())
        found.append(shown((await graph.aget_state(config())).values))
    await graph.aupdate_state(config(), {"messages": [HumanMessage("edited", id="h1")]}, as_node="reply")
    states = [state async for state in graph.aget_state_history(config())]
    found.append([shown(state.values) for state in states])
    fork = await graph.aupdate_state(
        states[6].config, {"messages": Overwrite([HumanMessage("again", id="o")])}, as_node="reply"
    )
    found.append(shown((await graph.aget_state(fork)).values))
    await graph.ainvoke({"messages": [HumanMessage("on", id="on")]}, fork)
    found += [shown(state.values) for state in [each async for each in graph.aget_state_history(config())]]
    return found


STORIES: list[Story] = [
    stopped_before_and_after_nodes,
    asked_by_two_nodes_at_once,
    asked_twice_in_one_node_and_in_a_loop,
    asked_inside_a_subgraph_that_keeps_its_state,
    subgraphs_of_subgraphs,
    commands_that_go_to_nodes_and_to_the_parent,
    items_sent_to_a_subgraph_that_asks,
    edited_and_forked,
    many_updates_at_once,
    histories_with_limits_and_filters,
    streams,
    durable_only_at_exit,
    failures_that_are_retried_and_failures_that_are_not,
    functions_with_tasks,
    values_that_are_not_kept,
    an_agent_that_calls_tools,
    values_of_many_classes,
    conversations_in_a_delta_channel,
]
each_story = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
each_way = pytest.mark.parametrize("compiled", [awaited, threaded])


async def same(story: Story, saver: Saver, compiled: Compiled) -> None:
    assert comparable(await story(saver, compiled)) == comparable(await story(InMemorySaver(), compiled))


@each_way
@each_story
async def test_it_does_what_the_saver_in_memory_does(story: Story, compiled: Compiled) -> None:
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        await same(story, saver, compiled)


@pytest.mark.thorough
@each_story
async def test_it_does_so_on_every_driver(story: Story, saver: StargraphSaver) -> None:
    await same(story, saver, awaited)
