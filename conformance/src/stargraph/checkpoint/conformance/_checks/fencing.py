"""An executor that lost its run can write no more, however long it slept and whatever it remembers."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

from stargraph.checkpoint.conformance._checks.clocks import shifts_of
from stargraph.checkpoint.conformance._clock import describe
from stargraph.checkpoint.conformance._compare import absent, same
from stargraph.checkpoint.conformance._expect import NotEvaluated, Violation, error_line, expect, refused, settled
from stargraph.checkpoint.conformance._files import StandingFileTimes
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import chain, executor_id, follow, noise, payload_step
from stargraph.checkpoint.conformance._staging import Played, Stage
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError

_SIZE: Final = 3000
"""Characters of what two executors write of which one is frozen."""

_PATIENCE: Final = 0.15
"""Seconds without anything to do after which a rival in another process counts as one that waits for the frozen one."""

group: Final = Group("fencing", needs=("steps.conflict_keeps_stored", "durability.other_handle"))


@group.check(
    "stale_handle",
    "After another handle took a run over, the first one's next write is refused as a conflict.",
    contract="log.6, rule.4, write.12",
    usual_cause="The handle remembers the tail of its runs and does not look at the store again.",
)
async def stale_handle(kit: Kit) -> None:
    first, second = await kit.open(), await kit.open()
    steps = chain()
    for checkpoint in steps:
        await first.write(checkpoint)
    taken = follow(steps[-1], event="resumed", executor_id=executor_id(2))
    await second.write(taken)
    mine = follow(steps[-1], executor_id=executor_id(1))
    what = f"{naming(mine)} after another handle wrote that step"
    await refused(first.write(mine), what, CheckpointConflictError, "step-taken", mine)
    same(taken, await first.read_latest("run"), "read_latest('run') after the stale write was refused")
    same(taken, await second.read_at_step("run", 3), "read_at_step('run', 3) after the stale write was refused")


@group.check(
    "stale_successor",
    "A step that follows a lost one is refused as well, where its number fits but its predecessor does not.",
    contract="log.6, rule.9",
    usual_cause="The handle's cached tail, or the step number alone, decides.",
    needs=("steps.wrong_predecessor",),
)
async def stale_successor(kit: Kit) -> None:
    first, second = await kit.open(), await kit.open()
    steps = chain()
    for checkpoint in steps:
        await first.write(checkpoint)
    taken = follow(steps[-1], event="resumed", executor_id=executor_id(2))
    await second.write(taken)
    after_lost = follow(follow(steps[-1], executor_id=executor_id(1)))
    what = f"{naming(after_lost)} whose predecessor was never stored"
    await refused(first.write(after_lost), what, CheckpointConflictError, "wrong-predecessor", after_lost)
    same(taken, await second.read_latest("run"), "read_latest('run') after the stale write was refused")
    absent(await first.read_at_step("run", 4), "read_at_step('run', 4) after the stale write was refused")


@group.check(
    "later_clock_does_not_win",
    "Who comes first wins, even where the other one's clock is ahead.",
    contract="rule.4, read.4",
    usual_cause="The newer timestamp wins, as in a last-writer-wins store.",
)
async def later_clock_does_not_win(kit: Kit) -> None:
    first, second = await kit.open(), await kit.open()
    steps = chain()
    for checkpoint in steps:
        await first.write(checkpoint)
    behind = follow(steps[-1], executor_id=executor_id(2), timestamp=steps[0].timestamp - timedelta(days=1))
    ahead = follow(steps[-1], executor_id=executor_id(3), timestamp=steps[0].timestamp + timedelta(days=1))
    await first.write(behind)
    what = f"{naming(ahead)} by an executor whose clock is ahead"
    await refused(second.write(ahead), what, CheckpointConflictError, "step-taken", ahead)
    same(behind, await second.read_latest("run"), "read_latest('run') after the later one was refused")


@group.check(
    "stopped_executor",
    "An executor that is frozen while another takes its run over is refused when it wakes up; nothing that it "
    "writes then is visible.",
    contract="log.6, write.12",
    usual_cause="A lease or a lock by time, or a cached tail in the frozen process.",
    needs=("fencing.stale_handle", "durability.other_process"),
    processes=True,
    deadline=60,
)
async def stopped_executor(kit: Kit) -> None:
    if not hasattr(signal, "SIGSTOP"):
        raise NotEvaluated("this platform cannot stop a process")
    child = await kit.child("executor_id", run_id="run", steps=4)
    for _ in range(4):
        await child.expect("acked")
    await child.expect("ready")
    child.stop()
    handle = await kit.open()
    latest = await handle.read_latest("run")
    assert latest is not None
    taken = follow(latest, event="resumed", executor_id=executor_id(2))
    mine = [taken, follow(taken)]
    for checkpoint in mine:
        await handle.write(checkpoint)
    child.resume()
    await child.tell("go")
    async for event in child.events():
        if event["event"] == "finished":
            break
        expect(
            event["event"] == "refused",
            f"step {event['step']} of an executor that was stopped and overtaken was acknowledged",
        )
        expect(
            event["kind"] == "CheckpointConflictError",
            f"step {event['step']} of an executor that was overtaken raised {event.get('error')};"
            " the contract wants CheckpointConflictError",
        )
    for checkpoint in mine:
        found = await handle.read_at_step("run", checkpoint.step)
        same(checkpoint, found, f"read_at_step('run', {checkpoint.step}) after the stopped executor woke up")
    same(mine[-1], await handle.read_latest("run"), "read_latest('run') after the stopped executor woke up")


@group.check(
    "forked_process",
    "A process that was forked from one with an open handle cannot disturb it: in the fork each call works, or raises "
    "StoreUnavailableError, and none hangs; the first process goes on.",
    contract="bootstrap.7, bootstrap.8",
    usual_cause="The fork shares a connection, a lock or a file offset with the first process, or waits for a thread "
    "that it does not have.",
    needs=("durability.other_process",),
    processes=True,
    deadline=60,
)
async def forked_process(kit: Kit) -> None:
    if not hasattr(os, "fork"):
        raise NotEvaluated("this platform cannot fork a process")
    child = await kit.child("forked", run_id="run")
    acked: list[dict[str, Any]] = []
    async for event in child.events():
        what = f"{event.get('call')} in a process that was forked from one with an open handle"
        expect(event["event"] != "raised", f"{what} raised {event.get('error')}")
        expect(event["event"] != "hung", f"{what} did not return within {event.get('seconds')} seconds")
        if event["event"] == "acked":
            acked.append(event)
    code, stderr = await child.ended()
    expect(code == 0, f"a process that forked with an open handle ended with exit code {code}: {stderr.strip()[-300:]}")
    handle = await kit.open()
    expect(len(acked) >= 4, "a process did not go on with its handle after it had forked")
    for event in acked:
        found = await handle.read_at_step(event["run_id"], event["step"])
        there = found is not None and found.digest == event["digest"]
        expect(there, f"step {event['step']} of {event['run_id']!r}, acknowledged beside a fork, is not there")


@group.check(
    "frozen_in_write",
    "An executor that is frozen inside write(), between any two lines that change the store, and overtaken by one "
    "whose record is as long: of the two writes exactly one is acknowledged, and it is the one that is stored. Who "
    "reads meanwhile sees the run before or after, and disturbs neither.",
    contract="log.6, rule.10, read.5",
    usual_cause="The step is looked for and then written without a condition, or under one that two writers fulfil, "
    "such as the length of a file or its time; a lock is taken from an owner that seems to be dead and only sleeps; or "
    "a reader repairs what a writer has not finished.",
    version=2,
    needs=("fencing.stopped_executor",),
    processes=True,
    deadline=120,
    waits=True,
)
async def frozen_in_write(kit: Kit) -> None:
    if not hasattr(signal, "SIGSTOP"):
        raise NotEvaluated("this platform cannot stop a process")
    handle, reader = await kit.open(), await kit.open()
    stage, times = await Stage.open(kit), StandingFileTimes(kit.location)
    for before in (0, 2):
        for number, moment in enumerate(await stage.moments("write", run_id=f"recorded-{before}", size=_SIZE)):
            run_id = f"run-{before}-{number}"
            steps = chain(run_id, before) if before else []
            for checkpoint in steps:
                await handle.write(checkpoint)
            mine = payload_step(steps[-1] if steps else None, run_id, noise(kit.random, _SIZE), 2)
            times.put_back()
            theirs = await stage.freeze_at(moment, "write", run_id=run_id, size=_SIZE)
            # If the frozen one holds a lock that these wait for, it wakes up by itself.
            found = await _latest_meanwhile(kit, reader, run_id)
            refusal = await settled(partial(handle.write, mine))
            times.put_back()
            if theirs is None:
                theirs = await stage.wake()
            what = f"an executor that was frozen at {moment}, inside a write of step {before}, and overtaken"
            _before_or_after(steps, theirs, mine, refusal, found, what)
            await _one_of_two(handle, mine, refusal, theirs, what)


@group.check(
    "frozen_for_long",
    "An executor that is frozen inside write(), right before it changes the store, and overtaken by one by whose clock "
    "more than a year has passed, or as much as the server of the store accepts: of the two writes exactly one is "
    "acknowledged, and it is the one that is stored.",
    contract="log.6, rule.10",
    usual_cause="A lock or a lease that is older than a moment is taken for that of a dead process, and the append "
    "itself has no condition.",
    needs=("fencing.stopped_executor",),
    processes=True,
    deadline=60,
)
async def frozen_for_long(kit: Kit) -> None:
    if not hasattr(signal, "SIGSTOP"):
        raise NotEvaluated("this platform cannot stop a process")
    ahead, _ = await shifts_of(kit)
    handle, late, stage = await kit.open(), await kit.unready_elsewhere(clock=ahead), await Stage.open(kit)
    await late.bootstrap()
    rivals = [number for number in (kit.neighbour_id(clock=ahead),) if number is not None]
    await _begun(handle, "recorded")
    for number, moment in enumerate(await stage.moments_before_changes("write", run_id="recorded", size=_SIZE)):
        run_id = f"run-{number}"
        mine = payload_step(await _begun(handle, run_id), run_id, noise(kit.random, _SIZE), 2)
        played = await stage.freeze_at(moment, "write", run_id=run_id, size=_SIZE, rivals=rivals, patience=_PATIENCE)
        refusal = await settled(partial(late.write, mine))
        theirs = played or await stage.wake()
        what = f"an executor that was frozen at {moment}, inside write(), and overtaken by a clock {describe(ahead)}"
        await _one_of_two(handle, mine, refusal, theirs, what)


async def _begun(handle: Handle, run_id: str) -> Checkpoint:
    """Write two steps of a run; return the second."""
    steps = chain(run_id, 2)
    for checkpoint in steps:
        await handle.write(checkpoint)
    return steps[-1]


async def _latest_meanwhile(kit: Kit, reader: Handle, run_id: str) -> Checkpoint | CheckpointError | None:
    """Read a run by an open handle, and then all runs by a new one; return what is there, or why none can look."""
    newcomer = await kit.unready()
    try:
        found = await reader.read_latest(run_id)
        # An open handle may read without the lock that a new one waits for.
        await newcomer.bootstrap()
        await newcomer.list_runs()
    except CheckpointError as error:
        return error
    finally:
        await newcomer.release()
    return found


def _before_or_after(
    steps: Sequence[Checkpoint],
    theirs: Played,
    mine: Checkpoint,
    refusal: CheckpointError | None,
    found: Checkpoint | CheckpointError | None,
    what: str,
) -> None:
    """Expect that who read meanwhile saw the run as it was, or with the step of the frozen one if that is stored."""
    reading = f"read_latest({mine.run_id!r}) beside {what}"
    if isinstance(found, CheckpointError):
        expect(
            isinstance(found, StoreUnavailableError),
            f"{reading} raised {error_line(found)}; the contract wants the run as it was before or after",
        )
    elif (found and found.digest) != (steps[-1].digest if steps else None):
        expect(found is not None and found.digest in theirs.digests, f"{reading} gave a step that nobody has written")
        expect(refusal is not None, f"{reading} gave step {mine.step}, and then another one was stored in its place")


async def _one_of_two(
    handle: Handle, mine: Checkpoint, refusal: BaseException | None, theirs: Played, what: str
) -> None:
    """Expect that one of two writes of a step was acknowledged, and that it is the stored one."""
    if refusal is not None and not isinstance(refusal, CheckpointConflictError):
        raise Violation(
            f"{naming(mine)} beside {what} raised {error_line(refusal)}; the contract wants success or a conflict"
        )
    expect(
        theirs.kind in ("", "CheckpointConflictError", "StoreUnavailableError"),
        f"the write of {what} raised {theirs.error}; the contract wants CheckpointConflictError",
    )
    expect(not (theirs.acked and refusal is None), f"both writes were acknowledged: that of {what}, and the other one")
    stored = await handle.read_at_step(mine.run_id, mine.step)
    expect(stored is not None, f"{naming(mine)} beside {what}: neither of the two checkpoints is stored")
    wanted = mine.digest if refusal is None else theirs.digests[0]
    if stored is not None and stored.digest != wanted:
        raise Violation(f"step {mine.step} beside {what}: another checkpoint is stored than the acknowledged one")
    same(stored or mine, await handle.read_latest(mine.run_id), f"read_latest({mine.run_id!r}) beside {what}")
