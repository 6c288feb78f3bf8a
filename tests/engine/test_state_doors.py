"""Every way into a state goes by its class: child runs, answers, overlays, other processes, branches, aliases."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import nodes as nodes_module
from support import state_kinds
from support.graphs import graph
from support.memory import MemoryCheckpointer
from support.runs import stored
from support.state_kinds import HOLD, PUT, SEEN

from stargraph.engine._fidelity import difference
from stargraph.errors import CheckpointError, StateError
from stargraph.graph import Graph, Run, respond
from stargraph.ir import parse_graph
from stargraph.replay import Overlay

HEAD = 'state_class: "support.state_kinds:State"\n'
BYTES = b"\xff\x00abcd"
AT = datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    PUT.clear()
    SEEN.clear()


def graph_of(kind: Any, monkeypatch: pytest.MonkeyPatch, body: str, folder: Path | None = None) -> Graph:
    monkeypatch.setattr(state_kinds, "State", kind, raising=False)
    return graph(HEAD + body, folder)


def nodes(*names: str) -> str:
    listed = ", ".join(f'{{id: {name}, kind: "support.state_kinds:{name}"}}' for name in names)
    return f"nodes: [{listed}]\n"


async def done(run: Run) -> Run:
    summary = await run.start()
    assert summary.status == "done", summary.error
    assert (await run.replay()).differences == ()
    return run


async def test_a_child_run_and_its_parent(
    store: MemoryCheckpointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.yaml").write_text(f'id: child\nstate_class: "support.state_kinds:Coded"\n{nodes("back")}')
    PUT.update(value=BYTES, at=AT)
    body = (
        'nodes:\n  - {id: put, kind: "support.state_kinds:put"}\n'
        "  - {id: sub, kind: subgraph, graph: child.yaml, inputs: {value: state.value, at: state.at},"
        " outputs: {value: state.value, at: state.at}}\n"
        '  - {id: look, kind: "support.state_kinds:look"}\n'
    )
    run = await graph_of(state_kinds.Coded, monkeypatch, body, tmp_path).start(checkpointer=store, run_id="r")
    await done(run)
    assert [(state.value, state.at) for state in SEEN[1:3]] == [(BYTES, AT)] * 2


async def test_an_answer(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        'nodes: [{id: ask, kind: interrupt, prompt: "When?", into: at}, {id: look, kind: "support.state_kinds:look"}]\n'
    )
    run = await graph_of(state_kinds.Coded, monkeypatch, body).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "awaiting_input"
    (question,) = store.runs["r"][-1].interrupts
    with pytest.raises(StateError, match="datetime"):
        await run.answer(question.id, "soon")
    await run.answer(question.id, "2026-01-31T10:00:00+01:00")
    assert (await run.resume()).status == "done"
    assert SEEN[0].at == AT
    assert (await run.replay()).differences == ()


ASKS = {
    "a node that asks": 'nodes: [{id: ask, kind: interrupt, prompt: "?", into: value}, LOOK]\n',
    "a child run": "nodes: [{id: sub, kind: subgraph, graph: child.yaml, outputs: {value: state.value}}, LOOK]\n",
}


@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("case", HOLD)
async def test_an_answer_may_be_what_a_node_may_return(
    case: str, asks: str, store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind, value = HOLD[case]
    (tmp_path / "child.yaml").write_text(f"id: child\n{HEAD}{ASKS['a node that asks'].replace(', LOOK', '')}")
    body = ASKS[asks].replace("LOOK", '{id: look, kind: "support.state_kinds:look"}')
    run = await graph_of(kind, monkeypatch, body, tmp_path).start(
        checkpointer=store, run_id="r", inputs={"value": value}
    )
    (question,) = (await run.start()).questions
    await run.answer(question, value)
    summary = await run.resume()
    assert summary.status == "done", summary.error
    seen = SEEN[-1]["value"] if isinstance(SEEN[-1], dict) else SEEN[-1].value
    assert difference(value, seen) is None
    assert (await run.replay()).differences == ()


async def test_an_answer_that_only_the_parent_lacks_is_json(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever answered the child run's question died before the parent had the answer."""
    (tmp_path / "child.yaml").write_text(
        f'id: child\n{HEAD}nodes: [{{id: ask, kind: interrupt, prompt: "?", into: at}}]'
    )
    body = "nodes: [{id: sub, kind: subgraph, graph: child.yaml, outputs: {at: state.at}}]"
    run = await graph_of(state_kinds.Coded, monkeypatch, body, tmp_path).start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    assert question.child_run_id is not None
    await respond(store, question.child_run_id, question.id.partition("/")[2], "2026-01-31T09:00:00Z")
    with pytest.raises(StateError, match=r"^the answer to .*: a value of type datetime.datetime is not JSON"):
        await run.answer(question, AT)
    await run.answer(question, "2026-01-31T09:00:00Z")
    assert (await run.resume()).state.at == AT


