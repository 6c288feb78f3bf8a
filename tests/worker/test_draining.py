"""A worker that stops lets its nodes end, or leaves its runs to others."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from support.runs import latest
from support.workers import BLOCKED, EFFECTS, graph, statuses, until, worker

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import RunRequest


async def test_a_drain_leaves_runs_to_other_workers(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(3)])
    BLOCKED["r0"] = asyncio.Event()  # which outlasts the grace
    at_work = worker(store, until_idle=False, concurrency=1, grace=0.05)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r0/second" in EFFECTS)
    at_work.drain()
    await running
    record = await latest(store, "r0")
    assert (record.event, record.status, record.process) == ("queued", "queued", None)
    assert await store.processes() == []
    BLOCKED.clear()
    await worker(store).run()
    assert set((await statuses(store)).values()) == {"done"}
    assert EFFECTS.count("r0/first") == 1


async def test_the_last_line_of_the_log_counts_the_runs(
    store: MemoryCheckpointer, caplog: pytest.LogCaptureFixture
) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(2)])
    with caplog.at_level(logging.INFO, "stargraph.worker"):
        await worker(store).run()
        await worker(store).run()
    ends = [message for message in caplog.messages if "has ended" in message]
    assert ends == ["the worker has ended: 2 done", "the worker has ended: no run was executed"]


def test_a_worker_runs_again_also_on_another_event_loop(tmp_path: Path) -> None:
    store = SQLiteCheckpointer(tmp_path / "run.sqlite")
    again = worker(store, listen=("127.0.0.1", 0))

    async def run(run_id: str) -> str | None:
        await store.bootstrap()
        await graph.enqueue(store, {"n": 1}, run_id=run_id)
        await again.run()
        assert (again.running, again.address, again.metrics.is_draining) == ((), None, False)
        return (await latest(store, run_id)).status

    assert [asyncio.run(run(run_id)) for run_id in ("r0", "r1", "r2")] == ["done"] * 3

    async def drained() -> None:
        again.drain()  # before it runs: it takes nothing, this time
        assert await run("r3") == "queued"
        assert await run("r4") == "done"
        await store.close()

    asyncio.run(drained())


async def test_a_node_ends_within_the_grace(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    BLOCKED["r"] = asyncio.Event()
    at_work = worker(store, until_idle=False, grace=300.0)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r/second" in EFFECTS)
    at_work.drain()
    BLOCKED["r"].set()
    await running
    assert (await latest(store, "r")).status == "done"


async def test_a_cancelled_worker_frees_its_runs(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    BLOCKED["r"] = asyncio.Event()
    running = asyncio.ensure_future(worker(store, until_idle=False, grace=0).run())
    await until(lambda: "r/second" in EFFECTS)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    BLOCKED.clear()
    assert (await worker(store).run()).executions == {"done": 1}


async def test_a_worker_that_is_cancelled_while_it_drains_executes_nothing_any_more(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    BLOCKED["r"] = asyncio.Event()
    at_work = worker(store, until_idle=False, grace=60.0)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r/second" in EFFECTS)
    running.cancel()
    await until(lambda: at_work.metrics.is_draining)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert at_work.running == ()
