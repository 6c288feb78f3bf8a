"""Every read agrees with every other one, whoever reads and whatever happened: lists, searches, histories, steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from stargraph.checkpoint.conformance._cancelling import WAITS, cancelled_at
from stargraph.checkpoint.conformance._compare import same
from stargraph.checkpoint.conformance._expect import Violation, attempt, error_line, expect
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import INDEXED, LATER, NOON, begin, chain, follow, rivals
from stargraph.checkpoint.conformance._staging import Stage
from stargraph.checkpoint.conformance._views import (
    STATUSES,
    Book,
    agree,
    histories_agree,
    lists_agree,
    searches_agree,
    trees_agree,
)
from stargraph.checkpoint.protocol import ENDED, Checkpoint, ErrorInfo, QueueEntry, Status
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreVersionError

_READS: Final = "read.1, list.1, history.1, timeline.1, search.1, read_at_key.1, step_keys.1, claimable.2"

group: Final = Group("views", needs=("steps.append_and_read", "list_runs.newest_first", "durability.other_handle"))


def some_runs(prefix: str = "run", *, length: int = 6) -> list[list[Checkpoint]]:
    """Return a run of each status, with different graphs, tags, parents and starts; some start at one instant."""
    runs = [_some_run(prefix, status, number, length) for number, status in enumerate(STATUSES)]
    failed = runs[STATUSES.index("failed")]
    if length > 1:
        error = ErrorInfo(type="ValueError", message="broken", reason=f"{prefix}-broken", node="work")
        failed[-1] = follow(failed[-2], event="failed", status="failed", error=error)
    return runs


def _some_run(prefix: str, status: Status, number: int, length: int) -> list[Checkpoint]:
    parents: dict[str, Any] = {}
    if number in (1, 2, 3):
        origin = "fork" if number == 2 else "subgraph"
        parents = {"parent_run_id": f"{prefix}-running", "parent_step": 0, "origin": origin}
    return chain(
        f"{prefix}-{status}",
        length,
        last_status=status,
        graph_id=f"graph-{number % 2}",
        graph_hash=f"{number % 3:064x}",
        runtime_hash=f"{number % 2:064x}",
        metadata={"team": ("red", "blue")[number % 2], "n": str(number)},
        timestamp=NOON + timedelta(microseconds=number // 2),
        keys=("a", "b", None),
        queue=QueueEntry(name=("default", "mail")[number // 4], priority=number) if number % 2 == 0 else None,
        **parents,
    )


async def write_all(handle: Handle, book: Book, *runs: Sequence[Checkpoint]) -> None:
    """Write runs, and note them."""
    for steps in runs:
        for checkpoint in steps:
            await handle.write(checkpoint)
            book.wrote(checkpoint)


class Readers:
    """Handles of every kind on one store, whose caches are warm: this process's, another one's, and new ones.

    Attributes:
        near: a handle of this process.
        far: a handle of another process, if another process can open the store.
    """

    def __init__(self, kit: Kit, near: Handle, far: Handle, location: str) -> None:
        self._kit = kit
        self._location = location
        self._looks = 0
        self.near = near
        self.far = far

    @classmethod
    async def open(cls, kit: Kit, location: str | None = None) -> Readers:
        where = location or kit.location
        return cls(kit, await kit.open(where), await kit.elsewhere(where), where)

    async def agree(self, book: Book, when: str, *others: Handle) -> None:
        """Expect that all of them, and new ones, agree with a book; afterwards their caches are warm.

        In a quick run they share the filters of searches among them, and each gets others the next time.
        """
        newcomer = await self._kit.open(self._location)
        readers = [(handle, f"handle {number + 1}") for number, handle in enumerate(others)]
        readers.append((self.near, "another handle"))
        if self._kit.thorough:
            readers.append((self.far, "another process"))
        readers.append((newcomer, "a new handle"))
        parts = 1 if self._kit.thorough else len(readers)
        left: dict[str, set[int]] = {}
        for number, (reader, who) in enumerate(readers):
            part = (number + self._looks) % parts
            await agree(reader, book, self._kit.declared, f"{when}, read by {who}", part=part, parts=parts, left=left)
        self._looks += 1
        await newcomer.release()


@group.check(
    "after_writes",
    "However runs were written and by whom, every read of every handle, in this process and another one, agrees.",
    contract=f"{_READS}, read.5, count_runs.1, children.1",
    usual_cause="A list or a search is made from something else than the latest checkpoints: an index that a write "
    "does not update, or a cache that only the handle's own writes refresh.",
)
async def after_writes(kit: Kit) -> None:
    handle, readers, book = await kit.open(), await Readers.open(kit), Book()
    await readers.agree(book, "of an empty store", handle)
    runs = some_runs(length=6 if kit.thorough else 4)
    half = len(runs[0]) // 2
    await write_all(handle, book, *(steps[:half] for steps in runs))
    await readers.agree(book, "after half of the runs were written", handle)
    for number, steps in enumerate(runs):
        await write_all((handle, readers.near, readers.far)[number % 3], book, steps[half:])
    await readers.agree(book, "after three handles went on with the runs", handle)
    for run_id in ("run-failed", "run-paused"):
        await write_all(readers.far, book, [follow(book.runs[run_id][-1], event="resumed", status="running")])
    # One more of what there was already: a child of that run, a run of that graph, with that tag, of that queue.
    twin: dict[str, Any] = {
        "parent_run_id": "run-running",
        "parent_step": 0,
        "origin": "subgraph",
        "graph_id": "graph-0",
    }
    twin |= {"metadata": {"team": "red"}, "queue": QueueEntry(), "keys": ("a", "b", None)}
    await write_all(readers.far, book, chain("run-late", 2, **twin))
    await readers.agree(book, "after another process resumed two runs and began one", handle)


@group.check(
    "after_refusals",
    "A refused write leaves no trace in any read: neither in a list nor in a search.",
    contract=f"{_READS}, write.4",
    usual_cause="The summary or the tags are stored before the step is judged.",
    needs=("steps.conflict_keeps_stored", "steps.gap_refused", "steps.ended_refused"),
    deadline=120,
    quick=False,
)
async def after_refusals(kit: Kit) -> None:
    handle, readers, book = await kit.open(), await Readers.open(kit), Book()
    runs = some_runs(length=4)
    await write_all(handle, book, *runs)
    await readers.agree(book, "before writes are refused", handle)
    tags: dict[str, Any] = {"metadata": {"team": "green"}, "graph_id": "graph-other"}
    for number, steps in enumerate(runs):
        writer = (handle, readers.near, readers.far)[number % 3]
        refusals = [other for other, _ in rivals(steps[-1], steps[-2])]
        refusals += [
            begin(steps[0].run_id, **tags),
            follow(steps[2], event="cancelled", status="cancelled"),
            follow(follow(steps[-1], status="running"), status="done"),
            follow(begin(f"late-{number}", **tags), status="done"),
        ]
        if steps[-1].status in ENDED:
            refusals.append(follow(steps[-1], status="running"))
        for checkpoint in refusals:
            refusal = await attempt(writer.write(checkpoint))
            expect(refusal is not None, f"write(run {checkpoint.run_id!r}, step {checkpoint.step}) must be refused")
    await readers.agree(book, "after writes were refused", handle)


@group.check(
    "after_delete",
    "A deleted run is in no read of any handle, in this process or another one, whatever these had read before.",
    contract=f"{_READS}, delete_run.1, rule.2",
    usual_cause="A cache, an index or a table of tags is not cleared, or only that of the handle that deleted.",
    needs=("deletion.delete_run",),
    capability="deletion",
    deadline=120,
    quick=False,
)
async def after_delete(kit: Kit) -> None:
    handle, readers, book = await kit.open(), await Readers.open(kit), Book()
    await write_all(handle, book, *some_runs(length=4), chain("run-d", 4))
    await readers.agree(book, "before runs are deleted", handle)
    deleters = (handle, readers.near, readers.far)
    for number, run_id in enumerate(("run-done", "run-failed", "run-running")):
        deleter = deleters[number % 3]
        last = book.runs[run_id][-1]
        book.deleted(run_id)
        expect(await deleter.delete_run(run_id) is True, f"delete_run({run_id!r}) of a run that was there gave False")
        await readers.agree(book, f"after delete_run({run_id!r})", handle)
        for other in deleters:
            there = await other.delete_run(run_id)
            expect(there is False, f"delete_run({run_id!r}) of a deleted run gave True")
            for again in (book.gone[run_id][0], last, follow(last, status="running")):
                refusal = await attempt(other.write(again))
                expect(
                    refusal is not None and refusal.reason == "run-deleted",
                    f"step {again.step} of {run_id!r}, which was deleted, was written again: {refusal!r}",
                )
    await readers.agree(book, "after writes to deleted runs were refused", handle)


@group.check(
    "after_prune",
    "After prune every read of every handle, in this process and another one, agrees on which steps and runs are left, "
    "whatever these had read before; the runs go on.",
    contract=f"{_READS}, prune.1, prune.2",
    usual_cause="A cache of steps or of floors is not cleared, or only that of the handle that pruned; history walks "
    "from step 0, or stops at the first step that is not there.",
    needs=("deletion.prune_keeps_last", "deletion.keep_last_zero_removes"),
    capability="deletion",
    deadline=120,
    quick=False,
)
async def after_prune(kit: Kit) -> None:
    for turn in range(2 if kit.thorough else 1):
        location = await kit.fresh_location()
        handle, readers, book = await kit.open(location), await Readers.open(kit, location), Book()
        pruner = (handle, readers.far)[turn]
        twins = [steps for steps in some_runs("twin", length=3) if steps[-1].status in ("done", "failed")]
        await write_all(handle, book, *some_runs(length=7), *twins)
        await readers.agree(book, "before a prune", handle)
        keep = 2 if turn else 1
        await pruner.prune(older_than=LATER, statuses=("done", "failed"), keep_last=keep)
        for run_id in ("run-done", "run-failed", "twin-done", "twin-failed"):
            book.pruned(run_id, [checkpoint.step for checkpoint in book.runs[run_id][-keep:]])
        await readers.agree(book, f"after prune(keep_last={keep})", handle)
        await write_all(readers.near, book, [follow(book.runs["run-failed"][-1], event="resumed", status="running")])
        book.floors["run-failed"].add(book.runs["run-failed"][-1].step)
        await readers.agree(book, f"after prune(keep_last={keep}) and a step more", handle)
        await pruner.prune(older_than=LATER, statuses=("done", "failed", "cancelled"), keep_last=0)
        # run-done stays: it is a child of run-running, which has not ended. The parent of the twins was never written.
        for run_id in ("twin-done", "twin-failed", "run-cancelled"):
            book.pruned(run_id, ())
        await readers.agree(book, "after prune(keep_last=0)", handle)


@group.check(
    "after_batch",
    "After write_many every read of every handle, in this process and another one, agrees, whatever these had read "
    "before.",
    contract=f"{_READS}, write_many.2",
    usual_cause="The summary, the status or the index is that of the first step of the batch, or a cache is stale.",
    needs=("batch.appends_all",),
    capability="batch",
    deadline=120,
    quick=False,
)
async def after_batch(kit: Kit) -> None:
    handle, readers, book = await kit.open(), await Readers.open(kit), Book()
    runs = some_runs(length=9)
    for number, steps in enumerate(runs):
        await (handle, readers.far, readers.near)[number % 3].write_many(steps[:4])
        book.wrote(*steps[:4])
    await readers.agree(book, "after write_many", handle)
    for number, steps in enumerate(runs):
        writer = (readers.near, handle, readers.far)[number % 3]
        await writer.write_many(steps[2:])
        book.wrote(*steps[4:])
    await readers.agree(book, "after write_many of steps that were stored in part", handle)
    for number, steps in enumerate(runs):
        lost = [rival for rival, _ in rivals(steps[-1], steps[-2])][number % 5]
        refusal = await attempt((readers.far, readers.near, handle)[number % 3].write_many([*steps[-3:-1], lost]))
        expect(refusal is not None, f"write_many with another step {lost.step} of {lost.run_id!r} succeeded")
    await readers.agree(book, "after batches were refused", handle)


@group.check(
    "after_cancellation",
    "After a call that was cancelled, at whichever await, and made again, every read agrees: what it did is there as a "
    "whole.",
    contract=f"{_READS}, capability.3",
    usual_cause="The record and its index are stored one after the other, and a call that is made again finds the "
    "first and leaves out the second.",
    needs=("cancel.write",),
    deadline=120,
    quick=False,
)
async def after_cancellation(kit: Kit) -> None:
    handle, reader, book = await kit.open(), await kit.open(), Book()
    for wait in WAITS:
        for point in range(12):
            tags: dict[str, Any] = {"metadata": {"point": str(point)}, "graph_id": f"graph-{point % 3}"}
            tags |= {"keys": ("a", None), "queue": QueueEntry()}
            steps = chain(f"run-{wait}-{point}", 3, last_status="done", **tags)
            for checkpoint in steps:
                await cancelled_at(handle.write(checkpoint), point, wait)
                await handle.write(checkpoint)
            book.wrote(*steps)
            if "deletion" in kit.declared:
                gone = chain(f"gone-{wait}-{point}", 3, last_status="done", **tags)
                book.gone[gone[0].run_id] = gone
                for checkpoint in gone:
                    await handle.write(checkpoint)
                await cancelled_at(handle.delete_run(gone[0].run_id), point, wait)
                await handle.delete_run(gone[0].run_id)
    for each in (handle, reader):
        await agree(each, book, kit.declared, "after calls that were cancelled and made again")


@group.check(
    "after_kill",
    "After a process was killed inside a call, between any two lines that change the store, every read agrees on what "
    "is there, in handles that were open and in new ones; the same call, made again, finishes the work.",
    contract=f"{_READS}, capability.5",
    usual_cause="A record and its index are stored one after the other: a run is in no list, or is in one and nowhere "
    "else; what comes to bring them together finds the record and believes that all is done.",
    needs=("crash.killed_in_write",),
    processes=True,
    deadline=120,
)
async def after_kill(kit: Kit) -> None:
    stage = await Stage.open(kit)
    calls = ["write_first", "write"]
    calls += ["write_many"] if "batch" in kit.declared else []
    calls += ["delete_run", "prune"] if "deletion" in kit.declared else []
    for call in calls:
        played = "write" if call == "write_first" else call
        location, _ = await _with_runs(kit, call)
        stage.elsewhere(location)
        moments = await stage.moments(played, run_id="run", size=3000)
        for moment in kit.random.sample(moments, min(len(moments), 5)):
            location, book = await _with_runs(kit, call)
            near = await kit.open(location)
            await agree(near, book, kit.declared, "before a kill")
            stage.elsewhere(location)
            await stage.kill_at(moment, played, run_id="run", size=3000)
            when = f"after a process was killed at {moment}, inside {played}"
            newcomer = await kit.open(location)
            await _as_read(newcomer, book)
            for reader in (newcomer, near):
                await agree(reader, book, kit.declared, when)
            await _finish(newcomer, book, call)
            for reader in (near, newcomer):
                await agree(reader, book, kit.declared, f"{when}, and the call was made again")
            await near.release()
            await newcomer.release()


async def _with_runs(kit: Kit, call: str) -> tuple[str, Book]:
    """Return a store with a run beside the one that the call is about, which is there unless the call begins it."""
    location, book = await kit.fresh_location(), Book()
    handle = await kit.open(location)
    runs = [chain("other", 2, timestamp=NOON - timedelta(hours=1), metadata={"team": "blue"})]
    if call != "write_first":
        runs.append(chain(length=5, last_status="done" if call in ("prune", "delete_run") else None, **INDEXED))
    await write_all(handle, book, *runs)
    await handle.release()
    return location, book


async def _as_read(handle: Handle, book: Book) -> None:
    """Make a book say of the run what its reads say: which of its steps are there."""
    before = book.runs.get("run", [])
    latest = await handle.read_latest("run")
    if latest is None:
        if before:
            book.deleted("run")
        return
    steps = list(before)
    for step in range(len(before), latest.step + 1):
        found = await handle.read_at_step("run", step)
        if found is None:
            raise Violation(f"read_at_step('run', {step}) gave None below the latest step {latest.step}")
        steps.append(found)
    book.runs["run"] = steps
    kept = {step.step for step in steps if await handle.read_at_step("run", step.step) is not None}
    if len(kept) < len(steps):
        book.floors["run"] = kept


async def _finish(handle: Handle, book: Book, call: str) -> None:
    """Make the call again that was cut short, as its caller would."""
    steps = book.runs.get("run", [])
    if call == "delete_run":
        await handle.delete_run("run")
        if steps:
            book.deleted("run")
        else:
            expect("run" in book.gone, "a run that was being deleted is gone")
    elif call == "prune":
        await handle.prune(older_than=LATER, keep_last=2)
        book.pruned("run", [checkpoint.step for checkpoint in steps[-2:]])
    elif steps:
        await handle.write(steps[-1])
    else:
        await write_all(handle, book, [begin()])


@group.check(
    "after_damage",
    "A damaged record is never left out in silence: a history, a list or a search is exact, or raises "
    "CheckpointCorruptedError; the other runs read as ever.",
    contract="read.6, list.5, children.1",
    usual_cause="An `except` around the decoding of each record skips what cannot be read, or a record that cannot be "
    "read counts as the end of the run.",
    version=2,
    needs=("corruption.flipped_bytes",),
    capability="stored-bytes",
    deadline=120,
    quick=False,
)
async def after_damage(kit: Kit) -> None:
    hook = kit.target.stored_bytes
    assert hook is not None
    handle, book = await kit.open(), Book()
    await write_all(handle, book, *some_runs(length=5))
    for place, (run_id, step) in enumerate((("run-done", 4), ("run-running", 2), ("run-failed", 0))):
        original = await hook.get(kit.location, run_id, step)
        kinds = (("cut off", original[: len(original) // 2]), ("emptied", b""), ("zeroed", bytes(64)))
        for kind, (what, data) in enumerate(kinds):
            await hook.put(kit.location, run_id, step, data)
            newcomer = await kit.open()
            # Each filter meets each kind of damage at one of the three places.
            part = (place + kind) % len(kinds)
            for reader in (handle, newcomer):
                await _exact_or_corrupted(
                    kit, reader, book, run_id, part, f"after step {step} of {run_id!r} was {what}"
                )
            await newcomer.release()
            await hook.put(kit.location, run_id, step, original)
    newcomer = await kit.open()
    await agree(newcomer, book, kit.declared, "after the damage was undone")


async def _exact_or_corrupted(kit: Kit, handle: Handle, book: Book, damaged: str, part: int, when: str) -> None:
    """Expect that each read is exact or refused; of the damaged run as of lists, and exact for the other runs."""
    for run_id, steps in book.runs.items():
        if run_id == damaged:
            continue
        same(steps[-1], await handle.read_latest(run_id), f"read_latest({run_id!r}) {when}")
        for checkpoint in (steps[0], steps[len(steps) // 2]):
            found = await handle.read_at_step(run_id, checkpoint.step)
            same(checkpoint, found, f"read_at_step({run_id!r}, {checkpoint.step}) {when}")
    reads: list[Callable[[], Awaitable[None]]] = [lambda: lists_agree(handle, book.summaries(), when)]
    if "history" in kit.declared:
        reads.append(lambda: histories_agree(handle, book.runs[damaged], when))
    if "search" in kit.declared:
        reads.append(lambda: searches_agree(handle, book.summaries(), when, part=part, parts=3))
    if "trees" in kit.declared:
        reads.append(lambda: trees_agree(handle, book.summaries(), (), when))
    for read in reads:
        try:
            await read()
        except (CheckpointCorruptedError, StoreVersionError):
            continue
        except CheckpointError as error:
            raise Violation(
                f"a read {when} raised {error_line(error)}; the contract wants CheckpointCorruptedError"
            ) from error
