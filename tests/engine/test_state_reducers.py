"""Reducers declared in the types of a state's class, given what the class makes; and fields that a class has later."""

from __future__ import annotations

import sys
from collections import deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from support import reduced_states as kinds
from support.graphs import graph
from support.memory import MemoryCheckpointer
from support.reduced_states import SEEN, UPDATES, Item
from support.runs import stored

from stargraph.engine._reducers import check_reducer
from stargraph.errors import GraphError, HashMismatchError
from stargraph.graph import Graph, Run, add, append, merge, replace
from stargraph.ir import reducers_in

NODES = ", ".join(f'{{id: {name}, kind: "support.reduced_states:step"}}' for name in "abc")


@pytest.fixture(autouse=True)
def forgotten() -> None:
    UPDATES.clear()
    SEEN.clear()


def graph_of(kind: Any, monkeypatch: pytest.MonkeyPatch, nodes: str = NODES, rules: str = "") -> Graph:
    monkeypatch.setattr(kinds, "State", kind)
    return graph(f'state_class: "support.reduced_states:State"\nnodes: [{nodes}]\n{rules}')


async def ran(graph_: Graph, store: MemoryCheckpointer, *updates: dict[str, Any]) -> Run:
    UPDATES.extend(updates)
    run = await graph_.start(checkpointer=store, run_id="r")
    await run.start()
    return run


async def replayed(run: Run, *updates: dict[str, Any]) -> None:
    UPDATES.extend(updates)
    report = await run.replay()
    assert report.differences == (), report.lines()


CASES: dict[str, tuple[Any, Any, Any]] = {
    "notes": (["a"], ["b"], ["a", "b"]),
    "few": ([1], [2], [1, 2]),
    "tags": ({"a", "b"}, {"b", "c"}, {"a", "b", "c"}),
    "last": (deque([1]), deque([2]), deque([1, 2])),
    "counts": ({1: 1, 2: 2}, {2: 3}, {1: 1, 2: 3}),
    "total": (Decimal("1.10"), Decimal(2), Decimal("3.20")),
    "spent": (timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=3)),
    "sum": (2, 3, 5),
    "items": (
        Item(name="a", price=Decimal("1.10")),
        {"name": "a", "price": "2"},
        [Item(name="a", price=Decimal(2))],
    ),
    "seen": (
        datetime(2026, 1, 2, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 2, tzinfo=UTC),
    ),
    "large": (Decimal(9), Decimal(10), Decimal(10)),
    "words": ("one", ["two", "three"], ["one", "two", "three"]),
    "capped": (6, 7, 10),
    "named": (6, 7, 10),
    "united": ({1}, {2}, {1, 2}),
    "plain": (1, 2, 2),
}


