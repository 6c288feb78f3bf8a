"""What workers share, where the clock of S3 matters: its answers tell the time in whole seconds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from support.records import first
from support.s3.stores import Stores

from stargraph.checkpoint.protocol import ProcessInfo, QueueEntry
from stargraph.checkpoint.s3 import S3Checkpointer, _clock
from stargraph.checkpoint.s3._clock import StoreClock

pytestmark = pytest.mark.thorough

TOLD = datetime(2026, 11, 28, 12, tzinfo=UTC)


async def test_a_reservation_holds_for_a_handle_that_was_told_the_next_second(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one reserves at 12:00:00.99, and the other asks at 12:00:01."""

    def ignore(clock: StoreClock, headers: Mapping[str, str]) -> None:
        """Keep what a clock was told."""

    handle, other = await stores.open(), await stores.open()
    monkeypatch.setattr(StoreClock, "hear", ignore)
    monkeypatch.setattr(_clock, "time", SimpleNamespace(monotonic=lambda: 0.0))  # what the test does takes no time

    def tell(store: S3Checkpointer, seconds: float) -> None:
        store._opened()._raw.clock._heard = (TOLD + timedelta(seconds=seconds), 0.0)

    async def claimed(store: S3Checkpointer, process_id: str) -> list[str]:
        return [run.run_id for run in await store.claimable(process_id * 16, ["default"], reserve=0.9)]

    await handle.write(first("run", status="queued", queue=QueueEntry()))
    tell(handle, 0)
    assert await claimed(handle, "a") == ["run"]
    tell(other, 1)
    assert await claimed(other, "b") == []
    tell(other, 60)
    assert await claimed(other, "b") == ["run"]


async def test_a_process_that_comes_back_has_nothing_reserved(stores: Stores) -> None:
    handle, other = await stores.open(), await stores.open()
    for run_id in ("a", "b"):
        await handle.write(first(run_id, status="queued", queue=QueueEntry()))
    process = ProcessInfo(id="0" * 16, host="h", pid=1, version="1")

    async def claimed(store: S3Checkpointer, process_id: str, *, limit: int) -> list[str]:
        return [run.run_id for run in await store.claimable(process_id * 16, ["default"], reserve=60, limit=limit)]

    await handle.beat(process)
    assert await claimed(handle, "0", limit=2) == ["a", "b"]
    await other.leave("0" * 16)
    assert await claimed(handle, "0", limit=1) == ["a"]
    assert await claimed(other, "1", limit=2) == ["b"]
    await other.leave("0" * 16)
    await handle.beat(process)
    assert await claimed(other, "1", limit=2) == ["a"]
