"""Cancelling and pausing, from here and from elsewhere; retries, timeouts, durability."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
from support import nodes
from support.graphs import PATH, SEQUENCE, everything, graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError
from stargraph.graph import Context, Graph, Run

SLOW = f"""{PATH}
nodes:
  - {{id: a, kind: "support.nodes:step"}}
  - {{id: b, kind: "support.nodes:slow"}}
  - {{id: c, kind: "support.nodes:step"}}
"""


async def at_work(text: str, store: MemoryCheckpointer, ledger: list[str]) -> tuple[Graph, Run, asyncio.Task[object]]:
    """A run that is in its slow node."""
    made = graph(text)
    run = await made.start(checkpointer=store, run_id="r")
    work: asyncio.Task[object] = asyncio.ensure_future(run.start())
    while "b" not in ledger:
        await asyncio.sleep(0.001)
    return made, run, work


async def test_cancel_stops_the_nodes_and_keeps_the_state(store: MemoryCheckpointer, ledger: list[str]) -> None:
    _, run, work = await at_work(SLOW, store, ledger)
    summary = await run.cancel()
    assert summary.status == "cancelled"
    assert await work == summary
    assert store.events("r") == ["started", "completed a", "cancelled"]
    assert run.state == {"path": ["a"]}
    with pytest.raises(CheckpointError) as caught:
        await run.resume()
    assert caught.value.reason == "run-ended"


async def test_cancel_from_elsewhere_is_seen_at_the_next_write(store: MemoryCheckpointer, ledger: list[str]) -> None:
    made, _, work = await at_work(SLOW, store, ledger)
    other = await made.start(checkpointer=store, run_id="r")
    summary = await other.cancel(grace=10)
    assert summary.status == "cancelled"
    assert store.events("r") == ["started", "completed a", "cancel_requested", "completed b", "cancelled"]
    assert (await work) == summary
    assert store.runs["r"][-1].state == {"path": ["a", "b"]}
    assert ledger == ["a", "b"]


async def test_cancel_from_elsewhere_does_not_wait_for_the_dead(store: MemoryCheckpointer, ledger: list[str]) -> None:
    made, _, work = await at_work(SLOW, store, ledger)
    other = await made.start(checkpointer=store, run_id="r")
    summary = await other.cancel(grace=0)
    assert summary.status == "cancelled"
    assert store.events("r") == ["started", "completed a", "cancel_requested", "cancelled"]
    assert (await work) == summary
    assert "c" not in ledger


async def test_cancel_of_a_waiting_run_ends_its_child_too(store: MemoryCheckpointer, tmp_path: Path) -> None:
    run = await everything(tmp_path).start(checkpointer=store, run_id="r")
    await run.start()
    await run.respond(store.runs["r"][-1].interrupts[0].id, "yes")
    await run.resume()
    child = store.runs["r"][-1].interrupts[0].child_run_id
    assert child is not None
    assert (await run.cancel()).status == "cancelled"
    assert store.runs[child][-1].status == "cancelled"
    assert (await run.cancel()).status == "cancelled"


async def test_cancel_reaches_the_children_of_children(store: MemoryCheckpointer, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text('id: inner\nnodes: [{id: ask, kind: interrupt, prompt: "?", into: x}]\n')
    (tmp_path / "middle.yaml").write_text("id: middle\nnodes: [{id: deeper, kind: subgraph, graph: inner.yaml}]\n")
    run = await graph("nodes: [{id: down, kind: subgraph, graph: middle.yaml}]", tmp_path).start(
        checkpointer=store, run_id="r"
    )
    assert (await run.start()).status == "awaiting_input"
    assert len(store.runs) == 3
    await run.cancel()
    assert {log[-1].status for log in store.runs.values()} == {"cancelled"}


async def test_a_cancelled_task_leaves_no_write_behind(store: MemoryCheckpointer, ledger: list[str]) -> None:
    write = store.write
    entered, released = asyncio.Event(), asyncio.Event()

    async def held(checkpoint: Checkpoint) -> None:
        if checkpoint.event == "completed":
            entered.set()
            await released.wait()
        await write(checkpoint)

    store.write = held  # type: ignore[method-assign]
    run = await graph(SLOW).start(checkpointer=store, run_id="r", durability="async")
    work = asyncio.create_task(run.start())
    await entered.wait()
    work.cancel()
    await asyncio.sleep(0.01)
    assert not work.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert store.events("r") == ["started", "completed a"]


async def test_cancel_of_a_done_run(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    await run.start()
    with pytest.raises(CheckpointError) as caught:
        await run.cancel()
    assert caught.value.reason == "run-ended"


async def test_pause_lets_the_node_end_and_starts_no_other(store: MemoryCheckpointer, ledger: list[str]) -> None:
    _, run, work = await at_work(SLOW, store, ledger)
    run.pause(grace=10)
    await work
    assert store.events("r") == ["started", "completed a", "completed b", "paused"]
    assert (await run.resume()).status == "done"
    assert ledger == ["a", "b", "c"]


async def test_pause_gives_up_on_a_node_after_the_grace(store: MemoryCheckpointer, ledger: list[str]) -> None:
    _, run, work = await at_work(SLOW, store, ledger)
    run.pause(grace=0.01)
    await work
    assert store.events("r") == ["started", "completed a", "paused"]
    assert (await run.resume()).status == "done"
    assert ledger == ["a", "b", "b", "c"]


async def test_a_node_is_retried_for_what_it_names(store: MemoryCheckpointer, ledger: list[str]) -> None:
    attempts: list[int] = []

    def fail_twice(context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) < 3:
            raise ConnectionError("down")

    nodes.before = fail_twice
    retried = (
        f'{PATH}nodes: [{{id: a, kind: "support.nodes:step", retry: {{attempts: 3, initial_delay: 0, on: [OSError]}}}}]'
    )
    run = await graph(retried).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "done"
    assert attempts == [1, 2, 3]
    assert store.events("r") == ["started", "completed a"]


async def test_each_try_is_given_a_state_of_its_own(store: MemoryCheckpointer) -> None:
    retried = f'{PATH}nodes: [{{id: a, kind: "support.nodes:mutate_and_fail_once", retry: {{initial_delay: 0}}}}]'
    run = await graph(retried).start(checkpointer=store)
    assert (await run.start()).status == "done"
    assert run.state == {"path": ["mutated"]}


async def test_a_node_is_not_retried_for_anything_else(store: MemoryCheckpointer, ledger: list[str]) -> None:
    retried = 'nodes: [{id: a, kind: "support.nodes:fail", retry: {attempts: 5, initial_delay: 0, on: [OSError]}}]'
    run = await graph(retried).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "failed"
    assert ledger == ["a"]


@pytest.mark.parametrize("node", ["slow", "slow_sync"])
async def test_a_timeout_fails_the_node(store: MemoryCheckpointer, ledger: list[str], node: str) -> None:
    timed = f'{PATH}nodes: [{{id: a, kind: "support.nodes:{node}", timeout: 0.02}}]'
    summary = await (await graph(timed).start(checkpointer=store, run_id="r")).start()
    assert summary.error is not None
    assert summary.error.type == "TimeoutError"
    assert "0.02 s" in summary.error.message


async def test_a_retry_waits_for_the_thread_of_the_try_before(store: MemoryCheckpointer, ledger: list[str]) -> None:
    timed = (
        f'{PATH}nodes: [{{id: a, kind: "support.nodes:slow_sync", timeout: 0.02,'
        " retry: {attempts: 2, initial_delay: 0}}]"
    )
    await (await graph(timed).start(checkpointer=store, run_id="r")).start()
    assert ledger == ["a", "a ended", "a"]
    while ledger.count("a ended") < 2:
        await asyncio.sleep(0.01)


async def test_sync_nodes_run_in_the_executor_that_was_given(store: MemoryCheckpointer) -> None:
    import threading

    names: list[str] = []
    nodes.before = lambda context: names.append(threading.current_thread().name)
    with ThreadPoolExecutor(1, thread_name_prefix="ours") as executor:
        text = f'{PATH}nodes: [{{id: a, kind: "support.nodes:sync_step"}}]'
        run = await graph(text).start(checkpointer=store, executor=executor)
        assert (await run.start()).status == "done"
    assert names[0].startswith("ours")


REMOTE = f"""{PATH}
nodes:
  - {{id: begin, kind: echo}}
  - {{id: elsewhere, kind: "support.process_nodes:where"}}
  - {{id: end, kind: echo}}
