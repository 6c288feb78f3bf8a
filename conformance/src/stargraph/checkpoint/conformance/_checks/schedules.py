"""Schedules: the times at which runs are enqueued, kept for all workers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import expect
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import NOON
from stargraph.checkpoint.protocol import QueueEntry, Schedule

group: Final = Group("schedules", needs=("steps.append_and_read",), capability="schedules")


@group.check(
    "kept",
    "Schedules are kept as they were put last, and listed in the order of their ids.",
    contract="schedules.1, schedules.2",
    usual_cause="Putting a schedule again makes a second one, or inputs lose what JSON cannot tell apart elsewhere.",
)
async def kept(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()

    def schedule(schedule_id: str, **fields: Any) -> Schedule:
        plain = {"cron": "0 7 * * 1-5", "timezone": "Europe/Berlin", "graph_id": "g", "since": NOON}
        return Schedule(id=schedule_id, **(plain | fields))

    later = schedule("b", inputs={"n": 1, "x": 1.0, "text": "ключ"}, metadata={"team": "α"})
    for each in (later, schedule("c"), schedule("a", queue=QueueEntry(name="mail", priority=3))):
        await handle.put_schedule(each)
    await other.put_schedule(schedule("c", cron="* * * * *", since=NOON + timedelta(days=1)))
    wanted = [
        schedule("a", queue=QueueEntry(name="mail", priority=3)),
        later,
        schedule("c", cron="* * * * *", since=NOON + timedelta(days=1)),
    ]
    for reader in (handle, other):
        found = await reader.schedules()
        expect(found == wanted, f"schedules() gave {show(found)}; the contract wants {show(wanted)}")
    there = [await handle.remove_schedule("b"), await other.remove_schedule("b")]
    expect(there == [True, False], f"remove_schedule('b') twice gave {there}; the contract wants True, then False")
    left = [each.id for each in await other.schedules()]
    expect(left == ["a", "c"], f"schedules() after remove_schedule('b') gave {left}; the contract wants ['a', 'c']")
