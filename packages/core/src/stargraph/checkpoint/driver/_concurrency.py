"""Requests that outlive the cancellation of their callers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def await_answer(request: Coroutine[Any, Any, Result] | asyncio.Task[Result], *, timeout: float = 5.0) -> Result:
    """Return the result of a request; if the caller is cancelled, wait for the answer first, but not for ever.

    A request that is abandoned may be carried out at any later time: what a reader sees would change long after the
    call that was cancelled.

    Args:
        request: what to send.
        timeout: seconds that a cancelled caller waits for the answer.

    Raises:
        asyncio.CancelledError: the caller was cancelled.
        Exception: as the request raises.
    """
    task = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            try:
                await asyncio.wait([task], timeout=timeout)
            finally:
                task.cancel()
        if task.done() and not task.cancelled():
            task.exception()  # looked at, so that nobody reports it as lost
        raise


class Requests:
    """The requests of one handle that are under way, so that its `close` can wait for them.

    Args:
        timeout: seconds that a cancelled caller waits for the answer to its request.
    """

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._under_way: set[asyncio.Task[Any]] = set()

    async def run(self, request: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of a request, as `await_answer` does."""
        task = asyncio.ensure_future(request)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await await_answer(task, timeout=self._timeout)

    async def drain(self) -> None:
        """Wait until none is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)
