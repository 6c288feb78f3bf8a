"""A value of a state's class comes back as it was, in value and in type, or is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import state_kinds
from support.graphs import graph
from support.runs import stored
from support.state_kinds import ALIASED, HOLD, LOSE, LOWERING, PUT, REFUSED, SEEN

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.engine._fidelity import difference
from stargraph.errors import GraphError, StateError
from stargraph.graph import Graph, Run

HEAD = 'state_class: "support.state_kinds:State"\n'


@pytest.fixture(autouse=True)
def forgotten() -> None:
    PUT.clear()
    SEEN.clear()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SQLiteCheckpointer]:
    async with SQLiteCheckpointer(tmp_path / "run.sqlite") as checkpointer:
        await checkpointer.bootstrap()
        yield checkpointer


def graph_of(kind: Any, monkeypatch: pytest.MonkeyPatch, *nodes: str, rules: str = "") -> Graph:
    monkeypatch.setattr(state_kinds, "State", kind)
    listed = ", ".join(f'{{id: {node}, kind: "support.state_kinds:{node}"}}' for node in nodes or ("put", "look"))
    return graph(f"{HEAD}nodes: [{listed}]\n{rules}")


async def ran(graph_: Graph, disk: SQLiteCheckpointer, inputs: dict[str, Any] | None = None) -> Run:
    run = await graph_.start(checkpointer=disk, run_id="r", inputs=inputs)
    await run.start()
    return run


def value_in(state: Any) -> Any:
    return state["value"] if isinstance(state, dict) else state.value


@pytest.mark.parametrize("case", HOLD)
async def test_what_a_class_can_hold_comes_back(
    case: str, disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, value = HOLD[case]
    PUT["value"] = value
    graph_ = graph_of(kind, monkeypatch, "put", "back")
    run = await ran(graph_, disk, {"value": value})
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert [difference(value, value_in(seen)) for seen in SEEN] == [None, None]
    report = await run.replay()
    assert report.differences == ()
    fork = await run.fork(1)
    assert (await fork.start()).status == "done"
    assert stored(fork) == stored(run)


@pytest.mark.parametrize("case", LOSE)
async def test_what_would_not_come_back_is_refused(
    case: str, disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, value, word = LOSE[case]
    PUT["value"] = value
    graph_ = graph_of(kind, monkeypatch)
    run = await ran(graph_, disk)
    assert run.summary is not None
    assert run.summary.error is not None
    assert "state.value" in run.summary.error.message
    assert word in run.summary.error.message  # which ends with the hint
    assert "hush" not in run.summary.error.message
    if type(value) is str:
        return  # an input that is JSON is read as JSON is
    given = await graph_.start(checkpointer=disk, run_id="given", inputs={"value": value})
    with pytest.raises(StateError, match=r"inputs\.value") as refused:
        await given.start()
    assert refused.value.reason == run.summary.error.reason
    assert await disk.read_latest("given") is None


@pytest.mark.parametrize("case", REFUSED)
def test_a_class_that_cannot_hold_its_values_is_refused_with_the_graph(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, words = REFUSED[case]
    with pytest.raises(GraphError) as refused:
        graph_of(kind, monkeypatch)
    for word in words:
        assert word in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize("case", LOWERING)
async def test_rules_see_what_nodes_see(case: str, disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    PUT["value"] = "URGENT"
    rules = "rules: [{id: r, when: {node: put, if: \"state.value == 'urgent'\"}, then: [{kind: goto, target: back}]}]"
    run = await ran(graph_of(LOWERING[case], monkeypatch, "put", "look", "back", rules=rules), disk, {"value": "First"})
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert [value_in(state) for state in SEEN] == ["first", "urgent"]
    assert stored(run)["value"] == "urgent"
    assert (await run.replay()).differences == ()


async def test_a_validator_that_changes_its_own_work_is_refused(
    disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    PUT["value"] = "pw"
    with pytest.raises(GraphError, match="value: its default"):
        graph_of(state_kinds.Hashing, monkeypatch)


@pytest.mark.parametrize("case", ALIASED)
@pytest.mark.parametrize("key", ["the_value", "theValue"])
async def test_inputs_and_updates_go_by_names_and_aliases(
    case: str, key: str, disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "Serializing" and key == "theValue":
        pytest.skip("the alias is for what is written alone")
    PUT[key] = "second"
    run = await ran(graph_of(ALIASED[case], monkeypatch, "put", "back"), disk, {key: "first"})
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert [state.the_value for state in SEEN] == ["first", "second"]
    assert stored(run) == {"the_value": "second", "n": 0}


@pytest.mark.parametrize("kind", [state_kinds.FrozenState, state_kinds.SlottedState, state_kinds.DictState])
async def test_a_state_can_be_returned_as_it_is(
    kind: Any, disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    PUT.update(value="x", n=2)
    run = await ran(graph_of(kind, monkeypatch, "put", "back"), disk, {"n": 1})
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert stored(run) == {"value": "x", "n": 2}
    assert type(SEEN[-1]) is (dict if kind is state_kinds.DictState else kind)


async def test_a_field_serializer_and_json_text_hold(disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await ran(graph_of(state_kinds.SerializedState, monkeypatch, "look"), disk)
    assert stored(run)["value"] == "2026-03-28 09:00:00.123456+00:00"
    assert SEEN[0].value == state_kinds.AT


async def test_json_text_is_read_once(disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    PUT["value"] = "[1, 2]"
    run = await ran(graph_of(state_kinds.JsonState, monkeypatch, "put", "look"), disk)
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert SEEN[-1].value == [1, 2]


async def test_what_a_factory_made_is_the_same_in_a_replay(
    disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await ran(graph_of(state_kinds.MadeState, monkeypatch, "look", "back"), disk)
    assert SEEN[0].value == SEEN[1].value
    assert (await run.replay()).differences == ()


async def test_what_a_factory_made_is_checked(disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_ = graph_of(state_kinds.MadeLost, monkeypatch)
    run = await graph_.start(checkpointer=disk, run_id="r")
    with pytest.raises(StateError, match=r"the default of 'value'.*tuple"):
        await run.start()


async def test_a_class_may_hide_its_inputs_in_errors(disk: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await graph_of(state_kinds.HidingState, monkeypatch).start(
        checkpointer=disk, run_id="r", inputs={"value": "hush"}
    )
    with pytest.raises(StateError, match="integer") as refused:
        await run.start()
    assert "hush" not in str(refused.value)


@pytest.mark.thorough
def test_a_replay_and_a_fork_under_another_hash_seed_come_out_the_same(tmp_path: Path) -> None:
    for mode, seed in (("run", "1"), ("replay", "2"), ("replay", "3")):
        answer = subprocess.run(
            [sys.executable, "-m", "support.state_process", mode, str(tmp_path / "run.sqlite")],
            cwd=Path(state_kinds.__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout == ""
