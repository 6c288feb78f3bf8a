"""A class that has changed reads what is stored whole, or refuses it: nothing is dropped, however deep it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field, model_validator
from support.memory import MemoryCheckpointer
from typing_extensions import TypedDict

from stargraph.checkpoint.protocol import JsonValue
from stargraph.engine._fidelity import dropped
from stargraph.errors import StateError
from stargraph.graph import Graph, GraphBuilder
from stargraph.replay import Overlay


class Old(BaseModel):
    name: str = "a"
    amount: int = 5


class More(Old):
    note: str = ""


class Less(BaseModel):
    name: str = "a"


@dataclass
class LessOfADataclass:
    name: str = "a"


class LessOfATypedDict(TypedDict):
    name: str


@dataclass
class Before:
    one: Old = field(default_factory=Old)
    many: list[Old] = field(default_factory=lambda: [Old(), Old()])
    named: dict[str, list[Old]] = field(default_factory=lambda: {"x": [Old()]})
    ok: bool | None = None


@dataclass
class Added:
    one: More = field(default_factory=More)
    many: list[More] = field(default_factory=list)
    named: dict[str, list[More]] = field(default_factory=dict)
    ok: bool | None = None


@dataclass
class InAField:
    one: Less = field(default_factory=Less)
    many: list[Old] = field(default_factory=list)
    named: dict[str, list[Old]] = field(default_factory=dict)
    ok: bool | None = None


@dataclass
class InAList:
    one: Old = field(default_factory=Old)
    many: list[LessOfADataclass] = field(default_factory=list)
    named: dict[str, list[Old]] = field(default_factory=dict)
    ok: bool | None = None


@dataclass
class InADict:
    one: Old = field(default_factory=Old)
    many: list[Old] = field(default_factory=list)
    named: dict[str, list[LessOfATypedDict]] = field(default_factory=dict)
    ok: bool | None = None


class Sum(BaseModel):
    """Calls the amount by another name, and reads it by its former one."""

    name: str = "a"
    sum: int = 0

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "amount" not in value:
            return value
        return {**{name: part for name, part in value.items() if name != "amount"}, "sum": value["amount"]}


@dataclass
class Moved:
    one: Sum = field(default_factory=Sum)
    many: list[Sum] = field(default_factory=list)
    named: dict[str, list[Sum]] = field(default_factory=dict)
    ok: bool | None = None


class Keyed(Less):
    key: UUID = Field(default_factory=uuid4)


@dataclass
class Made:
    one: Keyed = field(default_factory=Keyed)
    many: list[Old] = field(default_factory=list)
    named: dict[str, list[Old]] = field(default_factory=dict)
    ok: bool | None = None


DROPPED = {InAField: "one.amount", InAList: "many[0].amount", InADict: "named.x[0].amount"}


def same(state: dict[str, object]) -> dict[str, object]:
    return state


def without_amounts(state: dict[str, object]) -> dict[str, object]:
    item = {"name": "b"}
    return {**state, "one": item, "many": [item], "named": {"x": [item]}}


def asking(state: type) -> GraphBuilder:
    return GraphBuilder("g", state).add_node("ask", "interrupt", prompt="ok?", into="ok")


async def waiting(store: MemoryCheckpointer) -> str:
    old = Graph(asking(Before))
    assert (await (await old.start(checkpointer=store, run_id="r")).start()).status == "awaiting_input"
    return old.graph_hash


@pytest.mark.parametrize("state", DROPPED, ids=lambda state: state.__name__)
async def test_a_resume_drops_nothing_inside_a_field(store: MemoryCheckpointer, state: type) -> None:
    await waiting(store)
    run = await Graph(asking(state)).start(checkpointer=store, run_id="r")
    for use in (run.check, run.resume):
        with pytest.raises(StateError, match="which the graph's state does not declare") as refused:
            await use(accept=("graph", "runtime"))
        assert (refused.value.reason, refused.value.path) == ("unknown-field", f"state.{DROPPED[state]}")
    assert store.events("r")[2:] == []


@pytest.mark.parametrize("amount", [7, 0], ids=["value", "default"])
async def test_what_a_validator_moves_is_not_dropped(store: MemoryCheckpointer, amount: int) -> None:
    old = Graph(asking(Before))
    given = {"one": {"name": "b", "amount": amount}, "many": [], "named": {"x": [{"amount": amount}]}}
    await (await old.start(checkpointer=store, run_id="r", inputs=given)).start()
    run = await Graph(asking(Moved)).start(checkpointer=store, run_id="r")
    state = (await run.resume(accept=("graph", "runtime"))).state
    assert (state.one, state.named) == (Sum(name="b", sum=amount), {"x": [Sum(sum=amount)]})


def test_keys_that_a_validator_writes_otherwise_are_looked_at_a_few_times() -> None:
    reads: list[JsonValue] = []

    def lower(value: JsonValue) -> JsonValue:
        reads.append(value)
        assert isinstance(value, dict)
        return {key.lower(): part for key, part in value.items()}

    stored: JsonValue = {f"A{index}": index for index in range(1000)}
    assert dropped(stored, lower(stored), lower) is None
    assert len(reads) < 100


async def test_a_part_is_dropped_also_beside_what_a_factory_makes(store: MemoryCheckpointer) -> None:
    await waiting(store)
    run = await Graph(asking(Made)).start(checkpointer=store, run_id="r")
    with pytest.raises(StateError) as refused:
        await run.resume(accept=("graph", "runtime"))
    assert refused.value.path == "state.one.amount"


@pytest.mark.parametrize("state", DROPPED, ids=lambda state: state.__name__)
async def test_a_fork_drops_nothing_inside_a_field(store: MemoryCheckpointer, state: type) -> None:
    await waiting(store)
    run = await Graph(asking(Before)).start(checkpointer=store, run_id="r")
    with pytest.raises(StateError, match="which the graph's state does not declare") as refused:
        await (await run.fork(1, Overlay(graph=Graph(asking(state))), run_id="f")).start()
    assert refused.value.path == f"state.{DROPPED[state]}"
    assert [known.run_id for known in await store.list_runs()] == ["r"]


@pytest.mark.parametrize("state", DROPPED, ids=lambda state: state.__name__)
async def test_a_migration_drops_nothing_by_itself(store: MemoryCheckpointer, state: type) -> None:
    old = await waiting(store)
    for transforms in ((), (same,)):
        run = await Graph(asking(state).migrate(old, *transforms)).start(checkpointer=store, run_id="r")
        with pytest.raises(StateError) as refused:
            await run.resume()
        assert refused.value.path == f"state.{DROPPED[state]}"
    assert store.events("r")[2:] == []


async def test_a_migration_may_take_out_what_it_likes(store: MemoryCheckpointer) -> None:
    old = await waiting(store)
    run = await Graph(asking(InAField).migrate(old, without_amounts)).start(checkpointer=store, run_id="r")
    summary = await run.resume()
    assert (summary.status, summary.state.one) == ("awaiting_input", Less(name="b"))


async def test_what_a_class_has_more_gets_its_default(store: MemoryCheckpointer) -> None:
    await waiting(store)
    run = await Graph(asking(Added)).start(checkpointer=store, run_id="r")
    summary = await run.resume(accept=("graph", "runtime"))
    assert (summary.status, summary.state.many) == ("awaiting_input", [More(), More()])
