"""BatchAppend: several steps of one run in one go; whatever happens, what is stored of them is a prefix."""

from __future__ import annotations

from typing import Final

from stargraph.checkpoint.conformance._cancelling import WAITS, cancelled_at
from stargraph.checkpoint.conformance._compare import absent, same, same_runs
from stargraph.checkpoint.conformance._expect import Violation, expect, refused
from stargraph.checkpoint.conformance._growing import grown_run
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import begin, chain, executor_id, follow, rival, rivals
from stargraph.checkpoint.conformance._staging import Stage
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = Group("batch", needs=("steps.append_and_read",), capability="batch")


async def _prefix(handle: Handle, steps: list[Checkpoint], after: str) -> int:
    """Expect that the first steps of a run are stored and none of the later ones; return how many."""
    run_id = steps[0].run_id
    count, found = await _settled(handle, steps)
    expect(count <= len(steps), f"read_latest({run_id!r}) after {after} is step {count - 1}, which was never written")
    for checkpoint, read in zip(steps, found, strict=True):
        what = f"read_at_step({run_id!r}, {checkpoint.step}) after {after}"
        if checkpoint.step < count:
            same(checkpoint, read, what)
        else:
            absent(read, f"{what}, above the latest step {count - 1}")
    return count


async def _settled(handle: Handle, steps: list[Checkpoint]) -> tuple[int, list[Checkpoint | None]]:
    """Read the steps of a run while its latest one stays the same; a call that was cancelled may still go on."""
    run_id = steps[0].run_id
    while True:
        before = await handle.read_latest(run_id)
        found = [await handle.read_at_step(run_id, checkpoint.step) for checkpoint in steps]
        after = await handle.read_latest(run_id)
        if (before and before.step) == (after and after.step):
            return 0 if after is None else after.step + 1, found


@group.check(
    "appends_all",
    "write_many appends all steps, from the start of a run or from where it stands.",
    contract="write_many.1, write_many.2",
    usual_cause="Each step is judged by the tail before the batch, or it is taken for a list.",
    version=2,
)
async def appends_all(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=60, last_status="done")
    await handle.write_many(steps[:5])
    await handle.write_many([])
    await handle.write_many(())
    await handle.write(steps[5])
    await handle.write_many(tuple(steps[6:]))
    expect(await _prefix(other, steps, "write_many of the whole run") == 60, "write_many did not store every step")
    same_runs(["run"], await other.list_runs(), "list_runs() after write_many")
    (summary,) = await handle.list_runs()
    expect(summary.last_step == 59 and summary.status == "done", f"list_runs() after write_many gave {summary!r}")


@group.check(
    "again_is_noop",
    "A batch that is stored already, or in part, can be written again.",
    contract="write_many.2, rule.3",
    usual_cause="A uniqueness error of the store comes out, or the stored part is not skipped.",
    needs=("batch.appends_all",),
)
async def again_is_noop(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=8, last_status="done")
    await handle.write_many(steps[:4])
    for part in (steps[:4], steps[1:3], steps[2:6], steps, steps, steps[-1:]):
        try:
            await handle.write_many(part)
        except CheckpointError as error:
            raise Violation(f"write_many of steps that are stored in part raised {error.message}") from error
    expect(
        await _prefix(handle, steps, "write_many of overlapping batches") == 8, "write_many did not store every step"
    )


