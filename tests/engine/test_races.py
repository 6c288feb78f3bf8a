"""An answer, a cancellation or a fault of the store that meets the engine at a bad moment."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from support import calling_nodes, nodes
from support.gated_nodes import Gate, new_gate
from support.graphs import graph
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointError, StoreUnavailableError
from stargraph.graph import Context, Run, cancel, respond

pytestmark = pytest.mark.thorough

ASK_AND_WORK = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}, yes: {type: any, default: null}}
nodes:
  - {id: begin, kind: echo}
  - {id: ask, kind: interrupt, prompt: "Sure?", into: yes}
  - {id: quick, kind: "support.nodes:slow"}
  - {id: work, kind: "support.gated_nodes:work"}
  - {id: end, kind: echo}
rules: [{id: all, when: {node: begin}, then: [{kind: parallel, targets: [ask, quick, work], join: end}]}]
"""

Durability = Literal["sync", "async", "exit"]
each_durability = pytest.mark.parametrize("durability", ["sync", "async", "exit"])


async def asking(store: MemoryCheckpointer, durability: Durability) -> tuple[Run, asyncio.Task[object], Gate, str]:
    """A run whose question is stored and whose node `work` is held; `quick` has ended, stored or not."""
    gate = new_gate()
    run = await graph(ASK_AND_WORK).start(checkpointer=store, run_id="r", durability=durability)
    ended = asyncio.Event()

    async def watch() -> None:
        async for event in run.stream():
            if (event.type, event.node) == ("completed", "quick"):
                ended.set()

    watching = asyncio.ensure_future(watch())
    work: asyncio.Task[object] = asyncio.ensure_future(run.start())
    work.add_done_callback(lambda _: watching.cancel())
    await gate.entered.wait()
    await ended.wait()
    (interrupt,) = store.runs["r"][-1].interrupts
    return run, work, gate, interrupt.id


class Once:
    """A store's fault at the first write of an event."""

    def __init__(self, event: str) -> None:
        self._event = event

    def __call__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.event == self._event:
            self._event = ""
            raise StoreUnavailableError("gone", reason="unavailable")


@each_durability
@pytest.mark.parametrize("fault", ["completed", "answered"])
async def test_a_store_that_fails_an_answer_loses_no_branch(
    store: MemoryCheckpointer, durability: Durability, fault: str
) -> None:
    run, work, gate, question = await asking(store, durability)
    store.before_write = Once(fault)
    answers = 0
    while not answers:
        try:
            await run.answer(question, "yes")
        except StoreUnavailableError:
            continue
        answers += 1
    gate.opened.set()
    try:
        await work
        assert nodes.LEDGER.count("quick[1]") == 1
    except StoreUnavailableError:
        await run.resume()
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert run.state == {"path": ["quick[1]", "work"], "yes": "yes"}


@each_durability
async def test_an_answer_that_is_given_up_loses_no_branch(store: MemoryCheckpointer, durability: Durability) -> None:
    run, work, gate, question = await asking(store, durability)
    write, entered, released = store.write, asyncio.Event(), asyncio.Event()

    async def held(checkpoint: Checkpoint) -> None:
        entered.set()
        await released.wait()
        await write(checkpoint)

    store.write = held  # type: ignore[method-assign]
    answering = asyncio.ensure_future(run.answer(question, "yes"))
    await entered.wait()
    answering.cancel()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await answering
    gate.opened.set()
    await work
    if run.summary is not None and run.summary.status == "awaiting_input":
        await run.answer(question, "yes")
        await run.resume()
    assert run.state == {"path": ["quick[1]", "work"], "yes": "yes"}


@each_durability
async def test_an_answer_from_elsewhere_that_only_the_last_write_meets(
    store: MemoryCheckpointer, durability: Durability
) -> None:
    run, work, gate, question = await asking(store, durability)
    await respond(store, "r", question, "yes")
    gate.opened.set()
    await work
    assert run.summary is not None
    assert run.summary.status == "done"
    assert run.state == {"path": ["quick[1]", "work"], "yes": "yes"}


