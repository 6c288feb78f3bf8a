"""Cancellation at any await: all or nothing is stored, the handle stays usable, CancelledError is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from stargraph.checkpoint.conformance._calls import optional_calls
from stargraph.checkpoint.conformance._cancelling import WAITS, cancelled_at
from stargraph.checkpoint.conformance._compare import absent, same
from stargraph.checkpoint.conformance._expect import Violation, attempt, error_line, expect, refused_argument
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, chain, follow, rival
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError

group: Final = Group("cancel", needs=("steps.append_and_read",))


async def _each_point(
    operation: Callable[[int], Awaitable[object]], after: Callable[[int, str], Awaitable[None]]
) -> None:
    """Cancel an operation at its first await, its second, … until it ends undisturbed; look at the store each time."""
    number = 0
    for wait in WAITS:
        for point in range(200):
            number += 1
            reached = await cancelled_at(operation(number), point, wait)
            await after(number, f"a cancellation at await {point + 1}")
            if not reached:
                break


@group.check(
    "write",
    "A write that is cancelled, at whichever await, is stored whole or not at all, raises CancelledError, and "
    "leaves the handle usable.",
    contract="capability.3",
    usual_cause="CancelledError is swallowed, a transaction or lock stays open, or a write is made of two steps.",
    deadline=60,
)
async def write(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs: dict[int, list[Checkpoint]] = {}

    def operation(number: int) -> Awaitable[object]:
        runs[number] = chain(f"run-{number}", 3)
        return _second_step(handle, runs[number])

    async def after(number: int, what: str) -> None:
        first, second, third = runs[number]
        run_id = first.run_id
        # Before the handle is used again: what a cancelled call holds would go with its next one.
        await other.write(begin(f"beside-{number}"))
        latest = await handle.read_latest(run_id)
        if latest is None:
            await handle.write(first)
        elif latest.step == 0:
            same(first, latest, f"read_latest({run_id!r}) after {what}")
        else:
            same(second, latest, f"read_latest({run_id!r}) after {what}")
        await _again(handle, second, what)
        await handle.write(third)
        for checkpoint in (first, second, third):
            found = await other.read_at_step(run_id, checkpoint.step)
            same(checkpoint, found, f"read_at_step({run_id!r}, {checkpoint.step}) of another handle after {what}")

    await _each_point(operation, after)


async def _second_step(handle: Handle, steps: list[Checkpoint]) -> None:
    for checkpoint in steps[:2]:
        await handle.write(checkpoint)


async def _again(handle: Handle, checkpoint: Checkpoint, what: str) -> None:
    refusal = await attempt(handle.write(checkpoint))
    if refusal is not None:
        raise Violation(f"writing the same checkpoint again after {what} raised {error_line(refusal)}") from refusal


@group.check(
    "outcome_is_settled",
    "After a cancelled write, another checkpoint for that step either wins for good or is refused.",
    contract="capability.3, write.12",
    usual_cause="The cancelled write goes on in the background and lands on top of what came after it.",
    deadline=60,
)
async def outcome_is_settled(kit: Kit) -> None:
    handle = await kit.open()
    runs: dict[int, list[Checkpoint]] = {}

    def operation(number: int) -> Awaitable[object]:
        runs[number] = chain(f"run-{number}", 2)
        return _second_step(handle, runs[number])

    async def after(number: int, what: str) -> None:
        first, second = runs[number]
        await handle.write(first)
        other = rival(second, first)
        refusal = await attempt(handle.write(other))
        if refusal is not None and not isinstance(refusal, CheckpointConflictError):
            raise Violation(
                f"{naming(other)} by another executor after {what} raised {error_line(refusal)}"
            ) from refusal
        winner = other if refusal is None else second
        following = follow(winner)
        await handle.write(following)
        same(winner, await handle.read_at_step(first.run_id, 1), f"read_at_step({first.run_id!r}, 1) after {what}")
        same(following, await handle.read_latest(first.run_id), f"read_latest({first.run_id!r}) after {what}")

    await _each_point(operation, after)


@group.check(
    "reads",
    "A read or a listing that is cancelled, at whichever await, raises CancelledError and leaves the handle usable.",
    contract="capability.3",
    usual_cause="A cursor or a connection is not given back.",
    deadline=60,
)
async def reads(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain()
    for checkpoint in steps:
        await handle.write(checkpoint)

    async def after(_: int, what: str) -> None:
        same(steps[-1], await handle.read_latest("run"), f"read_latest('run') after {what}")
        await handle.write(steps[-1])

    operations: tuple[Callable[[int], Awaitable[object]], ...] = (
        lambda _: handle.read_latest("run"),
        lambda _: handle.read_at_step("run", 1),
        lambda _: handle.list_runs(),
    )
    for operation in operations:
        await _each_point(operation, after)


@group.check(
    "every_call",
    "Every other call that is cancelled, at whichever await, raises CancelledError and leaves the handle usable.",
    contract="capability.3",
    usual_cause="The method catches every exception of the library below, CancelledError too.",
    needs=("cancel.reads",),
    deadline=120,
    quick=False,
)
async def every_call(kit: Kit) -> None:
    handle, steps = await kit.open(), chain()
    for checkpoint in steps:
        await handle.write(checkpoint)

    async def after(_: int, what: str) -> None:
        same(steps[-1], await handle.read_latest("run"), f"read_latest('run') after {what}")

    for name, call in optional_calls(kit, handle, steps).items():
        if name in ("write_many", "start_pruned again"):
            continue  # batch.cancelled and pruned.cancelled look at these
        try:
            await _each_point(lambda _, call=call: call(), after)  # type: ignore[misc]
        except Violation as violation:
            raise Violation(f"{name}: {violation}") from violation


@group.check(
    "bootstrap",
    "A bootstrap that is cancelled, at whichever await, can be called again.",
    contract="bootstrap.2, capability.3",
    usual_cause="The store is half made, or the handle is marked as ready too early or as busy for good.",
    deadline=60,
)
async def bootstrap(kit: Kit) -> None:
    handles: dict[int, Handle] = {}

    async def one_point(point: int, wait: float) -> bool:
        location = await kit.fresh_location()
        handles[point] = await kit.unready(location)
        reached = await cancelled_at(handles[point].bootstrap(), point, wait)
        what = f"a bootstrap() that was cancelled at await {point + 1}"
        again = await kit.open(location)
        absent(await again.read_latest("run"), f"read_latest('run') after {what}")
        await handles[point].bootstrap()
        steps = chain()
        for checkpoint in steps:
            await handles[point].write(checkpoint)
        same(steps[-1], await again.read_latest("run"), f"read_latest('run') of another handle after {what}")
        await again.release()
        await handles[point].release()
        return reached

    for wait in WAITS:
        for point in range(200):
            if not await one_point(point, wait):
                break


@group.check(
    "many",
    "Cancelling many calls of one handle does not disturb the others, and uses nothing up.",
    contract="capability.3",
    usual_cause="A connection or a slot of a pool leaks with every cancelled call, until none is left.",
)
async def many(kit: Kit) -> None:
    handle = await kit.open()
    for turn in range(4):
        runs = [chain(f"run-{turn}-{number}", 2) for number in range(24)]
        tasks = [asyncio.ensure_future(_second_step(handle, steps)) for steps in runs]
        for _ in range(turn):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, asyncio.CancelledError) and number % 2 == 0:
                continue
            if isinstance(outcome, BaseException):
                raise Violation(
                    f"a write beside cancelled ones raised {error_line(outcome)}"
                    if number % 2
                    else f"a cancelled write raised {error_line(outcome)}; the contract wants CancelledError"
                ) from outcome
        for steps in runs:
            for checkpoint in steps:
                await handle.write(checkpoint)
            same(steps[-1], await handle.read_latest(steps[0].run_id), "read_latest after others were cancelled")
    await handle.write(begin("last"))
    expect(len(await handle.list_runs(limit=1000)) == 97, "list_runs() does not give the 97 runs that were written")


_REPEATS: Final = 40
"""How often a call fails: more than the connections that a pool has as a rule."""


@group.check(
    "uses_nothing_up",
    "Forty calls of each kind that are refused, that find nothing, that are cancelled or left before their end, use "
    "nothing up: the handle reads and writes as before.",
    contract="capability.3, write.4, history.1",
    usual_cause="A connection, a cursor or a lock is given back only if the call succeeds: after as many failures as "
    "the pool has connections, every call waits for one.",
    needs=("cancel.reads", "steps.usable_after_refusal"),
    quick=False,
    deadline=120,
)
async def uses_nothing_up(kit: Kit) -> None:
    handle, steps = await kit.open(), chain(keys=("a",))
    for checkpoint in steps:
        await handle.write(checkpoint)
    stranger = rival(steps[-1], steps[-2])
    failing: dict[str, Callable[[], Awaitable[object]]] = {
        "writes that were refused": lambda: attempt(handle.write(stranger)),
        "writes beyond a gap": lambda: attempt(handle.write(follow(follow(steps[-1])))),
        "reads of an unknown run": lambda: handle.read_latest("nobody"),
        "reads of a step that is not there": lambda: handle.read_at_step("run", 99),
        "lists with a negative limit": lambda: refused_argument(handle.list_runs(limit=-1), "list_runs(limit=-1)"),
    }
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "writes": lambda: handle.write(steps[-1]),
        "reads of the latest step": lambda: handle.read_latest("run"),
        "reads of a step": lambda: handle.read_at_step("run", 1),
        "lists": handle.list_runs,
    }
    calls |= {name: call for name, call in optional_calls(kit, handle, steps).items() if name != "write_many"}
    failing |= {f"cancelled {name}": partial(_cancelled, call) for name, call in calls.items()}
    if "history" in kit.declared:
        for newest_first in (False, True):
            name = f"histories that were left (newest_first={newest_first})"
            failing[name] = partial(_left, handle, newest_first)
    for name, fails in failing.items():
        for _ in range(_REPEATS):
            await fails()
        same(steps[-1], await handle.read_latest("run"), f"read_latest('run') after {_REPEATS} {name}")
        await handle.write(steps[-1])
    following = follow(steps[-1])
    await handle.write(following)
    same(following, await handle.read_latest("run"), "read_latest('run') after calls failed")


async def _cancelled(call: Callable[[], Awaitable[object]]) -> None:
    await cancelled_at(call(), 0, 0.0)


async def _left(handle: Handle, newest_first: bool) -> None:
    steps = handle.history("run", newest_first=newest_first)
    await anext(steps)
    await steps.aclose()  # type: ignore[attr-defined]
