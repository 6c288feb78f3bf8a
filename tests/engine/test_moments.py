"""Stopping a run at the moments between its nodes: before the first, after the last, while a child begins."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.graphs import PATH, SEQUENCE, graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointError, StoreUnavailableError
from stargraph.graph import Run


async def test_a_pause_before_the_first_node(store: MemoryCheckpointer, ledger: list[str]) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    store.after_write = lambda checkpoint: run.pause() if checkpoint.event == "started" else None
    assert (await run.start()).status == "paused"
    assert ledger == []
    assert (await run.resume()).status == "done"


async def test_a_pause_while_a_child_run_is_opened(
    store: MemoryCheckpointer, tmp_path: Path, ledger: list[str]
) -> None:
    (tmp_path / "child.yaml").write_text(SEQUENCE)
    run = await graph("nodes: [{id: sub, kind: subgraph, graph: child.yaml}]", tmp_path).start(
        checkpointer=store, run_id="r"
    )
    store.after_write = lambda checkpoint: run.pause() if checkpoint.origin == "subgraph" else None
    assert (await asyncio.wait_for(run.start(), 60)).status == "paused"
    assert ledger == []
    store.after_write = lambda checkpoint: None
    assert (await run.resume()).status == "done"
    assert ledger == ["a", "b", "c"]


async def test_a_cancellation_while_the_last_step_is_written(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    cancelling: list[asyncio.Task[object]] = []
    write = store.write

    async def cancelled_meanwhile(checkpoint: Checkpoint) -> None:
        if checkpoint.status == "done":
            cancelling.append(asyncio.ensure_future(run.cancel()))
            await asyncio.sleep(0.01)
        await write(checkpoint)

    store.write = cancelled_meanwhile  # type: ignore[method-assign]
    assert (await run.start()).status == "done"
    with pytest.raises(CheckpointError) as caught:
        await cancelling[0]
    assert caught.value.reason == "run-ended"


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("stored", [False, True])
async def test_a_run_outlives_a_fault_of_its_store(
    store: MemoryCheckpointer, durability: str, stored: bool, ledger: list[str]
) -> None:
    faults = 0

    def fail_once(checkpoint: Checkpoint) -> None:
        nonlocal faults
        if checkpoint.last_node == "b" and not faults:
            faults += 1
            raise StoreUnavailableError("gone", reason="unavailable")

    if stored:
        store.after_write = fail_once
    else:
        store.before_write = fail_once
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", durability=durability)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailableError):
        await run.start()
    assert run.summary is not None
    assert run.summary.last_step <= store.runs["r"][-1].step
    assert (await run.resume()).status == "done"
    assert run.state == {"path": ["a", "b", "c"]}
    assert ledger.count("a") == 1


async def test_an_executor_that_is_cancelled_twice_leaves_nothing_behind(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stargraph.engine._engine.CANCEL_SECONDS", 60)  # it is not given up before its gate opens
    text = f'{PATH}nodes: [{{id: a, kind: "support.nodes:step"}}, {{id: b, kind: "support.gated_nodes:stubborn"}}]'
    from support import gated_nodes

    gate = gated_nodes.new_gate()
    run: Run = await graph(text).start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start())
    await gate.entered.wait()
    others = asyncio.all_tasks() - {work, asyncio.current_task()}
    work.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    work.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert all(task.done() for task in others)
