"""The heartbeat of a worker in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.protocol import ProcessInfo
from stargraph.worker._heartbeat import ThreadHeartbeat
from stargraph.worker._metrics import WorkerMetrics


class SlowStore(MemoryCheckpointer):
    """Takes a beat when the test lets it."""

    beating = threading.Event()
    may_beat = threading.Event()

    async def beat(self, process: ProcessInfo) -> None:
        self.beating.set()
        await asyncio.to_thread(self.may_beat.wait, 60)
        await super().beat(process)


async def test_a_start_that_is_cancelled_leaves_the_store(caplog: pytest.LogCaptureFixture) -> None:
    shared = MemoryStore()
    heartbeat = ThreadHeartbeat(lambda: SlowStore(shared), ProcessInfo.current, 10.0, WorkerMetrics())
    starting = asyncio.create_task(heartbeat.start())
    assert await asyncio.to_thread(SlowStore.beating.wait, 60)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    SlowStore.may_beat.set()
    await heartbeat.stop()
    assert caplog.messages == []
    async with MemoryCheckpointer(shared) as store:
        assert await store.processes() == []
