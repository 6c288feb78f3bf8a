"""Nodes whose effect is a line in the ledger."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any

from stargraph.graph import Context
from stargraph_torture.ledger import Ledger

SESSION: ContextVar[str] = ContextVar("session")
"""Names one start() or resume() of one run, among all processes."""

ledger: Ledger | None = None
"""Where effects go; each process sets its own. None if nobody looks."""

PACE = 0.003
"""Seconds that a node takes."""


def _effect(context: Context) -> None:
    if ledger is not None:
        ledger.add(
            "effect",
            run=context.run_id,
            task=context.task_id,
            node=context.node,
            attempt=context.attempt,
            session=SESSION.get(),
        )


async def step(state: Any, context: Context) -> dict[str, Any]:
    """Appends its own name to `path`."""
    _effect(context)
    await asyncio.sleep(PACE)
    return {"path": [context.node if context.index is None else f"{context.node}[{context.index}]"]}


def sync_step(state: Any, context: Context) -> dict[str, Any]:
    """The same in a thread."""
    _effect(context)
    time.sleep(PACE)
    return {"path": [context.node]}


async def count(state: Any, context: Context) -> dict[str, Any]:
    """Counts up."""
    _effect(context)
    return {"n": state.n + 1}


async def square(state: Any, context: Context) -> dict[str, Any]:
    """A map's branch: squares its item."""
    _effect(context)
    await asyncio.sleep(PACE * (1 + (context.item % 3)))
    return {"squares": [context.item**2]}


async def flaky(state: Any, context: Context) -> dict[str, Any]:
    """Fails in its first two attempts."""
    _effect(context)
    await asyncio.sleep(PACE)
    if context.attempt < 3:
        raise ConnectionError("not yet")
    return {"path": [context.node]}


async def confirm(state: Any, context: Context) -> dict[str, Any]:
    """Asks two questions inside a node; the effect follows the answers."""
    first = context.interrupt("first?", {"n": state.n})
    second = context.interrupt("second?")
    _effect(context)
    return {"path": [f"{first}+{second}"]}
