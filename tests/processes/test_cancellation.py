"""A run on a SQLite file is cancelled at random moments; nothing is torn, and every resume finishes."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from support import nodes
from support.graphs import everything

from stargraph.checkpoint.sqlite import SQLiteCheckpointer

pytestmark = pytest.mark.thorough


async def test_cancelled_two_hundred_times(tmp_path: Path) -> None:
    rng = random.Random(20_261_123)
    graph = everything(tmp_path)
    cancelled = 0
    async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
        lengths = []
        for number in range(3):
            nodes.reset()
            undisturbed = await graph.start(checkpointer=store, run_id=f"undisturbed-{number}")
            begun = time.monotonic()
            await undisturbed.start()
            lengths.append(time.monotonic() - begun)
        for attempt in range(200):
            nodes.reset()
            run_id = f"r{attempt}"
            run = await graph.start(checkpointer=store, run_id=run_id)
            work = asyncio.create_task(run.start())
            begun = time.monotonic()
            # The machine may be busy with something else now and then.
            await asyncio.wait([work], timeout=rng.random() * min(lengths))
            if work.done():
                lengths.append(time.monotonic() - begun)
            work.cancel()
            outcome = (await asyncio.gather(work, return_exceptions=True))[0]
            cancelled += isinstance(outcome, asyncio.CancelledError)
            log = [checkpoint async for checkpoint in store.history(run_id)]
            assert [checkpoint.step for checkpoint in log] == list(range(len(log)))
            if not log:
                continue
            summary = await (await graph.start(checkpointer=store)).resume(run_id)
            assert summary.status == "awaiting_input"
            latest = await store.read_latest(run_id)
            assert latest is not None
            assert latest.state["squares"] == [1, 4, 9, 16, 25]
    assert cancelled > 50
