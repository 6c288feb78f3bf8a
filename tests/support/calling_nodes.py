"""Nodes that do things outside their run; each thing done leaves a line in `EFFECTS`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from stargraph.graph import Context

EFFECTS: list[str] = []
"""What was done outside, in order."""

Script = Callable[[Any, Context], Awaitable[Any]]


async def _nothing(state: Any, context: Context) -> None:
    pass


def _nothing_in_a_thread(state: Any, context: Context) -> None:
    pass


script: Script = _nothing
"""What `play` does; tests replace it."""

sync_script: Callable[[Any, Context], Any] = _nothing_in_a_thread
"""What `play_in_a_thread` does; tests replace it."""


def reset() -> None:
    """Forget what was done and what was to be played."""
    global script, sync_script
    EFFECTS.clear()
    script, sync_script = _nothing, _nothing_in_a_thread


async def play(state: Any, context: Context) -> Any:
    """Does what the test wants."""
    return await script(state, context)


def play_in_a_thread(state: Any, context: Context) -> Any:
    """Does what the test wants, in a thread."""
    return sync_script(state, context)


def do(what: str, returned: Any = None) -> Any:
    """Does something outside."""
    EFFECTS.append(what)
    return returned


async def do_async(what: str, returned: Any = None) -> Any:
    """Does something outside, on the loop."""
    await asyncio.sleep(0)
    EFFECTS.append(what)
    return returned


def fail(what: str, error: Exception) -> None:
    """Tries something outside, in vain."""
    EFFECTS.append(what)
    raise error


def guess(what: str) -> float:
    """Does something outside that comes out otherwise each time."""
    EFFECTS.append(what)
    return random.random()


async def pay(state: Any, context: Context) -> dict[str, Any]:
    """Two calls, one after the other, on the loop and in a thread."""
    where = context.task_id if context.item is None else f"{context.task_id}:{context.item}"
    first = await context.call("reserve", guess, f"reserve {where}")
    second = await context.call("charge", do_async, f"charge {where}", 2)
    return {"bills": [f"{context.node}:{first}:{second}"]}


def ship(state: Any, context: Context) -> dict[str, Any]:
    """A call of a sync node."""
    return {"bills": [f"{context.node}:{context.call_sync('ship', guess, f'ship {context.task_id}')}"]}


async def confirm(state: Any, context: Context) -> dict[str, Any]:
    """A call before a question and one after it."""
    before = await context.call("before", guess, f"before {context.task_id}")
    answer = context.interrupt(f"go on after {before}?")
    after = await context.call("after", guess, f"after {context.task_id}")
    return {"bills": [f"{context.node}:{before}:{answer}:{after}"], "moment": context.now.isoformat()}


async def unlucky(state: Any, context: Context) -> dict[str, Any]:
    """A call that fails in the first attempt of the node."""
    made = await context.call("made", guess, f"made {context.task_id}")
    await context.call("unlucky", _fail_once, f"unlucky {context.task_id}")
    return {"bills": [f"{context.node}:{made}"]}


def _fail_once(what: str) -> None:
    EFFECTS.append(what)
    if EFFECTS.count(what) == 1:
        raise ConnectionError("no luck")
