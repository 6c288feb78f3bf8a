"""Questions: durable before anybody is told, answered once, from anywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.graphs import everything, graph
from support.memory import MemoryCheckpointer

from stargraph.errors import CheckpointError, StateError
from stargraph.graph import Graph, Run

ASK = """
state_schema: {n: {type: int, default: 3}, yes: {type: "bool | None", default: null}}
nodes:
  - {id: ask, kind: interrupt, prompt: "Really {n}, {{n}}?", into: yes}
  - {id: last, kind: "support.nodes:count"}
"""

RULE = """
state_schema: {n: {type: int, default: 0}, yes: {type: "bool | None", default: null}}
nodes: [{id: a, kind: "support.nodes:count"}, {id: b, kind: "support.nodes:count"}, {id: c, kind: echo}]
rules:
  - {id: sure, when: {node: a}, then: [{kind: interrupt, prompt: "Sure?", into: yes}, {kind: goto, target: c}]}
"""

MANY = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}}
nodes: [{id: begin, kind: echo}, {id: confirm, kind: "support.nodes:confirm"}, {id: end, kind: echo}]
rules:
  - {id: each, when: {node: begin}, then: [{kind: map, over: "['x', 'y']", target: confirm, join: end}]}
"""


async def waiting(text: str, store: MemoryCheckpointer) -> Run:
    run = await graph(text).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "awaiting_input"
    return run


async def test_a_question_is_durable_and_names_the_state(store: MemoryCheckpointer) -> None:
    await waiting(ASK, store)
    assert store.events("r") == ["started", "asked ask"]
    (interrupt,) = store.runs["r"][-1].interrupts
    assert interrupt.prompt == "Really 3, {n}?"
    assert interrupt.into == "yes"


async def test_a_run_names_its_open_questions(store: MemoryCheckpointer) -> None:
    assert (await graph(MANY).start(checkpointer=store, run_id="new")).questions == ()
    run = await waiting(MANY, store)
    assert [(each.prompt, each.payload) for each in run.questions] == [
        ("first of x?", {"item": "x"}),
        ("first of y?", {"item": "y"}),
    ]


async def test_an_answer_goes_into_the_state_when_the_run_goes_on(store: MemoryCheckpointer) -> None:
    run = await waiting(ASK, store)
    (interrupt,) = store.runs["r"][-1].interrupts
    assert (await run.answer(interrupt.id, True)).status == "running"
    assert (await run.resume()).status == "done"
    assert store.events("r") == ["started", "asked ask", "answered ask", "resumed", "completed ask", "completed last"]
    assert run.state == {"n": 4, "yes": True}


async def test_respond_is_a_second_name_of_answer(store: MemoryCheckpointer) -> None:
    run = await waiting(ASK, store)
    (question,) = run.questions
    assert (await run.respond(question, True)).status == "running"
    assert (await run.resume()).state == {"n": 4, "yes": True}


async def test_an_answer_is_checked_and_taken_once(store: MemoryCheckpointer) -> None:
    run = await waiting(ASK, store)
    (interrupt,) = store.runs["r"][-1].interrupts
    with pytest.raises(StateError, match="answer"):
        await run.answer(interrupt.id, "maybe")
    with pytest.raises(CheckpointError) as caught:
        await run.answer("nope", True)
    assert caught.value.reason == "no-such-question"
    assert interrupt.id in str(caught.value)
    await run.answer(interrupt.id, True)
    with pytest.raises(CheckpointError) as caught:
        await run.answer(interrupt.id, False)
    assert caught.value.reason == "no-such-question"
    await run.resume()
    with pytest.raises(CheckpointError) as caught:
        await run.answer(interrupt.id, False)
    assert caught.value.reason == "run-ended"


async def test_a_rule_asks_after_its_node_and_then_goes_where_it_says(
    store: MemoryCheckpointer, ledger: list[str]
) -> None:
    run = await waiting(RULE, store)
    (interrupt,) = store.runs["r"][-1].interrupts
    await run.answer(interrupt.id, True)
    assert (await run.resume()).status == "done"
    assert ledger == ["a"]
    assert run.state == {"n": 1, "yes": True}
    assert store.events("r")[-2:] == ["completed a", "completed c"]


async def test_several_questions_inside_nodes_of_a_map(store: MemoryCheckpointer, ledger: list[str]) -> None:
    run = await waiting(MANY, store)
    first, second = store.runs["r"][-1].interrupts
    assert (first.prompt, second.prompt) == ("first of x?", "first of y?")
    assert first.payload == {"item": "x"}
    await run.answer(second.id, "Y1")
    assert (await run.resume()).status == "awaiting_input"
    _, third = store.runs["r"][-1].interrupts
    assert third.prompt == "second of y?"
    for interrupt, answer in ((first, "X1"), (third, "Y2")):
        await run.answer(interrupt.id, answer)
    await run.resume()
    (fourth,) = store.runs["r"][-1].interrupts
    await run.answer(fourth.id, "X2")
    assert (await run.resume()).status == "done"
    assert run.state == {"path": ["X1+X2", "Y1+Y2"]}


LIVE = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}, yes: {type: any, default: null}}
nodes:
  - {id: begin, kind: echo}
  - {id: ask, kind: interrupt, prompt: "Sure?", into: yes}
  - {id: work, kind: "support.nodes:slow"}
  - {id: end, kind: echo}
rules: [{id: both, when: {node: begin}, then: [{kind: parallel, targets: [ask, work], join: end}]}]
"""


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_answer_reaches_a_run_that_is_being_executed(
    store: MemoryCheckpointer, elsewhere: bool, ledger: list[str]
) -> None:
    live = graph(LIVE)
    run = await live.start(checkpointer=store, run_id="r")
    work = asyncio.create_task(run.start())
    while "asked ask" not in (store.events("r") if "r" in store.runs else []):
        await asyncio.sleep(0.001)
    (interrupt,) = store.runs["r"][-1].interrupts
    answering = await live.start(checkpointer=store, run_id="r") if elsewhere else run
    await answering.answer(interrupt.id, "yes")
    assert (await work).status == "done"
    assert run.state == {"path": ["work[1]"], "yes": "yes"}
    assert ledger == ["work[1]"]
    assert "resumed" not in store.events("r")


async def test_a_question_of_a_subgraph_is_asked_and_answered_through_its_parent(
    store: MemoryCheckpointer, tmp_path: Path
) -> None:
    whole: Graph = everything(tmp_path)
    run = await whole.start(checkpointer=store, run_id="r")
    await run.start()
    await run.answer(store.runs["r"][-1].interrupts[0].id, "yes")
    assert (await run.resume()).status == "awaiting_input"
    (interrupt,) = store.runs["r"][-1].interrupts
    assert interrupt.child_run_id is not None
    child = store.runs[interrupt.child_run_id]
    assert child[0].parent_run_id == "r"
    assert child[0].origin == "subgraph"
    assert interrupt.prompt == "Who checks [1, 16, 81, 256, 625]?"
    with pytest.raises(StateError):
        await run.answer(interrupt.id, 5)
    await run.answer(interrupt.id, "Ada")
    assert child[-1].event == "answered"
    assert (await run.resume()).status == "done"
    assert run.state is not None
    assert run.state["who"] == "Ada"
