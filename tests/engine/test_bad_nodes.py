"""Nodes, rules and reducers that misbehave fail the run; they never leave it without an end."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, computed_field
from support import gated_nodes, nodes
from support.graphs import PATH, graph
from support.memory import MemoryCheckpointer
from support.runs import stored


@pytest.mark.parametrize("node", ["ask_with_a_date", "ask_a_number", "exhausted"])
async def test_what_a_node_does_wrong_is_recorded(store: MemoryCheckpointer, node: str) -> None:
    run = await graph(f'{PATH}nodes: [{{id: a, kind: "support.gated_nodes:{node}"}}]').start(
        checkpointer=store, run_id="r"
    )
    summary = await asyncio.wait_for(run.start(), 60)
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.node == "a"
    assert store.events("r") == ["started", "failed a"]


@pytest.mark.parametrize(
    ("fields", "returned"),
    [
        ('state_schema: {x: {type: "list[int]", default: [], reduce: add}}', {"x": [2**70]}),
        ("", {1: 2}),
        ("", {"x": {1: 2}}),
    ],
)
async def test_an_update_that_cannot_be_merged_is_recorded(
    store: MemoryCheckpointer, fields: str, returned: dict[Any, Any]
) -> None:
    nodes.before = lambda context: returned
    text = (
        f'{fields}\nnodes: [{{id: a, kind: "support.nodes:returns_x"}}, {{id: b, kind: echo}}]\n'
        'rules: [{id: r, when: {node: a, if: "has(node.update.x)"}, then: [{kind: goto, target: b}]}]'
    )
    run = await graph(text).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == "failed"
    assert store.events("r") == ["started", "failed a"]


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize(
    ("state", "is_refused"),
    [
        ('state_schema: {x: {type: "list[int]", default: [1], reduce: append}}', True),
        ("state_schema: {n: {type: int, default: 1}, x: {type: int, default: 1, reduce: add}}", True),
        ('state_class: "support.state_kinds:Counted"', True),
        ("state_schema: {x: {type: dict, default: {a: 1}, reduce: merge}}", False),
        ("state_schema: {x: {type: int, default: 1}}", False),
        ("", False),
    ],
)
async def test_the_state_itself_is_no_update_of_what_would_be_added_to_itself(
    store: MemoryCheckpointer, state: str, isolation: str, is_refused: bool
) -> None:
    text = f'{state}\nnodes: [{{id: a, kind: "support.state_kinds:back", isolation: {isolation}}}]'
    run = await graph(text).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == ("failed" if is_refused else "done")
    if is_refused:
        assert summary.error is not None
        assert summary.error.reason == "not-an-update"
        assert "would add 'x' to itself" in summary.error.message


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize(("node", "reason"), [("exits", "node-exited"), ("interrupted", "node-interrupted")])
async def test_what_is_meant_for_the_process_ends_the_run_at_the_first_attempt(
    store: MemoryCheckpointer, node: str, reason: str, isolation: str
) -> None:
    text = (
        f'nodes: [{{id: a, kind: "support.exiting_nodes:{node}", isolation: {isolation},'
        " retry: {attempts: 3, initial_delay: 0}}]"
    )
    run = await graph(text).start(checkpointer=store, run_id="r", record_attempts=True)
    error = (await run.start()).error
    assert error is not None
    assert error.reason == reason
    assert "Resume the run" in error.message
    assert store.events("r") == ["started", "failed a"]


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_the_state_itself_is_an_update_without_what_a_node_takes_out_of_it(
    store: MemoryCheckpointer, isolation: str
) -> None:
    text = (
        'state_class: "support.reduced_states:Totals"\n'
        f'nodes: [{{id: a, kind: "support.reduced_states:back_without_notes", isolation: {isolation}}}]'
    )
    run = await graph(text).start(checkpointer=store, run_id="r", inputs={"n": 1, "notes": ["a"]})
    (await run.start()).raise_for_status()
    assert run.state == {"n": 2, "notes": ["a"]}


@pytest.mark.parametrize(
    ("node", "parts", "doubled", "isolation"),
    [
        ("replaced", [], "'notes'", "thread"),
        ("replaced", ["p"], "'notes', 'parts'", "thread"),
        ("replaced", ["p"], "'notes', 'parts'", "process"),
        ("appended_in_place", [], "'notes'", "thread"),
        ("tuple_of_the_state", ["p"], "'parts'", "thread"),
        ("tuple_of_the_state", [], None, "thread"),
        ("moved_between_fields", ["p"], None, "thread"),
        ("new_list_in_the_state", ["p"], None, "thread"),
        ("new_list_in_the_state", ["p"], None, "process"),
    ],
)
@pytest.mark.parametrize("state", ["Notes", "NotesModel", "NotesDict"])
async def test_a_list_of_the_state_is_not_added_to_itself(
    store: MemoryCheckpointer, state: str, node: str, parts: list[str], doubled: str | None, isolation: str
) -> None:
    text = (
        f'state_class: "support.reduced_states:{state}"\n'
        f'nodes: [{{id: a, kind: "support.reduced_states:{node}", isolation: {isolation}}}]'
    )
    given = {"n": 1, "notes": ["a"], "parts": parts}
    run = await graph(text).start(checkpointer=store, run_id="r", inputs=given)
    summary = await run.start()
    if doubled is None:
        assert summary.status == "done", summary.error
        return
    assert summary.error is not None
    assert summary.error.reason == "not-an-update"
    assert f"node 'a' returned a list that it was given, which would add {doubled} to itself" in summary.error.message
    assert summary.stored_state == given


async def test_a_cancelled_run_starts_no_sync_node_that_waited_for_a_thread(store: MemoryCheckpointer) -> None:
    gated_nodes.started.clear()
    gated_nodes.released.clear()
    text = (
        'nodes: [{id: a, kind: echo}, {id: b, kind: "support.gated_nodes:block"}, {id: c, kind: echo}]\n'
        'rules: [{id: each, when: {node: a}, then: [{kind: map, over: "[1, 2, 3]", target: b, join: c}]}]'
    )
    with ThreadPoolExecutor(1) as threads:
        run = await graph(text).start(checkpointer=store, run_id="r", executor=threads)
        work = asyncio.ensure_future(run.start())
        while not gated_nodes.started:
            await asyncio.sleep(0.001)
        assert (await run.cancel()).status == "cancelled"
        gated_nodes.released.set()
        await work
    assert gated_nodes.started == [0]


class Order(BaseModel):
    model_config = ConfigDict(strict=True)

    at: datetime
    net: int = 1

    @computed_field  # type: ignore[prop-decorator]
    @property
    def gross(self) -> int:
        return self.net * 2


async def test_a_strict_class_with_a_date_and_a_computed_field(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gated_nodes, "Order", Order, raising=False)
    text = 'state_class: "support.gated_nodes:Order"\nnodes: [{id: a, kind: "support.nodes:returns_x"}]'
    nodes.before = lambda context: {"net": 3}
    at = datetime(2026, 1, 31, tzinfo=UTC)
    run = await graph(text).start(checkpointer=store, run_id="r", inputs={"at": at})
    summary = await run.start()
    assert summary.status == "done", summary.error
    assert stored(run) == {"at": "2026-01-31T00:00:00Z", "net": 3}


async def test_a_map_over_what_is_not_json_is_refused(store: MemoryCheckpointer) -> None:
    text = (
        "nodes: [{id: a, kind: echo}, {id: b, kind: echo}, {id: c, kind: echo}]\n"
        'rules: [{id: each, when: {node: a}, then: [{kind: map, over: "[1.0 / 0.0]", target: b, join: c}]}]'
    )
    summary = await (await graph(text).start(checkpointer=store, run_id="r")).start()
    assert summary.status == "failed"
    assert store.events("r") == ["started", "failed a"]
