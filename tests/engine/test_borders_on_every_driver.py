"""Where a run meets user code, on each driver: questions, failures, calls and blocked threads."""

from __future__ import annotations

import asyncio
import threading
import urllib.error
from typing import Any

import pytest
from support import nodes
from support.graphs import graph
from support.places import Place

from stargraph.checkpoint.protocol import Checkpointer
from stargraph.errors import CallError
from stargraph.graph import Context, respond

pytestmark = pytest.mark.thorough

ONE = 'state_schema: {x: {type: any, default: null}}\nnodes: [{id: a, kind: "support.nodes:KIND"}]'
MAP = """
state_schema: {x: {type: "list[any]", reduce: append, default: []}}
nodes: [{id: begin, kind: echo}, {id: a, kind: "support.nodes:appends_x"}, {id: end, kind: echo}]
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]", target: a, join: end}]
"""


async def outcome(store: Checkpointer, kind: str, run_id: str) -> tuple[Any, Any]:
    run = await graph(ONE.replace("KIND", kind)).start(checkpointer=store, run_id=run_id)
    return run, await run.start()


async def test_questions_failures_and_calls(place: Place) -> None:
    async def both(ctx: Context) -> Any:
        async def ask(key: str) -> Any:
            return ctx.interrupt("Sure?", {"of": key}, key=key)

        return await asyncio.gather(ask("a"), ask("b"))

    def swallow(ctx: Context) -> Any:
        try:
            ctx.interrupt("Pay?")
        except BaseException:
            return "paid"

    def unreachable(ctx: Context) -> Any:
        raise urllib.error.URLError(OSError(111, "refused"))

    made: list[int] = []

    def charge(ctx: Context) -> Any:
        try:
            return ctx.call_sync("charge", lambda: made.append(1) or {1, 2})  # type: ignore[func-returns-value]
        except CallError as error:
            return [error.reason, ctx.interrupt("Go on?")]

    async with place.open() as store, place.open() as other:
        nodes.before = both
        run, summary = await outcome(store, "awaits_x", "questions")
        assert summary.status == "awaiting_input"
        tail = await other.read_latest("questions")
        assert tail is not None
        for question in reversed(tail.interrupts):
            await respond(other, "questions", question.id, question.payload["of"].upper())
        assert (await run.resume()).status == "done"
        assert run.state == {"x": ["A", "B"]}
        assert not (await run.replay()).differences

        for body, kind, reason in ((swallow, "sync_x", "question-lost"), (unreachable, "awaits_x", None)):
            nodes.before = body
            run, summary = await outcome(store, kind, body.__name__)
            assert (summary.status, summary.error.reason) == ("failed", reason)
            assert not (await run.replay()).differences

        nodes.before = charge
        run, _ = await outcome(store, "sync_x", "charge")
        tail = await other.read_latest("charge")
        assert tail is not None
        await respond(other, "charge", tail.interrupts[0].id, True)
        assert (await run.resume()).status == "done"
        assert (run.state, made) == ({"x": ["result-not-storable", True]}, [1])
        assert not (await run.replay()).differences


async def test_a_finished_step_is_stored_while_all_other_nodes_block(place: Place) -> None:
    gate = threading.Event()
    nodes.before = lambda ctx: ctx.item == 0 or gate.wait(60)
    async with place.open() as store, place.open() as other:
        run = await graph(MAP).start(checkpointer=store, run_id="r")
        work = asyncio.ensure_future(run.start())
        try:
            async with asyncio.timeout(60):
                while (tail := await other.read_latest("r")) is None or tail.last_node != "a":
                    await asyncio.sleep(0.05)
        finally:
            gate.set()
        assert (await work).status == "done"