@each_durability
async def test_a_cancellation_from_elsewhere_that_only_the_last_write_meets(
    store: MemoryCheckpointer, durability: Durability
) -> None:
    run, work, gate, _ = await asking(store, durability)
    cancelling = asyncio.ensure_future(cancel(store, "r", grace=300))
    while store.runs["r"][-1].event != "cancel_requested":
        await asyncio.sleep(0)
    gate.opened.set()
    await work
    assert run.summary is not None
    assert run.summary.status == "cancelled"
    assert (await cancelling).status == "cancelled"


@each_durability
async def test_the_second_of_two_answers_is_refused_and_the_run_goes_on(
    store: MemoryCheckpointer, durability: Durability
) -> None:
    run, work, gate, question = await asking(store, durability)
    await respond(store, "r", question, "first")
    with pytest.raises(CheckpointError) as caught:
        await run.answer(question, "second")
    assert caught.value.reason == "no-such-question"
    gate.opened.set()
    await work
    assert run.state == {"path": ["quick[1]", "work"], "yes": "first"}


@each_durability
async def test_an_answer_to_a_run_that_was_cancelled_elsewhere(
    store: MemoryCheckpointer, durability: Durability
) -> None:
    run, work, _, question = await asking(store, durability)
    await cancel(store, "r", grace=0)
    with pytest.raises(CheckpointError) as caught:
        await run.answer(question, "yes")
    assert caught.value.reason == "run-ended"
    await work  # `work` is stopped: its gate never opens
    assert run.summary is not None
    assert run.summary.status == "cancelled"


@each_durability
async def test_an_answer_while_the_question_is_being_stored_starts_its_node(
    store: MemoryCheckpointer, durability: Durability
) -> None:
    asked = graph(
        "state_schema: {yes: {type: any, default: null}}\n"
        'nodes: [{id: ask, kind: interrupt, prompt: "Sure?", into: yes}, {id: end, kind: echo}]'
    )
    run = await asked.start(checkpointer=store, run_id="r", durability=durability)
    answers: list[asyncio.Task[object]] = []

    def answer(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "asked":
            (interrupt,) = checkpoint.interrupts
            answers.append(asyncio.ensure_future(run.answer(interrupt.id, "yes")))

    store.after_write = answer
    summary = await run.start()
    await asyncio.gather(*answers)
    # Either the answer came in time, or the run waits to be resumed; `running` would say that somebody works.
    assert summary.status in ("done", "awaiting_input")
    if summary.status == "awaiting_input":
        summary = await run.resume()
    assert summary.status == "done"
    assert run.state == {"yes": "yes"}


async def test_cancel_tells_when_the_store_refused_it(store: MemoryCheckpointer) -> None:
    run, work, _, _ = await asking(store, "sync")
    store.before_write = Once("cancelled")
    summary = await run.cancel(grace=0)
    assert summary.status == "cancelled"
    assert store.runs["r"][-1].status == "cancelled"
    with pytest.raises(StoreUnavailableError):
        await work


async def test_a_cancellation_whose_canceller_died_outlasts_an_answer(store: MemoryCheckpointer) -> None:
    run, work, _, question = await asking(store, "sync")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    cancelling = asyncio.ensure_future(cancel(store, "r", grace=300))
    while store.runs["r"][-1].event != "cancel_requested":
        await asyncio.sleep(0)
    cancelling.cancel()
    await asyncio.gather(cancelling, return_exceptions=True)
    await respond(store, "r", question, "yes")
    assert (await run.resume()).status == "cancelled"
    assert run.summary is not None
    assert run.summary.status == "cancelled"


async def test_a_cancellation_that_meets_a_resume_stops_it(store: MemoryCheckpointer) -> None:
    run, work, _, _ = await asking(store, "sync")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    cancelling: list[asyncio.Task[Checkpoint]] = []
    write = store.write

    async def cancelled_first(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "resumed" and not cancelling:
            cancelling.append(asyncio.ensure_future(cancel(store, "r", grace=300)))
            while store.runs["r"][-1].event != "cancel_requested":
                await asyncio.sleep(0)
        await write(checkpoint)

    store.write = cancelled_first  # type: ignore[method-assign]
    assert (await asyncio.wait_for(run.resume(), 60)).status == "cancelled"
    await cancelling[0]


async def test_an_executor_that_was_fenced_stops_before_its_next_node_ends(store: MemoryCheckpointer) -> None:
    fenced = graph(
        'state_schema: {path: {type: "list[str]", reduce: append, default: []}}\n'
        'nodes: [{id: a, kind: "support.nodes:step"}, {id: work, kind: "support.gated_nodes:work"}]'
    )
    gate = new_gate()
    run = await fenced.start(checkpointer=store, run_id="r", durability="async")
    write, entered, released = store.write, asyncio.Event(), asyncio.Event()

    async def held(checkpoint: Checkpoint) -> None:
        if checkpoint.last_node == "a" and not released.is_set():
            entered.set()
            await released.wait()
        await write(checkpoint)

    store.write = held  # type: ignore[method-assign]
    work = asyncio.ensure_future(run.start())
    await entered.wait()
    await gate.entered.wait()
    store.write = write  # type: ignore[method-assign]
    rivals = new_gate()
    rivals.opened.set()
    assert (await (await fenced.start(checkpointer=store)).resume("r")).status == "done"
    released.set()
    with pytest.raises(CheckpointError):
        await asyncio.wait_for(work, 60)


FAMILY = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}}
nodes:
  - {id: begin, kind: "support.nodes:step"}
  - {id: sub, kind: subgraph, graph: lone.yaml}
