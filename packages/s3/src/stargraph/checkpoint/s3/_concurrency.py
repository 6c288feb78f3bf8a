"""A few things at once, and what is not stopped half way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE: Final = 16
"""How many requests one call has under way."""

PATIENCE: Final = 5.0
"""How long a call that was cancelled waits for the answer to what it has sent, in seconds."""


async def map_each(action: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> list[Result]:
    """Return the results of an action for each item, in the order of the items; the first failure stops the others.

    Args:
        action: what to do.
        items: with what.
    """
    waiting = iter(enumerate(items))
    results: dict[int, Result] = {}

    async def work() -> None:
        for index, item in waiting:
            results[index] = await action(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [results[index] for index in range(len(results))]


async def finish(request: Coroutine[Any, Any, Result]) -> Result:
    """Return what a request comes to; where the caller is cancelled, wait for its answer before that is raised.

    A request that is abandoned may be carried out at any later time: what a reader sees would change long after the
    call that was cancelled.

    Args:
        request: the request.
    """
    task = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            try:
                await asyncio.wait([task], timeout=PATIENCE)
            finally:
                task.cancel()
        if task.done() and not task.cancelled():
            task.exception()  # looked at, so that nobody reports it as lost
        raise
