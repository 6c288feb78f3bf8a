"""The index of the runs of queues, after somebody has damaged it: `stargraph doctor` puts it right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.checkpoints import following, genesis
from support.places import DRIVERS, Place, S3Place

from stargraph.checkpoint.driver import QueueRepair
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueEntry


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    driver: str = request.param
    return driver


def queued(run_id: str, **entry: object) -> Checkpoint:
    return genesis(run_id=run_id, status="queued", queue=QueueEntry.model_validate(entry))


def missing(run_id: str) -> str:
    return f"run '{run_id}' was missing in the index of queues: workers take it again"


def outlived(run_id: str) -> str:
    return f"run '{run_id}' was still in the index of queues, and has no place there"


async def claimed(store: Any) -> list[str]:
    return [run.run_id for run in await store.claimable("b" * 16, ("default",), limit=100, reserve=0)]


async def test_a_sound_index_is_left_alone(place: Place) -> None:
    soon = datetime.now(UTC) - timedelta(seconds=1)
    process = ProcessInfo(host="h", pid=1, version="1", id="a" * 16)
    async with place.open() as store:
        assert isinstance(store, QueueRepair)
        await store.write(queued("ready", priority=3, concurrency_key="k"))
        await store.write(queued("due", not_before=soon))
        first = queued("running")
        await store.write(first)
        await store.write(following(first, event="resumed", status="running", process=process))
        await store.write(genesis(run_id="no-queue"))
        taken: Any = store
        await taken.claimable(
            "c" * 16, ("default",), limit=2, silent_after=0, reserve=3600.0
        )  # wakes the due one, reserves two
        assert await store.repair_queues() == []
        assert len(await claimed(store)) == 1  # what was reserved is reserved still


async def test_a_lost_row_is_written_again(place: Place) -> None:
    async with place.open() as store:
        assert isinstance(store, QueueRepair)
        for run_id, entry in (("a", {}), ("b", {"priority": 5}), ("c", {})):
            await store.write(queued(run_id, **entry))
        entries = await place.queue_index()
        assert entries.keys() == {"a", "b", "c"}
        await place.set_queue_index({"a": entries["a"]})
    async with place.open() as store:
        assert isinstance(store, QueueRepair)
        assert await claimed(store) == ["a"]
        assert sorted(await store.repair_queues()) == [missing("b"), missing("c")]
        assert await claimed(store) == ["b", "a", "c"]
        assert await store.repair_queues() == []


async def test_a_damaged_run_keeps_no_other_from_being_repaired(place: Place) -> None:
    if isinstance(place, S3Place):
        return  # its index holds no summaries
    async with place.open() as store:
        for run_id in ("a", "b"):
            await store.write(queued(run_id))
        await place.set_queue_index({})
        await place.edit_summary("a", '"queued"', '"quoted"')
        assert isinstance(store, QueueRepair)
        assert await store.repair_queues() == [missing("b")]


async def test_a_row_that_outlived_its_run_is_removed(place: Place) -> None:
    async with place.open() as store:
        assert isinstance(store, QueueRepair)
        first = queued("r")
        await store.write(first)
        entries = await place.queue_index()
        await store.write(following(first, event="cancelled", status="cancelled"))
        assert await place.queue_index() == {}
        await place.set_queue_index(entries)
        assert await store.repair_queues() == [outlived("r")]
        assert await store.repair_queues() == []
        assert await claimed(store) == []


async def test_a_store_that_looks_at_the_runs_has_nothing_to_repair() -> None:
    async with MemoryCheckpointer() as store:
        await store.write(queued("r"))
        assert await store.repair_queues() == []
