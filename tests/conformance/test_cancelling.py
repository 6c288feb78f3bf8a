"""Cancelling at every await of an operation, and at no other."""

from __future__ import annotations

import asyncio

import pytest

from stargraph.checkpoint.conformance._cancelling import cancelled_at
from stargraph.checkpoint.conformance._expect import Violation


async def test_every_await_is_reached_in_its_turn() -> None:
    for awaits in (0, 1, 4):
        reached: list[int] = []

        async def operation(awaits: int = awaits, reached: list[int] = reached) -> None:
            for number in range(awaits):
                reached.append(number)
                await asyncio.sleep(0)
            reached.append(awaits)

        for point in range(awaits):
            reached.clear()
            assert await cancelled_at(operation(), point, 0.0)
            assert reached == list(range(point + 1))
        reached.clear()
        assert not await cancelled_at(operation(), awaits, 0.0)
        assert reached == list(range(awaits + 1))


async def test_awaits_inside_other_coroutines_count() -> None:
    async def inner() -> None:
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    async def outer() -> None:
        await inner()
        await asyncio.gather(inner(), inner())

    points = 0
    while await cancelled_at(outer(), points, 0.0):
        points += 1
    assert points == 3


async def test_a_swallowed_cancellation_is_found() -> None:
    async def swallows() -> None:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            return

    with pytest.raises(Violation, match="returned as if nothing had happened"):
        await cancelled_at(swallows(), 0, 0.0)


async def test_another_error_instead_of_the_cancellation_is_found() -> None:
    async def turns() -> None:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            raise ValueError("connection lost") from None

    with pytest.raises(Violation, match="raised ValueError: connection lost; the contract wants CancelledError"):
        await cancelled_at(turns(), 0, 0.0)


async def test_an_operation_that_cleans_up_first_may_take_its_time() -> None:
    done = []

    async def tidy() -> None:
        try:
            await asyncio.sleep(0.01)
        finally:
            await asyncio.sleep(0)
            done.append(True)

    assert await cancelled_at(tidy(), 0, 0.0)
    assert done


async def test_its_own_error_comes_out() -> None:
    async def fails() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError):
        await cancelled_at(fails(), 0, 0.0)
