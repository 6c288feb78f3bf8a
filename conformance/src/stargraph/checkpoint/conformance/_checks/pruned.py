"""PrunedStart: begin a run with what a prune has left of it."""

from __future__ import annotations

from typing import Any, Final

from stargraph.checkpoint.conformance._cancelling import WAITS, cancelled_at
from stargraph.checkpoint.conformance._compare import (
    absent,
    rows_of,
    same,
    same_rows,
    same_runs,
    same_steps,
    same_summary,
)
from stargraph.checkpoint.conformance._expect import Violation, attempt, expect, refused, together
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import INDEXED, begin, chain, executor_id, follow, rival
from stargraph.checkpoint.conformance._staging import Stage
from stargraph.checkpoint.conformance._views import Book, agree
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = Group("pruned", needs=("steps.append_and_read",), capability="pruned-start")

_LEFT: Final = (2, 5, 8)
"""The steps that a prune has left of the runs of these checks; the last one is the floor."""


def _left(steps: list[Checkpoint], *, kept: tuple[int, ...] = _LEFT) -> list[Checkpoint]:
    return [steps[step] for step in kept]


async def _holds(handle: Handle, steps: list[Checkpoint], kept: tuple[int, ...], after: str) -> None:
    """Expect the steps that are kept, each of them whole, and no others."""
    run_id = steps[0].run_id
    for step, checkpoint in enumerate(steps):
        what = f"read_at_step({run_id!r}, {step}) after {after}"
        found = await handle.read_at_step(run_id, step)
        if step in kept:
            same(checkpoint, found, what)
        else:
            absent(found, what)
    same(steps[kept[-1]], await handle.read_latest(run_id), f"read_latest({run_id!r}) after {after}")


@group.check(
    "started",
    "start_pruned begins a run with the steps that are given, which every handle then sees, and the run goes on from "
    "the last of them.",
    contract="start_pruned.1",
    usual_cause="Only the latest step is stored, or the row of the run is made as for step 0.",
)
async def started(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=12, metadata={"team": "kit"})
    await handle.start_pruned(_left(steps))
    for reader in (handle, other):
        await _holds(reader, steps, _LEFT, "start_pruned")
        listed = await reader.list_runs()
        same_runs(["run"], listed, "list_runs() after start_pruned")
        same_summary(steps[8], listed[0], "list_runs() after start_pruned")
    await other.write(steps[9])
    await handle.write(steps[10])
    await _holds(other, steps, (*_LEFT, 9, 10), "start_pruned and two steps")
    if "keys" in kit.declared:
        keyed = [begin("keyed")]
        for number in range(6):
            keyed.append(follow(keyed[-1], key=f"key-{number}"))
        await handle.start_pruned(_left(keyed, kept=(2, 5)))
        same(keyed[2], await other.read_at_key("keyed", "key-1"), "read_at_key of a step below the floor")
        same(keyed[5], await other.read_at_key("keyed", "key-4"), "read_at_key of the floor")
        absent(await other.read_at_key("keyed", "key-2"), "read_at_key of a step that was not among those given")
    whole = chain("from-the-start", 6)
    await handle.start_pruned(_left(whole, kept=(0, 4)))
    await _holds(other, whole, (0, 4), "start_pruned with step 0 and step 4")
    if "search" in kit.declared:
        page = await other.search(metadata={"team": "kit"})
        same_runs(["run"], page.items, "search by a tag of a run that start_pruned began")


