"""A store that cannot be reached for a while is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support.workers import BLOCKED, EFFECTS, graph, statuses, until, worker

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, RunSummary
from stargraph.errors import StoreUnavailableError
from stargraph.graph import RunRequest


class Flaky(MemoryCheckpointer):
    """A store that cannot be reached while it is `down`."""

    down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailableError("it is down", reason="unreachable")

    async def write(self, checkpoint: Checkpoint) -> None:
        self._check()
        await super().write(checkpoint)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._check()
        await super().write_many(checkpoints)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._check()
        return await super().read_latest(run_id)

    async def beat(self, process: ProcessInfo) -> None:
        self._check()
        await super().beat(process)

    async def claimable(self, *arguments: Any, **options: Any) -> list[RunSummary]:
        self._check()
        return await super().claimable(*arguments, **options)


async def test_an_outage_is_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    store = Flaky()
    await store.bootstrap()
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(3)])
    BLOCKED["r0"] = asyncio.Event()
    at_work = worker(store, concurrency=2)
    running = asyncio.ensure_future(at_work.run())
    # The others are stored as done: one that went on as well would leave the worker no room to look for runs.
    await until(lambda: at_work.metrics.executions["done"] == 2 and "r0/second" in EFFECTS)
    store.down = True
    BLOCKED["r0"].set()
    await until(lambda: at_work.metrics.outage_since is not None)
    store.down = False
    await running
    assert set((await statuses(store)).values()) == {"done"}
    assert EFFECTS.count("r0/first") == 1
    assert "the store cannot be reached (unreachable); the worker waits for it" in caplog.text
    assert "the store can be reached again" in caplog.text
    assert at_work.metrics.isolated == 0