@pytest.mark.parametrize("goes_on", [False, True], ids=["answered", "done"])
async def test_an_answer_that_the_child_run_has_is_not_replaced_by_another_one(
    store: MemoryCheckpointer, tmp_path: Path, goes_on: bool
) -> None:
    """Two people answer, and the process of the first one dies before the parent has the answer."""
    (tmp_path / "child.yaml").write_text(
        "id: child\nnodes: [{id: ask, kind: interrupt, prompt: Pay?, into: ok}, {id: last, kind: echo}]"
    )
    body = "id: parent\nnodes: [{id: sub, kind: subgraph, graph: child.yaml, outputs: {ok: state.ok}}]"
    run = await Graph(parse_graph(body), folder=tmp_path).start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    assert question.child_run_id is not None
    await respond(store, question.child_run_id, question.id.partition("/")[2], False)
    if goes_on:
        child = await Graph.from_file(tmp_path / "child.yaml").start(checkpointer=store, run_id=question.child_run_id)
        assert (await child.resume()).status == "done"
    with pytest.raises(CheckpointError, match=r"is answered already, with False") as refused:
        await run.answer(question, True)
    assert (refused.value.reason, (await run.refresh()).last_step) == ("no-such-question", 1)
    await run.answer(question, False)
    assert (await run.resume()).state == {"ok": False}


async def test_a_node_gets_an_answer_as_it_is_stored(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await graph_of(state_kinds.Coded, monkeypatch, nodes("asks", "look")).start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    await run.answer(question, AT)
    assert (await run.resume()).status == "done"
    assert PUT["answer"] == "2026-01-31T09:00:00Z"
    assert SEEN[0].at == AT


async def test_an_answer_without_a_field_is_json(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "before", lambda context: context.interrupt("When?"))
    run = await graph('nodes: [{id: a, kind: "support.nodes:step"}]').start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    with pytest.raises(StateError, match=r"the answer to .*: a value of type datetime.datetime is not JSON"):
        await run.answer(question, AT)
    assert (await run.answer(question, "yes")).questions == ()


async def test_an_overlay(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    PUT["value"] = b"first"
    run = await graph_of(state_kinds.Coded, monkeypatch, nodes("put", "look")).start(checkpointer=store, run_id="r")
    await done(run)
    for overlay in (Overlay(state={"value": "_wBhYmNk"}), Overlay(outputs={"put": {"value": "_wBhYmNk"}})):
        SEEN.clear()
        fork = await run.fork(1 if overlay.state else 0, overlay)
        assert (await fork.start()).status == "done"
        assert SEEN[-1].value == BYTES
    with pytest.raises(StateError):
        await run.fork(1, Overlay(state={"at": "soon"}))


async def test_another_process(store: MemoryCheckpointer) -> None:
    text = (
        'state_class: "support.state_kinds:Coded"\n'
        'nodes: [{id: a, kind: "support.coding_nodes:encode"}, {id: b, kind: "support.coding_nodes:check"}]\n'
    )
    with ProcessPoolExecutor(1) as processes:
        run = await graph(text).start(checkpointer=store, run_id="r", executor=processes)
        await done(run)
    assert stored(run) == {"value": "_wBhYmNk", "at": "2026-01-31T09:00:00Z", "n": 1}


async def test_validators_that_look_at_other_fields(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_ = graph_of(state_kinds.Ordered, monkeypatch, nodes("put", "look"))
    for update, message in (({"high": 3}, "high is below low"), ({"high": 3, "low": 1}, None), ({"low": 11}, "high")):
        PUT.clear()
        PUT.update(update)
        run = await graph_.start(checkpointer=store, inputs={"low": 5})
        summary = await run.start()
        assert summary.status == ("done" if message is None else "failed")
        assert summary.error is None or (message or "") in summary.error.message
    assert (await run.replay()).differences == ()


async def test_branches_of_a_class_that_looks_at_other_fields(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = nodes("put", "look", "back") + (
        "rules: [{id: r, when: {node: put}, then: [{kind: map, over: '[1]', target: look, join: back}]}]\n"
    )
    PUT["high"] = 7
    run = await graph_of(state_kinds.Ordered, monkeypatch, body).start(checkpointer=store, run_id="r")
    await done(run)
    assert stored(run) == {"low": 0, "high": 7, "n": 1}


async def test_a_serializer_that_reads_other_fields(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    PUT["value"] = 5
    run = await graph_of(state_kinds.Related, monkeypatch, nodes("put", "look")).start(
        checkpointer=store, run_id="r", inputs={"unit": "km"}
    )
    await done(run)
    assert SEEN[-1].value == 5
    assert stored(run) == {"value": "5 km", "unit": "km", "n": 1}


@pytest.mark.parametrize("inputs", [{"value": "x"}, {"given": {"value": "x"}}])
async def test_an_alias_that_is_a_path(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Any]
) -> None:
    PUT["value"] = "y"
    run = await graph_of(state_kinds.Pathed, monkeypatch, nodes("put", "look")).start(
        checkpointer=store, run_id="r", inputs=inputs
    )
    await done(run)
    assert [state.value for state in SEEN[:2]] == ["x", "y"]
