"""Processes that are frozen in the middle of a call, between two lines that change the store, and overtaken there."""

from __future__ import annotations

from functools import partial
from typing import Final

from stargraph.checkpoint.conformance._checks import interleaving
from stargraph.checkpoint.conformance._checks.deletion import RUNNING
from stargraph.checkpoint.conformance._checks.interleaving import (
    judge_deletion,
    judge_removal,
    remove_run,
    resumed_step,
    write_failed,
)
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect, settled, together
from stargraph.checkpoint.conformance._files import StandingFileTimes
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._runs import LATER, chain, follow, payload_step
from stargraph.checkpoint.conformance._staging import Played, Stage
from stargraph.checkpoint.conformance._views import Book, agree, runs_agree
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointError

group: Final = interleaving.group
"""The same group: they look for the same mistakes, between processes."""

_MOMENTS: Final = 10

_PARTS: Final = 5
"""Into how many parts the filters of searches are split: after each moment each reader looks at another one."""


async def _all_agree(kit: Kit, location: str, handle: Handle, book: Book, turn: int, when: str) -> None:
    """Expect that a handle and a fresh one agree with a book.

    Args:
        turn: how many moments came before.
    """
    for number, reader in enumerate((handle, await kit.open(location)), 2 * turn):
        await agree(reader, book, kit.declared, when, part=number % _PARTS, parts=_PARTS)


@group.check(
    "frozen_in_deletion",
    "A process that is frozen inside delete_run or prune, between any two lines that change the store, while the run "
    "goes on, and another run too: what was acknowledged is there, or the run was gone before.",
    contract="capability.6, prune.2",
    usual_cause="Which runs to remove is read in one transaction and removed in another one, or without a condition; "
    "or the file is replaced by a copy without what others have appended meanwhile.",
    version=2,
    needs=("interleaving.prune_and_write", "deletion.killed"),
    capability="deletion",
    processes=True,
    deadline=240,
    waits=True,
)
async def frozen_in_deletion(kit: Kit) -> None:
    stage = await Stage.open(kit)
    for call in ("prune_failed", "delete_run"):
        stage.elsewhere(location := await kit.fresh_location())
        await write_failed(await kit.open(location), "run")
        # Those that change the store come first.
        for turn, moment in enumerate((await stage.moments(call, run_id="run"))[:_MOMENTS]):
            stage.elsewhere(location := await kit.fresh_location())
            handle, book = await kit.open(location), Book()
            steps, beside = await write_failed(handle, "run"), chain("beside", 3)
            for checkpoint in beside:
                await handle.write(checkpoint)
            what = f"a process was frozen at {moment}, inside {call}"
            if await stage.freeze_at(moment, call, run_id="run") is not None:
                continue
            book.runs["beside"] = [*beside, follow(beside[-1])]
            refusal, _ = await _overtaken(stage, handle, resumed_step(steps), book.runs["beside"][-1])
            if call == "delete_run":
                judge_deletion(book, steps, True, refusal, what)
            else:
                judge_removal(book, steps, None, refusal, what)
            await _all_agree(kit, location, handle, book, turn, f"after {what}, and the run went on meanwhile")


async def _overtaken(
    stage: Stage, handle: Handle, checkpoint: Checkpoint, beside: Checkpoint | None = None
) -> tuple[CheckpointError | None, Played]:
    """Write a step while a process is frozen, which goes on by itself where it holds a lock, and wake it.

    Args:
        stage: the process.
        handle: writes.
        checkpoint: what to write.
        beside: a step of another run, which nothing refuses.

    Returns:
        Why the write was refused, and what the process answers.
    """
    steps = [each for each in (checkpoint, beside) if each is not None]
    refusal, *others = await together(*(settled(partial(handle.write, each)) for each in steps))
    woken = await stage.wake()
    for refused in filter(None, others):
        raise Violation(f"a write beside a process that was frozen raised {error_line(refused)}") from refused
    return refusal, woken


