"""Several requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE: Final = 16
"""How many requests one call has under way."""

CANCEL_SECONDS: Final = 5.0
"""How long a call that was cancelled waits for the answer to what it has sent."""


async def map_each(action: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> list[Result]:
    """Return the results of an action for each item, in the order of the items; the first failure stops the others."""
    waiting = iter(enumerate(items))
    results: dict[int, Result] = {}

    async def work() -> None:
        for index, item in waiting:
            results[index] = await action(item)

    await gather(*(work() for _ in range(AT_ONCE)))
    return [results[index] for index in range(len(results))]


async def gather(*actions: Coroutine[Any, Any, Result]) -> list[Result]:
    """Return the results of some actions that run at once; the first failure stops the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(action) for action in actions]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