@group.check(
    "conflict_stores_nothing",
    "A batch that conflicts at its first step raises CheckpointConflictError and stores nothing.",
    contract="write_many.2, rule.4, rule.9",
    usual_cause="Rows that are there already are ignored (ON CONFLICT DO NOTHING), and the rest is stored after them;"
    " or they are known by their executor, and not by their digest.",
    version=2,
    needs=("batch.appends_all",),
)
async def conflict_stores_nothing(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=3)
    await handle.write_many(steps)
    taken = follow(steps[-1], event="resumed", executor_id=executor_id(2))
    await other.write(taken)
    mine = [follow(steps[-1], executor_id=executor_id(1))]
    for _ in range(3):
        mine.append(follow(mine[-1]))
    await refused(
        handle.write_many(mine), "write_many after another handle took step 3", CheckpointConflictError, "step-taken"
    )
    await refused(
        handle.write_many(mine[1:]),
        "write_many of the steps after a lost one",
        CheckpointConflictError,
        "wrong-predecessor",
    )
    for other_one, whose in rivals(taken, steps[-1]):
        what = f"write_many of step 3 by {whose}"
        await refused(handle.write_many([steps[-1], other_one]), what, CheckpointConflictError, "step-taken")
    expect(await _prefix(handle, [*steps, taken], "refused batches") == 4, "a refused batch changed the run")
    absent(await other.read_at_step("run", 4), "read_at_step('run', 4) after refused batches")


@group.check(
    "conflict_in_the_middle",
    "A batch of which the first steps are stored already and the next one is another executor's raises "
    "CheckpointConflictError, and stores nothing more.",
    contract="write_many.2, rule.4",
    usual_cause="Only the first step of a batch is judged, or stored steps are skipped without comparing them.",
    needs=("batch.appends_all",),
)
async def conflict_in_the_middle(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=6)
    await handle.write_many(steps[:3])
    taken = follow(steps[2], event="resumed", executor_id=executor_id(2))
    await other.write(taken)
    what = "write_many of steps 1 to 5, of which 1 and 2 are stored and 3 is another executor's"
    await refused(handle.write_many(steps[1:]), what, CheckpointConflictError, "step-taken")
    expect(await _prefix(other, [*steps[:3], taken], what) == 4, "a refused batch changed the run")
    absent(await other.read_at_step("run", 4), f"read_at_step('run', 4) after {what}")


@group.check(
    "refusal_leaves_a_prefix",
    "A batch whose later step is refused leaves a prefix, and raises what write would have raised.",
    contract="write_many.2, write_many.3",
    usual_cause="The steps are sent side by side, or checked only against the tail before the batch.",
    needs=("batch.appends_all",),
)
async def refusal_leaves_a_prefix(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=4, last_status="done")
    beyond = [*steps, follow(steps[-1], status="running")]
    await refused(handle.write_many(beyond), "write_many that goes on after the end", CheckpointError, "run-ended")
    expect(await _prefix(other, beyond, "a batch that went on after the end") <= 4, "a step after the end was stored")
    await handle.write_many(steps)
    late = chain("late", 5)
    await refused(handle.write_many(late[2:]), "write_many that begins with step 2", CheckpointError, "step-gap")
    absent(await other.read_latest("late"), "read_latest('late') after a batch with a gap was refused")


@group.check(
    "invalid_batch_refused",
    'Steps that do not follow one another, or belong to two runs, are refused (reason "invalid-batch"); nothing is '
    "stored.",
    contract="write_many.1",
    usual_cause="check_batch was not called.",
    needs=("batch.appends_all",),
)
async def invalid_batch_refused(kit: Kit) -> None:
    handle = await kit.open()
    steps, other = chain(length=4), chain("other", 4)
    batches = {
        "a gap": [steps[0], steps[2]],
        "another order": [steps[1], steps[0]],
        "the same step twice": [steps[0], steps[0]],
        "two runs": [steps[0], other[1]],
        "another predecessor": [steps[0], follow(rival(steps[0], None))],
    }
    for name, batch in batches.items():
        await refused(handle.write_many(batch), f"write_many with {name}", CheckpointError, "invalid-batch")
        absent(await handle.read_latest("run"), f"read_latest('run') after write_many with {name}")
    forged = [steps[0], steps[1].model_copy(update={"status": "done"})]
    await refused(
        handle.write_many(forged), "write_many with an altered checkpoint", CheckpointError, "invalid-checkpoint"
    )
    expect(
        await _prefix(handle, steps[:1], "a batch with an altered checkpoint") <= 1, "an altered checkpoint was stored"
    )


