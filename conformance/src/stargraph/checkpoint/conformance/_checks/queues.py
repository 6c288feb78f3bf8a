"""RunQueue: which runs are handed out, and to whom; nothing of it keeps data safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._calls import write_spread
from stargraph.checkpoint.conformance._compare import same_summary, show
from stargraph.checkpoint.conformance._expect import attempt, expect, refused, refused_argument
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import GRAPH_HASH, NOON, RUNTIME_HASH, begin, follow, process_info
from stargraph.checkpoint.protocol import (
    Checkpoint,
    GraphVersion,
    Interrupt,
    ProcessInfo,
    QueueCounts,
    QueueEntry,
    QueueLimits,
    RunSummary,
    Status,
)
from stargraph.errors import CheckpointError

group: Final = Group("queues", needs=("steps.append_and_read", "presence.beats"), capability="queues")

LONG: Final = 3600.0
"""Seconds for which nothing expires while a check runs."""


_LAST_SECONDS: Final = 55
"""The second of a minute from which on too little of it is left to look at it."""

_FAILED: Final[tuple[Status, ...]] = ("failed",)

ROUNDS: Final = 5
"""How often something is looked at that a busy machine may be too slow to show."""

ASKING: Final = "f" * 16
"""The process that asks for runs."""


def queued(run_id: str, *, name: str = "default", **fields: Any) -> Checkpoint:
    """Step 0 of a run that waits in a queue; fields of its `QueueEntry` may be among the fields."""
    entry = {key: fields.pop(key) for key in ("priority", "concurrency_key", "not_before") if key in fields}
    return begin(run_id, status="queued", queue=QueueEntry(name=name, **entry), **fields)


def taken_by(
    before: Checkpoint, process: ProcessInfo | None, *, status: Status = "running", **fields: Any
) -> Checkpoint:
    """The step by which a process begins with a queued run."""
    return follow(before, event="resumed", status=status, process=process, **fields)


async def write_all(handle: Handle, *steps: Checkpoint) -> None:
    for checkpoint in steps:
        await handle.write(checkpoint)


async def offered(handle: Handle, *queues: str, limit: int = 100, **arguments: Any) -> list[str]:
    """Return the runs that are handed out; nothing is reserved, and no process counts as gone, unless told."""
    given = {"silent_after": LONG, "reserve": 0.0, **arguments}
    return [run.run_id for run in await handle.claimable(ASKING, queues or ("default",), limit=limit, **given)]


async def offers(handle: Handle, wanted: Sequence[str], why: str, *queues: str, **arguments: Any) -> None:
    """Expect these runs to be handed out now, in this order."""
    found = await offered(handle, *queues, **arguments)
    expect(found == list(wanted), f"claimable {why} gave {show(found)}; the contract wants {show(list(wanted))}")


async def offers_at_last(
    kit: Kit, handle: Handle, wanted: Sequence[str], why: str, *, queue: str = "default", **arguments: Any
) -> None:
    """Expect these runs to be handed out before the kit loses its patience, in this order."""
    deadline = time.monotonic() + kit.patience
    while (found := await offered(handle, queue, **arguments)) != list(wanted):
        expect(
            time.monotonic() < deadline,
            f"claimable {why} gave {show(found)} for {kit.patience:g} seconds; the contract wants {show(list(wanted))}",
        )
        await asyncio.sleep(0.02)


@group.check(
    "kinds",
    "Exactly the runs that can go on are handed out: queued and due, sleepers whose time has come, answered ones, and"
    " those whose process is gone; whatever year it is that they wait for.",
    contract="claimable.1, claimable.2, claimable.8",
    usual_cause="The status or the event alone decides, or a sleeper, an answered run or an orphan is forgotten; or a "
    "time goes into a number that is too small for it.",
    version=3,
)
async def kinds(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    now = datetime.now(UTC)
    past, future = now - timedelta(hours=1), now + timedelta(hours=1)
    living, gone = process_info(1), process_info(2)
    await handle.beat(living)
    await handle.beat(gone)
    asks = _waiting("answered", None)
    answered = follow(asks[-1], event="answered", status="running", interrupts=(), process=None)
    failed = [queued("failed"), *[queued("again")]]
    ended = {status: taken_by(queued(status), living) for status in ("done", "cancelled", "failed", "paused")}
    await write_all(
        handle,
        queued("at-once"),
        queued("due", not_before=past),
        queued("due-for-ages", not_before=datetime(1, 1, 1, tzinfo=UTC)),
        queued("later", not_before=future),
        queued("much-later", not_before=datetime(2101, 1, 1, tzinfo=UTC)),
        queued("never", not_before=datetime.max.replace(tzinfo=UTC)),
        *_waiting("sleeper", past),
        *_waiting("sleeps", future),
        *_waiting("sleeps-long", datetime(2301, 1, 1, tzinfo=UTC)),
        *_waiting("asks", None),
        *asks,
        answered,
        failed[1],
        (taken := taken_by(failed[1], living)),
        (fail := follow(taken, event="failed", status="failed")),
        follow(fail, event="queued", status="queued", process=None),
        (alive := queued("alive")),
        taken_by(alive, living),
        (orphan := queued("orphan")),
        taken_by(orphan, gone),
        (unseen := queued("unseen")),
        taken_by(unseen, process_info(3)),
        (begun := queued("went-on")),
        (paused := taken_by(begun, living, status="paused")),
        follow(paused, event="completed", status="running", process=None),
        begin("no-queue"),
    )
    for status, taken in ended.items():
        await write_all(handle, queued(status), taken, follow(taken, event="completed", status=status))
    ready = ["again", "answered", "at-once", "due", "due-for-ages", "sleeper", "went-on"]
    for reader in (handle, other):
        found = sorted(await offered(reader))
        expect(
            found == sorted([*ready, "unseen"]),
            f"claimable gave {show(found)}; the contract wants {show(sorted([*ready, 'unseen']))}",
        )
    await handle.leave(gone.id or "")
    found = sorted(await offered(other))
    wanted = sorted([*ready, "orphan", "unseen"])
    expect(found == wanted, f"claimable after leave({gone.id!r}) gave {show(found)}; the contract wants {show(wanted)}")
    await _nobody_wakes_early(handle, other)


def _waiting(run_id: str, due_at: datetime | None, **fields: Any) -> list[Checkpoint]:
    first = queued(run_id, **fields)
    wait = Interrupt(id="t/1", task_id="t", node="work", prompt="wait", asked_at=NOON, due_at=due_at)
    taken = taken_by(first, process_info(1))
    return [first, taken, follow(taken, event="asked", status="awaiting_input", interrupts=(wait,))]


async def _nobody_wakes_early(handle: Handle, other: Handle) -> None:
    """Expect that what is due at the end of this minute is not due in all of it."""
    for number in range(4, 4 + ROUNDS):
        began = time.monotonic()  # before the store looks at its clock: a slow call must not count as time that is left
        await handle.beat(process_info(number))
        (now,) = (each.first_seen for each in await handle.processes() if each.process.id == process_info(number).id)
        if now.second >= _LAST_SECONDS:
            await asyncio.sleep(61 - now.second)  # so little is left that the minute may end before the claim
            continue
        name, due = f"soon-{number}", now.replace(second=59, microsecond=999_999)
        await write_all(handle, queued(name, name=name, not_before=due), *_waiting(f"wakes-{name}", due, name=name))
        found = await offered(other, name)
        if time.monotonic() - began < 60 - _LAST_SECONDS:
            expect(not found, f"claimable gave {show(found)} before they are due")
            break


@group.check(
    "order",
    "Runs are handed out by priority, then by due time, then by id, at most as many as were asked for, and only of the"
    " queues that were named; each once, also if its queue was named twice.",
    contract="claimable.3, claimable.1",
    usual_cause="The newest comes first, a lower number is taken for a higher priority, each queue for itself, or due "
    "times and priorities are cut to what a column holds.",
    version=3,
)
async def order(kit: Kit) -> None:
    handle = await kit.open()
    past = datetime.now(UTC) - timedelta(days=1)
    runs: list[tuple[tuple[int, datetime, str], Checkpoint]] = []
    for number in range(24):
        priority, parts = (
            kit.random.choice((-70_000, -40_000, 7, 300, 40_000, 70_000)),
            kit.random.choice((0, 1, 999_999)),
        )
        name, run_id = kit.random.choice(("a", "b")), f"{'Rr'[number // 4 % 2]}{number:02}"
        if number % 2:
            due = past + timedelta(microseconds=parts)
            first = queued(run_id, name=name, priority=priority, not_before=due)
        else:
            due = past + timedelta(microseconds=parts)
            first = queued(run_id, name=name, priority=priority, timestamp=due)
        runs.append(((-priority, due, run_id), first))
    kit.random.shuffle(runs)
    await write_all(handle, queued("elsewhere", name="c"), *(first for _, first in runs))
    wanted = [run_id for (_, _, run_id), _ in sorted(runs, key=lambda run: run[0])]
    await offers(handle, wanted, "of two queues", "a", "b")
    await offers(handle, wanted[:5], "with limit=5", "b", "a", limit=5)
    names = {first.run_id: first.queue.name for _, first in runs if first.queue}
    of_a = [run_id for run_id in wanted if names[run_id] == "a"]
    await offers(handle, of_a, "of one queue", "a")
    await offers(handle, of_a, "of a queue that is named twice, with limit=2**70", "a", "a", limit=2**70)
    await offers(handle, [], "with limit=0", "a", limit=0)


@group.check(
    "fits",
    "With `fits`, only runs of one of these graphs are handed out, however many others come first.",
    contract="claimable.4",
    usual_cause="A page of runs is read and then filtered, or one of the three members is not looked at.",
)
async def fits(kit: Kit) -> None:
    handle = await kit.open()
    mine = GraphVersion("conformance", GRAPH_HASH, RUNTIME_HASH)
    for number in range(40):
        other = [{"graph_id": "other"}, {"graph_hash": "0" * 64}, {"runtime_hash": "0" * 64}][number % 3]
        await handle.write(queued(f"other-{number:02}", priority=9, **other))
    await handle.write(queued("mine"))
    await offers(handle, ["mine"], "with fits", fits=[mine], limit=1)
    await offers(handle, [], "with fits=[]", fits=[])
    found = await offered(handle, fits=[mine, GraphVersion("other", GRAPH_HASH, RUNTIME_HASH)])
    expect(len(found) == 15, f"claimable with two versions gave {len(found)} runs; the contract wants 15")


@group.check(
    "every_way_in",
    "Runs are handed out as their latest step says, whether a write, a batch or a pruned start has stored it; a run"
    " that was deleted is not.",
    contract="claimable.1, claimable.2, delete_run.1",
    usual_cause="Only write keeps the table of the queue, or a row of it outlives its run.",
)
async def every_way_in(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    await handle.beat(process_info(1))
    await write_all(handle, queued("deleted"), taken := queued("taken"))
    ready = {"deleted", "taken"}
    if "batch" in kit.declared:
        await handle.write_many([queued("batched")])
        running = taken_by(taken, process_info(1))
        await other.write_many([running, follow(running, status="running")])
        ready = {"deleted", "batched"}
    if "pruned-start" in kit.declared:
        first = queued("moved")
        failed = follow(taken_by(first, process_info(1)), event="failed", status="failed")
        await handle.start_pruned([follow(failed, event="queued", status="queued", process=None)])
        ready.add("moved")
    for number, reader in enumerate((handle, other)):
        if number and "deletion" in kit.declared:
            await handle.delete_run("deleted")
            ready.remove("deleted")
        found = sorted(await offered(reader))
        expect(found == sorted(ready), f"claimable gave {show(found)}; the contract wants {show(sorted(ready))}")


@group.check(
    "reservations",
    "A run that was handed out is handed out to nobody else, until its reservation expires, a step is appended or its"
    " process leaves.",
    contract="claimable.5, presence.3",
    usual_cause="The reservation is kept in the handle, is never lifted, outlives the step that it was made for, or"
    " returns with its process.",
    version=2,
)
async def reservations(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    first = queued("run")
    await handle.write(first)
    await offers(handle, ["run"], "", reserve=LONG)
    for reader in (handle, other):
        await offers(reader, [], "of a run that is reserved", reserve=LONG)
    # Whoever got it fails at once, and says so.
    taken = taken_by(first, process_info(1))
    failed = follow(taken, event="failed", status="failed")
    await write_all(handle, taken, failed, follow(failed, event="queued", status="queued", process=None))
    await offers(other, ["run"], "after the run has gone on and was queued again", reserve=0.1)
    await offers_at_last(kit, handle, ["run"], "after a reservation of 0.1 seconds", reserve=LONG)
    await handle.leave(ASKING)
    await offers_at_last(kit, other, ["run"], "after the process that it was reserved for has left")
    await write_all(handle, queued("b0", name="back"), queued("b1", name="back"))
    await offers(handle, ["b0", "b1"], "of another queue", "back", reserve=LONG)
    await handle.leave(ASKING)
    await offers_at_last(kit, handle, ["b0"], "by a process that has left", queue="back", limit=1, reserve=LONG)
    await offers(other, ["b1"], "after a process that had left has come back for another run", "back")
    for number in range(ROUNDS):
        name = f"short-{number}"
        await handle.write(queued(name, name=name))
        began = time.monotonic()
        await offers(handle, [name], "of another queue", name, reserve=0.9)
        again = await offered(other, name)
        if time.monotonic() - began < 0.9:
            expect(not again, f"claimable gave {again} within the 0.9 seconds for which that run is reserved")
            break


@group.check(
    "counts",
    "queue_counts says how the runs of each queue stand, in the order of the names.",
    contract="queue_counts.1, delete_run.1, prune.2",
    usual_cause="Ended, deleted or pruned runs are counted, or a run stays what it was when it was enqueued.",
    version=2,
)
async def counts(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    future = datetime.now(UTC) + timedelta(hours=1)
    await handle.beat(process_info(1))
    for number, ending in enumerate(("done", "failed", "paused", "running", "cancelled")):
        first = queued(f"r{number}", name="b")
        taken = taken_by(first, process_info(1))
        await write_all(handle, first, taken, follow(taken, status=ending, event="completed"))
    await write_all(handle, queued("ready", name="b"), queued("later", name="b", not_before=future))
    await write_all(handle, queued("gone", name="b"), queued("a", name="a"), begin("no-queue"))
    if "deletion" in kit.declared:
        await handle.delete_run("gone")
        await write_all(handle, old := queued("old", name="b"), follow(old, event="failed", status="failed"))
        later = NOON + timedelta(days=365)
        await handle.prune(run_id="old", older_than=later, statuses=_FAILED, keep_last=0)
    await offers(handle, ["a"], "", "a", reserve=LONG)
    ready = 1 if "deletion" in kit.declared else 2
    wanted = [
        QueueCounts(queue="a", running=1),
        QueueCounts(queue="b", ready=ready, scheduled=1, running=1, failed=1, paused=1),
    ]
    found = await other.queue_counts()
    expect(found == wanted, f"queue_counts() gave {show(found)}; the contract wants {show(wanted)}")


@group.check(
    "summaries",
    "A run that is handed out is described as its latest step says: its tags, its graph, its queue entry, its error.",
    contract="claimable.1, claimable.2",
    usual_cause="The row of the queue is that of the step that enqueued the run, or holds only what claims ask for.",
)
async def summaries(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    tags = {"team": "red", "ключ": "\U0001f98a"}
    first = queued("again", metadata=tags, priority=3, concurrency_key="Key ", not_before=NOON)
    taken = taken_by(first, process_info(1))
    failed = follow(taken, event="failed", status="failed")
    again = follow(failed, event="queued", status="queued", process=None)
    fresh = queued("fresh", metadata=tags, graph_id="other", timestamp=NOON)
    child = queued("child", parent_run_id="fresh", parent_step=0, origin="subgraph", timestamp=NOON)
    orphan = queued("orphan", metadata={"n": "1"}, timestamp=NOON)
    gone = taken_by(orphan, process_info(9))
    await write_all(handle, first, taken, failed, again, fresh, child, orphan, gone)
    latest = {each.run_id: RunSummary.from_checkpoint(each) for each in (again, fresh, child, gone)}
    for reader in (handle, other):
        found = await reader.claimable(ASKING, ["default"], limit=100, silent_after=LONG, reserve=0.0)
        names = sorted(run.run_id for run in found)
        expect(names == sorted(latest), f"claimable gave {names}; the contract wants {sorted(latest)}")
        for run in found:
            same_summary(latest[run.run_id], run, "claimable")


@group.check(
    "exact_names",
    "A queue and a concurrency key are meant by exactly their text.",
    contract="claimable.1, claimable.2, queue_counts.1, set_limits.1",
    usual_cause="The column ignores case, or the name is a pattern.",
)
async def exact_names(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    names = ["Mail", "Mail_a", "mail", "mail-a", "mail.a", "mail:a", "m" * 100, "mail_a"]
    await write_all(handle, *(queued(f"of-{number}", name=name) for number, name in enumerate(names)))
    for number, name in enumerate(names):
        await offers(other, [f"of-{number}"], f"of the queue {name!r}", name)
    await offers(other, [], "of queues that nobody named", "MAIL", "mai", "mail-", "m" * 99)
    found = [(each.queue, each.ready) for each in await other.queue_counts()]
    wanted = [(name, 1) for name in sorted(names)]
    expect(found == wanted, f"queue_counts() gave {show(found)}; the contract wants {show(wanted)}")
    if await attempt(handle.set_limits("mail", QueueLimits(concurrency=0))) is not None:
        return  # it has no limits, which queues.limits looks at
    await handle.set_limits("keys", QueueLimits(per_key=1))
    for number, key in enumerate(("Key", "key", "key ", "key")):
        await handle.write(queued(f"key-{number}", name="keys", concurrency_key=key))
    await offers(other, [], "of the queue 'mail', which was stopped", "mail")
    await offers(other, ["of-0"], "of the queue 'Mail', which goes on", "Mail")
    await offers(other, ["key-0", "key-1", "key-2"], "within per_key=1", "keys")


@group.check(
    "many",
    "Of 150 runs that can go on as many are handed out as were asked for, and all are counted.",
    contract="claimable.1, claimable.3, queue_counts.1",
    usual_cause="A page inside the driver ends, and the rest is left out; or it is full of runs that limits hold back.",
    version=2,
    quick=False,
    deadline=120,
)
async def many(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs = [f"r{number:03}" for number in range(150)]
    await write_spread(handle, [queued(run_id, not_before=NOON) for run_id in kit.random.sample(runs, len(runs))])
    for limit in (100, 149, 1000):
        await offers(other, runs[:limit], f"with limit={limit} of 150 runs", limit=limit)
    counts = {each.queue: each.ready for each in await other.queue_counts()}
    expect(counts == {"default": 150}, f"queue_counts() counted {counts} ready runs; the contract wants 150")
    found: list[str] = []
    while len(found) <= len(runs) and (page := await offered(other, limit=60, reserve=LONG)):
        found += page
    expect(found == runs, f"claims of 60 runs each gave {show(found)}; the contract wants each of 150 runs once")
    if await attempt(handle.set_limits("busy", QueueLimits(per_key=1))) is not None:
        return  # it has no limits, which queues.limits looks at
    same_key = [queued(f"b{number:03}", name="busy", concurrency_key="k", priority=1) for number in range(120)]
    await write_spread(handle, [*same_key, queued("free", name="busy")])
    await offers(other, ["b000"], "of the first run of a key", "busy", limit=1, reserve=LONG)
    await offers(other, ["free"], "behind 119 runs whose key is taken", "busy", limit=1)


@group.check(
    "read_only",
    "A handle that only reads looks with reserve=0, and changes nothing.",
    contract="claimable.8, open.3",
    usual_cause="A look notes what has become due, or a reservation slips by the handle's guard.",
)
async def read_only(kit: Kit) -> None:
    opener = kit.target.read_only
    if opener is None:
        return
    handle = await kit.open()
    await handle.write(queued("run", not_before=NOON))
    reader = await kit.unready(opener=opener)
    await reader.bootstrap()
    await offers(reader, ["run"], "of a read-only handle with reserve=0")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "claimable": lambda: reader.claimable(ASKING, ["default"], reserve=1.0),
        "set_limits": lambda: reader.set_limits("default", None),
        "beat": lambda: reader.beat(process_info(1)),
        "leave": lambda: reader.leave(ASKING),
    }
    for what, call in calls.items():
        await refused(call(), f"{what} of a read-only handle", CheckpointError, "read-only")
    await offers(handle, ["run"], "after a read-only handle has looked", reserve=LONG)


@group.check(
    "arguments",
    "Arguments that say nothing are refused.",
    contract="claimable.9",
    usual_cause="They go into the query as they are.",
)
async def arguments(kit: Kit) -> None:
    handle = await kit.open()
    for given in ({"limit": -1}, {"limit": 1.5}, {"silent_after": -1.0}, {"reserve": float("inf")}):
        await refused_argument(handle.claimable(ASKING, ["default"], **given), f"claimable with {given}")
    for queues in (["no queue"], [""], "default"):
        await refused_argument(handle.claimable(ASKING, queues), f"claimable of {queues!r}")
    await refused_argument(handle.set_limits("no queue", None), "set_limits('no queue')")
    await refused_argument(handle.beat(ProcessInfo(host="h", pid=1, version="1")), "beat of a process without an id")
