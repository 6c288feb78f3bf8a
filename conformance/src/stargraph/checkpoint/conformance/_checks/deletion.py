"""RunDeletion: what delete_run and prune remove, and what they refuse; `survivors` looks at what is left."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import Final, get_args

from stargraph.checkpoint.conformance._checks.corruption import refuses_lost_step
from stargraph.checkpoint.conformance._compare import absent, same, same_runs, show
from stargraph.checkpoint.conformance._expect import Violation, attempt, expect, refused, refused_argument
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, NOON, begin, chain, follow
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    Checkpoint,
    FanOut,
    PruneReport,
    Status,
    StepRange,
    Task,
)
from stargraph.errors import CheckpointError

group: Final = Group("deletion", needs=("steps.append_and_read",), capability="deletion")

FAILED: Final[tuple[Status, ...]] = ("failed",)
RUNNING: Final[tuple[Status, ...]] = ("running",)


async def write_runs(handle: Handle, *runs: list[Checkpoint]) -> None:
    """Write all steps of some runs."""
    for steps in runs:
        for checkpoint in steps:
            await handle.write(checkpoint)


async def steps_there(handle: Handle, steps: list[Checkpoint], after: str) -> set[int]:
    """Return the steps of a run that are still there, each of them whole."""
    kept = set()
    for checkpoint in steps:
        found = await handle.read_at_step(checkpoint.run_id, checkpoint.step)
        if found is not None:
            same(checkpoint, found, f"read_at_step({checkpoint.run_id!r}, {checkpoint.step}) after {after}")
            kept.add(checkpoint.step)
    return kept


@group.check(
    "delete_run",
    "delete_run removes one run, says whether it was there, and touches no other run.",
    contract="delete_run.1, delete_run.2",
    usual_cause="Only the latest step or only the index goes, or runs with the same prefix go too.",
)
async def delete_run(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    run, longer, shorter = chain("run"), chain("run:2"), chain("ru")
    await write_runs(handle, run, longer, shorter)
    expect(await handle.delete_run("run") is True, "delete_run('run') of a run that was there gave False")
    for reader in (handle, other):
        absent(await reader.read_latest("run"), "read_latest('run') after delete_run('run')")
        for step in range(3):
            absent(await reader.read_at_step("run", step), f"read_at_step('run', {step}) after delete_run('run')")
        same_runs(["ru", "run:2"], await reader.list_runs(), "list_runs() after delete_run('run')")
        for steps in (longer, shorter):
            same(steps[-1], await reader.read_latest(steps[0].run_id), "read_latest of another run")
            expect(
                await steps_there(reader, steps, "delete_run('run')") == {0, 1, 2},
                "delete_run('run') took another run's step",
            )
    expect(await handle.delete_run("run") is False, "delete_run('run') of a deleted run gave True")
    expect(await handle.delete_run("nobody") is False, "delete_run('nobody') of an unknown run gave True")


@group.check(
    "stays_deleted",
    'A deleted run takes no further checkpoint, from no handle: reason "run-deleted".',
    contract="rule.2, write.8, write.9",
    usual_cause="The rows are removed and nothing remembers the run, so an executor that lives on starts it again.",
)
async def stays_deleted(kit: Kit) -> None:
    handle, executor_handle = await kit.open(), await kit.open()
    steps = chain()
    await write_runs(executor_handle, steps)
    await handle.delete_run("run")
    for checkpoint in (follow(steps[-1]), steps[-1], steps[0]):
        for writer in (executor_handle, handle):
            what = f"{naming(checkpoint)} of a deleted run"
            await refused(writer.write(checkpoint), what, CheckpointError, "run-deleted", checkpoint)
    await handle.bootstrap()
    newcomer = await kit.open()
    what = f"{naming(steps[0])} of a deleted run, by a new handle"
    await refused(newcomer.write(steps[0]), what, CheckpointError, "run-deleted", steps[0])
    absent(await newcomer.read_latest("run"), "read_latest('run') of a deleted run")
    same_runs([], await newcomer.list_runs(), "list_runs() after the only run was deleted")


@group.check(
    "prune_keeps_last",
    "prune keeps the last n checkpoints whole, and reports what is gone.",
    contract="prune.1",
    usual_cause="An off-by-one in the step to cut at, or a count that is not that of the removed rows.",
)
async def prune_keeps_last(kit: Kit) -> None:
    for keep in (1, 3, 10):
        handle = await kit.open(await kit.fresh_location())
        steps = chain(length=6, last_status="done")
        await write_runs(handle, steps)
        report = await handle.prune(older_than=LATER, keep_last=keep)
        after = f"prune(keep_last={keep})"
        kept = await steps_there(handle, steps, after)
        expect(set(range(6)[-keep:]) <= kept, f"{after} of 6 steps left only the steps {sorted(kept)}")
        _agrees(report, [6 - len(kept)], after)
        same(steps[-1], await handle.read_latest("run"), f"read_latest('run') after {after}")
        same_runs(["run"], await handle.list_runs(), f"list_runs() after {after}")
        again = await handle.prune(older_than=LATER, keep_last=keep)
        _agrees(again, [0], f"a second {after}")


def _agrees(report: PruneReport, gone: list[int], after: str, *, dry_run: bool = False) -> None:
    """Expect the report of a prune to say how many steps of each run are gone."""
    wanted = PruneReport(runs=sum(number > 0 for number in gone), checkpoints=sum(gone), dry_run=dry_run)
    expect(report == wanted, f"{after} reported {show(report)}; the store says {show(wanted)}")


@group.check(
    "prune_one_run",
    "prune(run_id=…) touches that run alone, and only if the rest of the rule fits it too.",
    contract="prune.3",
    usual_cause="The run id is one more reason to prune instead of one more condition, or is matched by its beginning.",
)
async def prune_one_run(kit: Kit) -> None:
    handle = await kit.open()
    # Long enough that something of it goes, whatever else a driver has to keep.
    lengths = {"run": 100, "run:2": 5, "ru": 5}
    runs = {name: chain(name, length=length, last_status="done") for name, length in lengths.items()}
    await write_runs(handle, *runs.values())
    for run_id, why in (("nobody", "of an unknown run"), ("run%", "of a pattern")):
        report = await handle.prune(older_than=LATER, run_id=run_id)
        _agrees(report, [], f"prune(run_id={run_id!r}) {why}")
    report = await handle.prune(older_than=NOON, run_id="run")
    _agrees(report, [], "prune(run_id='run') of a run whose last step is not older")
    report = await handle.prune(older_than=LATER, statuses=FAILED, run_id="run")
    _agrees(report, [], "prune(run_id='run', statuses=('failed',)) of a run that is done")
    report = await handle.prune(older_than=LATER, run_id="run", dry_run=True)
    expect(report.runs == 1, f"prune(run_id='run', dry_run=True) of 100 steps reported {show(report)}")
    await handle.prune(older_than=LATER, run_id="run")
    for name, steps in runs.items():
        kept = await steps_there(handle, steps, "prune(run_id='run')")
        found = f"prune(run_id='run') left {len(kept)} of {len(steps)} steps of the run {name!r}"
        expect((len(kept) == len(steps)) == (name != "run"), found)


@group.check(
    "prune_frees",
    "prune removes something of a long run that is done.",
    contract="prune.1",
    usual_cause="The condition never holds, such as a status that is compared with a list.",
)
async def prune_frees(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=100, last_status="done")
    await write_runs(handle, steps)
    await handle.prune(older_than=LATER, keep_last=1)
    kept = await steps_there(handle, steps, "prune(keep_last=1)")
    expect(len(kept) < 100, "prune(keep_last=1) of a run of 100 steps that is done removed nothing")


@group.check(
    "prune_matches",
    "prune touches only runs with the given statuses whose last step is older, whatever time zone older_than has.",
    contract="prune.1, prune.2",
    usual_cause="The start of the run is compared instead of its last step, or the status of any step; or older_than "
    "loses its time zone.",
    version=2,
    needs=("deletion.prune_frees",),
)
async def prune_matches(kit: Kit) -> None:
    handle = await kit.open()
    bound = NOON + timedelta(hours=1)
    runs: dict[str, list[Checkpoint]] = {}
    statuses: tuple[Status, ...] = ("done", "failed", "running", "paused", "awaiting_input", "cancelled")
    for status in statuses:
        runs[f"old-{status}"] = chain(f"old-{status}", 5, last_status=status)
    runs["at-bound"] = [*chain("at-bound", 4)]
    runs["at-bound"].append(follow(runs["at-bound"][-1], status="done", timestamp=bound))
    runs["just-before"] = [*chain("just-before", 4)]
    moment_before = bound - timedelta(microseconds=1)
    runs["just-before"].append(follow(runs["just-before"][-1], status="done", timestamp=moment_before))
    runs["lately"] = [*chain("lately", 4)]
    runs["lately"].append(follow(runs["lately"][-1], status="done", timestamp=bound + timedelta(days=1)))
    was_failed = chain("was-failed", 4, last_status="failed")
    runs["was-failed"] = [*was_failed, follow(was_failed[-1], event="resumed", status="running")]
    await write_runs(handle, *runs.values())
    touched = {"old-failed", "old-cancelled"}
    # On this clock it seems to be earlier, and on the one below later.
    west = bound.astimezone(timezone(timedelta(hours=-11)))
    await handle.prune(older_than=west, statuses=("failed", "cancelled"), keep_last=0)
    for run_id, steps in runs.items():
        kept = await steps_there(handle, steps, "prune")
        if run_id in touched:
            expect(not kept, f"prune(statuses=('failed', 'cancelled'), keep_last=0) left {run_id!r}")
        else:
            expect(len(kept) == len(steps), f"prune(statuses=('failed', 'cancelled')) took steps of {run_id!r}")
    await handle.prune(older_than=bound.astimezone(timezone(timedelta(hours=13))), keep_last=0)
    for run_id, steps in runs.items():
        kept = await steps_there(handle, steps, "prune")
        if run_id in touched | {"old-done", "just-before"}:
            expect(not kept, f"prune(keep_last=0) left {run_id!r}")
        else:
            expect(len(kept) == len(steps), f"prune(older_than={bound}) took steps of {run_id!r}")


@group.check(
    "prune_defaults",
    "prune(older_than=…) alone keeps the last step of each run that has ended, and touches no other run.",
    contract="prune.1",
    usual_cause="The defaults were not taken over: runs that failed or are paused are pruned too, or whole runs go.",
    needs=("deletion.prune_matches",),
)
async def prune_defaults(kit: Kit) -> None:
    handle = await kit.open()
    runs = {status: chain(f"is-{status}", 5, last_status=status) for status in get_args(Status)}
    await write_runs(handle, *runs.values())
    report = await handle.prune_by_default(older_than=LATER)
    expect(not report.dry_run, "prune(older_than=…) was a dry run")
    for status, steps in runs.items():
        kept = await steps_there(handle, steps, "prune(older_than=…)")
        if status not in PRUNED_BY_DEFAULT:
            expect(len(kept) == len(steps), f"prune(older_than=…) took steps of a run that is {status}")
        else:
            expect(4 in kept, f"prune(older_than=…) took the last step of a run that is {status}")


@group.check(
    "prune_keeps_what_is_needed",
    "A checkpoint that a run needs to go on is kept, whatever keep_last says: those that its frontier names.",
    contract="prune.1",
    usual_cause="Only step numbers are compared; the frontier of the latest checkpoint is not read, or counts as empty "
    "if it cannot be read.",
    needs=("durability.other_handle", "deletion.prune_keeps_last"),
    version=4,
)
async def prune_keeps_what_is_needed(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(length=16)
    frontier = (
        Task(id="t", node="slow", since_step=2, calls=(StepRange(first=4, last=5),)),
        Task(id="u", node="slower", since_step=10, calls=(StepRange(first=11, last=14),)),
        FanOut(
            task_id="f",
            mode="map",
            rule="r",
            join="j",
            since_step=3,
            width=4,
            next_index=3,
            completed_steps=(StepRange(first=7, last=7), StepRange(first=9, last=9)),
        ),
    )
    steps.append(follow(steps[-1], status="failed", event="failed", frontier=frontier))
    await write_runs(handle, steps)
    report = await handle.prune(older_than=LATER, statuses=FAILED, keep_last=1)
    kept = await steps_there(handle, steps, "prune(keep_last=1)")
    needed = {2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 14, 16}
    expect(needed <= kept, f"prune(keep_last=1) took the steps {sorted(needed - kept)}, which the frontier needs")
    _agrees(report, [len(steps) - len(kept)], "prune(statuses=('failed',), keep_last=1)")
    resumed = follow(steps[-1], event="resumed", status="running")
    await handle.write(resumed)
    same(resumed, await handle.read_latest("run"), "read_latest('run') after a pruned run went on")
    # What it needed goes with a later prune, which keeps more of its end: the floor stays where it was.
    ended = [resumed, follow(resumed, frontier=(), status="failed", event="failed")]
    await handle.write(ended[1])
    await handle.prune(older_than=LATER, statuses=FAILED, keep_last=6)
    later = await steps_there(handle, [*steps, *ended], "a second prune(keep_last=6)")
    expect(later <= kept | {17, 18}, f"a second prune brought back the steps {sorted(later - kept)}")
    expect({16, 17, 18} <= later, f"prune(keep_last=6) left only the steps {sorted(later)}")
    if 15 not in kept:
        what = "write(run 'run', step 15), which the first prune has removed"
        await refused(handle.write(steps[15]), what, CheckpointError, "pruned", steps[15])
    if kit.target.stored_bytes is not None:
        await _keeps_what_it_cannot_tell(kit, steps, needed)


async def _keeps_what_it_cannot_tell(kit: Kit, steps: list[Checkpoint], needed: set[int]) -> None:
    """Damage the step that says what a run needs, prune, and put it back: what it needs is still there."""
    hook, location = kit.target.stored_bytes, await kit.fresh_location()
    assert hook is not None
    handle, latest = await kit.open(location), steps[-1].step
    await write_runs(handle, steps)
    original = await hook.get(location, "run", latest)
    await hook.put(location, "run", latest, bytes(64))
    pruner = await kit.open(location)
    await attempt(pruner.prune(older_than=LATER, statuses=FAILED, keep_last=1))
    await hook.put(location, "run", latest, original)
    after = "prune(keep_last=1) of a run whose latest step was damaged, and put back"
    kept = await steps_there(await kit.open(location), steps, after)
    expect(needed <= kept, f"{after} took the steps {sorted(needed - kept)}, which the frontier needs")


@group.check(
    "lost_step",
    'A lost step of a pruned run is refused (reason "missing-step"); the steps that the prune removed read as absent.',
    contract="read.3, history.2",
    usual_cause="Once a run was pruned, every gap in it counts as pruned.",
    needs=("corruption.lost_step", "deletion.prune_frees"),
    capability="lost-step",
)
async def lost_step(kit: Kit) -> None:
    run = chain(length=40, last_status="done")
    handle = await kit.open()
    for checkpoint in run:
        await handle.write(checkpoint)
    await handle.prune(older_than=LATER, keep_last=4)
    gone = [step for step in range(36) if await handle.read_at_step("run", step) is None]
    expect(gone, "prune(keep_last=4) of 40 steps removed nothing")
    await refuses_lost_step(kit, kit.location, run, 37, first=36)
    for step in gone:
        absent(await handle.read_at_step("run", step), f"read_at_step('run', {step}) of a pruned step")


@group.check(
    "prune_dry_run",
    "prune(dry_run=True) removes nothing and reports what would go.",
    contract="prune.5",
    usual_cause="The argument is ignored, or the count is made another way than the removal.",
    needs=("deletion.prune_keeps_last",),
)
async def prune_dry_run(kit: Kit) -> None:
    handle = await kit.open()
    first, second = chain("first", 9, last_status="done"), chain("second", 4, last_status="done")
    await write_runs(handle, first, second)
    planned = await handle.prune(older_than=LATER, keep_last=2, dry_run=True)
    for steps in (first, second):
        kept = await steps_there(handle, steps, "prune(dry_run=True)")
        expect(len(kept) == len(steps), f"prune(dry_run=True) took steps of {steps[0].run_id!r}")
    expect(planned.dry_run, "the report of prune(dry_run=True) says dry_run=False")
    done = await handle.prune(older_than=LATER, keep_last=2)
    wanted = done.model_copy(update={"dry_run": True})
    expect(planned == wanted, f"prune(dry_run=True) reported {show(planned)}; prune then removed {show(done)}")


@group.check(
    "pruned_run_goes_on",
    'A pruned run takes its next step; a step below what is left is refused (reason "pruned"); it can be deleted.',
    contract="rule.6, write.9, delete_run.2",
    usual_cause="The next step is counted from the number of rows, or a pruned slot is free again.",
    needs=("deletion.prune_keeps_last",),
    version=2,
)
async def pruned_run_goes_on(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    steps = chain(length=8, last_status="failed")
    await write_runs(handle, steps)
    await handle.prune(older_than=LATER, statuses=FAILED, keep_last=2)
    kept = await steps_there(handle, steps, "prune(keep_last=2)")
    for writer in (handle, other):
        for step in sorted(set(range(8)) - kept):
            what = f"{naming(steps[step])} of a pruned step"
            await refused(writer.write(steps[step]), what, CheckpointError, "pruned", steps[step])
        await writer.write(steps[7])
    following = follow(steps[-1], event="resumed", status="running")
    await other.write(following)
    same(following, await handle.read_latest("run"), "read_latest('run') after a pruned run went on")
    last = follow(following, status="done")
    await handle.write(last)
    same(last, await other.read_at_step("run", 9), "read_at_step('run', 9) after a pruned run went on")
    expect(await other.delete_run("run") is True, "delete_run('run') of a run that was pruned gave False")
    for reader in (handle, other):
        absent(await reader.read_latest("run"), "read_latest('run') after a pruned run was deleted")
        what = f"{naming(steps[0])} of a run that was pruned and then deleted"
        await refused(reader.write(steps[0]), what, CheckpointError, "run-deleted", steps[0])


@group.check(
    "keep_last_zero_removes",
    "prune(keep_last=0) removes the run for good, as delete_run does.",
    contract="prune.2",
    usual_cause="A slice with -0 keeps everything, or the run starts again afterwards.",
    needs=("deletion.stays_deleted", "deletion.prune_frees"),
)
async def keep_last_zero_removes(kit: Kit) -> None:
    handle, other = await kit.open(), await kit.open()
    gone, stays = chain("gone", last_status="done"), chain("stays")
    await write_runs(handle, gone, stays)
    report = await handle.prune(older_than=LATER, keep_last=0)
    _agrees(report, [3], "prune(keep_last=0)")
    absent(await other.read_latest("gone"), "read_latest('gone') after prune(keep_last=0)")
    same_runs(["stays"], await other.list_runs(), "list_runs() after prune(keep_last=0)")
    what = f"{naming(gone[0])} of a run that prune(keep_last=0) removed"
    await refused(other.write(gone[0]), what, CheckpointError, "run-deleted", gone[0])


@group.check(
    "bad_arguments_refused",
    "A naive older_than and a negative keep_last are refused with a ValueError; nothing is removed.",
    contract="prune.4",
    usual_cause="The arguments go to the store unchecked.",
)
async def bad_arguments_refused(kit: Kit) -> None:
    handle = await kit.open()
    steps = chain(last_status="done")
    await write_runs(handle, steps)
    await refused_argument(handle.prune(older_than=LATER.replace(tzinfo=None)), "prune(older_than=a naive datetime)")
    await refused_argument(handle.prune(older_than=LATER, keep_last=-1), "prune(keep_last=-1)")
    kept = await steps_there(handle, steps, "a refused prune")
    if len(kept) != 3:
        raise Violation(f"a refused prune took steps; left are {sorted(kept)}")
    await handle.write(begin("other"))