@pytest.mark.parametrize("field", CASES)
async def test_a_reducer_in_the_type_is_given_typed_values(
    field: str, store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, wanted = CASES[field]
    run = await ran(graph_of(kinds.ModelState, monkeypatch), store, {field: first}, {field: second})
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert getattr(SEEN[-1], field) == wanted
    assert type(getattr(SEEN[-1], field)) is type(wanted)
    await replayed(run, {field: first}, {field: second})


@pytest.mark.parametrize("kind", [kinds.DataclassState, kinds.DictState])
async def test_dataclasses_and_typed_dicts_declare_them_too(
    kind: Any, store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item(name="a", price=Decimal(1))
    run = await ran(graph_of(kind, monkeypatch), store, {"notes": ["a"], "items": item}, {"notes": ["b"]})
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert stored(run) == {"notes": ["a", "b"], "items": [{"name": "a", "price": "1"}]}


async def test_branches_meet_in_a_declared_reducer(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = 'rules: [{id: r, when: {node: a}, then: [{kind: map, over: "[1, 2]", target: b, join: c}]}]'
    updates: list[dict[str, Any]] = [{}, {"total": Decimal("0.10")}, {"total": Decimal("0.20")}]
    run = await ran(graph_of(kinds.ModelState, monkeypatch, rules=rules), store, *updates)
    assert stored(run)["total"] == "0.40"


async def test_a_list_that_grows_too_long_is_refused_and_the_run_can_go_on(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph_ = graph_of(kinds.ModelState, monkeypatch)
    run = await ran(graph_, store, {"few": [1, 2]}, {"few": [3, 4]})
    assert run.summary is not None
    assert run.summary.error is not None
    assert "at most 3 items" in run.summary.error.message
    UPDATES.append({"few": [3]})
    assert (await run.resume()).status == "done"
    assert stored(run)["few"] == [1, 2, 3]


async def test_what_a_reducer_makes_is_validated(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await ran(graph_of(kinds.Deduplicating, monkeypatch), store, {"notes": ["a", "b"]}, {"notes": ["b", "c"]})
    assert stored(run) == {"notes": ["a", "b", "c"]}
    assert SEEN[-1].notes == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (kinds.Hidden, "outermost"),
        (kinds.Twice, "more than one reducer"),
        (kinds.Async, "n: its reducer 'support.reduced_states:slowly' is async, and a reducer is not awaited"),
        (kinds.AsyncObject, "n: its reducer 'support.reduced_states:Patient' is async"),
        (kinds.AsyncPartial, "n: its reducer 'partial(support.reduced_states:Patient)' is async"),
        (kinds.ClassOfReducers, "n: its reducer 'support.reduced_states:Limited' is a class: give an object of it"),
        (kinds.Unary, "n: its reducer 'support.reduced_states:halved' takes no value and update"),
        (kinds.NamedAsync, "n: its reducer 'support.reduced_states:slowly' is async, and a reducer is not awaited"),
        (kinds.NamedText, "n: its reducer 'builtins:str' cannot be called"),
    ],
)
def test_a_reducer_that_would_not_be_found_is_refused(kind: Any, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError) as refused:
        graph_of(kind, monkeypatch)
    assert word in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations were evaluated where they stand")
def test_a_reducer_may_be_annotated_for_type_checkers_alone() -> None:
    names: dict[str, Any] = {}
    source = "def reducer(value: OfTypeCheckers, update: OfTypeCheckers): return update"
    exec(compile(source, "reducer", "exec", dont_inherit=True), names)  # noqa: S102  # without this file's __future__
    assert reducers_in([names["reducer"]]) == [names["reducer"]]
    check_reducer(names["reducer"], "n")


@pytest.mark.parametrize("name", ["slowly", "halved"])
def test_a_reducer_of_a_file_that_cannot_reduce_is_refused(name: str) -> None:
    fields = f'n: {{type: int, default: 0, reduce: "support.reduced_states:{name}"}}'
    with pytest.raises(GraphError, match=f"state field 'n': its reducer 'support.reduced_states:{name}'") as refused:
        graph(f"state_schema: {{{fields}}}\nnodes: [{NODES}]\n")
    assert refused.value.reason == "bad-reducer"


def test_a_reducer_in_the_type_counts_for_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = graph_of(kinds.ModelState, monkeypatch)
    monkeypatch.setattr(kinds.ModelState.model_fields["sum"], "metadata", [])
    assert graph_of(kinds.ModelState, monkeypatch).graph_hash != declared.graph_hash


async def test_a_field_that_came_later_is_there_for_nodes_and_rules(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds_of = {"a": "step", "b": "fails", "c": "step", "d": "step"}
    nodes = ", ".join(f'{{id: {name}, kind: "support.reduced_states:{kind}"}}' for name, kind in kinds_of.items())
    before = graph_of(kinds.Before, monkeypatch, nodes)
    run = await ran(before, store)
    assert run.summary is not None
    assert run.summary.status == "failed"
    rules = (
        "rules: [{id: r, when: {node: b, if: \"state.level == 7 && state.text == 'urgent'\"},"
        " then: [{kind: goto, target: d}]}]"
    )
    after = graph_of(kinds.After, monkeypatch, nodes, rules)
    SEEN.clear()
    UPDATES.append({})
    later = await after.start(checkpointer=store)
    with pytest.raises(HashMismatchError):
        await later.resume("r")
    assert (await later.resume("r", accept=("graph", "runtime"))).status == "done"
    assert len(SEEN) == 2
    assert (SEEN[0].text, SEEN[0].level) == ("urgent", 7)
    assert SEEN[0].key == SEEN[1].key
    assert stored(later) == {"text": "urgent", "level": 7, "key": str(SEEN[0].key)}
    UPDATES.append({})
    report = await later.replay()
    assert report.differences == (), report.lines()


def test_the_reducers_are_functions() -> None:
    assert append([1], [2]) == [1, 2]
    assert append(None, [2]) == [2]
    assert append({1}, {2}) == {1, 2}
    assert merge({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    assert add(Decimal(1), Decimal(2)) == Decimal(3)
    assert replace(1, 2) == 2
