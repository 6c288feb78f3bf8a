"""What a process says of itself in the store while it executes runs of queues."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.protocol import ProcessInfo
from stargraph.graph import Graph, GraphBuilder
from stargraph.graph._presence import Heartbeat, presence

reached, opened = asyncio.Event(), asyncio.Event()
holding = GraphBuilder("holding")


@holding.node
async def hold(state: dict[str, Any]) -> None:
    reached.set()
    await opened.wait()


passing = GraphBuilder("passing").add_node("pause", "wait", seconds=0)


async def claimable(store: MemoryCheckpointer) -> list[str]:
    """Return the runs that another process would take."""
    return [run.run_id for run in await store.claimable("f" * 16, ["default"], reserve=0, silent_after=3600)]


async def test_a_run_that_ends_leaves_the_runs_of_other_handles_to_this_process() -> None:
    shared = MemoryStore()
    first, second = MemoryCheckpointer(shared), MemoryCheckpointer(shared)
    long, short = Graph(holding), Graph(passing)
    await first.bootstrap()
    await second.bootstrap()
    await long.enqueue(first, run_id="long")
    await short.enqueue(second, run_id="short")
    execution = asyncio.create_task((await long.start(checkpointer=first, run_id="long")).resume())
    await reached.wait()
    await (await short.start(checkpointer=second, run_id="short")).resume(wait=True)
    assert await claimable(first) == []
    opened.set()
    assert (await execution).status == "done"
    assert await first.processes() == []


async def test_a_forked_process_leaves_although_it_has_a_copy_of_a_heartbeat() -> None:
    process = ProcessInfo.current()
    store = MemoryCheckpointer()
    await store.bootstrap()
    copied, own = (Heartbeat(store, lambda: process) for _ in range(2))
    await copied.start()
    process = process.model_copy(update={"id": "f" * 16})
    await own.start()
    await own.stop()
    assert "f" * 16 not in [each.process.id for each in await store.processes()]
    await copied.stop()


class TakesTwoBeats(MemoryCheckpointer):
    """Takes the first two beats together."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = 0
        self.both = asyncio.Event()

    async def beat(self, process: ProcessInfo) -> None:
        self.beats += 1
        if self.beats == 2:
            self.both.set()
        await self.both.wait()
        await super().beat(process)


@pytest.mark.parametrize("turns", range(4))
async def test_a_run_that_begins_with_one_that_soon_ends_is_present(turns: int) -> None:
    store = TakesTwoBeats()
    await store.bootstrap()

    async def briefly() -> None:
        async with presence(store):
            for _ in range(turns):
                await asyncio.sleep(0)

    async def longer() -> None:
        async with presence(store):
            for _ in range(20):
                await asyncio.sleep(0)
            assert [each.process for each in await store.processes()] == [ProcessInfo.current()]

    await asyncio.gather(longer(), briefly())  # the second one is first to be present
    assert await store.processes() == []


class SlowToLeave(MemoryCheckpointer):
    """Takes leave a while after it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving = asyncio.Event()
        self.may_leave = asyncio.Event()

    async def leave(self, process_id: str) -> None:
        self.leaving.set()
        await self.may_leave.wait()
        await super().leave(process_id)


async def test_a_leave_that_is_under_way_does_not_forget_who_begins_meanwhile() -> None:
    store = SlowToLeave()
    await store.bootstrap()

    async def briefly() -> None:
        async with presence(store):
            pass

    ending = asyncio.create_task(briefly())
    await store.leaving.wait()
    async with presence(store):
        store.may_leave.set()
        await ending
        assert [each.process for each in await store.processes()] == [ProcessInfo.current()]
    assert await store.processes() == []
