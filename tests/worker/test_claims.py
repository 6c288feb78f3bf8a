"""Which runs a worker takes, which it leaves to others, and what it refuses to begin with."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from support.runs import latest
from support.workers import BLOCKED, EFFECTS, graph, orphan, statuses, until, worker

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import ProcessInfo, RunSummary
from stargraph.errors import CheckpointError
from stargraph.graph import Graph, GraphBuilder, RunRequest, respond
from stargraph.worker import orphaned_runs


async def test_it_executes_what_is_queued_in_its_queues(store: MemoryCheckpointer) -> None:
    runs = [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(20)]
    await graph.enqueue_many(store, runs)
    await graph.enqueue(store, {"n": 1}, run_id="other", queue="mail")
    metrics = await worker(store, concurrency=4).run()
    assert await statuses(store) == {**{f"r{n}": "done" for n in range(20)}, "other": "queued"}
    assert (metrics.claims, metrics.executions["done"], metrics.running) == (20, 20, 0)
    assert len(EFFECTS) == len(set(EFFECTS)) == 40
    assert (await latest(store, "r3")).state["n"] == 40
    assert await store.processes() == []


async def test_it_executes_no_more_at_once_than_it_may(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(5)])
    for n in range(5):
        BLOCKED[f"r{n}"] = asyncio.Event()
    at_work = worker(store, concurrency=2)
    running = asyncio.ensure_future(at_work.run())
    for n in range(5):
        await until(lambda: len([each for each in EFFECTS if each.endswith("second")]) >= min(n + 2, 5))  # noqa: B023
        assert len(at_work.running) <= 2
        BLOCKED[f"r{n}"].set()
    await running
    assert set((await statuses(store)).values()) == {"done"}


async def test_it_goes_on_with_what_a_lost_process_left(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r")
    assert [run.run_id for run in await orphaned_runs(store)] == ["r"]
    metrics = await worker(store).run()
    assert (metrics.takeovers, metrics.isolated) == (1, 0)
    assert await statuses(store) == {"r": "done"}


async def test_it_leaves_the_runs_of_a_living_process_alone(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r")
    await store.beat(ProcessInfo(host="gone", pid=0, version="1", id="0" * 16))
    assert await orphaned_runs(store) == []
    assert (await worker(store).run()).claims == 0
    assert (await latest(store, "r")).status == "running"


async def test_a_resume_elsewhere_says_that_its_process_lives(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(2)])
    for run_id in ("r0", "r1"):
        BLOCKED[run_id] = asyncio.Event()
    runs = [await graph.start(checkpointer=store, run_id=run_id) for run_id in BLOCKED]
    executions = [asyncio.ensure_future(run.resume()) for run in runs]
    await until(lambda: len(EFFECTS) == 4)
    assert [each.process for each in await store.processes()] == [ProcessInfo.current()]
    assert await store.claimable("b" * 16, ("default",), reserve=0) == []
    BLOCKED["r0"].set()
    await executions[0]
    assert len(await store.processes()) == 1
    BLOCKED["r1"].set()
    await executions[1]
    assert await store.processes() == []
    assert await statuses(store) == {"r0": "done", "r1": "done"}


async def test_it_goes_on_with_answered_runs(store: MemoryCheckpointer) -> None:
    builder = GraphBuilder("asking")
    builder.state(n=int, answer=(bool | None, None))
    builder.add_node("ask", "interrupt", prompt="Well?", into="answer")
    asking = Graph(builder)
    await asking.enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store, asking).run()).executions == {"awaiting_input": 1}
    assert (await worker(store, asking).run()).claims == 0
    (question,) = (await latest(store, "r")).questions
    await respond(store, "r", question.id, True)
    assert (await worker(store, asking).run()).executions == {"done": 1}


async def test_it_wakes_sleepers_by_the_time_of_the_store(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = GraphBuilder("sleeping")
    builder.state(n=int)
    builder.add_node("nap", "wait", seconds=3600)
    sleeping = Graph(builder)
    await sleeping.enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store, sleeping).run()).executions == {"awaiting_input": 1}
    assert (await worker(store, sleeping).run()).claims == 0

    # The store says that the hour is over; the clock of this machine does not show it.
    async def claimable(*_: object, **__: object) -> list[RunSummary]:
        run = RunSummary.from_checkpoint(await latest(store, "r"))
        return [run] if run.status == "awaiting_input" else []

    monkeypatch.setattr(store, "claimable", claimable)
    assert (await worker(store, sleeping).run()).executions == {"done": 1}


async def test_a_run_that_cannot_be_executed_does_not_hold_up_the_others(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}", priority=-n) for n in range(3)])
    child = await latest(store, "r0")
    broken = child.next(
        event="queued",
        status="queued",
        executor_id="1" * 32,
        timestamp=datetime.now(UTC),
        state={"n": "no number", "answer": None},
    )
    await store.write(broken)
    metrics = await worker(store, concurrency=1).run()
    assert metrics.executions == {"refused": 1, "done": 2}
    assert (await latest(store, "r0")).step == broken.step


async def test_a_run_that_is_deleted_meanwhile_is_lost_and_not_refused(
    store: MemoryCheckpointer, caplog: pytest.LogCaptureFixture
) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    BLOCKED["r"] = asyncio.Event()
    at_work = worker(store)
    with caplog.at_level(logging.INFO, "stargraph.worker"):
        running = asyncio.ensure_future(at_work.run())
        await until(lambda: "r/second" in EFFECTS)
        assert await store.delete_run("r")
        BLOCKED["r"].set()
        await running
    assert dict(at_work.metrics.executions) == {"lost": 1}
    assert "run r: it was deleted meanwhile" in caplog.messages
    assert not [each for each in caplog.records if each.name == "stargraph.worker" and each.levelno > logging.INFO]


async def test_a_store_without_queues_is_refused() -> None:
    class Plain:
        """The least that a store can do."""

        def __init__(self) -> None:
            inner = MemoryCheckpointer()
            for name in ("bootstrap", "write", "read_latest", "read_at_step", "list_runs"):
                setattr(self, name, getattr(inner, name))

    with pytest.raises(CheckpointError, match="has no queues") as refused:
        await worker(Plain()).run()  # type: ignore[arg-type]
    assert refused.value.reason == "not-supported"


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"queues": ()}, {"queues": "default"}, {"poll": 0}, {"poison_after": 2}, {"grace": -1}],
    ids=str,
)
async def test_bad_numbers_are_refused(store: MemoryCheckpointer, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        worker(store, **wrong)