@group.check(
    "slots_below_are_taken",
    'What is missing below the floor can never be written, by no handle: reason "pruned".',
    contract="start_pruned.2, write.7, rule.6",
    usual_cause="The floor is not stored, so that an executor begins the run a second time, or fills a gap.",
    needs=("pruned.started",),
)
async def slots_below_are_taken(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    runs = {(2, 5, 8): chain("run", 12), (0, 5, 8): chain("with-step-0", 12)}
    for kept, steps in runs.items():
        await handle.start_pruned(_left(steps, kept=kept))
        for writer in (handle, other, await kit.open()):
            for step in range(8):
                before = steps[step - 1] if step else None
                if step in kept:
                    await writer.write(steps[step])
                    stranger = rival(steps[step], before)
                    what = f"{naming(stranger)} by another executor, below the floor"
                    await refused(writer.write(stranger), what, CheckpointConflictError, "step-taken", stranger)
                    continue
                for checkpoint in (steps[step], rival(steps[step], before)):
                    what = f"{naming(checkpoint)}, which is missing below the floor"
                    await refused(writer.write(checkpoint), what, CheckpointError, "pruned", checkpoint)
        await _holds(await kit.open(), steps, kept, "refused writes below the floor")


@group.check(
    "again_is_noop",
    "start_pruned again with the same steps does nothing, also once the run has gone on, from any handle.",
    contract="start_pruned.1, rule.3",
    usual_cause="A row that is there already is refused without a look at what it says.",
    needs=("pruned.started",),
)
async def again_is_noop(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=12)
    for writer in (handle, handle, other):
        await writer.start_pruned(_left(steps))
    await handle.write(steps[9])
    for writer in (handle, other):
        await writer.start_pruned(_left(steps))
    await other.write(steps[10])
    await _holds(handle, steps, (*_LEFT, 9, 10), "start_pruned again")


@group.check(
    "another_run_refused",
    "A run that is there with other steps, or was deleted, is refused and stays as it was; so is what no prune leaves.",
    contract="start_pruned.1, rule.4, rule.2",
    usual_cause="The steps are put beside those that are there, or in their place.",
    needs=("pruned.started",),
)
async def another_run_refused(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=12)
    strange = [begin("run", executor_id=executor_id(7))]
    for _ in range(11):
        strange.append(follow(strange[-1]))
    whole = chain("whole", 4)
    for checkpoint in whole:
        await handle.write(checkpoint)
    longer = [*whole]
    for _ in range(4):
        longer.append(follow(longer[-1]))
    await handle.start_pruned(_left(steps))
    cases = {
        "another executor's run": _left(strange),
        "a higher floor": _left(steps, kept=(2, 5, 10)),
        "another step below the floor": _left(steps, kept=(3, 5, 8)),
        "a run that is there from step 0": [longer[1], longer[6]],
    }
    for name, given in cases.items():
        for writer in (handle, other):
            await refused(
                writer.start_pruned(given), f"start_pruned with {name}", CheckpointConflictError, "run-exists"
            )
    await _holds(other, steps, _LEFT, "refused starts")
    await _holds(other, whole, (0, 1, 2, 3), "refused starts")
    ended = [begin("bad")]
    ended += [follow(ended[-1], status="done"), *chain("bad", 6)[2:]]
    fresh = chain("bad", 9)
    wrong = {
        "no step": [],
        "step 0 alone": fresh[:1],
        "steps of two runs": [fresh[2], steps[8]],
        "steps in the wrong order": [fresh[5], fresh[2], fresh[8]],
        "a step twice": [fresh[2], fresh[2], fresh[8]],
        "a step that does not follow the one before": [rival(fresh[2], fresh[1]), fresh[3], fresh[8]],
        "the step before the last one": [fresh[2], fresh[7], fresh[8]],
    }
    for name, given in wrong.items():
        await refused(handle.start_pruned(given), f"start_pruned with {name}", CheckpointError, "invalid-batch")
    what = "start_pruned with a step after the end"
    await refused(handle.start_pruned([ended[1], ended[3]]), what, CheckpointError, "run-ended")
    forged = fresh[8].model_copy(update={"last_node": "forged"})
    what = "start_pruned with an altered step"
    await refused(handle.start_pruned([fresh[2], forged]), what, CheckpointError, "invalid-checkpoint")
    absent(await other.read_latest("bad"), "read_latest('bad') after refused starts")
    if "deletion" in kit.declared:
        await handle.delete_run("run")
        for writer in (handle, other):
            what = "start_pruned of a deleted run"
            await refused(writer.start_pruned(_left(steps)), what, CheckpointError, "run-deleted")
        absent(await other.read_latest("run"), "read_latest('run') of a deleted run")


@group.check(
    "high_steps",
    "Steps beyond 32 bits are kept as any other, up to 2^34-1; a higher one is kept or refused, beside other runs.",
    contract="log.17, start_pruned.1",
    usual_cause="The column of the step is an INT, a name has ten digits, or the step shares a number with the run.",
    needs=("pruned.started",),
)
async def high_steps(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    neighbour = chain("other", 7)
    for checkpoint in neighbour:
        await handle.write(checkpoint)
    for high in (2**31 - 1, 2**32 + 5, 2**34 - 2):
        run_id = f"run-{high}"
        steps = [_at(high - 3, run_id), _at(high, run_id, key="k")]
        await handle.start_pruned(steps)
        steps.append(follow(steps[-1]))
        await other.write(steps[-1])
        for reader in (handle, other):
            same(steps[-1], await reader.read_latest(run_id), f"read_latest({run_id!r})")
            for checkpoint in steps:
                what = f"read_at_step({run_id!r}, {checkpoint.step})"
                same(checkpoint, await reader.read_at_step(run_id, checkpoint.step), what)
            absent(await reader.read_at_step(run_id, high % 2**30), f"read_at_step({run_id!r}, {high % 2**30})")
            if "history" in kit.declared:
                same_steps(steps, [found async for found in reader.history(run_id)], f"history({run_id!r})")
            if "timeline" in kit.declared:
                same_rows(rows_of(steps), await reader.timeline(run_id), f"timeline({run_id!r})")
            if "keys" in kit.declared:
                same(steps[1], await reader.read_at_key(run_id, "k"), f"read_at_key({run_id!r}, 'k')")
    beyond = [_at(2**34 + 2, "beyond"), _at(2**34 + 5, "beyond")]
    refusal = await attempt(handle.start_pruned(beyond))
    if refusal is None:
        same(beyond[1], await other.read_latest("beyond"), "read_latest('beyond')")
    else:
        expect(
            refusal.reason == "invalid-checkpoint",
            f"start_pruned at step {2**34 + 5} raised {refusal!r}; the contract wants 'invalid-checkpoint'",
        )
        absent(await other.read_latest("beyond"), "read_latest('beyond'), which was refused")
    for checkpoint in neighbour:
        what = f"read_at_step('other', {checkpoint.step}) beside runs with high steps"
        same(checkpoint, await other.read_at_step("other", checkpoint.step), what)


def _at(step: int, run_id: str, **fields: Any) -> Checkpoint:
    """A checkpoint at a step, however high, as if all those before it had been written."""
    return follow(begin(run_id).model_copy(update={"step": step - 1}), **fields)


@group.check(
    "cancelled",
    "A start that is cancelled, at whichever await, leaves the run unknown or whole, and the same call finishes it.",
    contract="start_pruned.1, capability.3",
    usual_cause="The steps are stored one after another, and the run shows before the last one.",
    needs=("pruned.again_is_noop",),
    deadline=60,
)
async def cancelled(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    number = 0
    for wait in WAITS:
        for point in range(200):
            number += 1
            steps = chain(f"run-{number}", 10)
            reached = await cancelled_at(handle.start_pruned(_left(steps)), point, wait)
            what = f"a start that was cancelled at await {point + 1}"
            latest = await other.read_latest(steps[0].run_id)
            if latest is not None:
                await _holds(other, steps, _LEFT, what)
            await handle.start_pruned(_left(steps))
            await handle.write(steps[9])
            await _holds(other, steps, (*_LEFT, 9), f"start_pruned again after {what}")
            if not reached:
                break


@group.check(
    "one_start_wins",
    "Of several starts of a run at once, some with step 0 and some pruned, one succeeds, and nothing of the others is "
    "stored.",
    contract="start_pruned.1, write.7",
    usual_cause="Whether the run is there is looked up first, and the steps are stored later.",
    needs=("pruned.another_run_refused",),
)
async def one_start_wins(kit: Kit) -> None:
    handles = [await kit.open() for _ in range(4)]
    for number in range(12):
        run_id = f"run-{number}"
        runs = []
        for executor in range(4):
            steps = [begin(run_id, executor_id=executor_id(executor + 1))]
            for _ in range(9):
                steps.append(follow(steps[-1]))
            runs.append(steps)
        kept = [(2, 5, 8), (0, 3, 6), (4, 9), (0,)]
        calls = [
            handle.start_pruned(_left(steps, kept=left)) if left != (0,) else handle.write(steps[0])
            for handle, steps, left in zip(handles, runs, kept, strict=True)
        ]
        kit.random.shuffle(calls)
        outcomes = await together(*(attempt(call) for call in calls))
        what = f"four starts of {run_id!r} at once"
        expect(outcomes.count(None) == 1, f"{what}: {outcomes.count(None)} succeeded; the contract wants 1")
        latest = await handles[0].read_latest(run_id)
        if latest is None:
            raise Violation(f"read_latest({run_id!r}) after {what}, of which one succeeded, gave None")
        (won,) = [place for place, steps in enumerate(runs) if steps[0].executor_id == latest.executor_id]
        await _holds(await kit.open(), runs[won], kept[won], what)


@group.check(
    "killed",
    "A process that is killed inside start_pruned, between any two lines that change the store, leaves the run unknown "
    "or whole, and the same call finishes it.",
    contract="start_pruned.1, capability.5",
    usual_cause="The row of the run, or the latest step, is stored before the steps below it.",
    needs=("pruned.again_is_noop", "durability.other_process"),
    processes=True,
    deadline=60,
)
async def killed(kit: Kit) -> None:
    handle, book = await kit.open(), Book()
    stage = await Stage.open(kit)
    for number, moment in enumerate(await stage.moments("start_pruned", run_id="recorded")):
        run_id = f"run-{number}"
        played = await stage.kill_at(moment, "start_pruned", run_id=run_id)
        what = f"a process was killed at {moment}, inside start_pruned"
        steps = chain(run_id, 10, keys=("a", "b"), **INDEXED)
        latest = await handle.read_latest(run_id)
        expect(
            latest is not None or not played.acked, f"read_latest({run_id!r}) after {what} gave None; it had returned"
        )
        if latest is not None:
            await _holds(handle, steps, _LEFT, what)
        await handle.start_pruned(_left(steps))
        await handle.write(steps[9])
        await _holds(handle, steps, (*_LEFT, 9), f"start_pruned again after {what}")
        book.runs[run_id], book.floors[run_id] = steps, {*_LEFT, 9}
    recorded = chain("recorded", 9, keys=("a", "b"), **INDEXED)
    book.runs["recorded"], book.floors["recorded"] = recorded, set(_LEFT)
    await agree(handle, book, kit.declared, "after processes were killed inside start_pruned, and it was called again")