@group.check(
    "frozen_in_read",
    "A process that is frozen inside a read, between any two lines of it, while the run goes on and is pruned or "
    "deleted: the read returns what was there before or after, and what was acknowledged meanwhile stays.",
    contract="capability.6, read.1, read.3",
    usual_cause="A read looks at the store twice without a snapshot, first for the end or the floor of the run and "
    "then for a record; or it cuts off what it takes for the unfinished write of a process that died.",
    needs=("interleaving.reads_and_removal", "interleaving.frozen_in_deletion"),
    capability="deletion",
    processes=True,
    deadline=240,
    waits=True,
)
async def frozen_in_read(kit: Kit) -> None:
    stage = await Stage.open(kit)
    handle = await kit.open()
    await write_failed(handle, "recorded")
    for call in ("read_latest", "read_at_step", "read_next"):
        for number, moment in enumerate(await stage.moments(call, run_id="recorded")):
            # A step that is not there yet is written meanwhile; one that is there is removed.
            deleting = call != "read_next" and number % 3 == 2
            run_id = f"{call.replace('_', '-')}-{number}"
            steps = await write_failed(handle, run_id)
            resumed = resumed_step(steps)
            what = f"a {call} that was frozen at {moment}, while the run went on and was removed"
            if await stage.freeze_at(moment, call, run_id=run_id) is not None:
                continue
            removal = "delete_run" if deleting else "prune"
            change = (
                partial(handle.write, resumed) if call == "read_next" else partial(remove_run, handle, removal, steps)
            )
            refusal = await settled(change)
            woken = await stage.wake()
            expect(refusal is None, f"{what}: the change was refused with {refusal!r}")
            expect(woken.kind in ("", "StoreUnavailableError"), f"{what}, raised {woken.error}")
            right = {
                "read_latest": {steps[-1].digest, resumed.digest} | ({""} if deleting else set()),
                "read_at_step": {steps[-1].digest, ""},
                "read_next": {resumed.digest, ""},
            }
            given = "a checkpoint that was not there" if woken.found else "None"
            expect(not woken.acked or woken.found in right[call], f"{what}, gave {given}")
            book = Book(gone={run_id: steps}) if deleting else Book({run_id: [*steps, resumed]})
            if not deleting and call != "read_next":
                book.floors[run_id] = {resumed.step}
            await runs_agree(handle, book, kit.declared, f"after {what}")


@group.check(
    "frozen_in_pruned_write",
    "A process that is frozen inside write, between any two lines that change the store, while another executor takes "
    "the step, with a record that is as long, and the run is pruned to as many steps as it had: one of the two is "
    "acknowledged, and it is the one that is stored.",
    contract="log.6, rule.10, capability.6",
    usual_cause="The write goes ahead if the store holds as many steps or bytes, or its files are as old, as when it "
    "looked: compare the latest digest, or a number that each change raises.",
    needs=("fencing.frozen_in_write", "deletion.pruned_as_it_goes"),
    capability="deletion",
    processes=True,
    deadline=120,
    waits=True,
)
async def frozen_in_pruned_write(kit: Kit) -> None:
    handle, stage, times = await kit.open(), await Stage.open(kit), StandingFileTimes(kit.location)
    await _write_pruned(handle, "recorded")
    # Those that come after its decision, and before the change.
    for number, moment in enumerate(await stage.moments("write", run_id="recorded", changing=False)):
        run_id = f"run-{number}"
        steps = await _write_pruned(handle, run_id)
        mine = payload_step(steps[-1], run_id, "", 2)
        times.put_back()
        what = f"a process was frozen at {moment}, inside write"
        if await stage.freeze_at(moment, "write", run_id=run_id) is not None:
            continue
        refusal = await settled(partial(handle.write, mine))
        await settled(partial(_prune_to_last, handle, run_id))
        times.put_back()
        theirs = await stage.wake()
        what += ", and overtaken, and the run was pruned"
        expect(
            theirs.acked != (refusal is None),
            f"{what}: {'both writes were' if theirs.acked else 'neither write was'} acknowledged",
        )
        for reader in (handle, await kit.open()):
            found = await reader.read_latest(run_id)
            expect(
                found is not None and found.digest == (mine.digest if refusal is None else theirs.digests[0]),
                f"{what}: read_latest({run_id!r}) gave another checkpoint than the acknowledged one",
            )


_KEPT: Final = 3
"""How many steps of a run a prune keeps."""


