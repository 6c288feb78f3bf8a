"""States that are pydantic models: what they hold comes back, and what would not is refused."""

from __future__ import annotations

import pytest
from support import nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer
from support.runs import stored

from stargraph.graph import Run


async def run_of(store: MemoryCheckpointer, *nodes: str) -> Run:
    listed = "\n".join(f'  - {{id: {node}, kind: "support.state_classes:{node}"}}' for node in nodes)
    run = await graph(f'state_class: "support.state_classes:Basket"\nnodes:\n{listed}').start(
        checkpointer=store, run_id="r"
    )
    await run.start()
    return run


async def test_nested_models_and_rich_types_come_back(store: MemoryCheckpointer) -> None:
    run = await run_of(store, "fill", "refill")
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert [line["price"] for line in stored(run)["lines"]] == ["1.10", "1.10"]
    assert stored(run)["lines"][0]["inner"]["price"] == "2"
    assert len({checkpoint.state["key"] for checkpoint in store.runs["r"]}) == 1


async def test_a_validator_of_the_whole_state_refuses_an_update(store: MemoryCheckpointer) -> None:
    run = await run_of(store, "fill", "refill", "overfill")
    assert run.summary is not None
    assert run.summary.status == "failed"
    assert run.summary.error is not None
    assert "too many lines" in run.summary.error.message
    assert len(stored(run)["lines"]) == 2


async def test_what_would_come_back_as_another_type_is_refused(store: MemoryCheckpointer) -> None:
    run = await run_of(store, "unstorable")
    assert run.summary is not None
    assert run.summary.error is not None
    assert run.summary.error.reason == "not-json"


async def test_of_a_model_the_fields_that_were_set_are_taken(store: MemoryCheckpointer) -> None:
    run = await run_of(store, "fill", "whole")
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert store.runs["r"][-1].update == {"limit": 5}


@pytest.mark.parametrize(
    "name", ["json", "copy", "dict", "schema", "validate", "construct", "class", "self", "root", "None"]
)
async def test_a_field_of_a_schema_may_have_the_name_of_a_method(store: MemoryCheckpointer, name: str) -> None:
    text = (
        f"state_schema: {{'{name}': {{type: int, default: 3}}}}\n"
        f'nodes: [{{id: a, kind: "support.nodes:returns_x"}}, {{id: b, kind: echo}}]\n'
        f"rules: [{{id: r, when: {{node: a, if: 'state[\"{name}\"] == 5'}}, then: [{{kind: halt}}]}}]\n"
    )
    nodes.before = lambda context: {name: 5}
    run = await graph(text).start(checkpointer=store, run_id="r", inputs={name: 4})
    assert (await run.start()).status == "done"
    assert stored(run) == {name: 5}
    assert store.events("r") == ["started", "completed a"]