"""


@each_durability
async def test_a_child_run_is_begun_only_after_the_step_that_it_comes_from(
    durability: Durability, tmp_path: Path
) -> None:
    (tmp_path / "lone.yaml").write_text("id: lone\nnodes: [{id: only, kind: echo}]\n")
    nodes.reset()
    store = MemoryCheckpointer()
    await store.bootstrap()

    def lose_the_process(checkpoint: Checkpoint) -> None:
        if checkpoint.run_id != "r":
            raise Killed

    store.after_write = lose_the_process
    run = await graph(FAMILY, tmp_path).start(checkpointer=store, run_id="r", durability=durability)
    with pytest.raises(Killed):
        await run.start()
    (child,) = (run_id for run_id in store.runs if run_id != "r")
    assert store.events("r") == ["started", "completed begin"]
    store.after_write = lambda checkpoint: None
    assert (await cancel(store, "r", grace=0)).status == "cancelled"
    assert store.runs[child][-1].status == "cancelled"


TWO_MAPS = """
state_schema: {squares: {type: "list[int]", reduce: append, default: []}}
nodes:
  - {id: begin, kind: echo}
  - {id: one, kind: "support.gated_nodes:square_or_wait"}
  - {id: between, kind: echo}
  - {id: two, kind: "support.gated_nodes:square_or_wait"}
  - {id: end, kind: echo}
rules:
  - {id: first, when: {node: begin}, then: [{kind: map, over: "[1, 2]", target: one, join: between}]}
  - {id: second, when: {node: between}, then: [{kind: map, over: "[7, 8, 0]", target: two, join: end}]}
