"""Queues, presence and schedules, on every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.checkpoints import following, genesis
from support.places import DRIVERS, Place, Servers

from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.protocol import (
    Checkpoint,
    GraphVersion,
    ProcessInfo,
    QueueCounts,
    QueueEntry,
    QueueLimits,
    Schedule,
)
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.errors import CheckpointError


def process(process_id: str) -> ProcessInfo:
    return ProcessInfo(host="h", pid=1, version="1", id=process_id * 16)


def queued(run_id: str, **entry: object) -> Checkpoint:
    return genesis(run_id=run_id, status="queued", queue=QueueEntry.model_validate(entry))


class Stores:
    """Handles on one store."""

    def __init__(self, place: Place | None) -> None:
        self._place = place
        self._memory = MemoryStore()

    def __call__(self, *, read_only: bool = False) -> Any:
        if self._place is None:
            return MemoryCheckpointer(self._memory, read_only=read_only)
        return open_checkpointer(self._place.url, read_only=read_only)


@pytest.fixture(params=["memory", *DRIVERS])
def driver(request: pytest.FixtureRequest) -> str:
    driver: str = request.param
    return driver


@pytest.fixture
async def stores(driver: str, driver_server: Servers) -> AsyncIterator[Stores]:
    if driver == "memory":
        yield Stores(None)
        return
    async with driver_server.place(driver) as place:
        yield Stores(place)


async def claimed(store: Any, *queues: str, **options: object) -> list[str]:
    """Claim runs; what is reserved stays so, and who is there stays there, however long the test takes."""
    asked: dict[str, object] = {"limit": 100, "reserve": 3600.0, "silent_after": 3600.0, **options}
    return [run.run_id for run in await store.claimable("b" * 16, queues or ("default",), **asked)]


async def test_order_due_times_and_reservations(stores: Stores) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with stores() as store:
        for run_id, entry in (
            ("late", {"not_before": later}),
            ("b", {}),
            ("a", {}),
            ("high", {"priority": 5}),
            ("other", {"name": "mail"}),
        ):
            await store.write(queued(run_id, **entry))
        assert await claimed(store, reserve=0) == ["high", "a", "b"]
        assert await claimed(store, limit=1) == ["high"]
        assert await claimed(store) == ["a", "b"]
        assert await claimed(store) == []
        await store.leave("b" * 16)
        assert await claimed(store, "mail", "default") == ["high", "a", "b", "other"]
        counts = {each.queue: each for each in await store.queue_counts()}
        assert counts["default"] == QueueCounts(queue="default", scheduled=1, running=3)


async def test_orphans_are_the_runs_of_processes_that_are_gone(stores: Stores) -> None:
    async with stores() as store:
        first = queued("r")
        await store.write(first)
        await store.beat(process("a"))
        await store.write(following(first, event="resumed", status="running", process=process("a")))
        assert await claimed(store) == []
        assert await claimed(store, silent_after=0, reserve=0) == ["r"]
        await store.leave("a" * 16)
        assert await claimed(store, fits=[GraphVersion("triage", "1f" * 32, "00" * 32)]) == []
        assert await claimed(store, fits=[GraphVersion("triage", "1f" * 32, "2e" * 32)]) == ["r"]


async def test_limits(stores: Stores, driver: str) -> None:
    async with stores() as store:
        if driver == "s3":
            with pytest.raises(CheckpointError, match="cannot hold limits for the queue 'default'") as caught:
                await store.set_limits("default", QueueLimits(concurrency=3))
            assert caught.value.reason == "no-limits"
            await store.set_limits("default", None)
            return
        for number in range(6):
            await store.write(queued(f"r{number}", concurrency_key="x" if number < 3 else None))
        await store.set_limits("default", QueueLimits(concurrency=3, per_key=1))
        assert await claimed(store) == ["r0", "r3", "r4"]
        await store.set_limits("default", None)
        assert await claimed(store, limit=1) == ["r1"]
        await store.write(queued("m1", name="mail"))
        await store.write(queued("m2", name="mail"))
        await store.set_limits("mail", QueueLimits(rate=1, period=3600))
        assert await claimed(store, "mail", reserve=0) == ["m1"]
        assert await claimed(store, "mail") == ["m1"]
        assert await claimed(store, "mail") == []


@pytest.mark.parametrize("large", [2**63, 2**64, 1e30, 10**400], ids=["2**63", "2**64", "1e30", "10**400"])
async def test_no_number_is_too_large_for_a_claim(large: float, stores: Stores) -> None:
    async with stores() as store:
        await store.beat(process("a"))
        await store.write(queued("silent", name="silent"))
        await store.write(queued("long", name="long"))
        await store.write(queued("all", name="all"))
        assert await claimed(store, "silent", silent_after=large) == ["silent"]
        assert await claimed(store, "long", reserve=large) == ["long"]
        assert await claimed(store, "long") == []
        assert await claimed(store, "all", limit=2**70) == ["all"]


async def test_no_limit_stands_that_a_claim_cannot_count(stores: Stores) -> None:
    async with stores() as store:
        await store.write(queued("r"))
        with pytest.raises(ValueError, match="period is 1e\\+30: give at most 3155760000 seconds"):
            await store.set_limits("default", QueueLimits(rate=1, period=1e30))
        assert await claimed(store) == ["r"]


async def test_schedules_and_a_handle_that_only_reads(stores: Stores) -> None:
    async with stores() as store:
        schedule = Schedule(id="s", cron="0 7 * * *", graph_id="g", since=datetime.now(UTC))
        await store.put_schedule(schedule)
        await store.write(queued("r"))
        async with stores(read_only=True) as reader:
            assert await reader.schedules() == [schedule]
            assert await claimed(reader, reserve=0) == ["r"]
            with pytest.raises(CheckpointError, match="read-only"):
                await claimed(reader)
            with pytest.raises(CheckpointError, match="read-only"):
                await reader.beat(process("a"))
        assert await store.remove_schedule("s")
        assert not await store.remove_schedule("s")
