"""Cancel an operation at one of its awaits, whatever driver it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from stargraph.checkpoint.conformance._expect import Violation

WAITS: Final = (0.0, 0.002)
"""Seconds between the await and the cancellation: at once, and after a thread may have done its part."""


class _Watched:
    """An awaitable that counts the suspensions of another one and calls back at each."""

    def __init__(self, inner: Awaitable[Any], suspended: Callable[[int], None]) -> None:
        self._inner = inner
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, Any]:
        return _drive(self._inner.__await__(), self._suspended)


def _drive(steps: Generator[Any, Any, Any], suspended: Callable[[int], None]) -> Generator[Any, Any, Any]:
    count = 0
    sent: Any = None
    thrown: BaseException | None = None
    while True:
        try:
            awaited = steps.send(sent) if thrown is None else steps.throw(thrown)
        except StopIteration as stop:
            return stop.value
        suspended(count)
        count += 1
        thrown = None
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001  # passed on to the operation at once
            thrown = error


async def cancelled_at(operation: Awaitable[object], point: int, wait: float) -> bool:
    """Run an operation as a task and cancel it at one of its awaits.

    Args:
        operation: what to run.
        point: the await, from 0.
        wait: seconds between the await and the cancellation.

    Returns:
        Whether the operation came to that await; it may have ended before the cancellation reached it.

    Raises:
        Violation: it was cancelled and did not raise CancelledError.
    """
    loop = asyncio.get_running_loop()
    reached = delivered = False

    def suspended(count: int) -> None:
        nonlocal reached
        if count == point:
            reached = True
            if wait:
                loop.call_later(wait, cancel)
            else:
                loop.call_soon(cancel)

    def cancel() -> None:
        nonlocal delivered
        delivered = task.cancel()

    async def watched() -> object:
        return await _Watched(operation, suspended)

    task = asyncio.ensure_future(watched())
    await asyncio.wait([task])
    if task.cancelled():
        return True
    error = task.exception()
    if delivered:
        ending = (
            f"raised {type(error).__name__}: {error}" if error is not None else "returned as if nothing had happened"
        )
        raise Violation(f"a call that was cancelled at await {point + 1} {ending}; the contract wants CancelledError")
    if error is not None:
        raise error
    return reached
