"""RunDeletion: what a removal leaves is whole, though the process was killed or the steps shared bytes with others."""

from __future__ import annotations

from random import Random
from typing import Final

from stargraph.checkpoint.conformance._checks import deletion
from stargraph.checkpoint.conformance._checks.deletion import FAILED, RUNNING, steps_there, write_runs
from stargraph.checkpoint.conformance._compare import absent, same, same_runs, show
from stargraph.checkpoint.conformance._expect import attempt, expect, refused
from stargraph.checkpoint.conformance._files import StandingFileTimes
from stargraph.checkpoint.conformance._growing import grown, grown_run
from stargraph.checkpoint.conformance._handle import Handle, naming
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import LATER, begin, chain, executor_id, follow
from stargraph.checkpoint.conformance._staging import Stage
from stargraph.checkpoint.conformance._views import Book, lists_agree, runs_agree, same_left
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError

group: Final = deletion.group
"""The same group: what these checks prove belongs to the capability, and their ids stay."""


@group.check(
    "killed",
    "A process that is killed inside delete_run or prune, between any two lines that change the store, leaves runs "
    "that are whole or gone, with all the steps that were to stay; the same call then finishes the work.",
    contract="rule.2, capability.5",
    usual_cause="The rows go before the tombstone or the new floor is stored, or the newest steps go first; or reads "
    "do not look for the tombstone.",
    version=2,
    needs=("deletion.stays_deleted", "deletion.pruned_run_goes_on", "durability.other_process"),
    processes=True,
    deadline=60,
)
async def killed(kit: Kit) -> None:
    stage = await Stage.open(kit)
    for call in ("delete_run", "prune"):
        stage.elsewhere(location := await kit.fresh_location())
        await _with_run(kit, location)
        for moment in await stage.moments(call, run_id="run"):
            stage.elsewhere(location := await kit.fresh_location())
            steps = await _with_run(kit, location)
            await stage.kill_at(moment, call, run_id="run")
            handle = await kit.open(location)
            what = f"a process was killed at {moment}, inside {call}"
            if call == "delete_run":
                await _whole_or_gone(handle, steps, what)
            else:
                await _pruned_or_not(handle, steps, what)
            same_runs(
                [], [item for item in await handle.list_runs() if item.run_id == "run"], f"list_runs() after {what}"
            )
            await handle.release()


async def _with_run(kit: Kit, location: str) -> list[Checkpoint]:
    """Write a run of five steps to a new store, beside another one, and return its steps."""
    handle = await kit.open(location)
    steps, other = chain(length=5, last_status="done"), chain("run:2")
    await write_runs(handle, steps, other)
    await handle.release()
    return steps


async def _whole_or_gone(handle: Handle, steps: list[Checkpoint], what: str) -> None:
    """Expect a delete_run that was killed to have done all or nothing, and to do all when it is called again."""
    latest = await handle.read_latest("run")
    kept = await steps_there(handle, steps, what)
    expect(
        kept == (set() if latest is None else set(range(5))),
        f"{what}: the steps {sorted(kept)} of 5 are left, and read_latest('run') gave {show(latest and latest.step)}",
    )
    refusal = await attempt(handle.write(steps[0]))
    if latest is None:
        expect(refusal is not None and refusal.reason == "run-deleted", f"{what}: the run can start again")
    else:
        expect(refusal is None, f"{what}: the run reads as before, and a step that it has was refused with {refusal!r}")
    await handle.delete_run("run")
    absent(await handle.read_latest("run"), f"read_latest('run') after {what}, and delete_run once more")
    expect(not await steps_there(handle, steps, what), f"{what}, and delete_run once more left steps of the run")


async def _pruned_or_not(handle: Handle, steps: list[Checkpoint], what: str) -> None:
    """Expect a prune that was killed to have kept the last two steps, and no step that it took to be free again."""
    for again in (False, True):
        if again:
            await handle.prune(older_than=LATER, keep_last=2)
        kept = await steps_there(handle, steps, what)
        expect({3, 4} <= kept, f"{what}: of the last 2 steps, 3 and 4, only {sorted(kept & {3, 4})} are left")
        same(steps[-1], await handle.read_latest("run"), f"read_latest('run') after {what}")
        for step in set(range(5)) - kept:
            refusal = await attempt(handle.write(steps[step]))
            expect(refusal is not None, f"{what}: the pruned step {step} can be written again")
    await handle.delete_run("run")


