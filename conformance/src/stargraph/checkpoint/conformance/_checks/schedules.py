"""Schedules: what is kept of them, exactly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import expect, refused
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import NOON
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
