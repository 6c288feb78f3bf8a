"""Stop an operation at one of its awaits, do something else, and let it go on: what lies between check and change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

PATIENCE: Final = 0.25
"""Seconds that the operation waits for what is done meanwhile: that may itself wait for the operation's lock."""


class _Paused:
    """An awaitable that waits for something else at one of the suspensions of another one."""

    def __init__(self, inner: Awaitable[Any], point: int, between: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._point = point
        self._between = between

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        count, sent, thrown = 0, None, None
        while True:
            try:
                awaited = steps.send(sent) if thrown is None else steps.throw(thrown)
            except StopIteration as stop:
                return stop.value
            thrown = None
            try:
                sent = yield awaited
                if count == self._point:
                    yield from self._between().__await__()
            except BaseException as error:  # noqa: BLE001  # passed on to the operation at once
                thrown = error
            count += 1


async def interleaved(
    operation: Awaitable[Any], point: int, meanwhile: Callable[[], Awaitable[Any]]
) -> tuple[Any, Any, bool]:
    """Run an operation, and something else to its end at one of the operation's awaits.

    What is done meanwhile may need the operation to go on, such as for its lock; after a while it goes on.

    Args:
        operation: what is stopped.
        point: the await, from 0.
        meanwhile: what is done there.

    Returns:
        What the two returned or raised, and whether the operation came to that await. What is done meanwhile comes
        after the operation if it did not.
    """
    other: asyncio.Future[Any] | None = None

    async def between() -> None:
        nonlocal other
        other = asyncio.ensure_future(meanwhile())
        await asyncio.wait([other], timeout=PATIENCE)

    async def whole() -> Any:
        return await _Paused(operation, point, between)

    first: Any
    second: Any
    (first,) = await asyncio.gather(whole(), return_exceptions=True)
    reached = other is not None
    if other is None:
        other = asyncio.ensure_future(meanwhile())
    (second,) = await asyncio.gather(other, return_exceptions=True)
    return first, second, reached
