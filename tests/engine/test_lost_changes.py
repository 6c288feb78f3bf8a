"""A node that changes the state it was given, and returns nothing, is told of by the log: the change is not kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
from pydantic import BaseModel

from stargraph.graph import Graph, GraphBuilder
from stargraph.testing import run_graph


@dataclass
class Notes:
    n: int = 0
    texts: list[str] = field(default_factory=list)
    by_name: dict[str, list[int]] = field(default_factory=lambda: {"a": []})

    @cached_property
    def twice(self) -> int:
        return 2 * self.n


class Model(BaseModel):
    n: int = 0
    texts: list[str] = []
    by_name: dict[str, list[int]] = {"a": []}


@dataclass(slots=True)
class Slotted:
    n: int = 0


def assigns(state: Any) -> None:
    state.n = 1


def appends(state: Any) -> dict[str, Any]:
    state.texts.append("x")
    state.by_name["b"] = []
    return {}


async def waits(state: Any) -> None:
    state.texts += ["x"]


def reads(state: Any) -> None:
    assert not state.n
    getattr(state, "twice", None)


def reaches_inside(state: Any) -> None:
    state.by_name["a"].append(1)


def returns(state: Any) -> dict[str, Any]:
    state.texts.append("scratch")
    return {"n": 1}


def sets_item(state: Any) -> None:
    state["n"] = 1


def told(kind: type | None, node: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.WARNING, "stargraph.node")
    builder: GraphBuilder[Any] = GraphBuilder("g") if kind is None else GraphBuilder("g", kind)
    builder.node(id="first")(node)
    builder.add_node("again", f"{node.__module__}:{node.__name__}")
    builder.after("again", when="node.id == 'never'").goto("first")
    assert run_graph(Graph(builder), inputs={"n": 0}, run_id="r").status == "done"
    return [record.getMessage() for record in caplog.records]


def said(fields: str) -> list[str]:
    return [
        f"run r: node {name} changed {fields} of the state that it was given and returned nothing, so the change is not"
        " kept; a node returns what it updates"
        for name in ("first", "again")
    ]


@pytest.mark.parametrize("kind", [Notes, Model])
@pytest.mark.parametrize(("node", "fields"), [(assigns, "n"), (appends, "texts, by_name"), (waits, "texts")])
def test_what_is_not_kept_is_told(
    kind: type, node: Callable[..., Any], fields: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert told(kind, node, caplog) == said(fields)


def test_a_state_without_a_class_is_a_dict(caplog: pytest.LogCaptureFixture) -> None:
    assert told(None, sets_item, caplog) == said("n")


@pytest.mark.parametrize(
    ("kind", "node"),
    [(Notes, reads), (Model, reads), (Notes, reaches_inside), (Notes, returns), (Model, returns), (Slotted, assigns)],
)
def test_nothing_else_is_told(kind: type, node: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    assert told(kind, node, caplog) == []


def loops(state: Any) -> None:
    state.n += 10


def counts(state: Any) -> dict[str, Any]:
    return {"n": state.n + 1}


def test_a_node_is_told_of_once_a_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "stargraph.node")
    builder = GraphBuilder("g", Notes)
    builder.node(loops)
    builder.node(counts)
    builder.after(counts, when="state.n < 3").goto(loops)
    for run_id in ("r", "s"):
        assert run_graph(Graph(builder), run_id=run_id).state.n == 3
    assert [record.getMessage().partition(" changed")[0] for record in caplog.records] == [
        "run r: node loops",
        "run s: node loops",
    ]
