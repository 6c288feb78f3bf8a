"""Nodes that wait until a test lets them go on, and nodes that misbehave."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

from stargraph.graph import Context


class Gate:
    """Tells when a node has begun, and holds it until it is opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()


gate: Gate
"""The gate of the node `work`; each test makes its own."""


def new_gate() -> Gate:
    global gate  # noqa: PLW0603
    gate = Gate()
    return gate


async def work(state: Any, context: Context) -> dict[str, Any]:
    """Waits at the gate."""
    held = gate
    held.entered.set()
    await held.opened.wait()
    return {"path": [context.node]}


async def square_or_wait(state: Any, context: Context) -> dict[str, Any]:
    """A map's branch that waits at the gate for its last item, 0."""
    if context.item == 0:
        await work(state, context)
    return {"squares": [context.item**2]}


async def ask_with_a_date(state: Any, context: Context) -> None:
    """Asks with a payload that is not JSON."""
    context.interrupt("When?", {"at": datetime.now(UTC)})


async def ask_a_number(state: Any, context: Context) -> None:
    """Asks what is no text."""
    context.interrupt(5)  # type: ignore[arg-type]


def exhausted(state: Any) -> dict[str, Any]:
    """Takes the next of nothing, in a thread."""
    return {"path": [next(iter(()))]}


started: list[int] = []
released = threading.Event()


def block(state: Any, context: Context) -> None:
    """Holds a thread until it is released."""
    assert context.index is not None
    started.append(context.index)
    released.wait(60)


async def stubborn(state: Any, context: Context) -> None:
    """Puts its cancellation off until its gate is opened."""
    held = gate
    held.entered.set()
    while not held.opened.is_set():
        try:
            await held.opened.wait()
        except asyncio.CancelledError:
            continue
    await asyncio.sleep(0)


def tell_the_time(state: Any, context: Context) -> dict[str, Any]:
    """Says what time it is, as it is recorded."""
    return {"now": context.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
