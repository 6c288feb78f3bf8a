"""Questions in Python without reading the store, and answers that do not fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, model_validator

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.cli._questions import choices_of
from stargraph.errors import CheckpointError, StateError
from stargraph.graph import Graph, GraphBuilder, respond


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Address(BaseModel):
    city: str
    zip: int | None = None


@dataclass
class State:
    yes: bool | None = None
    level: Level = Level.LOW
    size: Literal["s", "m"] = "s"
    count: int = 0
    price: Decimal = Decimal(1)
    to: Address | None = None
    tags: dict[str, list[int]] = field(default_factory=dict)


def asking(name: str) -> Graph[State]:
    return Graph(GraphBuilder("asking", State).add_node("ask", "interrupt", prompt="Well?", into=name))


GOOD: list[tuple[str, Any]] = [
    ("yes", True),
    ("yes", None),
    ("level", "high"),
    ("size", "m"),
    ("count", 3),
    ("price", "12.50"),
    ("to", {"city": "Bonn", "zip": None}),
    ("to", {"city": "Bonn"}),
    ("tags", {"a": [1, 2]}),
]
BAD: list[tuple[str, Any]] = [
    ("yes", "perhaps"),
    ("yes", 7),
    ("level", "medium"),
    ("size", "xl"),
    ("count", "many"),
    ("price", [1]),
    ("to", {"zip": 3}),
    ("to", {"city": 5}),
    ("tags", {"a": "b"}),
]


@pytest.mark.parametrize("knows_graph", [True, False])
@pytest.mark.parametrize(("name", "value"), BAD)
async def test_a_wrong_answer_appends_nothing(name: str, value: Any, knows_graph: bool) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    run = await asking(name).start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    before = await store.read_latest("r")
    answered = run.answer(question, value) if knows_graph else respond(store, "r", question.id, value)
    with pytest.raises(StateError):
        await answered
    assert await store.read_latest("r") == before
    assert run.questions == (question,)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("size", "xl", '"s" | "m"'),
        ("count", "many", "integer"),
        ("level", "mid", '"low" | '),
        ("tags", {"a": "b"}, "object of array of integer"),
    ],
)
async def test_a_wrong_answer_without_the_graph_is_told_the_type(name: str, value: Any, wanted: str) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    run = await asking(name).start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    with pytest.raises(StateError, match=f"is not a value of the field '{name}', which is stored as ") as caught:
        await respond(store, "r", question.id, value)
    assert wanted in str(caught.value)


@pytest.mark.parametrize("knows_graph", [True, False])
@pytest.mark.parametrize(("name", "value"), GOOD)
async def test_a_right_answer_is_taken(name: str, value: Any, knows_graph: bool) -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    run = await asking(name).start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    if knows_graph:
        assert (await run.answer(question, value)).questions == ()
    else:
        await respond(store, "r", question.id, value)
    result = await run.resume()
    assert result.status == "done", result.error
    assert result.stored_state[name] == ({"city": "Bonn", "zip": None} if name == "to" else value)
    with pytest.raises(CheckpointError, match="takes no answers"):
        await run.answer(question, value)


class Range(BaseModel):
    low: int = 0
    high: int = 10

    @model_validator(mode="after")
    def ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


async def test_an_answer_that_the_state_refuses_as_a_whole_appends_nothing() -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    graph = Graph(GraphBuilder("range", Range).add_node("ask", "interrupt", prompt="Low?", into="low"))
    run = await graph.start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    before = await store.read_latest("r")
    with pytest.raises(StateError, match="low is above high"):
        await run.answer(question, 11)
    assert await store.read_latest("r") == before
    await run.answer(question, 9)
    assert (await run.resume()).state == Range(low=9)


async def test_questions_are_seen_from_another_place() -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    await (await asking("yes").start(checkpointer=store, run_id="r")).start()
    elsewhere = await asking("yes").start(checkpointer=store, run_id="r")
    assert not elsewhere.questions
    (question,) = (await elsewhere.refresh()).questions
    assert elsewhere.questions[0] == question
    assert question.prompt == "Well?"
    assert asking("yes").answer_type(question) == bool | None
    await elsewhere.answer(question.id, False)
    done = await elsewhere.resume()
    assert (done.state, elsewhere.state) == (State(yes=False), State(yes=False))


INNER = """
id: inner
state_schema: {size: {type: 'Literal["s", "m"]', default: s}, go: {type: "bool | None", default: null}}
nodes: [{id: ask, kind: interrupt, prompt: "Size?", into: size}, {id: end, kind: halt}]
rules: [{id: last, when: {node: ask}, then: [{kind: interrupt, prompt: "Go with {size}?", into: go}]}]
"""
MIDDLE = "id: middle\nnodes: [{id: in, kind: subgraph, graph: inner.yaml}]\n"
OUTER = "id: outer\nnodes: [{id: deep, kind: subgraph, graph: middle.yaml}, {id: own, kind: halt}]\n"


async def test_the_type_of_an_answer_is_known_whichever_child_asks(tmp_path: Path) -> None:
    for name, text in (("inner", INNER), ("middle", MIDDLE), ("outer", OUTER)):
        (tmp_path / f"{name}.yaml").write_text(text)
    store = MemoryCheckpointer()
    await store.bootstrap()
    graph = Graph.from_file(tmp_path / "outer.yaml")
    run = await graph.start(checkpointer=store, run_id="r")
    choices, answers = [], iter(["m", True])
    result = await run.start()
    while result.questions:
        (question,) = result.questions
        choices.append((question.prompt, choices_of(graph.answer_type(question))))
        await run.answer(question, next(answers))
        result = await run.resume()
    assert choices == [("Size?", {"s": "s", "m": "m"}), ("Go with m?", {"yes": True, "no": False})]


async def test_a_cancelled_run_has_no_open_questions() -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    run = await asking("yes").start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    assert (await run.cancel()).questions == run.questions == ()
    with pytest.raises(CheckpointError) as refused:
        await run.answer(question, True)
    assert refused.value.reason == "run-ended"
    cancelled = await store.read_latest("r")
    assert cancelled is not None
    assert [each.id for each in cancelled.interrupts] == [question.id]  # the log says what was asked