@group.check(
    "kept_steps_read_back",
    "Whatever prune has removed, the steps that are left of a growing run read back exactly, and are the same for all "
    "who read, whatever these have read before; the run goes on.",
    contract="write.10, prune.1, read.1",
    usual_cause="A step is stored as its difference from an earlier one, and prune removes that one; or older steps "
    "lie in a second place, or in memory, and stay there.",
    version=2,
    needs=("deletion.prune_keeps_last", "growth.every_kind_of_change"),
)
async def kept_steps_read_back(kit: Kit) -> None:
    for keep in (1, 2, 9, 17) if kit.thorough else (9,):
        location = await kit.fresh_location()
        writer, warm = await kit.open(location), await kit.open(location)
        steps = grown_run(kit.random, 40)
        steps.append(follow(steps[-1], status="failed", frontier=()))
        await write_runs(writer, steps)
        after = f"prune(keep_last={keep})"
        for turn in range(2):
            await steps_there(warm, steps, "they were written")
            await writer.prune(older_than=LATER, statuses=FAILED, keep_last=keep)
            left: set[int] | None = None
            for reader in (writer, warm, await kit.open(location)):
                kept = await steps_there(reader, steps, after)
                left = kept if left is None else left
                same_left(left, kept, f"of 'run' after {after}")
                last = {checkpoint.step for checkpoint in steps[-keep:]}
                expect(last <= kept, f"{after} took the steps {sorted(last - kept)}")
                same(steps[-1], await reader.read_latest("run"), f"read_latest('run') after {after}")
            if turn == 0:
                going_on = [grown(steps[-1], kit.random, event="resumed", status="running")]
                for _ in range(12):
                    going_on.append(grown(going_on[-1], kit.random))
                going_on.append(follow(going_on[-1], status="failed", frontier=()))
                await write_runs(writer, going_on)
                steps += going_on


@group.check(
    "twins_stay",
    "A run that has the same content as another one, or was forked from it, reads back exactly after that one is gone.",
    contract="write.10",
    usual_cause="What two runs have in common is stored once, and goes with the first of them.",
    needs=("deletion.delete_run", "deletion.prune_matches", "growth.every_kind_of_change"),
)
async def twins_stay(kit: Kit) -> None:
    handle = await kit.open()
    # The same chance for each gives them the same content.
    chances = {run_id: Random(kit.seed) for run_id in ("gone", "pruned", "stays")}  # noqa: S311  # no secret
    runs = {run_id: grown_run(chance, 12, run_id) for run_id, chance in chances.items()}
    for steps in runs.values():
        steps.append(follow(steps[-1], status="done", frontier=()))
    parent = runs["gone"][6]
    first = begin("fork", state=parent.state, parent_run_id="gone", parent_step=6, origin="fork")
    runs["fork"] = [first, grown(first, kit.random)]
    await write_runs(handle, *runs.values())
    await handle.delete_run("gone")
    await handle.prune(older_than=LATER, keep_last=1)
    for reader in (handle, await kit.open()):
        kept = await steps_there(reader, runs["fork"], "the run that it was forked from was deleted")
        expect(kept == {0, 1}, f"delete_run of the parent left only the steps {sorted(kept)} of its fork")
        for run_id in ("pruned", "stays"):
            latest = await reader.read_latest(run_id)
            same(runs[run_id][-1], latest, f"read_latest({run_id!r}) after a run with the same content was deleted")
            await steps_there(reader, runs[run_id], "a run with the same content was deleted")


@group.check(
    "pruned_as_it_goes",
    "A run that is pruned to its last steps after each new one, and so always holds as many of them: another open "
    "handle sees every step that is new and none that is gone, and its own writes are judged by them.",
    contract="read.5, prune.1, rule.4",
    usual_cause="A copy in memory counts as fresh while the store holds as many steps or bytes, or its files are as "
    "old, or have the same inodes, as when it was made: that of a file which was replaced is soon another one's.",
    version=2,
    needs=("deletion.prune_keeps_last", "durability.within_one_tick"),
)
async def pruned_as_it_goes(kit: Kit) -> None:
    location = await kit.location_on_disk() if kit.thorough else kit.location
    times = StandingFileTimes(location)
    writer, reader, keep = await kit.open(location), await kit.open(location), 3
    steps, book = chain(length=keep), Book()
    await write_runs(writer, steps)
    for _ in range(8 - keep):  # the numbers of the steps stay as long as they are
        steps.append(follow(steps[-1], executor_id=executor_id(2)))
        await writer.write(steps[-1])
        await writer.prune(older_than=LATER, statuses=RUNNING, keep_last=keep, run_id="run")
        times.put_back()
        book.runs["run"], book.floors["run"] = steps, {step.step for step in steps[-keep:]}
        when = f"of another handle, after step {steps[-1].step} and prune(keep_last={keep})"
        await runs_agree(reader, book, kit.declared, when)
        await lists_agree(reader, book.summaries(), when)
        lost = follow(steps[-2], executor_id=executor_id(3))
        what = f"{naming(lost)} {when}"
        await refused(reader.write(lost), what, CheckpointConflictError, "step-taken", lost)
        times.put_back()
