"""Whoever closes a handle may rely on it being closed, also if somebody else has begun with that."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support.places import Place

from stargraph.checkpoint.driver import Lifecycle
from stargraph.checkpoint.protocol import Closing


async def test_a_close_beside_another_one_returns_when_both_have_ended(place: Place) -> None:
    async with place.open() as store:
        assert isinstance(store, Closing)
        await store.list_runs()
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        await store.close()
        assert closing.done()
        await closing


async def test_it_also_returns_if_the_other_one_is_cancelled() -> None:
    lifecycle = Lifecycle()
    lifecycle.opened()

    async def close() -> None:
        async with lifecycle.closing():
            await asyncio.Event().wait()

    first = asyncio.create_task(close())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as group:
            second = group.create_task(_close(lifecycle))
            await asyncio.sleep(0)
            assert not second.done()
            first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert second.result() is False


async def test_to_give_up_waiting_does_not_disturb_the_other_one() -> None:
    lifecycle = Lifecycle()
    lifecycle.opened()
    released = asyncio.Event()

    async def close() -> None:
        async with lifecycle.closing():
            await released.wait()

    first = asyncio.create_task(close())
    await asyncio.sleep(0)
    second = asyncio.create_task(_close(lifecycle))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    released.set()
    await first


async def test_the_other_one_may_be_on_another_event_loop() -> None:
    lifecycle = Lifecycle()
    lifecycle.opened()
    began, release = threading.Event(), threading.Event()

    async def close() -> None:
        async with lifecycle.closing():
            began.set()
            await asyncio.to_thread(release.wait, 60)

    thread = threading.Thread(target=asyncio.run, args=(close(),))
    thread.start()
    try:
        assert began.wait(60)
        second = asyncio.create_task(_close(lifecycle))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not second.done()
        release.set()
        async with asyncio.timeout(60):
            assert await second is False
    finally:
        release.set()
        thread.join(60)


async def _close(lifecycle: Lifecycle) -> bool:
    async with lifecycle.closing() as was_open:
        return was_open
