"""list_runs: which runs, in which order, and what their summaries say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from stargraph.checkpoint.conformance._compare import same, same_runs, same_summary
from stargraph.checkpoint.conformance._expect import refused_argument, together
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LINES, NOON, begin, follow
from stargraph.checkpoint.protocol import ErrorInfo, Interrupt, Status

group: Final = Group("list_runs", needs=("steps.append_and_read",))


async def _started(handle: Handle, starts: dict[str, datetime]) -> None:
    for run_id, moment in starts.items():
        await handle.write(begin(run_id, timestamp=moment))


@group.check(
    "newest_first",
    "The run that started last comes first, whichever was written or went on last.",
    contract="list.1",
    usual_cause="The order is that of insertion, of the last update or of the run id.",
)
async def newest_first(kit: Kit) -> None:
    handle = await kit.open()
    hours = {"c": 3, "a": 1, "e": 5, "b": 2, "d": 4}
    await _started(handle, {run_id: NOON + timedelta(hours=hour) for run_id, hour in hours.items()})
    same_runs(["e", "d", "c", "b", "a"], await handle.list_runs(), "list_runs()")
    oldest = await handle.read_latest("a")
    assert oldest is not None
    await handle.write(follow(oldest, timestamp=NOON + timedelta(hours=9)))
    same_runs(["e", "d", "c", "b", "a"], await handle.list_runs(), "list_runs() after the oldest run went on")


@group.check(
    "microseconds_order",
    "Starts that differ by microseconds are in their order.",
    contract="list.1",
    usual_cause="The start is stored in whole seconds or milliseconds, as a text of changing length, or as a float, "
    "which has no microseconds in a distant year.",
    version=2,
)
async def microseconds_order(kit: Kit) -> None:
    handle = await kit.open()
    whole = NOON.replace(microsecond=0)
    starts = {"d": 0, "b": 2, "a": 100_000, "c": 1, "z": 999_999}
    await _started(handle, {run_id: whole + timedelta(microseconds=number) for run_id, number in starts.items()})
    same_runs(["z", "a", "b", "c", "d"], await handle.list_runs(), "list_runs()")
    for year in (3, 9997):
        handle = await kit.open(await kit.fresh_location())
        start, tick = datetime(year, 5, 6, 7, 8, 9, 123_456, tzinfo=UTC), timedelta(microseconds=1)
        await _started(handle, {"a": start, "c": start + tick, "b": start + 2 * tick})
        same_runs(["b", "c", "a"], await handle.list_runs(), f"list_runs() of runs of the year {year}")
        listed = await handle.list_runs(since=start + tick)
        same_runs(["b", "c"], listed, f"list_runs(since=the start of 'c') of runs of the year {year}")


@group.check(
    "ties_by_run_id",
    "Runs that started at the same instant are in the ascending order of their ids.",
    contract="list.1",
    usual_cause="ORDER BY started_at DESC alone leaves ties to chance, or DESC covers both columns.",
)
async def ties_by_run_id(kit: Kit) -> None:
    handle = await kit.open()
    await _started(handle, dict.fromkeys(("m", "z", "a", "B", "a1", "10", "9"), NOON))
    wanted = sorted(("m", "z", "a", "B", "a1", "10", "9"))
    same_runs(wanted, await handle.list_runs(), "list_runs() of runs that started at one instant")
    same_runs(wanted[:3], await handle.list_runs(limit=3), "list_runs(limit=3) of runs that started at one instant")


@group.check(
    "since_is_inclusive",
    "since keeps the runs that started then or later, to the microsecond.",
    contract="list.2",
    usual_cause="`>` instead of `>=`, or an instant that is rounded.",
)
async def since_is_inclusive(kit: Kit) -> None:
    handle = await kit.open()
    tick = timedelta(microseconds=1)
    await _started(handle, {"before": NOON - tick, "at": NOON, "after": NOON + tick})
    same_runs(["after", "at"], await handle.list_runs(since=NOON), "list_runs(since=the start of 'at')")
    same_runs(["after"], await handle.list_runs(since=NOON + tick), "list_runs(since=the start of 'after')")
    same_runs([], await handle.list_runs(since=NOON + 2 * tick), "list_runs(since=after all starts)")


@group.check(
    "since_across_offsets",
    "since and started_at are compared as instants, whatever their offsets.",
    contract="list.2",
    usual_cause="Timestamps are compared as text, or the offset is dropped.",
)
async def since_across_offsets(kit: Kit) -> None:
    handle = await kit.open()
    india, hawaii = timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-10))
    hour = timedelta(hours=1)
    starts = {
        "first": (NOON - hour).astimezone(india),
        "second": NOON.astimezone(hawaii),
        "third": (NOON + hour).astimezone(india),
        "fourth": NOON + 2 * hour,
    }
    await _started(handle, starts)
    same_runs(["fourth", "third", "second", "first"], await handle.list_runs(), "list_runs() across offsets")
    for zone in (UTC, india, hawaii, timezone(timedelta(hours=14))):
        since = NOON.astimezone(zone)
        what = f"list_runs(since={since.isoformat()})"
        same_runs(["fourth", "third", "second"], await handle.list_runs(since=since), what)


@group.check(
    "limit",
    "limit is how many runs come at most; 0 gives none.",
    contract="list.3",
    usual_cause="The limit is ignored, 0 means all, it is applied before the order or the filter, or a large one does "
    "not fit into the store's integers.",
    version=2,
)
async def limit(kit: Kit) -> None:
    handle = await kit.open()
    hours = [3, 1, 4, 0, 2]
    await _started(handle, {f"run-{hour}": NOON + timedelta(hours=hour) for hour in hours})
    newest = [f"run-{hour}" for hour in sorted(hours, reverse=True)]
    for number in (0, 1, 3, 5, 6, 1000, 2**31, 2**40, 2**70):
        same_runs(newest[:number], await handle.list_runs(limit=number), f"list_runs(limit={number}) of 5 runs")
    since = NOON + timedelta(hours=1)
    same_runs(newest[:2], await handle.list_runs(since=since, limit=2), "list_runs(since=…, limit=2)")


@group.check(
    "default_limit",
    "Without a limit at most 100 runs come.",
    contract="list.1",
    usual_cause="The default of the protocol was not taken over.",
)
async def default_limit(kit: Kit) -> None:
    handle = await kit.open()
    starts = {f"run-{number}": NOON + timedelta(seconds=number) for number in range(103)}
    await together(*(_started(handle, {run_id: moment}) for run_id, moment in starts.items()))
    wanted = [f"run-{number}" for number in range(102, 2, -1)]
    same_runs(wanted, await handle.list_runs(), "list_runs() of 103 runs")


@group.check(
    "negative_limit_refused",
    "A negative limit is refused with a ValueError.",
    contract="list.4",
    usual_cause="The limit goes to a slice or to SQL unchecked, where -1 means all or all but one.",
)
async def negative_limit_refused(kit: Kit) -> None:
    handle = await kit.open()
    await _started(handle, {"run": NOON})
    await refused_argument(handle.list_runs(limit=-1), "list_runs(limit=-1)")


@group.check(
    "naive_since_refused",
    "A since without an offset is refused with a ValueError.",
    contract="list.4",
    usual_cause="It is taken for UTC or for local time.",
)
async def naive_since_refused(kit: Kit) -> None:
    handle = await kit.open()
    await _started(handle, {"run": NOON})
    naive = NOON.replace(tzinfo=None)
    await refused_argument(handle.list_runs(since=naive), f"list_runs(since={naive!r})")


@group.check(
    "summaries",
    "A summary says what the run's latest checkpoint says, at every moment of the run.",
    contract="list.1",
    usual_cause="The summary is made from the first checkpoint, or a column of it is not updated; or it is a line of "
    "text, and what is read is split where a text has a line separator of Unicode.",
    version=2,
)
async def summaries(kit: Kit) -> None:
    handle = await kit.open()
    latest = begin(metadata={"team": "blue", "": "empty", "é": "\u0000", LINES: LINES}, graph_id=LINES)
    child = begin("child", parent_run_id="run", parent_step=0, origin="fork", timestamp=NOON - timedelta(days=1))
    await handle.write(latest)
    await handle.write(child)
    statuses: tuple[Status, ...] = ("running", "awaiting_input", "running", "paused", "failed", "running", "done")
    for status in statuses:
        error = ErrorInfo(type=LINES, message=LINES, reason=LINES, node=LINES) if status == "failed" else None
        graph_hash = "c3" * 32 if status == "paused" else latest.graph_hash
        latest = follow(latest, status=status, error=error, graph_hash=graph_hash)
        await handle.write(latest)
        found = await handle.list_runs()
        same_runs(["run", "child"], found, f"list_runs() when a run is {status}")
        same_summary(latest, found[0], f"list_runs() when the run is {status}")
        same_summary(child, found[1], "list_runs(), the summary of a fork")


@group.check(
    "due_times",
    "The summary of a run that waits for times says the earliest one, to the microsecond, until the run goes on.",
    contract="list.6",
    usual_cause="The summary is a row with a column for each field, and this one is not among them.",
)
async def due_times(kit: Kit) -> None:
    handle = await kit.open()
    first = begin()
    due = [NOON + timedelta(hours=hours, microseconds=hours) for hours in (9, 2, 5)]
    waits = tuple(
        Interrupt(id=f"w-{number}", task_id=f"t-{number}", node="n", prompt="wait", asked_at=NOON, due_at=moment)
        for number, moment in enumerate(due)
    )
    waiting = follow(first, event="asked", status="awaiting_input", interrupts=waits)
    answered = follow(waiting, event="answered", status="running", interrupts=())
    for latest in (first, waiting, answered):
        await handle.write(latest)
        for reader in (handle, await kit.open()):
            (found,) = await reader.list_runs()
            same_summary(latest, found, f"list_runs() when the run waits for {len(latest.interrupts)} times")
            same(latest, await reader.read_latest("run"), "read_latest('run')")


@group.check(
    "thousands",
    "Thousands of runs are listed whole and in order.",
    contract="list.1",
    usual_cause="A page size of the store below cuts the list off.",
    needs=("list_runs.limit", "list_runs.newest_first"),
    quick=False,
    deadline=90,
)
async def thousands(kit: Kit) -> None:
    handle = await kit.open()
    count = 2100
    order = kit.random.sample(range(count), count)

    async def start(numbers: list[int]) -> None:
        for number in numbers:
            await handle.write(begin(f"run-{number:05d}", timestamp=NOON + timedelta(seconds=number // 2)))

    await together(*(start(order[first::32]) for first in range(32)))
    wanted = sorted(
        (f"run-{number:05d}" for number in range(count)), key=lambda run_id: (-(int(run_id[4:]) // 2), run_id)
    )
    same_runs(wanted, await handle.list_runs(limit=count + 1), f"list_runs(limit={count + 1}) of {count} runs")
    same_runs(wanted[:1500], await handle.list_runs(limit=1500), f"list_runs(limit=1500) of {count} runs")
