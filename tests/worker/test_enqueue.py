"""Runs that are stored before anything executes them: enqueued once by their id, started by whoever comes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.runs import latest

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.errors import CheckpointConflictError, CheckpointError, StateError
from stargraph.graph import EnqueuedRun, Graph, GraphBuilder, RunRequest, cancel, requeue

builder = GraphBuilder("counting")
builder.state(n=int)


@builder.node
def count(state: Any) -> dict[str, Any]:
    if state.n < 0:
        raise ValueError("negative")
    return {"n": state.n + 1}


graph = Graph(builder)


async def test_a_queued_run_is_stored_and_not_executed(store: MemoryCheckpointer) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    enqueued = await graph.enqueue(
        store,
        {"n": 1},
        run_id="r",
        queue="mail",
        priority=3,
        not_before=due,
        metadata={"who": "me"},
        concurrency_key="k",
    )
    assert enqueued == EnqueuedRun("r", True)
    first = await latest(store, "r")
    assert (first.step, first.status, first.state, first.process) == (0, "queued", {"n": 1}, None)
    assert first.queue is not None
    assert first.queue.model_dump() == {
        "name": "mail",
        "priority": 3,
        "concurrency_key": "k",
        "not_before": due,
    }
    assert (first.due_at, first.metadata) == (due, {"who": "me"})


async def test_the_run_id_finds_duplicates(store: MemoryCheckpointer) -> None:
    assert (await graph.enqueue(store, {"n": 1}, run_id="r")).is_new
    again = await graph.enqueue(store, {"n": 1}, run_id="r", queue="other")
    assert again == EnqueuedRun("r", False)
    with pytest.raises(CheckpointConflictError, match="exists already, and was given other inputs") as refused:
        await graph.enqueue(store, {"n": 2}, run_id="r")
    assert refused.value.reason == "run-exists"
    other = GraphBuilder("other")
    other.state(n=int)
    other.add_node("a", "echo")
    with pytest.raises(CheckpointConflictError, match="is a run of graph 'counting'"):
        await Graph(other).enqueue(store, {"n": 1}, run_id="r")
    # Neither does a run that has ended begin again.
    await (await graph.start_or_resume(checkpointer=store, run_id="r")).start()
    assert not (await graph.enqueue(store, {"n": 1}, run_id="r")).is_new
    assert (await latest(store, "r")).status == "done"


@pytest.mark.parametrize(
    ("wrong", "error", "reason"),
    [
        (RunRequest(inputs={"n": "x"}), StateError, "wrong-type"),
        (RunRequest(inputs={}), StateError, "missing-input"),
        (RunRequest(inputs={"n": 1}, run_id="no spaces"), CheckpointError, "invalid-run-id"),
        (RunRequest(inputs={"n": 1}, queue="no spaces"), CheckpointError, "invalid-queue-entry"),
        (RunRequest(inputs={"n": 1}, priority=2**40), CheckpointError, "invalid-queue-entry"),
        (RunRequest(inputs={"n": 1}, not_before=datetime(2026, 1, 1)), CheckpointError, "invalid-queue-entry"),  # noqa: DTZ001
        (RunRequest(inputs={"n": 9}, run_id="taken"), CheckpointConflictError, "run-exists"),
        (RunRequest(inputs={"n": 9}, run_id="twice"), CheckpointConflictError, "run-exists"),
    ],
    ids=str,
)
async def test_of_many_none_is_stored_if_one_is_wrong(
    store: MemoryCheckpointer, wrong: RunRequest, error: type[Exception], reason: str
) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="taken")
    good = [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(3)]
    with pytest.raises(error) as refused:
        await graph.enqueue_many(store, [*good, RunRequest(inputs={"n": 1}, run_id="twice"), wrong])
    assert getattr(refused.value, "reason", None) == reason
    assert [run.run_id for run in await store.list_runs()] == ["taken"]


async def test_a_wrong_queue_is_refused_in_the_words_that_were_given(store: MemoryCheckpointer) -> None:
    with pytest.raises(CheckpointError, match="queue 'no spaces': the name of a queue is"):
        await graph.enqueue(store, {"n": 1}, queue="no spaces")
    with pytest.raises(CheckpointError, match=rf"priority {2**40}: ") as caught:
        await graph.enqueue(store, {"n": 1}, priority=2**40)
    assert caught.value.hint == "A priority is a 32-bit integer."


async def test_many_say_which_are_new_in_order(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r1")
    asked = [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in (0, 1, 2, 0)] + [RunRequest(inputs={"n": 7})]
    found = await graph.enqueue_many(store, asked)
    assert [each.is_new for each in found] == [True, False, True, False, True]
    assert [each.run_id for each in found[:4]] == ["r0", "r1", "r2", "r0"]
    assert await graph.enqueue_many(store, []) == []


async def test_a_queued_run_is_executed_by_resume(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    run = await graph.start(checkpointer=store)
    assert (await run.resume("r")).state == {"n": 2}
    assert await store.processes() == []


async def test_a_run_that_may_not_begin_yet_waits(store: MemoryCheckpointer) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    await graph.enqueue(store, {"n": 1}, run_id="r", not_before=due)
    run = await graph.start_or_resume(checkpointer=store, run_id="r")
    result = await run.start()
    assert (result.status, result.due_at, result.last_step) == ("queued", due, 0)
    # By the clock of the store, its time has come.
    assert (await run.resume("r", as_of=due)).status == "done"


async def test_wait_holds_until_it_may_begin(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r", not_before=datetime.now(UTC) + timedelta(seconds=0.05))
    run = await graph.start_or_resume(checkpointer=store, run_id="r")
    assert (await run.start(wait=True)).status == "done"


async def test_a_queued_run_is_cancelled(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    assert (await cancel(store, "r")).status == "cancelled"
    assert await store.claimable("a" * 16, ("default",)) == []


async def test_resume_only_at_a_step(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await requeue(store, "r", priority=1)
    run = await graph.start(checkpointer=store)
    with pytest.raises(CheckpointConflictError, match="is at step 1, not at step 0") as refused:
        await run.resume("r", only_at_step=0)
    assert refused.value.reason == "moved-on"
    assert (await run.resume("r", only_at_step=1)).status == "done"


async def test_requeue_leaves_a_failed_run_to_the_workers(store: MemoryCheckpointer) -> None:
    run = await graph.start(checkpointer=store, inputs={"n": -1}, run_id="r")
    assert (await run.start()).status == "failed"
    record = await requeue(store, "r", queue="repairs", priority=2)
    assert (record.event, record.status, record.process) == ("queued", "queued", None)
    assert record.error is not None
    assert record.error.message == "negative"
    again = await requeue(store, "r")
    assert again.step == record.step
    assert [each.run_id for each in await store.claimable("a" * 16, ("repairs",))] == ["r"]


async def test_requeue_refuses_what_is_over(store: MemoryCheckpointer) -> None:
    run = await graph.start(checkpointer=store, inputs={"n": 1}, run_id="r")
    await run.start()
    with pytest.raises(CheckpointError, match="there is nothing to requeue") as refused:
        await requeue(store, "r")
    assert refused.value.reason == "run-ended"
    with pytest.raises(CheckpointError) as unknown:
        await requeue(store, "unknown")
    assert unknown.value.reason == "run-not-found"
