"""Runs from start to end: what nodes are given, what becomes of what they return, and what is recorded."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from support import nodes
from support.graphs import PATH, SEQUENCE, graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError, NodeError, StateError
from stargraph.graph import Run


async def run_of(text: str, store: MemoryCheckpointer, **inputs: Any) -> Run:
    run = await graph(text).start(checkpointer=store, inputs=inputs, run_id="r")
    await run.start()
    return run


def one_node(node: str, schema: str = "{x: {type: any, default: null}}") -> str:
    return f'state_schema: {schema}\nnodes: [{{id: a, kind: "support.nodes:{node}"}}]'


async def test_a_sequence_records_each_completion_as_one_step(store: MemoryCheckpointer) -> None:
    run = await run_of(SEQUENCE, store)
    assert store.events("r") == ["started", "completed a", "completed b", "completed c"]
    log = store.runs["r"]
    assert [checkpoint.step for checkpoint in log] == [0, 1, 2, 3]
    assert [checkpoint.status for checkpoint in log] == ["running", "running", "running", "done"]
    assert [checkpoint.update for checkpoint in log] == [{}, {"path": ["a"]}, {"path": ["b"]}, {"path": ["c"]}]
    assert len({checkpoint.executor_id for checkpoint in log}) == 1
    assert all(after.previous_digest == before.digest for before, after in itertools.pairwise(log))
    assert run.state == {"path": ["a", "b", "c"]}
    assert run.summary is not None
    assert (run.summary.status, run.summary.last_step) == ("done", 3)
    assert run.summary.raise_for_status() is run.summary or run.summary.status == "done"


async def test_the_log_tells_what_the_hashes_were_made_of(store: MemoryCheckpointer) -> None:
    await run_of(SEQUENCE, store)
    first, *rest = store.runs["r"]
    assert set(first.definition) == {"graph", "runtime"}
    assert set(first.definition["runtime"]["code"]) == {"node 'a'", "node 'b'", "node 'c'"}
    assert all(checkpoint.definition is None for checkpoint in rest)


async def test_nothing_happens_before_start(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store)
    assert store.runs == {}
    assert run.state is None
    assert run.summary is None


async def test_what_a_node_does_to_its_input_changes_nothing(store: MemoryCheckpointer) -> None:
    run = await run_of(
        f'{PATH}nodes: [{{id: a, kind: "support.nodes:mutate"}}, {{id: b, kind: "support.nodes:step"}}]', store
    )
    assert run.state == {"path": ["b"]}


async def test_a_caller_cannot_change_a_run_through_its_state(store: MemoryCheckpointer) -> None:
    run = await run_of(SEQUENCE, store)
    assert run.state is not None
    run.state["path"].append("x")
    assert run.state == {"path": ["a", "b", "c"]}


async def test_kinds_of_nodes(store: MemoryCheckpointer) -> None:
    run = await run_of(
        f"""{PATH}
nodes:
  - {{id: async, kind: "support.nodes:step"}}
  - {{id: thread, kind: "support.nodes:sync_step"}}
  - {{id: classy, kind: "support.nodes:Classy"}}
  - {{id: short, kind: "support.nodes:without_context"}}
  - {{id: pass, kind: echo}}
  - {{id: stop, kind: halt}}
  - {{id: never, kind: "support.nodes:step"}}
""",
        store,
    )
    assert run.state == {"path": ["async", "thread in a thread", "classy", "without_context"]}
    assert store.runs["r"][-1].last_node == "stop"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"x": float("nan")}, "state.x: NaN is not JSON"),
        ({"x": {"user": {"scores": [1, 2, 3, float("inf")]}}}, "state.x.user.scores[3]: Infinity is not JSON"),
        ({"x": {1, 2}}, "state.x: a value of type set is not JSON"),
        ({"x": 2**63}, "state.x: an integer outside 64 bits"),
        ({"x": {1: 2}}, "only text can be a key"),
        ({"x": "\ud800"}, "lone surrogate"),
        ({"y": 1}, "node 'a' returned: the state has no field 'y'"),
        ([1], "node 'a' returned a value of type list"),
    ],
)
async def test_what_is_no_update_fails_the_run_and_stores_nothing_of_it(
    store: MemoryCheckpointer, returned: object, message: str
) -> None:
    nodes.before = lambda context: returned
    run = await graph(one_node("returns_x")).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == "failed"
    assert summary.error is not None
    assert message in summary.error.message
    assert summary.error.node == "a"
    assert store.events("r") == ["started", "failed a"]
    assert run.state == {"x": None}
    with pytest.raises(NodeError, match="failed at node 'a'"):
        summary.raise_for_status()


async def test_a_value_of_another_type_fails_the_run(store: MemoryCheckpointer) -> None:
    nodes.before = lambda context: {"x": "5"}
    run = await run_of(one_node("returns_x", "{x: {type: int, default: 0}}"), store)
    assert run.summary is not None
    assert run.summary.error is not None
    assert "state.x" in run.summary.error.message
    assert "'5'" in run.summary.error.message


async def test_without_a_schema_the_state_is_any_object(store: MemoryCheckpointer) -> None:
    nodes.before = lambda context: {"new": [1, {"a": None}]}
    run = await run_of('nodes: [{id: a, kind: "support.nodes:returns_x"}]', store, given=-0.0)
    assert run.state == {"given": -0.0, "new": [1, {"a": None}]}
    assert str(run.state["given"]) == "-0.0"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "inputs: 'n' is missing"),
        ({"n": "1"}, "inputs.n"),
        ({"n": True}, "inputs.n"),
        ({"n": 1, "m": 2}, "the state has no field 'm'"),
        ({"n": 2**70}, "inputs.n|state.n"),
    ],
)
async def test_inputs_that_do_not_fit_start_nothing(
    store: MemoryCheckpointer, inputs: dict[str, object], message: str
) -> None:
    run = await graph("state_schema: {n: int}\nnodes: [{id: a, kind: echo}]").start(checkpointer=store, inputs=inputs)
    with pytest.raises(StateError, match=message):
        await run.start()
    assert store.runs == {}


async def test_a_run_of_that_id_exists(store: MemoryCheckpointer) -> None:
    await run_of(SEQUENCE, store)
    second = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    with pytest.raises(CheckpointConflictError) as caught:
        await second.start()
    assert caught.value.reason == "run-exists"


@pytest.mark.parametrize("run_id", ["", "../r", "r ", "-r", "a" * 201, "ä"])
async def test_an_id_that_cannot_name_a_run(store: MemoryCheckpointer, run_id: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        await graph(SEQUENCE).start(checkpointer=store, run_id=run_id)
    assert caught.value.reason == "invalid-run-id"


async def test_what_is_no_checkpointer() -> None:
    for wrong in (MemoryCheckpointer, object(), None):
        with pytest.raises(TypeError, match="checkpointer"):
            await graph(SEQUENCE).start(checkpointer=wrong)  # type: ignore[arg-type]


async def test_a_loop_ends_at_max_steps_and_can_go_on_with_more(store: MemoryCheckpointer) -> None:
    endless = """
