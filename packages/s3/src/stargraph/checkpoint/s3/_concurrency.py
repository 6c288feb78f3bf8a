"""A few things at once: the first failure stops the others and is raised as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE: Final = 16
"""How many requests one call has under way."""


async def map_each(action: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> list[Result]:
    """Return the results of an action for each item, in the order of the items.

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
