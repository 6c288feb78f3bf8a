"""Schedules: what is kept of them, exactly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import expect, refused, together
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import NOON, noise
from stargraph.checkpoint.protocol import QueueEntry, Schedule
from stargraph.errors import CheckpointError

group: Final = Group("schedules", needs=("steps.append_and_read",), capability="schedules")


def _schedule(schedule_id: str, **fields: Any) -> Schedule:
    plain = {"cron": "0 7 * * 1-5", "timezone": "Europe/Berlin", "graph_id": "g", "since": NOON}
    return Schedule(id=schedule_id, **(plain | fields))


@group.check(
    "kept",
    "Schedules are kept as they were put last, and listed in the order of their ids.",
    contract="schedules.1, schedules.2",
    usual_cause="Putting a schedule again makes a second one, or inputs lose what JSON cannot tell apart elsewhere.",
)
async def kept(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    later = _schedule("b", inputs={"n": 1, "x": 1.0, "text": "ключ"}, metadata={"team": "α"})
    for each in (later, _schedule("c"), _schedule("a", queue=QueueEntry(name="mail", priority=3))):
        await handle.put_schedule(each)
    await other.put_schedule(_schedule("c", cron="* * * * *", since=NOON + timedelta(days=1)))
    wanted = [
        _schedule("a", queue=QueueEntry(name="mail", priority=3)),
        later,
        _schedule("c", cron="* * * * *", since=NOON + timedelta(days=1)),
    ]
    for reader in (handle, other):
        found = await reader.schedules()
        expect(found == wanted, f"schedules() gave {show(found)}; the contract wants {show(wanted)}")
    there = [await handle.remove_schedule("b"), await other.remove_schedule("b")]
    expect(there == [True, False], f"remove_schedule('b') twice gave {there}; the contract wants True, then False")
    left = [each.id for each in await other.schedules()]
    expect(left == ["a", "c"], f"schedules() after remove_schedule('b') gave {left}; the contract wants ['a', 'c']")


@group.check(
    "exact",
    "A schedule is kept whole, to the microsecond and with all that its queue entry says, and found by exactly its id.",
    contract="schedules.1, schedules.2",
    usual_cause="The column ignores case, times are kept in seconds, or of the queue only its name and priority.",
)
async def exact(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    since = NOON + timedelta(microseconds=123_457)
    entry = QueueEntry(name="Mail", priority=-70_000, concurrency_key="Ключ ", not_before=since)
    ids = ["N", "N.a", "N_a", "n", "n-a", "n.a", "n" * 100]
    wanted = {each: _schedule(each, since=since, queue=entry, metadata={"id": each}) for each in ids}
    for each in kit.random.sample(ids, len(ids)):
        await handle.put_schedule(wanted[each])
    found = await other.schedules()
    due = [wanted[each] for each in sorted(ids)]
    expect(found == due, f"schedules() gave {show(found)}; the contract wants {show(due)}")
    there = [await other.remove_schedule(each) for each in ("nA", "N.A", "n" * 99, "n.a")]
    expect(there == [False, False, False, True], f"remove_schedule of 3 unknown ids and one that is there gave {there}")
    left = [each.id for each in await handle.schedules()]
    due_ids = sorted(set(ids) - {"n.a"})
    expect(left == due_ids, f"schedules() after remove_schedule('n.a') gave {left}; the contract wants {due_ids}")


@group.check(
    "read_only",
    "A handle that only reads lists the schedules, and changes none.",
    contract="schedules.1, open.3",
    usual_cause="put_schedule or remove_schedule was forgotten when the handle learned to be read-only.",
)
async def read_only(kit: Kit) -> None:
    opener = kit.target.read_only
    if opener is None:
        return
    handle = await kit.open()
    await handle.put_schedule(_schedule("a"))
    reader = await kit.unready(opener=opener)
    await reader.bootstrap()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "put_schedule": lambda: reader.put_schedule(_schedule("b")),
        "put_schedule again": lambda: reader.put_schedule(_schedule("a", cron="* * * * *")),
        "remove_schedule": lambda: reader.remove_schedule("a"),
        "remove_schedule of an unknown one": lambda: reader.remove_schedule("b"),
    }
    for what, call in calls.items():
        await refused(call(), f"{what} of a read-only handle", CheckpointError, "read-only")
    for each in (reader, handle):
        found = await each.schedules()
        expect(found == [_schedule("a")], f"schedules() after a read-only handle was refused gave {show(found)}")


@group.check(
    "outlive_handles",
    "Schedules are there in other processes, and no handle that is opened or closed changes them.",
    contract="schedules.1, close.1, bootstrap.2",
    usual_cause="They are kept in the process, bootstrap makes the table again, or close empties it.",
)
async def outlive_handles(kit: Kit) -> None:
    handle = await kit.open()
    wanted = [_schedule("a"), _schedule("b")]
    for each in wanted:
        await handle.put_schedule(each)
    readers = [await kit.elsewhere(), await kit.open()]
    closing = await kit.open()
    await closing.put_schedule(_schedule("c"))
    await closing.remove_schedule("c")
    await closing.release()
    await handle.bootstrap()
    for reader in readers:
        found = await reader.schedules()
        expect(
            found == wanted, f"schedules() after handles came and went gave {show(found)}; the contract wants a and b"
        )


@group.check(
    "many",
    "130 schedules that are put side by side are all listed, one with more than 64 KiB of inputs among them; and so"
    " with those that are removed.",
    contract="schedules.1, schedules.2, capability.6",
    usual_cause="All of them are in one document that two calls read and write, a page of a hundred is given, or a "
    "column is as long as somebody expected.",
    quick=False,
    deadline=60,
)
async def many(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(4)]
    schedules = [_schedule(f"s{number:03}") for number in range(129)]
    schedules.append(_schedule("s129", inputs={"text": noise(kit.random, 70_000)}))

    async def put(first: int) -> None:
        for schedule in schedules[first::24]:
            await handles[first % 4].put_schedule(schedule)

    async def remove(first: int) -> None:
        for schedule in schedules[first:40:8]:
            there = await handles[first % 4].remove_schedule(schedule.id)
            expect(there, f"remove_schedule({schedule.id!r}) of {len(schedules)} gave False")

    await together(*(put(first) for first in range(24)))
    for reader in handles[:2]:
        found = await reader.schedules()
        expect(found == schedules, f"schedules() of {len(schedules)} gave {len(found)}, or others: {show(found)}")
    await together(*(remove(first) for first in range(8)))
    left = await handles[0].schedules()
    expect(left == schedules[40:], f"schedules() after 40 of {len(schedules)} were removed gave {len(left)}")
