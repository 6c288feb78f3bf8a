"""Questions of child runs in the branches of a map."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from support import nodes
from support.gated_nodes import new_gate
from support.graphs import graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.memory import MemoryCheckpointer as Store
from stargraph.checkpoint.protocol import is_run_id
from stargraph.errors import CheckpointError, StateError
from stargraph.graph import Graph, respond

CHILD = """
id: child
state_schema: {who: str, path: {type: "list[str]", reduce: append, default: []}}
nodes:
  - {id: begin, kind: echo}
  - {id: confirm, kind: "support.nodes:confirm"}
  - {id: end, kind: "support.nodes:step"}
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "[state.who + '1', state.who + '2']", target: confirm, join: end}]
"""

PARENT = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}}
nodes:
  - {id: begin, kind: echo}
  - {id: sub, kind: subgraph, graph: child.yaml, inputs: {who: "node.item"}, outputs: {path: "state.path"}}
  - {id: end, kind: echo}
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "['x', 'y', 'z']", target: sub, join: end, max_concurrency: 2}]
"""

WANTED = [
    word
    for who in "xyz"
    for word in (f"first of {who}1?+second of {who}1?", f"first of {who}2?+second of {who}2?", "end")
]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("newest_first", [False, True])
async def test_each_answer_finds_its_branch(
    store: MemoryCheckpointer, tmp_path: Path, durability: Literal["sync", "async", "exit"], newest_first: bool
) -> None:
    (tmp_path / "child.yaml").write_text(CHILD)
    run = await graph(PARENT, tmp_path).start(checkpointer=store, run_id="r" * 200, durability=durability)
    summary = await run.start()
    for _ in range(40):
        if summary.status == "done":
            break
        assert summary.status == "awaiting_input", summary.error
        interrupts = store.runs[run.run_id][-1].interrupts
        interrupt = interrupts[-1 if newest_first else 0]
        await run.answer(interrupt.id, interrupt.prompt)
        summary = await run.resume()
    assert run.state == {"path": WANTED}
    assert all(is_run_id(run_id) for run_id in store.runs)
    assert {log[-1].status for log in store.runs.values()} == {"done"}


async def test_many_answers_before_one_resume(store: MemoryCheckpointer, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(CHILD)
    run = await graph(PARENT, tmp_path).start(checkpointer=store, run_id="r")
    summary = await run.start()
    rounds = 0
    while summary.status == "awaiting_input":
        rounds += 1
        for interrupt in store.runs["r"][-1].interrupts:
            await respond(store, "r", interrupt.id, interrupt.prompt)
        summary = await run.resume()
    assert summary.status == "done", summary.error
    assert run.state == {"path": WANTED}
    assert rounds == 4


async def test_answers_while_the_run_is_executed(store: MemoryCheckpointer, tmp_path: Path) -> None:
    """A sibling holds the run open, and every answer takes its child on at once."""
    (tmp_path / "child.yaml").write_text(CHILD)
    text = PARENT.replace("kind: map, over: \"['x', 'y', 'z']\", target: sub", "kind: parallel, targets: [sub, work]")
    text = text.replace(", max_concurrency: 2", "").replace("node.item", "'x'")
    text = text.replace("  - {id: end", '  - {id: work, kind: "support.gated_nodes:work"}\n  - {id: end', 1)
    gate = new_gate()
    run = await graph(text, tmp_path).start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start())
    answered: set[str] = set()

    async def answer_four() -> None:
        while len(answered) < 4:
            interrupts = store.runs["r"][-1].interrupts if "r" in store.runs else ()
            for interrupt in interrupts:
                if interrupt.id not in answered:
                    answered.add(interrupt.id)
                    await run.answer(interrupt.id, interrupt.prompt)
            await asyncio.sleep(0)

    await asyncio.wait_for(answer_four(), 60)
    while not any(checkpoint.event == "completed" and checkpoint.last_node == "sub" for checkpoint in store.runs["r"]):
        await asyncio.sleep(0.001)
    gate.opened.set()
    assert (await work).status == "done"
    assert run.state == {"path": [*WANTED[:3], "work"]}


async def test_a_run_that_is_not_a_child_is_not_taken_for_one(store: MemoryCheckpointer, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text("id: child\nnodes: [{id: a, kind: echo}]\n")
    parent = graph("nodes: [{id: sub, kind: subgraph, graph: child.yaml}]", tmp_path)
    first = await parent.start(checkpointer=store, run_id="r")
    await first.start()
    (child,) = store.runs.keys() - {"r"}
    other = MemoryCheckpointer()
    await other.bootstrap()
    stranger = await graph('nodes: [{id: b, kind: interrupt, prompt: "?", into: x}]').start(
        checkpointer=other, run_id=child
    )
    await stranger.start()
    run = await parent.start(checkpointer=other, run_id="r")
    with pytest.raises(CheckpointError) as caught:
        await run.start()
    assert caught.value.reason == "run-exists"
    await run.cancel(grace=0)
    assert other.runs[child][-1].status == "awaiting_input"


TYPED_CHILD = """
id: child
state_schema: {x: {type: "bool | None", default: null}}
nodes: [{id: ask, kind: "support.nodes:sync_x"}]
"""
OF_TYPED_CHILD = """
nodes: [{id: sub, kind: subgraph, graph: child.yaml, inputs: {}, outputs: {}}]
"""


async def test_a_question_of_the_code_of_a_child_takes_what_its_field_takes(
    store: MemoryCheckpointer, tmp_path: Path
) -> None:
    nodes.before = lambda ctx: ctx.interrupt("Send?", into="x")
    (tmp_path / "child.yaml").write_text(TYPED_CHILD)
    made = graph(OF_TYPED_CHILD, tmp_path)
    run = await made.start(checkpointer=store, run_id="r")
    (question,) = (await run.start()).questions
    assert made.answer_type(question) == bool | None
    with pytest.raises(StateError):
        await run.answer(question, "maybe")
    await run.answer(question, False)
    assert (await run.resume()).status == "done"


TWO_QUESTIONS = """
id: g
state_schema: {n: {type: int, default: 0}}
nodes:
  - {id: sub, kind: subgraph, graph: child.yaml, outputs: {n: state.n}}
  - {id: last, kind: interrupt, prompt: "More?", into: n}
"""


async def test_a_deleted_child_run_does_not_start_again(tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        "id: child\nstate_schema: {n: {type: int, default: 0}}\n"
        'nodes: [{id: ask, kind: interrupt, prompt: "How many?", into: n}]\n'
    )
    (tmp_path / "g.yaml").write_text(TWO_QUESTIONS)
    asking = Graph.from_file(tmp_path / "g.yaml")
    async with Store() as store:
        for run_id in ("early", "late"):
            run = await asking.start(checkpointer=store, run_id=run_id)
            (question,) = (await run.start()).questions
            if run_id == "late":
                await run.answer(question, 5)
                await run.resume()
            assert question.child_run_id is not None
            assert await store.delete_run(question.child_run_id)

        late = await (await asking.start(checkpointer=store)).resume("late")
        assert (late.status, late.state, [each.prompt for each in late.questions]) == (
            "awaiting_input",
            {"n": 5},
            ["More?"],
        )

        early = await asking.start(checkpointer=store)
        with pytest.raises(CheckpointError, match=r"child run 'early:sub-.*' was deleted") as raised:
            await early.resume("early")
        assert raised.value.reason == "run-deleted"
        assert "fork it at step 0" in str(raised.value)
        assert (await (await early.fork(0)).start()).status == "awaiting_input"
        assert (await early.cancel()).status == "cancelled"
