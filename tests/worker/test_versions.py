"""Which version of a graph executes a run, and what is said of runs that no worker executes."""

from __future__ import annotations

import asyncio

from support.runs import latest
from support.workers import BLOCKED, EFFECTS, build, graph, statuses, until, worker

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import GraphVersion, WorkerInfo
from stargraph.graph import RunRequest
from stargraph.worker import StrandedRun, stranded_runs


async def test_runs_go_to_the_version_that_they_fit(store: MemoryCheckpointer) -> None:
    old, new = build(), build(more=True)
    await old.enqueue(store, {"n": 1}, run_id="old")
    await new.enqueue(store, {"n": 1}, run_id="new")
    metrics = await worker(store, new).run()
    assert (metrics.executions, metrics.stranded) == ({"done": 1}, 1)
    assert await statuses(store) == {"old": "queued", "new": "done"}
    await old.enqueue(store, {"n": 1}, run_id="old2")
    assert (await worker(store, [new, old]).run()).executions == {"done": 2}
    assert (await latest(store, "old")).state["n"] == 20
    assert (await latest(store, "new")).state["n"] == 200


async def test_other_versions_are_executed_if_that_is_accepted(store: MemoryCheckpointer) -> None:
    await build().enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store, build(more=True), accept=("graph", "runtime")).run()).executions == {"done": 1}
    assert (await latest(store, "r")).state["n"] == 200


async def stranded(store: MemoryCheckpointer) -> list[StrandedRun]:
    """Return the runs that are stranded by now, once there are any: a clock may be set back by a moment."""
    async with asyncio.timeout(60):
        while not (found := await stranded_runs(store, after=0)):
            await asyncio.sleep(0.005)
    return found


async def test_stranded_runs_are_found_with_the_reason(store: MemoryCheckpointer) -> None:
    await build("lonely").enqueue(store, {"n": 1}, run_id="r")
    assert [(each.run.run_id, each.reason) for each in await stranded(store)] == [("r", "no worker lives")]
    assert await stranded_runs(store) == []  # it has not waited for long
    BLOCKED["busy"] = asyncio.Event()
    await graph.enqueue_many(store, [RunRequest(inputs={"n": 1}, run_id=run_id) for run_id in ("busy", "next")])
    at_work = worker(store, concurrency=1)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "busy/second" in EFFECTS)
    found = await stranded(store)
    assert [each.run.run_id for each in found] == ["r"]
    assert found[0].reason == "no living worker serves graph 'lonely'"
    BLOCKED["busy"].set()
    await running


async def test_a_worker_says_what_it_serves_and_what_it_refuses(store: MemoryCheckpointer) -> None:
    old, new = build(), build(more=True)
    await old.enqueue(store, {"n": 1}, run_id="old")
    await new.enqueue(store, {"n": 1}, run_id="mail", queue="mail")
    at_work = worker(store, new, until_idle=False, silent_after=0.3)
    running = asyncio.ensure_future(at_work.run())

    # Asked again until both are said: on a busy machine the worker may seem dead for a moment.
    reason = f"the living workers have other versions of graph {new.id!r}: "
    found: dict[str, str] = {}
    async with asyncio.timeout(60):
        while not (
            found.get("old", "").startswith(reason) and found.get("mail") == "no living worker serves queue 'mail'"
        ):
            await asyncio.sleep(0.02)
            found = {each.run.run_id: each.reason for each in await stranded_runs(store, after=0)}
    (process,) = [each.process for each in await store.processes()]
    assert isinstance(process, WorkerInfo)
    assert (process.queues, process.serves) == (("default",), (GraphVersion(new.id, new.graph_hash, new.runtime_hash),))
    assert [each.version.graph_hash for each in process.refuses] == [old.graph_hash]
    at_work.drain()
    await running
