"""When steps are stored: before, while or after what depends on them runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from support.graphs import PATH, SEQUENCE, everything, graph
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError

SLOW = f"""{PATH}
nodes:
  - {{id: a, kind: "support.nodes:step"}}
  - {{id: b, kind: "support.nodes:slow"}}
  - {{id: c, kind: "support.nodes:step"}}
"""


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
    async with asyncio.timeout(60):
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
