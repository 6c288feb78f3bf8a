"""Runs that fail are tried again; runs that end their processes are tried alone, and then failed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.runs import latest
from support.workers import BLOCKED, EFFECTS, FAILS, graph, orphan, statuses, until, worker

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import RunSummary
from stargraph.graph import RunRequest, requeue
from stargraph.worker import RunRetries
from stargraph.worker._retries import setbacks


async def test_a_failed_run_is_tried_again_after_a_while(store: MemoryCheckpointer) -> None:
    FAILS.add("r")
    await graph.enqueue(store, {"n": 1}, run_id="r")
    retries = RunRetries(attempts=3, initial_delay=0.02)
    at_work = worker(store, retries=retries, until_idle=False)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: EFFECTS.count("r/second") == 3 and not at_work.running)
    at_work.drain()
    metrics = await running
    assert (metrics.retries, metrics.executions) == (2, {"failed": 3})
    events = [record.event async for record in store.history("r")]
    assert events == ["started", "resumed", "completed", *["failed", "queued", "resumed"] * 2, "failed"]
    assert EFFECTS.count("r/first") == 1
    # The backoff is in the store: another worker keeps it too.
    record = await store.read_at_step("r", 4)
    assert record is not None
    assert record.due_at is not None
    assert record.due_at > record.timestamp - timedelta(seconds=1)


async def test_a_run_that_is_queued_again_while_the_worker_looks_for_others_is_executed_before_it_is_idle() -> None:
    class Looking(MemoryCheckpointer):
        """Lets the run fail, and be queued again, between the look at the queue and its answer."""

        async def claimable(self, *arguments: Any, **options: Any) -> list[RunSummary]:
            found = await super().claimable(*arguments, **options)
            if at_work.running and "r/second" in EFFECTS and not BLOCKED["r"].is_set():
                BLOCKED["r"].set()
                await until(lambda: not at_work.running)
                FAILS.clear()
            return found

    store = Looking()
    await store.bootstrap()
    BLOCKED["r"] = asyncio.Event()
    FAILS.add("r")
    await graph.enqueue(store, {"n": 1}, run_id="r")
    at_work = worker(store, retries=RunRetries(attempts=2, initial_delay=0))
    assert (await at_work.run()).executions == {"failed": 1, "done": 1}
    assert await statuses(store) == {"r": "done"}


async def test_without_retries_a_failed_run_stays_failed(store: MemoryCheckpointer) -> None:
    FAILS.add("r")
    await graph.enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store).run()).executions == {"failed": 1}
    assert (await worker(store).run()).claims == 0


@pytest.mark.parametrize(
    ("deaths", "isolated", "status"), [(1, 0, "done"), (2, 1, "done"), (3, 1, "done"), (4, 0, "failed")]
)
async def test_a_run_that_ends_processes_is_tried_alone_and_then_failed(
    store: MemoryCheckpointer, deaths: int, isolated: int, status: str
) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(3)])
    await orphan(store, "r1", deaths)
    metrics = await worker(store).run()
    assert metrics.isolated == isolated
    assert await statuses(store) == {"r0": "done", "r1": status, "r2": "done"}
    if status == "failed":
        error = (await latest(store, "r1")).error
        assert error is not None
        assert (error.reason, error.node) == ("poison", "first")
        assert "4 processes in a row ended while they executed run 'r1'" in error.message
        assert not [each for each in EFFECTS if each.startswith("r1/")]


async def test_while_a_run_is_alone_no_other_one_runs(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(6)])
    await orphan(store, "r3", 2)
    BLOCKED.update({"r3": asyncio.Event(), "r0": asyncio.Event()})
    at_work = worker(store, concurrency=2)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r0/second" in EFFECTS)
    BLOCKED["r0"].set()
    await until(lambda: "r3/second" in EFFECTS)
    before = list(EFFECTS)
    await asyncio.sleep(0.1)
    assert before == EFFECTS
    BLOCKED["r3"].set()
    await running
    assert set((await statuses(store)).values()) == {"done"}


async def test_progress_clears_a_run(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r", 3)

    async def counted() -> tuple[int, int]:
        return await setbacks(await latest(store, "r"), lambda step: store.read_at_step("r", step))

    assert await counted() == (3, 0)
    FAILS.add("r")
    run = await graph.start(checkpointer=store, run_id="r")
    assert (await run.resume()).status == "failed"
    assert await counted() == (0, 1)  # its first node has completed
    assert (await run.resume()).status == "failed"
    assert await counted() == (0, 2)
    await orphan(store, "r", 2)
    assert await counted() == (2, 2)
    await requeue(store, "r")  # somebody gives it a new chance
    assert await counted() == (0, 0)


async def test_a_drain_is_no_new_chance(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r", 2)
    tail = await latest(store, "r")
    drained = tail.next(
        event="queued", status="queued", executor_id=tail.executor_id, timestamp=datetime.now(UTC), process=None
    )
    await store.write(drained)
    await orphan(store, "r", 1)
    counted = await setbacks(await latest(store, "r"), lambda step: store.read_at_step("r", step))
    assert counted.deaths == 2


async def test_a_process_that_resumes_its_own_run_has_not_died(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r", 1)
    await orphan(store, "r", 1)
    counted = await setbacks(await latest(store, "r"), lambda step: store.read_at_step("r", step))
    assert counted.deaths == 1
