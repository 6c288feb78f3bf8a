"""Nodes for the tests of the engine. Each execution leaves a line in `LEDGER`."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from stargraph.engine._node_pools import threads_are_busy
from stargraph.graph import Context

LEDGER: list[str] = []
"""`node` or `node[index]` of every execution, in order."""


def _nothing(context: Context) -> None:
    pass


before: Callable[[Context], object] = _nothing
"""Called at the start of every execution; may raise. Tests replace it."""


_era = 0
_gate = threading.Event()


def reset() -> None:
    """Forget what was executed, and what was to be called."""
    global before, _era, _gate  # noqa: PLW0603
    LEDGER.clear()
    _era += 1
    before = _nothing
    release()
    _gate = threading.Event()


def release() -> None:
    """Let `held` go on."""
    _gate.set()


def settle() -> None:
    """Wait until no thread executes a node any more: the next test would take it for an attempt of its own run."""
    deadline = time.monotonic() + 60
    while threads_are_busy():
        release()
        assert time.monotonic() < deadline, "a node goes on in its thread after its test"
        time.sleep(0.005)


def _enter(context: Context) -> str:
    name = context.node if context.index is None else f"{context.node}[{context.index}]"
    LEDGER.append(name)
    before(context)
    return name


async def step(state: Any, context: Context) -> dict[str, Any]:
    """Appends its own name to `path`."""
    name = _enter(context)
    await asyncio.sleep(0)
    return {"path": [name]}


async def calls_in_a_task_group(state: Any, context: Context) -> dict[str, Any]:
    """Calls `before` in a task of its own."""

    async def call() -> None:
        await context.call("before", before, context)

    async with asyncio.TaskGroup() as group:
        group.create_task(call())
    return {"path": [context.node]}


def returns_its_item(state: Any, context: Context) -> dict[str, Any]:
    """Appends its item to `seen`."""
    return {"seen": [context.item]}


def sync_step(state: Any, context: Context) -> dict[str, Any]:
    """Like `step`, in a thread."""
    place = "main" if threading.current_thread() is threading.main_thread() else "a thread"
    return {"path": [f"{_enter(context)} in {place}"]}


async def square(state: Any, context: Context) -> dict[str, Any]:
    """A map's branch: squares its item."""
    _enter(context)
    await asyncio.sleep(0)
    return {"squares": [context.item**2]}


async def count(state: Any, context: Context) -> dict[str, Any]:
    """Counts up."""
    _enter(context)
    return {"n": state.n + 1}


async def set_x(state: Any, context: Context) -> dict[str, Any]:
    """Replaces `x`."""
    _enter(context)
    return {"x": context.node}


async def confirm(state: Any, context: Context) -> dict[str, Any]:
    """Asks inside a node, twice."""
    _enter(context)
    first = context.interrupt(f"first of {context.item}?", {"item": context.item})
    second = context.interrupt(f"second of {context.item}?")
    return {"path": [f"{first}+{second}"]}


async def fail(state: Any, context: Context) -> None:
    """Fails."""
    _enter(context)
    raise RuntimeError("no luck")


async def mutate(state: Any, context: Context) -> None:
    """Changes what it was given, and returns nothing."""
    _enter(context)
    state.path.append("mutated")


async def mutate_and_fail_once(state: Any, context: Context) -> dict[str, Any]:
    """Changes what it was given, and fails in the first attempt; returns what it then sees."""
    state.path.append("mutated")
    if context.attempt == 1:
        raise RuntimeError("no luck")
    return {"path": list(state.path)}


async def slow(state: Any, context: Context) -> dict[str, Any]:
    """Takes a while."""
    name = _enter(context)
    for _ in range(20):  # a process that stands still for a while sleeps through one of these, and not through all
        await asyncio.sleep(0.01)
    return {"path": [name]}


def held(state: Any, context: Context) -> dict[str, Any]:
    """Waits in a thread until it is released, and tells when it ended."""
    name, era, gate = _enter(context), _era, _gate
    gate.wait(60)
    if era == _era:  # a thread that was given up may outlive its test
        LEDGER.append(f"{name} ended")
    return {"path": [name]}


async def returns_x(state: Any, context: Context) -> Any:
    """Returns what the test put into `before`."""
    found = before(context)
    return await found if inspect.isawaitable(found) else found


class Classy:
    """A node as a class."""

    async def execute(self, state: Any, context: Context) -> dict[str, Any]:
        """What the engine calls."""
        return {"path": [_enter(context)]}


def without_context(state: Any) -> dict[str, Any]:
    """Takes the state alone."""
    LEDGER.append("without_context")
    return {"path": ["without_context"]}


def add_total(state: dict[str, Any]) -> dict[str, Any]:
    """A transform of a migration."""
    return {**state, "total": state["n"] * 100}


def same_state(state: dict[str, Any]) -> dict[str, Any]:
    """A transform that leaves out what the new graph needs."""
    return state


def nan_total(state: dict[str, Any]) -> dict[str, Any]:
    """A transform whose result is not JSON."""
    return {**state, "total": float("nan")}


def list_transform(state: dict[str, Any]) -> list[Any]:
    """A transform that returns no state."""
    return [state]


def fail_transform(state: dict[str, Any]) -> dict[str, Any]:
    """A transform that fails."""
    raise RuntimeError("no luck")


async def awaits_x(state: Any, context: Context) -> dict[str, Any]:
    """Replaces `x` by what the test put into `before`, awaited if need be."""
    LEDGER.append(context.node)
    found = before(context)
    return {"x": await found if inspect.isawaitable(found) else found}


def sync_x(state: Any, context: Context) -> dict[str, Any]:
    """Like `awaits_x`, in a thread."""
    LEDGER.append(context.node)
    return {"x": before(context)}


def appends_x(state: Any, context: Context) -> dict[str, Any]:
    """Appends to `x` what the test put into `before`, in a thread."""
    LEDGER.append(context.node)
    return {"x": [before(context)]}


async def awaits_path(state: Any, context: Context) -> dict[str, Any]:
    """Appends its own name to `path` when what the test put into `before` has ended."""
    await before(context)  # type: ignore[misc]
    return {"path": [context.node]}


async def returns_path(state: Any, context: Context) -> dict[str, Any]:
    """Appends to `path` what the test put into `before`, awaited if need be."""
    LEDGER.append(context.node)
    found = before(context)
    return {"path": [await found if inspect.isawaitable(found) else found]}


async def returns_nothing(state: Any, context: Context) -> None:
    """Does what the test put into `before`."""
    found = before(context)
    if inspect.isawaitable(found):
        await found
