"""RunQueue: the limits of queues, which hold for all handles together."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from stargraph.checkpoint.conformance._checks import queue_claims
from stargraph.checkpoint.conformance._checks.queues import LONG, ROUNDS, offered, offers, queued, taken_by, write_all
from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import attempt, expect, together
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import follow, process_info
from stargraph.checkpoint.protocol import QueueLimits
from stargraph.errors import CheckpointError

group: Final = queue_claims.group
"""The same group: what these checks prove belongs to the capability, and their ids stay."""

_PERIOD: Final = 0.3


@group.check(
    "limits",
    "Limits for a queue, for a key and for a time hold for all handles together, or are refused as `no-limits`.",
    contract="set_limits.1, set_limits.2",
    usual_cause="What is handed out is counted in the handle, or what is executed is not counted at all.",
)
async def limits(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    try:
        await handle.set_limits("default", QueueLimits(concurrency=2))
    except CheckpointError as error:
        reason = error.reason
        expect(reason == "no-limits", f"set_limits was refused as {reason!r}; the contract wants 'no-limits'")
        return
    firsts = [queued(f"r{number}") for number in range(4)]
    await write_all(handle, *firsts)
    await offers(handle, ["r0"], "within concurrency=2", limit=1, reserve=LONG)
    await offers(other, ["r1"], "within concurrency=2", reserve=LONG)
    await offers(handle, [], "when two are reserved", reserve=LONG)
    await handle.beat(process_info(1))
    running = [taken_by(first, process_info(1)) for first in firsts[:2]]
    await write_all(handle, *running)
    await offers(other, [], "when two are executed", reserve=LONG)
    await handle.leave(process_info(1).id or "")
    await offers(other, ["r0", "r1"], "when the process of both is gone")
    await write_all(handle, follow(running[0], event="completed", status="done"))
    await handle.beat(process_info(1))
    await offers(other, ["r2"], "when one has ended", reserve=LONG)
    await handle.set_limits("default", None)
    await offers(other, ["r3"], "after set_limits('default', None)")
    keyed = [queued(f"k{number}", name="keys", concurrency_key="ab"[number // 3 % 2]) for number in range(6)]
    await write_all(handle, *keyed, queued("free", name="keys", priority=-1))
    await handle.set_limits("keys", QueueLimits(per_key=1))
    await offers(handle, ["k0", "k3", "free"], "within per_key=1", "keys", reserve=LONG)
    await offers(other, [], "when both keys are taken", "keys", reserve=LONG)
    await handle.set_limits("mail", QueueLimits(rate=3, period=LONG, per_key=1))
    await write_all(handle, queued("same-key", name="letters", concurrency_key="a"))
    await handle.set_limits("letters", QueueLimits(per_key=1))
    await offers(other, ["same-key"], "within per_key=1 of a queue of its own", "letters")
    await write_all(handle, *(queued(f"m{number}", name="mail") for number in range(5)))
    for reader in (handle, other):
        await offers(reader, ["m0", "m1", "m2"], "within rate=3, of which nothing is taken", "mail")
    await offers(handle, ["m0", "m1"], "within rate=3", "mail", limit=2, reserve=LONG)
    await offers(other, ["m2"], "within rate=3, after two", "mail", reserve=LONG)
    await offers(handle, [], "within rate=3, after three", "mail", reserve=LONG)
    if not kit.thorough:
        return  # what is left takes a second
    for number in range(ROUNDS):
        if await _keeps_a_rate(kit, handle, other, f"fast-{number}"):
            break


async def _keeps_a_rate(kit: Kit, handle: Handle, other: Handle, name: str) -> bool:
    """Expect that a rate holds at any time; return whether the machine was quick enough to show another one."""
    await handle.set_limits(name, QueueLimits(rate=1, period=_PERIOD))
    await write_all(handle, *(queued(f"{name}-{number}", name=name) for number in range(3)))
    # Begun in the middle of a period, a rate that goes by the calendar gives the next one at once too early.
    await asyncio.sleep((0.4 * _PERIOD - time.time()) % _PERIOD)
    began, next_period = time.monotonic(), (time.time() // _PERIOD + 1) * _PERIOD
    await offers(handle, [f"{name}-0"], "within rate=1", name, reserve=LONG)
    is_in_time, is_shown, given = time.time() < next_period, False, 0
    deadline = time.monotonic() + kit.patience
    while given < 2:
        is_next_period = is_in_time and time.time() > next_period
        found = await offered(other, name, reserve=LONG)
        took, what = time.monotonic() - began, f"claimable within rate=1 in {_PERIOD} seconds gave"
        if found:
            given += 1
            expect(found == [f"{name}-{given}"], f"{what} {show(found)} after {given}")
            expect(took > _PERIOD * given - 0.02, f"{what} {given + 1} in {took:.3f}")
            continue
        is_shown |= is_next_period and not given
        expect(time.monotonic() < deadline, f"{what} {given + 1} for {kit.patience:g} seconds")
        await asyncio.sleep(0.02)
    return is_shown


@group.check(
    "limits_told",
    "queue_counts says which limits were set for a queue, last and by whomever.",
    contract="queue_counts.1, set_limits.1",
    usual_cause="Only queues that have runs are listed, or limits are read by claims alone.",
)
async def limits_told(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    limits = QueueLimits(concurrency=2, per_key=1, rate=1000, period=0.125)
    if await attempt(handle.set_limits("empty", limits)) is not None:
        return  # it has no limits, which queues.limits looks at
    await handle.set_limits("b", QueueLimits(rate=3))
    await other.set_limits("b", QueueLimits(concurrency=0))
    await handle.set_limits("c", limits)
    await other.set_limits("c", None)
    await write_all(handle, queued("run", name="b"), queued("other", name="a"))
    wanted = {"a": None, "b": QueueLimits(concurrency=0), "empty": limits}
    for reader in (handle, other):
        found = {each.queue: each.limits for each in await reader.queue_counts()}
        expect(found == wanted, f"queue_counts() told the limits {show(found)}; the contract wants {show(wanted)}")


@group.check(
    "many_limits",
    "Limits of 110 queues that are set side by side are all kept.",
    contract="set_limits.1, queue_counts.1, capability.6",
    usual_cause="All of them are in one document that two calls read and write, or a page of a hundred is given.",
    quick=False,
    deadline=60,
)
async def many_limits(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(4)]
    if await attempt(handles[0].set_limits("q000", QueueLimits(concurrency=1))) is not None:
        return  # it has no limits, which queues.limits looks at
    wanted = {f"q{number:03}": QueueLimits(concurrency=number + 1) for number in range(110)}
    names = list(wanted)

    async def put(first: int) -> None:
        for name in names[first::24]:
            await handles[first % 4].set_limits(name, wanted[name])

    await together(*(put(first) for first in range(24)))
    for reader in handles[:2]:
        found = {each.queue: each.limits for each in await reader.queue_counts()}
        expect(found == wanted, f"queue_counts() told {len(found)} limits, or others: {show(found)}; 110 were set")