rules: [{{id: each, when: {{node: begin}}, then: [{{kind: map, over: "['x', 'y']", target: elsewhere, join: end}}]}}]
"""


async def test_sync_nodes_run_in_other_processes(store: MemoryCheckpointer) -> None:
    import multiprocessing

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        run = await graph(REMOTE).start(checkpointer=store, executor=executor, run_id="r")
        summary = await run.start()
        assert summary.status == "done", summary.error
        assert run.state is not None
        items, pids = zip(*(line.split() for line in run.state["path"]), strict=True)
        assert items == ("x", "y")
        assert str(os.getpid()) not in pids

        asking = f'{PATH}nodes: [{{id: a, kind: "support.process_nodes:asks"}}]'
        summary = await (await graph(asking).start(checkpointer=store, executor=executor)).start()
        assert summary.error is not None
        assert summary.error.reason == "detached-node"


async def test_a_node_that_exits_or_cancels_itself_fails(store: MemoryCheckpointer) -> None:
    for error, shown in ((SystemExit(3), "sys.exit(3)"), (asyncio.CancelledError(), "cancelled from inside")):

        def raise_it(context: Context, error: BaseException = error) -> None:
            raise error

        nodes.before = raise_it
        run = await graph(f'{PATH}nodes: [{{id: a, kind: "support.nodes:step"}}]').start(checkpointer=store)
        summary = await run.start()
        assert summary.status == "failed"
        assert summary.error is not None
        assert shown in summary.error.message


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_the_log_has_no_gaps_in_any_durability(
    store: MemoryCheckpointer, tmp_path: Path, durability: Literal["async", "exit"]
) -> None:
    run = await everything(tmp_path).start(checkpointer=store, run_id="r", durability=durability)
    assert (await run.start()).status == "awaiting_input"
    assert [checkpoint.step for checkpoint in store.runs["r"]] == list(range(len(store.runs["r"])))
    assert run.summary is not None
    assert run.summary.last_step == store.runs["r"][-1].step


async def test_async_overlaps_one_write_with_the_next_node(store: MemoryCheckpointer, ledger: list[str]) -> None:
    released = asyncio.Event()
    write = store.write
    outstanding = 0

    async def held(checkpoint: Checkpoint) -> None:
        nonlocal outstanding
        if checkpoint.event == "completed":
            outstanding += 1
            assert outstanding == 1
            await released.wait()
            outstanding -= 1
        await write(checkpoint)

    store.write = held  # type: ignore[method-assign]
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", durability="async")
    work = asyncio.create_task(run.start())
    async with asyncio.timeout(30):
        while ledger != ["a", "b"]:  # which takes a thread some time
            await asyncio.sleep(0.001)
    for _ in range(30):
        await asyncio.sleep(0)
    assert ledger == ["a", "b"]
    assert store.events("r") == ["started"]
    released.set()
    assert (await work).status == "done"
    assert store.events("r") == ["started", "completed a", "completed b", "completed c"]


async def test_exit_writes_at_the_end_alone(store: MemoryCheckpointer, ledger: list[str]) -> None:
    written: list[tuple[int, int]] = []
    store.before_write = lambda checkpoint: written.append((checkpoint.step, len(ledger)))
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", durability="exit")
    assert (await run.start()).status == "done"
    assert written == [(0, 0), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_rival_fences_the_run_in_any_durability(
    store: MemoryCheckpointer, ledger: list[str], durability: Literal["sync", "async", "exit"]
) -> None:
    made = graph(SLOW)
    run = await made.start(checkpointer=store, run_id="r", durability=durability)
    work = asyncio.create_task(run.start())
    # With `async`, step 1 is being written while the next node runs: a rival that is quicker than that would win.
    stored = 1 if durability == "exit" else 2
    while "b" not in ledger or len(store.runs["r"]) < stored:
        await asyncio.sleep(0.001)
    rival = await made.start(checkpointer=store)
    assert (await rival.resume("r")).status == "done"
    before = dict(store.records)
    with pytest.raises(CheckpointConflictError):
        await work
    assert store.records == before


async def test_a_node_that_somebody_cancels_before_it_begins_ends_the_run(
    store: MemoryCheckpointer, ledger: list[str]
) -> None:
    def cancelling(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        if work.__qualname__ == "Engine._fly":
            cancelled.append(task.cancel())
        return task

    cancelled: list[bool] = []
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    asyncio.get_running_loop().set_task_factory(cancelling)
    try:
        summary = await asyncio.wait_for(run.start(), 10)
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert cancelled == [True]
    assert ledger == []
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.reason == "node-cancelled"