"""


async def test_a_map_that_is_recorded_again_behind_a_control_event_keeps_its_branches() -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()
    gate = new_gate()
    run = await graph(TWO_MAPS).start(checkpointer=store, run_id="r", durability="exit")
    work = asyncio.create_task(run.start())
    await gate.entered.wait()
    cancelling = asyncio.create_task(cancel(store, "r", grace=300))
    while "cancel_requested" not in store.events("r"):
        await asyncio.sleep(0.01)
    gate.opened.set()
    await work
    await asyncio.gather(cancelling, return_exceptions=True)  # the run may have ended before it knew
    events = store.events("r")
    assert events[:5] == ["started", "cancel_requested", "completed begin", "completed one", "completed one"]
    states = [checkpoint.state["squares"] for checkpoint in store.runs["r"]]
    assert states[4] == [1, 4]
    assert states[-1][:2] == [1, 4]


async def test_an_executor_that_is_lost_while_it_cancels_leaves_no_run_with_a_cancelled_child(tmp_path: Path) -> None:
    (tmp_path / "lone.yaml").write_text("id: lone\nnodes: [{id: only, kind: echo}]\n")
    nodes.reset()
    store = MemoryCheckpointer()
    await store.bootstrap()
    family = graph(FAMILY, tmp_path)

    def lose_the_process(checkpoint: Checkpoint) -> None:
        if checkpoint.run_id != "r" or checkpoint.event == "cancelled":
            raise Killed

    def ask_to_cancel(checkpoint: Checkpoint) -> None:
        log = store.runs["r"]
        if checkpoint.event == "resumed" and log[-1].event != "cancel_requested":
            wish = log[-1].next(event="cancel_requested", executor_id="0" * 32, timestamp=datetime.now(UTC))
            store.append_unseen(wish)

    store.after_write = lose_the_process
    with pytest.raises(Killed):
        await (await family.start(checkpointer=store, run_id="r")).start()
    store.before_write = ask_to_cancel
    with pytest.raises(Killed):
        await (await family.start(checkpointer=store)).resume("r")
    (child,) = (run_id for run_id in store.runs if run_id != "r")
    assert store.events("r") == ["started", "completed begin", "cancel_requested", "resumed", "cancelled"]
    store.after_write = lambda checkpoint: None
    assert (await cancel(store, "r", grace=0)).status == "cancelled"
    assert store.runs[child][-1].status == "cancelled"


async def test_a_store_that_cannot_be_read_for_the_items_of_a_map_is_no_failure_of_the_node() -> None:
    class Unreadable(MemoryCheckpointer):
        down = False

        async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
            if self.down and step == 1:
                raise StoreUnavailableError("gone for a while", reason="unavailable")
            return await super().read_at_step(run_id, step)

    store = Unreadable()
    await store.bootstrap()
    two_maps = graph(TWO_MAPS)

    def lose_the_process(checkpoint: Checkpoint) -> None:
        if checkpoint.last_node == "one":
            raise Killed

    store.after_write = lose_the_process
    with pytest.raises(Killed):
        await (await two_maps.start(checkpointer=store, run_id="r")).start()
    store.after_write = lambda checkpoint: None
    store.down = True
    with pytest.raises(StoreUnavailableError):
        await (await two_maps.start(checkpointer=store)).resume("r")
    assert store.events("r") == ["started", "completed begin", "completed one", "resumed"]


BESIDE_A_CHILD = """
nodes:
  - {id: begin, kind: echo}
  - {id: slow, kind: "support.calling_nodes:play"}
  - {id: fast, kind: "support.calling_nodes:play"}
  - {id: sub, kind: subgraph, graph: child.yaml}
  - {id: meet, kind: echo}
rules: [{id: all, when: {node: begin}, then: [{kind: parallel, targets: [slow, fast, sub], join: meet}]}]
"""


async def test_a_node_that_ends_beside_a_child_run_whose_store_fails_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.yaml").write_text("id: child\nnodes: [{id: step, kind: echo}]")
    begun, storing = asyncio.Event(), asyncio.Event()

    class Failing(MemoryCheckpointer):
        async def write(self, checkpoint: Checkpoint) -> None:
            if checkpoint.run_id != "r" and checkpoint.step > 0:
                begun.set()
                await storing.wait()
                raise StoreUnavailableError("gone for a while", reason="unavailable")
            if checkpoint.last_node == "fast":
                storing.set()
                for _ in range(100):  # meanwhile the two others end
                    await asyncio.sleep(0)
            await super().write(checkpoint)

    async def wait(state: Any, context: Context) -> dict[str, Any]:
        await (begun if context.node == "fast" else storing).wait()
        return {}

    store = Failing()
    await store.bootstrap()
    monkeypatch.setattr(calling_nodes, "script", wait)
    with pytest.raises(StoreUnavailableError):
        await (await graph(BESIDE_A_CHILD, tmp_path).start(checkpointer=store, run_id="r")).start()
    assert store.events("r") == ["started", "completed begin", "completed fast", "completed slow"]
