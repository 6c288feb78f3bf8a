"""Branches that end together are stored together; each is still a step of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support import nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, StoreUnavailableError
from stargraph.graph import Context, respond

MAP = """
state_schema: {path: {type: "list[any]", reduce: append, default: []}, yes: {type: any, default: null}}
nodes: [{id: begin, kind: echo}, {id: a, kind: "support.nodes:returns_path"}, {id: end, kind: echo}]
rules:
  - {id: each, when: {node: begin}, then: [{kind: map, over: "[0, 1, 2, 3, 4, 5, 6, 7]", target: a, join: end}]}
"""


class Batches(MemoryCheckpointer):
    """Stores several steps in one go, and remembers how many came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self.sizes.append(len(checkpoints))
        for checkpoint in checkpoints:
            await self.write(checkpoint)


@pytest.fixture
async def batches() -> Batches:
    store = Batches()
    await store.bootstrap()
    return store


async def ended(store: Batches, **options: Any) -> Any:
    run = await graph(MAP).start(checkpointer=store, run_id="r", **options)
    await run.start()
    return run


async def test_branches_that_end_together_share_a_commit(batches: Batches) -> None:
    nodes.before = lambda ctx: ctx.item
    run = await ended(batches)
    assert run.state["path"] == list(range(8))
    assert batches.sizes == [8]
    assert [record.step for record in batches.runs["r"]] == list(range(11))
    assert not (await run.replay()).differences


async def test_one_whose_update_does_not_fit_fails_alone(batches: Batches) -> None:
    nodes.before = lambda ctx: object() if ctx.item == 3 else ctx.item
    run = await ended(batches)
    assert run.summary.status == "failed"
    assert batches.events("r").count("completed a") == 7
    nodes.before = lambda ctx: ctx.item
    assert (await run.resume()).status == "done"
    assert run.state["path"] == list(range(8))
    assert nodes.LEDGER.count("a") == 9


async def test_one_that_asks_among_them(batches: Batches) -> None:
    nodes.before = lambda ctx: ctx.interrupt("Which?") if ctx.item == 3 else ctx.item
    run = await ended(batches)
    assert run.summary.status == "awaiting_input"
    assert batches.events("r").count("completed a") == 7
    await run.answer(batches.runs["r"][-1].interrupts[0].id, 3)
    assert (await run.resume()).status == "done"
    assert run.state["path"] == list(range(8))


async def test_an_answer_that_comes_between_two_of_them(batches: Batches) -> None:
    waiting = asyncio.Event()

    async def body(ctx: Context) -> Any:
        if ctx.item == 0:
            return ctx.interrupt("Which?")
        await waiting.wait()
        return ctx.item

    nodes.before = body
    run = await graph(MAP).start(checkpointer=batches, run_id="r")
    work = asyncio.ensure_future(run.start())
    while not batches.runs.get("r") or not batches.runs["r"][-1].interrupts:
        await asyncio.sleep(0.001)
    write_many = batches.write_many

    async def answered_meanwhile(checkpoints: Sequence[Checkpoint]) -> None:
        batches.write_many = write_many  # type: ignore[method-assign]
        await batches.write(checkpoints[0])
        await respond(batches, "r", batches.runs["r"][-1].interrupts[0].id, "zero")
        raise CheckpointConflictError("somebody was first", reason="conflict")

    batches.write_many = answered_meanwhile  # type: ignore[method-assign]
    waiting.set()
    assert (await work).status == "done"
    assert run.state == {"path": ["zero", *range(1, 8)], "yes": None}
    assert batches.events("r").count("completed a") == 8


async def test_a_store_that_fails_in_the_middle_keeps_a_prefix(batches: Batches) -> None:
    nodes.before = lambda ctx: ctx.item
    seen = 0

    def fail(checkpoint: Checkpoint) -> None:
        nonlocal seen
        seen += checkpoint.last_node == "a"
        if seen == 4:
            seen += 1
            raise StoreUnavailableError("gone", reason="unavailable")

    batches.before_write = fail
    run = await graph(MAP).start(checkpointer=batches, run_id="r")
    with pytest.raises(StoreUnavailableError):
        await run.start()
    assert batches.events("r").count("completed a") == 3
    assert (await run.resume()).status == "done"
    assert run.state["path"] == list(range(8))  # type: ignore[index]
    assert nodes.LEDGER.count("a") == 8 + 5


async def test_no_event_is_made_for_nobody(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    from stargraph.engine import RunEvent

    made: list[Any] = []
    construct = RunEvent.model_construct

    def counted(**fields: Any) -> RunEvent:
        made.append(fields)
        return construct(**fields)

    monkeypatch.setattr(RunEvent, "model_construct", counted)
    nodes.before = lambda ctx: ctx.item
    await ended(batches)
    assert made == []
    run = await graph(MAP).start(checkpointer=batches, run_id="heard")
    heard = [event.type async for event in run.stream()]
    assert heard.count("completed") == 10
    assert len(made) == len(heard)
