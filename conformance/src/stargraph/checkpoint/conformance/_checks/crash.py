"""Processes that are killed while they write: what was acknowledged is there, and what is there is whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stargraph.checkpoint.conformance._checks.deletion import write_runs
from stargraph.checkpoint.conformance._checks.queues import offers_at_last
from stargraph.checkpoint.conformance._compare import same, same_runs, show
from stargraph.checkpoint.conformance._expect import Violation, attempt, error_line, expect, together
from stargraph.checkpoint.conformance._files import looks_of
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._processes import Child
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import BEATS, LIMITS, SCHEDULES, begin, chain, follow
from stargraph.checkpoint.conformance._staging import Played, Stage
from stargraph.checkpoint.protocol import Checkpoint, QueueEntry
from stargraph.errors import CheckpointError

group: Final = Group("crash", needs=("durability.other_process",))

_LARGE: Final = 3_000_000
"""Characters of a large state, which compression makes no smaller than half."""

_LARGE_MOMENTS: Final = 6
"""At how many moments of a large write a process is killed."""

_UPKEEP_STEPS: Final = 40
"""In a run of how many steps a write that tidies up is looked for."""

_UPKEEP_MOMENTS: Final = 12
"""At how many moments of such a write a process is killed."""

_BESIDE_MOMENTS: Final = 8
"""At how many moments of each call that stores no step a process is killed."""

_TEARS: Final = 6
"""How many writes are torn, half of them in a file that would hold one record, half in a longer one."""


async def _acknowledged(child: Child, least: int) -> dict[int, str]:
    """Listen until so many writes were acknowledged, kill the process, and return all that it reported."""
    acked: dict[int, str] = {}
    async for event in child.events():
        acked[event["step"]] = event["digest"]
        if len(acked) == least:
            child.kill()
    code, stderr = await child.ended()
    if len(acked) < least:
        raise Violation(f"{child.name} ended by itself with exit code {code}: {stderr.strip()[-300:]}")
    return acked


async def _whole(handle: Handle, run_id: str) -> int:
    """Expect that a run is a chain without gaps; return its latest step, -1 if it is unknown."""
    latest = await handle.read_latest(run_id)
    if latest is None:
        return -1
    previous: str | None = None
    for step in range(latest.step + 1):
        found = await handle.read_at_step(run_id, step)
        if found is None:
            raise Violation(
                f"read_at_step({run_id!r}, {step}) gave None after a kill; the latest step is {latest.step}"
            )
        found.ensure_valid()
        expect(found.previous_digest == previous, f"step {step} of {run_id!r} does not follow the step before it")
        previous = found.digest
    expect(previous == latest.digest, f"read_latest({run_id!r}) and read_at_step disagree after a kill")
    return latest.step


async def _still_there(handle: Handle, run_id: str, acked: dict[int, str], what: str) -> None:
    """Expect every acknowledged step of a run, and at most one more, as a whole chain."""
    for step, digest in acked.items():
        found = await handle.read_at_step(run_id, step)
        if found is None or found.digest != digest:
            state = "is not there" if found is None else "is another one"
            raise Violation(
                f"step {step} of {run_id!r} was acknowledged before {what}, and {state};"
                f" {len(acked)} steps were acknowledged"
            )
    last = await _whole(handle, run_id)
    most = max(acked, default=-1) + 1
    expect(last <= most, f"{run_id!r} has step {last} after {what}; at most {most} was written")


@group.check(
    "kill9_acked_survive",
    "Every step that was acknowledged before a process was killed (SIGKILL) is there, and whole.",
    contract="write.2, capability.5",
    usual_cause="write() returns before the record has left the process: a buffer, a queue, a background task.",
    processes=True,
    deadline=60,
)
async def kill9_acked_survive(kit: Kit) -> None:
    for turn in range(2):
        sizes = (10, 200_000)
        children = [await kit.child("burst", run_id=f"run-{turn}-{size}", size=size) for size in sizes]
        reports = await together(*(_acknowledged(child, kit.random.randint(5, 25)) for child in children))
        handle = await kit.open()
        for size, acked in zip(sizes, reports, strict=True):
            run_id = f"run-{turn}-{size}"
            await _still_there(handle, run_id, acked, "its process was killed")
        await handle.release()


@group.check(
    "kill9_leaves_no_half",
    "A process that is killed at any moment leaves no half record and no gap, and the run goes on from there.",
    contract="rule.10, capability.5",
    usual_cause="A record is written in place in several steps, and a reader finds the first ones.",
    version=2,
    processes=True,
    deadline=60,
)
async def kill9_leaves_no_half(kit: Kit) -> None:
    reached = -1
    for _ in range(4):
        child = await kit.child("burst", run_id="run", size=500_000)
        await child.expect("acked")
        began = time.perf_counter()
        await child.expect("acked")
        # At any moment of a step, however long one takes here.
        await asyncio.sleep(kit.random.uniform(0.0, time.perf_counter() - began))
        child.kill()
        await child.ended()
        handle = await kit.open()
        last = await _whole(handle, "run")
        expect(last > reached, f"the run stands at step {last} after a kill, and stood at {reached} before")
        latest = await handle.read_latest("run")
        assert latest is not None
        following = follow(latest, changes={"payload": "from the parent"})
        await handle.write(following)
        same(following, await handle.read_latest("run"), "read_latest('run') after a kill and one more write")
        reached = following.step
        await handle.release()


@group.check(
    "killed_neighbour",
    "A process that is killed with its handle open hinders nobody else: neither open handles nor new ones.",
    contract="capability.5",
    usual_cause="A lock file, or a lock in the store, that outlives its owner.",
    processes=True,
    deadline=60,
)
async def killed_neighbour(kit: Kit) -> None:
    survivor = await kit.open()
    for turn in range(2):
        child = await kit.child("idle", run_id=f"theirs-{turn}")
        await child.expect("acked")
        child.kill()
        await child.ended()
        mine = begin(f"mine-{turn}")
        await survivor.write(mine)
        newcomer = await kit.open()
        same(mine, await newcomer.read_latest(mine.run_id), "read_latest of a new handle after a neighbour was killed")
        await newcomer.write(follow(mine))
        await newcomer.release()


@group.check(
    "killed_in_bootstrap",
    "A process that is killed inside bootstrap(), between any two lines that change the store, leaves one that "
    "bootstrap() makes ready.",
    contract="bootstrap.2, capability.5",
    usual_cause="The store is made in several steps, and the first one's trace counts as a finished store.",
    needs=("bootstrap.second_handle",),
    processes=True,
    deadline=60,
)
async def killed_in_bootstrap(kit: Kit) -> None:
    stage = await Stage.open(kit)
    for moment in await stage.moments("bootstrap"):
        location = await kit.fresh_location()
        stage.elsewhere(location)
        await stage.kill_at(moment, "bootstrap")
        what = f"a process was killed inside bootstrap() at {moment}"
        handle = await kit.open(location)
        same_runs([], await handle.list_runs(), f"list_runs() after {what}")
        steps = chain()
        for checkpoint in steps:
            await handle.write(checkpoint)
        same(steps[-1], await handle.read_latest("run"), f"read_latest('run') after {what}")
        await handle.release()


@group.check(
    "killed_in_write",
    "A process that is killed inside write(), between any two lines that change the store, leaves the whole step or "
    "none of it, and the run goes on from there.",
    contract="rule.10, capability.5",
    usual_cause="A step is stored in several parts, such as a header and a body or a record and an index, and a reader "
    "takes the first part for the whole.",
    processes=True,
    deadline=60,
)
async def killed_in_write(kit: Kit) -> None:
    handle = await kit.open()
    stage = await Stage.open(kit)
    for before in (0, 2):
        for number, moment in enumerate(await stage.moments("write", run_id=f"recorded-{before}", size=3000)):
            steps = chain(f"run-{before}-{number}", before) if before else []
            for checkpoint in steps:
                await handle.write(checkpoint)
            run_id = f"run-{before}-{number}"
            played = await stage.kill_at(moment, "write", run_id=run_id, size=3000)
            what = f"a process was killed at {moment}, inside a write of step {before}"
            await _goes_on(kit, run_id, steps, played, what)


@group.check(
    "killed_in_upkeep",
    "A process that is killed inside the write that touches more of the store's files than others, between any two "
    "lines that change the store, leaves the whole step or none of it and all the steps before, and the run goes on.",
    contract="rule.10, read.2, capability.5",
    usual_cause="Now and then old records are moved, merged or rewritten, and they leave one file "
    "before they are in the other.",
    needs=("crash.killed_in_write",),
    processes=True,
    deadline=120,
)
async def killed_in_upkeep(kit: Kit) -> None:
    before = await _steps_before_upkeep(kit)
    if before is None:
        return
    stage = await Stage.open(kit)
    stage.elsewhere(await _written(kit, chain(length=before)))
    moments = await stage.moments("write", run_id="run")
    for moment in moments[:_UPKEEP_MOMENTS]:  # those that change the store come first
        steps = chain(length=before)
        stage.elsewhere(location := await _written(kit, steps))
        played = await stage.kill_at(moment, "write", run_id="run")
        what = f"a process was killed at {moment}, inside a write of step {before}, which tidies up"
        await _goes_on(kit, "run", steps, played, what, location)


async def _steps_before_upkeep(kit: Kit) -> int | None:
    """Write a run, and return how many steps came before the write that touched most files; None if none did."""
    location = await kit.fresh_location()
    if not Path(location).is_absolute():
        return None
    handle = await kit.open(location)
    touched, looks = [], looks_of(location)
    for checkpoint in chain(length=_UPKEEP_STEPS):
        await handle.write(checkpoint)
        now = looks_of(location)
        touched.append(sum(looks.get(file) != now.get(file) for file in looks.keys() | now.keys()))
        looks = now
    await handle.release()
    # The first two make what every run has.
    usual, most = sorted(touched[2:])[len(touched) // 8], max(touched[2:])
    return touched.index(most, 2) if most > usual else None


async def _written(kit: Kit, steps: list[Checkpoint]) -> str:
    """Write a run to a new store, and return its location."""
    location = await kit.fresh_location()
    handle = await kit.open(location)
    await write_runs(handle, steps)
    await handle.release()
    return location


@group.check(
    "killed_in_large_write",
    "A process that is killed inside a write of 3 MB, between any two lines that change the store, leaves the whole "
    "step or none of it, and the run goes on from there.",
    contract="rule.10, capability.5",
    usual_cause="A large record is stored in chunks, or in a file beside the store, and not in one transaction with "
    "what refers to it.",
    needs=("crash.killed_in_write",),
    processes=True,
    deadline=120,
)
async def killed_in_large_write(kit: Kit) -> None:
    handle = await kit.open()
    stage = await Stage.open(kit)
    moments = await stage.moments("write", run_id="recorded", size=_LARGE)
    for number, moment in enumerate(moments[:_LARGE_MOMENTS]):  # those that change the store come first
        run_id = f"run-{number}"
        steps = chain(run_id, 2)
        for checkpoint in steps:
            await handle.write(checkpoint)
        played = await stage.kill_at(moment, "write", run_id=run_id, size=_LARGE)
        await _goes_on(kit, run_id, steps, played, f"a process was killed at {moment}, inside a write of 3 MB")


async def _goes_on(
    kit: Kit, run_id: str, steps: list[Checkpoint], played: Played, what: str, location: str | None = None
) -> None:
    """Expect that a run has the steps from before the kill, and then a prefix of those that were being written."""
    newcomer = await kit.open(location)
    try:
        last = await _whole(newcomer, run_id)
    except CheckpointError as error:
        raise Violation(f"reading {run_id!r} after {what} raised {error_line(error)}") from error
    least = len(steps) - 1 + (len(played.digests) if played.acked else 0)
    most = len(steps) - 1 + len(played.digests)
    expect(least <= last <= most, f"{run_id!r} ends at step {last} after {what}; expected is {least} to {most}")
    latest = await newcomer.read_latest(run_id)
    if latest is not None and last >= len(steps):
        expect(
            latest.digest == played.digests[last - len(steps)],
            f"read_latest({run_id!r}) after {what} gave another checkpoint than the process was writing",
        )
    following = begin(run_id) if latest is None else follow(latest, changes={"payload": "from the parent"})
    await newcomer.write(following)
    same(following, await newcomer.read_latest(run_id), f"read_latest({run_id!r}) after {what} and one more write")
    await newcomer.release()


@group.check(
    "killed_beside_runs",
    "A process that is killed inside put_schedule, set_limits, beat or leave, between any two lines that change the "
    "store, leaves what was there before or what it was saying.",
    contract="capability.5, schedules.1, set_limits.1, presence.1, presence.3",
    usual_cause="A row is deleted, and written again in the next transaction; or a process goes in one transaction, "
    "and what was reserved for it in the next.",
    needs=("crash.killed_neighbour",),
    processes=True,
    deadline=120,
)
async def killed_beside_runs(kit: Kit) -> None:
    handle, stage = await kit.open(), await Stage.open(kit)
    calls = ["put_schedule"] if "schedules" in kit.declared else []
    calls += ["beat", "leave"] if "presence" in kit.declared else []
    if "queues" in kit.declared:
        await handle.write(begin(status="queued", queue=QueueEntry()))
        calls += ["set_limits"] if await attempt(handle.set_limits("default", LIMITS[0])) is None else []
    for call in calls:
        await _put_back(kit, handle, calls)
        moments = await stage.moments(call)
        for moment in kit.random.sample(moments, min(len(moments), _BESIDE_MOMENTS)):
            await _put_back(kit, handle, calls)
            await stage.kill_at(moment, call)
            what = f"after a process was killed at {moment}, inside {call}"
            await _before_or_after(kit, handle, call, what)


async def _put_back(kit: Kit, handle: Handle, calls: Sequence[str]) -> None:
    """Let the store hold what it held before the calls, and the run be reserved for the process."""
    if "put_schedule" in calls:
        await handle.put_schedule(SCHEDULES[0])
    if "set_limits" in calls:
        await handle.set_limits("default", LIMITS[0])
    if "beat" in calls:
        await handle.beat(BEATS[0])
    if "queues" in kit.declared:
        await handle.claimable(str(BEATS[0].id), ["default"], limit=1, silent_after=3600.0, reserve=3600.0)


async def _before_or_after(kit: Kit, handle: Handle, call: str, what: str) -> None:
    if call == "put_schedule":
        schedules = await handle.schedules()
        expect(schedules in [[each] for each in SCHEDULES], f"schedules() {what} gave {show(schedules)}")
    elif call == "set_limits":
        limits = [each.limits for each in await handle.queue_counts()]
        expect(limits in [[each] for each in LIMITS], f"queue_counts() {what} told the limits {show(limits)}")
    else:
        processes = [each.process for each in await handle.processes()]
        wanted = [[each] for each in BEATS] if call == "beat" else [[], [BEATS[0]]]
        expect(processes in wanted, f"processes() {what} gave {show(processes)}")
        if not processes and "queues" in kit.declared:
            await offers_at_last(kit, handle, ["run"], f"{what}, which had reserved that run,")


@group.check(
    "torn_write",
    "A process that dies inside a write to a file, with the first bytes of it on disk, leaves the whole step or none "
    "of it, and the run goes on from there.",
    contract="rule.10, capability.5",
    usual_cause="Records are appended to a file, and whoever opens it takes a torn one at its end for a whole one, or "
    "writes the next one behind it.",
    processes=True,
    deadline=60,
)
async def torn_write(kit: Kit) -> None:
    await (await kit.open()).release()
    size, count = 40_000, 8
    for number in range(_TEARS):
        run_id = f"run-{number}"
        # A file of one record, or of several: wherever its end would be crossed, the system cuts the write there.
        room = kit.random.randrange(1, size) if number % 2 else kit.random.randrange(size, size * (count - 1))
        child = await kit.child("burst", run_id=run_id, size=size, count=count, room=room)
        acked = {event["step"]: event["digest"] async for event in child.events()}
        await child.ended()
        what = f"a process died in a write, at byte {room} of a file"
        handle = await kit.open()
        await _still_there(handle, run_id, acked, what)
        latest = await handle.read_latest(run_id)
        following = begin(run_id) if latest is None else follow(latest, changes={"payload": "from the parent"})
        await handle.write(following)
        same(following, await handle.read_latest(run_id), f"read_latest({run_id!r}) after {what} and one more write")
        await handle.release()
        again = await kit.open()
        await _still_there(again, run_id, acked | {following.step: following.digest}, what)
        await again.release()


@group.check(
    "no_room",
    "A write that finds no room in a file raises StoreUnavailableError; the handle stays usable, and once there is "
    "room again the same write succeeds.",
    contract="write.5, bootstrap.9",
    usual_cause="The system's own error (OSError) comes out, it is swallowed, or what was written of the record stays.",
    processes=True,
    deadline=60,
)
async def no_room(kit: Kit) -> None:
    await (await kit.open()).release()
    size, count = 40_000, 8
    for number in range(4):
        run_id = f"run-{number}"
        room = kit.random.randrange(1, size) if number % 2 else kit.random.randrange(size, size * (count - 1))
        child = await kit.child("cramped", run_id=run_id, size=size, count=count, room=room)
        acked: dict[int, str] = {}
        what = f"a file could not grow beyond {room} bytes"
        async for event in child.events():
            if event["event"] == "raised":
                raise Violation(
                    f"a write of step {event['step']} while {what} raised {event['error']};"
                    " the contract wants StoreUnavailableError"
                )
            if event["event"] == "unavailable":
                expect(
                    event["step"] - 1 <= event["latest"] <= event["step"],
                    f"read_latest gave step {event['latest']} after the write of step {event['step']} failed",
                )
            else:
                acked[event["step"]] = event["digest"]
        await child.ended()
        expect(len(acked) == count, f"only {len(acked)} of {count} steps were written after {what}")
        handle = await kit.open()
        await _still_there(handle, run_id, acked, what)
        await handle.release()
