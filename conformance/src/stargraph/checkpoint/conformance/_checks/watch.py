"""RunWatch: the latest step of a run each time that it has grown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Final

from stargraph.checkpoint.conformance._expect import Violation, attempt, expect
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, begin, chain, executor_id, follow
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError

group: Final = Group("watch", needs=("steps.append_and_read", "durability.other_handle"), capability="watch")

_IDLE: Final = 0.12
"""Seconds of the processor that ten watches may take in a second: twenty times what the drivers here do."""

_QUIET: Final = 1.2
"""Seconds after which a watch that tells too much has told it: most look once more by then."""


async def _told(kit: Kit, watch: AsyncGenerator[int], step: int, what: str) -> None:
    """Expect that a watch comes to a step, each time with a higher one, and goes no further."""
    before = -1
    while before < step:
        try:
            found = await asyncio.wait_for(anext(watch), kit.patience)
        except TimeoutError:
            raise Violation(f"{what}: step {step} was not told within {kit.patience:.0f} s") from None
        expect(before < found <= step, f"{what}: it told step {found} after step {before}, and the latest is {step}")
        before = found


async def _silent(watch: AsyncGenerator[int], what: str, seconds: float = _QUIET) -> asyncio.Task[int]:
    """Expect that a watch tells nothing for a while; return what goes on waiting."""
    coming = asyncio.ensure_future(_next(watch))
    done, _ = await asyncio.wait({coming}, timeout=seconds)
    if done:
        raise Violation(f"{what}: it told step {coming.result()}, and there was nothing to tell")
    return coming


async def _first(kit: Kit, coming: asyncio.Task[int], what: str) -> int:
    """Return what a watch tells next."""
    try:
        return await asyncio.wait_for(coming, kit.patience)
    except TimeoutError:
        raise Violation(f"{what}: no step was told within {kit.patience:.0f} s") from None


async def _next(watch: AsyncGenerator[int]) -> int:
    return await anext(watch)


async def _all_told(kit: Kit, watches: Sequence[AsyncGenerator[int]], step: int, what: str) -> None:
    """Hear all watches out, also if one is wrong: one that is being read cannot be closed."""
    for outcome in await asyncio.gather(*(_told(kit, watch, step, what) for watch in watches), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _ended(coming: asyncio.Task[int]) -> None:
    coming.cancel()
    await asyncio.wait({coming})


@group.check(
    "steps",
    "A watch tells the latest step at once, and then each time that the run has grown: by its own handle, by another "
    "one, and by another process.",
    contract="watch.1, watch.2",
    usual_cause="It listens to its own handle's writes, or reads a cache that only those refresh.",
)
async def steps(kit: Kit) -> None:
    handle, other, far = await kit.open(), await kit.open(), await kit.elsewhere()
    latest = begin()
    await handle.write(latest)
    async with aclosing(handle.watch("run")) as watch:
        await _told(kit, watch, 0, "a watch of a run that is there")
        for number, writer in enumerate((other, far, handle, far, other)):
            for _ in range(1 + number % 3):
                latest = follow(latest)
                await writer.write(latest)
            name = (
                ("its own handle" if writer is handle else "another handle") if writer is not far else "another process"
            )
            await _told(kit, watch, latest.step, f"a watch after {name} wrote")
    latest = follow(latest)
    await handle.write(latest)  # the handle is as good as before


@group.check(
    "after_step",
    "A watch that begins behind a step tells later ones only, and misses none that came before it began.",
    contract="watch.1, watch.2",
    usual_cause="after_step is ignored, or the first look is taken for the state from which changes count.",
)
async def after_step(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    run = chain(length=6)
    for checkpoint in run[:4]:
        await handle.write(checkpoint)
    for known in (-1, 0, 2):
        async with aclosing(handle.watch("run", after_step=known)) as watch:
            await _told(kit, watch, 3, f"watch(after_step={known}) of a run at step 3")
    async with aclosing(handle.watch("run", after_step=3)) as watch:
        coming = await _silent(watch, "watch(after_step=3) of a run at step 3", _QUIET if kit.thorough else 0.1)
        await other.write(run[4])
        await other.write(run[5])
        found = await _first(kit, coming, "watch(after_step=3)")
        expect(found in (4, 5), f"watch(after_step=3) told step {found} of a run that went on to step 5")
        if found == 4:
            await _told(kit, watch, 5, "watch(after_step=3)")


@group.check(
    "never_ends",
    "A watch begins before the run does, and outlives its failure, its end and its deletion; no refused write shows.",
    contract="watch.2, watch.3",
    usual_cause="It ends with the status of the run, or tells what was about to be written.",
    quick=False,
    waits=True,
)
async def never_ends(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    first = begin()
    failed = follow(first, event="failed", status="failed")
    resumed = follow(failed, event="resumed", status="running")
    done = follow(resumed, status="done")
    async with aclosing(handle.watch("run")) as watch:
        coming = await _silent(watch, "a watch of a run that is not there")
        await other.write(first)
        found = await _first(kit, coming, "a watch of a run that has just begun")
        expect(found == 0, f"a watch of a run that has just begun told step {found}")
        for checkpoint in (failed, resumed, done):
            await other.write(checkpoint)
            await _told(kit, watch, checkpoint.step, f"a watch after the run was {checkpoint.status}")
        rival = follow(resumed, executor_id=executor_id(7))
        refusal = await attempt(other.write(rival))
        expect(isinstance(refusal, CheckpointConflictError), f"a rival of step 3 was not refused: {refusal!r}")
        coming = await _silent(watch, "a watch after a write was refused")
        if "deletion" in kit.declared:
            await other.delete_run("run")
            await asyncio.sleep(_QUIET)
            expect(not coming.done(), "a watch of a run that was deleted has ended, or told something")
        await _ended(coming)


@group.check(
    "closed",
    "A watch of a handle that is closed raises closed; one that is left holds nothing.",
    contract="watch.3, close.4",
    usual_cause="It goes on by itself with a connection of its own, or ends as if there were nothing more to come.",
)
async def closed(kit: Kit) -> None:
    if "closing" not in kit.declared:
        return
    handle = await kit.open()
    await handle.write(begin())
    watch = handle.watch("run")
    await _told(kit, watch, 0, "a watch")
    await handle.close()
    try:
        refusal = await asyncio.wait_for(attempt(_next(watch)), kit.patience)
    except TimeoutError:
        raise Violation(f"a watch of a closed handle raised nothing within {kit.patience:.0f} s") from None
    reason = refusal.reason if isinstance(refusal, CheckpointError) else None
    expect(reason == "closed", f"a watch of a closed handle gave {refusal!r}; the contract wants closed")
    await watch.aclose()


@group.check(
    "pruned",
    "A watch of a run that was pruned tells its latest step, and goes on from there.",
    contract="watch.1, watch.2",
    usual_cause="Steps are counted, and a prune has left fewer of them than the latest one has below it.",
)
async def pruned(kit: Kit) -> None:
    if "deletion" not in kit.declared:
        return
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=24, last_status="failed")
    for checkpoint in steps:
        await handle.write(checkpoint)
    report = await other.prune(older_than=LATER, statuses=["failed"], keep_last=2)
    expect(report.checkpoints > 0, f"prune(keep_last=2) of a run of 24 steps reported {report}")
    resumed = follow(steps[-1], event="resumed", status="running")
    async with aclosing(handle.watch("run")) as watch:
        await _told(kit, watch, 23, "a watch of a run that was pruned")
        await other.write(resumed)
        await _told(kit, watch, 24, "a watch of a run that was pruned, and went on")


@group.check(
    "every_way_in",
    "A watch reports steps that came in a batch, and a run that start_pruned began, none that is not stored.",
    contract="watch.1, watch.2",
    usual_cause="write alone tells the watches, or each number up to the latest step is told.",
)
async def every_way_in(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=9)
    latest = 0
    await handle.write(steps[0])
    async with aclosing(handle.watch("run")) as watch:
        await _told(kit, watch, 0, "a watch of a run that is there")
        if "batch" in kit.declared:
            for writer, first in ((other, 1), (handle, 4)):
                await writer.write_many(steps[first : first + 3])
                latest = first + 2
                await _told(kit, watch, latest, "a watch after a batch of three steps")
        await other.write(steps[latest + 1])
        await _told(kit, watch, latest + 1, "a watch after a write")
    if "pruned-start" not in kit.declared:
        return
    moved = chain("moved", 10)
    async with aclosing(handle.watch("moved")) as watch:
        coming = await _silent(watch, "a watch of an unknown run", 0.05)
        await other.start_pruned([moved[2], moved[5], moved[8]])
        told = await _first(kit, coming, "a watch after start_pruned")
        expect(told == 8, f"a watch after start_pruned told step {told}; the latest is 8")
        await other.write(moved[9])
        await _told(kit, watch, 9, "a watch after start_pruned and a write")


@group.check(
    "many",
    "Many watches of one handle, of one run and of many, each tell all there is.",
    contract="watch.1, capability.6",
    usual_cause="One watch takes what another one waits for, or each holds a connection, of which there are few.",
)
async def many(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs = [chain(f"run-{number % 6}", 3) for number in range(24)]
    for run in runs[:6]:
        await other.write(run[0])
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(aclosing(handle.watch(run[0].run_id))) for run in runs]
        await _all_told(kit, watches, 0, "one of 24 watches")
        for run in runs[:6]:
            await other.write(run[1])
            await handle.write(run[2])
        await _all_told(kit, watches, 2, "one of 24 watches")


@group.check(
    "idle",
    "Watches of runs that do not move take little of the processor, however large the states are.",
    contract="watch.4",
    usual_cause="It looks without a pause, or reads the latest checkpoint to learn its number.",
    quick=False,
    waits=True,
)
async def idle(kit: Kit) -> None:
    handle = await kit.open()
    await handle.write(begin(state={"text": kit.random.randbytes(500_000).hex()}))
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(aclosing(handle.watch("run"))) for _ in range(10)]
        await _all_told(kit, watches, 0, "a watch")
        waiting = [asyncio.ensure_future(_next(watch)) for watch in watches]
        await asyncio.sleep(1)  # it may look more often at first
        began = time.process_time()
        await asyncio.sleep(1)
        taken = time.process_time() - began
        moved = any(coming.done() for coming in waiting)
        for coming in waiting:
            await _ended(coming)
        expect(not moved, "a watch of a run that does not move has ended, or told something")
    expect(taken < _IDLE, f"10 idle watches took {taken:.2f} s of the processor in a second")


@group.check(
    "outage",
    "A watch outlives an outage, or raises StoreUnavailableError; behind the last step that it told nothing is missed.",
    contract="watch.2, watch.3, bootstrap.9",
    usual_cause="An error of a look is swallowed for good, or the run reads as gone and is reported again.",
    capability="outage",
    quick=False,
    waits=True,
)
async def outage(kit: Kit) -> None:
    hook = kit.target.outage
    if "watch" not in kit.declared or hook is None:
        return
    handle = await kit.open()
    latest = begin()
    await handle.write(latest)
    watch: AsyncGenerator[int] = handle.watch("run")
    await _told(kit, watch, 0, "a watch")
    coming = asyncio.ensure_future(_next(watch))
    async with hook(kit.location):
        await asyncio.wait({coming}, timeout=_QUIET)
    writer: Handle = await kit.open()
    latest = follow(latest)
    await writer.write(latest)
    try:
        found = await _first(kit, coming, "a watch after an outage")
    except StoreUnavailableError:
        await watch.aclose()
        watch = (await kit.open()).watch("run", after_step=0)
        await _told(kit, watch, 1, "a watch after an outage")
    else:
        expect(found == 1, f"a watch after an outage told step {found}; the run is at step 1")
    await watch.aclose()