@group.check(
    "cancelled",
    "A batch that is cancelled, at whichever await, leaves a prefix and a usable handle.",
    contract="write_many.3, capability.3",
    usual_cause="The steps are sent side by side, or the transaction stays open.",
    needs=("batch.appends_all", "batch.again_is_noop"),
    deadline=60,
)
async def cancelled(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    number = 0
    for wait in WAITS:
        for point in range(200):
            number += 1
            steps = chain(f"run-{number}", 5)
            reached = await cancelled_at(handle.write_many(steps), point, wait)
            what = f"a batch that was cancelled at await {point + 1}"
            await _prefix(other, steps, what)
            await handle.write_many(steps)
            expect(await _prefix(other, steps, what) == 5, f"write_many again after {what} did not store every step")
            if not reached:
                break


@group.check(
    "readers_see_prefixes",
    "Whoever reads while a batch is written sees a prefix of it.",
    contract="write_many.3",
    usual_cause="The latest step is published before the steps below it.",
    needs=("batch.appends_all",),
)
async def readers_see_prefixes(kit: Kit) -> None:
    import asyncio

    writer, reader = await kit.open(), await kit.open()
    for number in range(6):
        steps = chain(f"run-{number}", 20)
        task = asyncio.ensure_future(writer.write_many(steps))
        while not task.done():
            latest = await reader.read_latest(steps[0].run_id)
            for step in range(latest.step + 1 if latest else 0):
                found = await reader.read_at_step(steps[0].run_id, step)
                what = f"read_at_step({steps[0].run_id!r}, {step}) while a batch is written"
                same(steps[step], found, what)
            await asyncio.sleep(0)
        await task
    await writer.write(begin("last"))


@group.check(
    "killed",
    "A process that is killed inside write_many, between any two lines that change the store, leaves a prefix of the "
    "batch, and the batch can be written again.",
    contract="write_many.3, capability.5",
    usual_cause="The latest step, or a summary of the whole batch, is stored before the steps below it.",
    needs=("batch.again_is_noop", "durability.other_process"),
    processes=True,
    deadline=60,
)
async def killed(kit: Kit) -> None:
    handle = await kit.open()
    stage = await Stage.open(kit)
    for number, moment in enumerate(await stage.moments("write_many", run_id="recorded", size=3000)):
        run_id = f"run-{number}"
        played = await stage.kill_at(moment, "write_many", run_id=run_id, size=3000)
        what = f"a process was killed at {moment}, inside write_many"
        latest = await handle.read_latest(run_id)
        count = 0 if latest is None else latest.step + 1
        expect(count <= 4, f"read_latest({run_id!r}) after {what} is step {count - 1}, which was never written")
        expect(count == 4 or not played.acked, f"only {count} of 4 steps are there after {what}, and it had returned")
        for step, digest in enumerate(played.digests):
            found = await handle.read_at_step(run_id, step)
            if step >= count:
                absent(found, f"read_at_step({run_id!r}, {step}) after {what}, above the latest step {count - 1}")
            elif found is None or found.digest != digest:
                raise Violation(f"read_at_step({run_id!r}, {step}) after {what} gave no or another checkpoint")
        await handle.write(begin(run_id) if latest is None else follow(latest, executor_id=executor_id(2)))


@group.check(
    "growing_steps",
    "Batches of a growing run, and single steps between them, read back exactly at each step.",
    contract="write_many.2, value.1",
    usual_cause="Each step of a batch is stored as its difference from the step before the batch.",
    needs=("batch.again_is_noop", "growth.every_kind_of_change"),
)
async def growing_steps(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = grown_run(kit.random, 50)
    start = 0
    while start < len(steps):
        end = start + kit.random.choice((1, 2, 5, 11))
        writer = kit.random.choice((handle, other))
        if end == start + 1:
            await writer.write(steps[start])
        else:
            # A batch may begin with what is stored already.
            await writer.write_many(steps[max(0, start - 2) : end])
        start = end
    expect(await _prefix(await kit.open(), steps, "batches of a growing run") == 50, "write_many did not store all")