async def _write_pruned(handle: Handle, run_id: str) -> list[Checkpoint]:
    """Write a run that is pruned to its last steps, all of them alike."""
    steps: list[Checkpoint] = []
    for _ in range(_KEPT + 1):
        steps.append(payload_step(steps[-1] if steps else None, run_id, "", 1))
        await handle.write(steps[-1])
    await _prune_to_last(handle, run_id)
    return steps


async def _prune_to_last(handle: Handle, run_id: str) -> None:
    await handle.prune(older_than=LATER, statuses=RUNNING, keep_last=_KEPT, run_id=run_id)


@group.check(
    "frozen_in_bootstrap",
    "A process that is frozen inside bootstrap of a new store, between any two lines that change it, while another one "
    "opens the store and writes: what was acknowledged is there for both, and for whoever comes later.",
    contract="bootstrap.2, capability.6",
    usual_cause="What the store looks like is read from what is there already, such as the number of its files; or the "
    "first one to open it puts its own in place at the end.",
    needs=("durability.other_process",),
    processes=True,
    deadline=240,
    waits=True,
)
async def frozen_in_bootstrap(kit: Kit) -> None:
    stage = await Stage.open(kit)
    stage.elsewhere(await kit.fresh_location())
    moments = await stage.moments("bootstrap")
    for turn, moment in enumerate(kit.random.sample(moments, min(len(moments), _MOMENTS))):
        stage.elsewhere(location := await kit.fresh_location())
        if await stage.freeze_at(moment, "bootstrap", run_id="") is not None:
            continue
        what = f"a process was frozen at {moment}, inside bootstrap of a new store"
        book, handle = Book(), await kit.unready(location)
        await _begin_runs(handle, book)
        woken = await stage.wake()
        expect(woken.kind in ("", "StoreUnavailableError"), f"{what}, and raised {woken.error}")
        await _all_agree(kit, location, handle, book, turn, f"after {what}, while another one wrote")


async def _begin_runs(handle: Handle, book: Book) -> None:
    """Open a store and begin some runs in it."""
    refusal = await settled(handle.bootstrap)
    expect(refusal is None, f"bootstrap beside a process that was frozen in it raised {refusal!r}")
    for number in range(8):
        for checkpoint in chain(f"run-{number}", 2):
            refusal = await settled(partial(handle.write, checkpoint))
            expect(refusal is None, f"a write beside a process that was frozen in bootstrap raised {refusal!r}")
            book.wrote(checkpoint)


@group.check(
    "frozen_in_batch",
    "A process that is frozen inside write_many, between any two lines that change the store, and overtaken: one of "
    "the two wins, and the run is a chain.",
    contract="capability.6, write_many.3",
    usual_cause="The batch is judged in one transaction and stored in another one, or without a condition.",
    needs=("interleaving.batch_and_others", "batch.killed"),
    capability="batch",
    processes=True,
    deadline=120,
    waits=True,
)
async def frozen_in_batch(kit: Kit) -> None:
    stage = await Stage.open(kit)
    handle, book = await kit.open(), Book()
    await write_failed(handle, "recorded")
    moments = await stage.moments("write_many", run_id="recorded", size=3000)
    for number, moment in enumerate(kit.random.sample(moments, min(len(moments), _MOMENTS))):
        run_id = f"run-{number}"
        steps = await write_failed(handle, run_id)
        what = f"a process was frozen at {moment}, inside write_many"
        if await stage.freeze_at(moment, "write_many", run_id=run_id, size=3000) is not None:
            continue
        mine = resumed_step(steps)
        refusal, theirs = await _overtaken(stage, handle, mine)
        expect(not (theirs.acked and refusal is None), f"{what}, and overtaken: both were acknowledged")
        found = await handle.read_at_step(run_id, mine.step)
        winner = mine.digest if refusal is None else theirs.digests[0]
        expect(
            found is not None and found.digest == winner,
            f"step {mine.step} of {run_id!r}, where {what}: another checkpoint is stored than the acknowledged one",
        )
        if refusal is None:
            book.runs[run_id] = [*steps, mine]
            alone = Book({run_id: book.runs[run_id]})
            await runs_agree(handle, alone, kit.declared, f"after {what}, and overtaken")
