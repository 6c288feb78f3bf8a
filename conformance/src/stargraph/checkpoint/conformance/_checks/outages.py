"""Every call in an outage: what cannot be reached neither reads as empty nor takes what is then lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._compare import show
from stargraph.checkpoint.conformance._expect import Violation, acknowledged, attempt, error_line, expect, together
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import NOON, begin, chain, follow
from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueEntry, QueueLimits, Schedule, Status
from stargraph.errors import StoreUnavailableError

group: Final = Group("outages", needs=("access.outage",), capability="outage")

_LONG: Final = 3600.0
_LATER: Final = NOON + timedelta(days=365)
_CANCELLED: Final[tuple[Status, ...]] = ("cancelled",)
_SEVEN: Final = QueueLimits(concurrency=7)
_CHANGED: Final = {"list_runs", "count_runs", "queue_counts", "processes", "schedules", "prune(dry_run=True)"}
"""The reads that the changes change."""

_UNREACHABLE: Final = object()
"""What a read gives if the store cannot be reached."""

Ask = Callable[[Handle], Awaitable[object]]


@dataclass(frozen=True)
class _Change:
    """A call that changes a store, and a read that tells whether it did: it gives `wanted` then."""

    call: Ask
    read: Ask
    wanted: object


def _process(number: int) -> ProcessInfo:
    return ProcessInfo(host="conformance", pid=number, version="1", id=f"{number:016x}")


def _schedule(schedule_id: str) -> Schedule:
    return Schedule(id=schedule_id, cron="0 3 * * *", graph_id="g", since=NOON)


def _digest(checkpoint: Checkpoint | None) -> object:
    return None if checkpoint is None else (checkpoint.step, checkpoint.digest)


async def _filled(kit: Kit) -> None:
    """Store something for each read to find, and for each change to change."""
    handle = await kit.open()
    parents: dict[str, Any] = {"parent_run_id": "run", "parent_step": 0, "origin": "subgraph"}
    runs = [chain("run", 3, metadata={"team": "red"}), chain("goes", 3), chain("grows", 3)]
    runs += [chain("child", 2, **parents), chain("ended", 3, last_status="cancelled")]
    runs.append([begin("queued", status="queued", queue=QueueEntry())])
    keyed = begin("keyed", key="a")
    for checkpoint in [*(step for steps in runs for step in steps), keyed, follow(keyed, key="b")]:
        await handle.write(checkpoint)
    if "presence" in kit.declared:
        await handle.beat(_process(1))
        await handle.beat(_process(2))
    if "schedules" in kit.declared:
        await handle.put_schedule(_schedule("kept"))
        await handle.put_schedule(_schedule("removed"))
    await handle.release()


async def _grown(kit: Kit) -> None:
    """Change what each read finds, by another handle."""
    handle = await kit.elsewhere()
    for run_id in ("run", "child", "keyed"):
        latest = await handle.read_latest(run_id)
        assert latest is not None
        await handle.write(follow(latest, key="c" if run_id == "keyed" else None))
    latest = await handle.read_latest("keyed")
    assert latest is not None
    await handle.write(follow(latest, key="a"))
    await handle.write(begin("queued-later", status="queued", queue=QueueEntry()))
    ended = chain("ended-later", 3, last_status="cancelled")
    for checkpoint in ended:
        await handle.write(checkpoint)
    if "presence" in kit.declared:
        await handle.beat(_process(4))
    if "schedules" in kit.declared:
        await handle.put_schedule(_schedule("put-later"))
    await handle.release()


def _reads(kit: Kit) -> dict[str, Ask]:
    """A call of each kind that reads, in a form that can be compared."""

    async def history(handle: Handle) -> object:
        return [_digest(found) async for found in handle.history("run")]

    async def read_latest(handle: Handle) -> object:
        return _digest(await handle.read_latest("run"))

    async def read_at_key(handle: Handle) -> object:
        return _digest(await handle.read_at_key("keyed", "a"))

    found: dict[str, Ask] = {"read_latest": read_latest, "list_runs": lambda handle: handle.list_runs()}
    if "history" in kit.declared:
        found["history"] = history
    if "timeline" in kit.declared:
        found["timeline"] = lambda handle: handle.timeline("run")
    if "search" in kit.declared:
        found["search"] = lambda handle: handle.search(metadata={"team": "red"})
        found["count_runs"] = lambda handle: handle.count_runs()
    if "trees" in kit.declared:
        found["children"] = lambda handle: handle.children("run")
    if "keys" in kit.declared:
        found["read_at_key"] = read_at_key
        found["step_keys"] = lambda handle: handle.step_keys("keyed")
    if "queues" in kit.declared:
        found["claimable"] = _claims
        found["queue_counts"] = lambda handle: handle.queue_counts()
    if "presence" in kit.declared:
        found["processes"] = _living
    if "schedules" in kit.declared:
        found["schedules"] = lambda handle: handle.schedules()
    if "deletion" in kit.declared:
        found["prune(dry_run=True)"] = lambda handle: handle.prune(
            older_than=_LATER, statuses=_CANCELLED, keep_last=0, dry_run=True
        )
    return found


async def _claims(handle: Handle) -> object:
    return await handle.claimable("f" * 16, ["default"], limit=10, silent_after=_LONG, reserve=0.0)


async def _living(handle: Handle) -> object:
    return sorted(str(each.process.id) for each in await handle.processes())


def _changes(kit: Kit) -> dict[str, _Change]:
    """A call of each kind that changes something, each something else; all can be made again."""

    def latest(run_id: str) -> Ask:
        async def read(handle: Handle) -> object:
            return _digest(await handle.read_latest(run_id))

        return read

    async def is_alive(handle: Handle) -> object:
        return str(_process(3).id) in [each.process.id for each in await handle.processes()]

    async def has_left(handle: Handle) -> object:
        return str(_process(2).id) not in [each.process.id for each in await handle.processes()]

    async def is_put(handle: Handle) -> object:
        return "put" in [each.id for each in await handle.schedules()]

    async def is_removed(handle: Handle) -> object:
        return "removed" not in [each.id for each in await handle.schedules()]

    async def limits(handle: Handle) -> object:
        return {each.queue: each.limits for each in await handle.queue_counts()}.get("limited")

    found: dict[str, _Change] = {}
    more = chain("grows", 6)[3:]
    pruned = [step for step in chain("pruned", 6) if step.step in (2, 5)]
    if "batch" in kit.declared:
        found["write_many"] = _Change(lambda handle: handle.write_many(more), latest("grows"), _digest(more[-1]))
    if "pruned-start" in kit.declared:
        found["start_pruned"] = _Change(
            lambda handle: handle.start_pruned(pruned), latest("pruned"), _digest(pruned[-1])
        )
    if "deletion" in kit.declared:
        found["delete_run"] = _Change(lambda handle: handle.delete_run("goes"), latest("goes"), None)
        found["prune"] = _Change(
            lambda handle: handle.prune(older_than=_LATER, statuses=_CANCELLED, keep_last=0), latest("ended"), None
        )
    if "queues" in kit.declared:
        found["set_limits"] = _Change(lambda handle: handle.set_limits("limited", _SEVEN), limits, _SEVEN)
    if "presence" in kit.declared:
        found["beat"] = _Change(lambda handle: handle.beat(_process(3)), is_alive, True)
        found["leave"] = _Change(lambda handle: handle.leave(_process(2).id or ""), has_left, True)
    if "schedules" in kit.declared:
        found["put_schedule"] = _Change(lambda handle: handle.put_schedule(_schedule("put")), is_put, True)
        found["remove_schedule"] = _Change(lambda handle: handle.remove_schedule("removed"), is_removed, True)
    return found


@group.check(
    "every_call",
    "In an outage every read is exact or raises StoreUnavailableError, also of what other handles wrote since the "
    "last read, and every change is made or raises it; afterwards the same handles work.",
    contract="bootstrap.9, bootstrap.10, read.5",
    usual_cause="One of the methods swallows the error of the connection: it returns an empty list, None, or what it "
    "gave last.",
    version=2,
    quick=False,
    deadline=120,
    waits=True,
)
async def every_call(kit: Kit) -> None:
    assert kit.target.outage is not None
    await _filled(kit)
    reads, changes = _reads(kit), _changes(kit)
    reader = await kit.open()
    if "set_limits" in changes and await attempt(reader.set_limits("limited", QueueLimits(rate=1))) is not None:
        del changes["set_limits"]  # it has no limits, which queues.limits looks at
    # A handle for each: some wait, one call after the other, for as long as a store does not answer.
    handles = {name: await kit.open() for name in changes}
    for read in reads.values():
        await read(reader)  # it may keep what it has read, and that is old by the time of the outage
    await _grown(kit)
    other = await kit.open()
    before = {name: await read(other) for name, read in reads.items()}
    async with kit.target.outage(kit.location):
        outcomes = await together(
            *(acknowledged(change.call(handles[name]), f"{name} in an outage") for name, change in changes.items()),
            *(_read(read(reader), f"{name} in an outage") for name, read in reads.items()),
        )
    made = [name for name, is_acked in zip(changes, outcomes, strict=False) if is_acked]
    for name, found in zip(reads, outcomes[len(changes) :], strict=True):
        # What was changed meanwhile, since a part of the store could be reached, may show or not.
        if found is not _UNREACHABLE and not (made and name in _CHANGED):
            _unchanged(found, before[name], f"{name} in an outage")
    for name in made:
        await _is_done(changes[name], reader, f"{name}, which was acknowledged in an outage,")
    for name in reads.keys() - _CHANGED:
        what = f"{name} after an outage"
        found = await _read(reads[name](reader), what)
        expect(found is not _UNREACHABLE, f"{what} raised StoreUnavailableError; the store can be reached")
        _unchanged(found, before[name], what)
    for name, change in changes.items():
        expect(
            await acknowledged(change.call(handles[name]), f"{name} after an outage"),
            f"{name} is refused after an outage",
        )
        for each in (handles[name], reader):
            await _is_done(change, each, f"{name}, made again after an outage,")


async def _read(call: Awaitable[object], what: str) -> object:
    """What a read gives, or `_UNREACHABLE`; nothing but StoreUnavailableError may come out of it."""
    try:
        return await call
    except StoreUnavailableError:
        return _UNREACHABLE
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}; the contract wants StoreUnavailableError") from error


def _unchanged(found: object, wanted: object, what: str) -> None:
    expect(found == wanted, f"{what} gave {show(found)}; before it gave {show(wanted)}")


async def _is_done(change: _Change, handle: Handle, what: str) -> None:
    found = await change.read(handle)
    expect(found == change.wanted, f"{what} left {show(found)} behind; the contract wants {show(change.wanted)}")