max_steps: {limit}
state_schema: {{n: {{type: int, default: 0}}}}
nodes: [{{id: a, kind: "support.nodes:count"}}]
rules: [{{id: again, when: {{node: a, if: "state.n < 20"}}, then: [{{kind: goto, target: a}}]}}]
"""
    run = await run_of(endless.format(limit=10), store)
    assert run.summary is not None
    assert run.summary.status == "failed"
    assert run.summary.error is not None
    assert run.summary.error.reason == "max-steps"
    assert run.state == {"n": 10}
    again = await graph(endless.format(limit=1000)).start(checkpointer=store)
    summary = await again.resume("r")
    assert summary.status == "done"
    assert again.state == {"n": 20}


async def test_the_stream_starts_the_run_and_tells_of_durable_steps(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    seen = []
    async for event in run.stream():
        if event.durable:
            assert (run.run_id, event.step) in store.records
        seen.append((event.type, event.node, event.durable))
    assert seen == [
        ("started", None, True),
        ("node_started", "a", False),
        ("completed", "a", True),
        ("node_started", "b", False),
        ("completed", "b", True),
        ("node_started", "c", False),
        ("completed", "c", True),
    ]


async def test_the_stream_watches_a_run_that_somebody_started(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    work = asyncio.create_task(run.start())
    seen = [event.type async for event in run.stream()]
    assert seen.count("completed") == 3
    assert (await work).status == "done"


async def test_the_stream_raises_what_the_start_raises(store: MemoryCheckpointer) -> None:
    run = await graph("state_schema: {n: int}\nnodes: [{id: a, kind: echo}]").start(checkpointer=store)
    with pytest.raises(StateError):
        async for _ in run.stream():
            pass


async def test_no_event_is_published_before_its_write_returned(store: MemoryCheckpointer) -> None:
    acknowledged: list[int] = []
    store.after_write = lambda checkpoint: acknowledged.append(checkpoint.step)
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    async for event in run.stream():
        if event.type != "node_started":
            assert event.step in acknowledged
        else:
            assert acknowledged == list(range(event.step + 1))


async def test_metadata_and_hashes_are_in_every_step(store: MemoryCheckpointer) -> None:
    sequence = graph(SEQUENCE)
    run = await sequence.start(checkpointer=store, run_id="r", metadata={"team": "ops"})
    await run.start()

    def fields_of(checkpoint: Checkpoint) -> tuple[str, str, str, dict[str, str]]:
        return checkpoint.graph_id, checkpoint.graph_hash, checkpoint.runtime_hash, checkpoint.metadata

    assert {fields_of(checkpoint)[:3] for checkpoint in store.runs["r"]} == {
        ("sequence", sequence.graph_hash, sequence.runtime_hash)
    }
    assert all(checkpoint.metadata == {"team": "ops"} for checkpoint in store.runs["r"])


async def test_a_rule_that_cannot_be_evaluated_fails_the_run(store: MemoryCheckpointer) -> None:
    run = await run_of(
        'nodes: [{id: a, kind: echo}]\nrules: [{id: r, when: {node: a, if: "state.nope > 1"}, then: [{kind: halt}]}]',
        store,
    )
    assert run.summary is not None
    assert run.summary.error is not None
    assert run.summary.error.reason == "expression-failed"
    assert "has(state.field)" in str(run.summary.error.message) or "nope" in run.summary.error.message


async def test_one_run_object_executes_once_at_a_time(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    first = asyncio.create_task(run.start())
    await asyncio.sleep(0)
    with pytest.raises(CheckpointError) as caught:
        await run.start()
    assert caught.value.reason == "already-running"
    assert (await first).status == "done"
