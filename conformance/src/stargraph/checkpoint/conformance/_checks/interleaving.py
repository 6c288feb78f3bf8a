"""Two operations of which one is stopped between its check and its change: the other one comes in between.

In one process an operation is stopped at each of its awaits; in others it is frozen between two lines that change the
store. Whatever the order of the two turns out to be, what the store holds is what that order makes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

from stargraph.checkpoint.conformance._checks.deletion import FAILED, RUNNING
from stargraph.checkpoint.conformance._expect import Violation, error_line, expect
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.conformance._interleaving import interleaved
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Group
from stargraph.checkpoint.conformance._runs import LATER, chain, executor_id, follow
from stargraph.checkpoint.conformance._views import Book, agree, runs_agree
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError

group: Final = Group("interleaving", needs=("steps.append_and_read", "durability.other_handle"))

_POINTS: Final = 40

Call: TypeAlias = Callable[[Handle, list[Checkpoint]], Awaitable[Any]]
"""Calls a method with the run of these steps."""

Judge: TypeAlias = Callable[[Book, list[Checkpoint], Any, Any, str], None]
"""Judges what two calls returned or raised, and notes what the store holds then."""


def _failed(run_id: str) -> list[Checkpoint]:
    return chain(run_id, 3, last_status="failed")


def resumed_step(steps: list[Checkpoint]) -> Checkpoint:
    return follow(steps[-1], event="resumed", status="running", executor_id=executor_id(2))


def _write(handle: Handle, steps: list[Checkpoint]) -> Awaitable[Any]:
    return handle.write(resumed_step(steps))


def _write_batch(handle: Handle, steps: list[Checkpoint]) -> Awaitable[Any]:
    return handle.write_many(batch_of(steps))


def _delete(handle: Handle, steps: list[Checkpoint]) -> Awaitable[Any]:
    return handle.delete_run(steps[0].run_id)


def _prune(handle: Handle, _: list[Checkpoint], *, keep_last: int) -> Awaitable[Any]:
    return handle.prune(older_than=LATER, statuses=FAILED, keep_last=keep_last)


async def _in_both_orders(kit: Kit, one: Call, other: Call, judge: Judge) -> None:
    """Let each of two calls come into the other one."""
    await _each_point(kit, one, other, judge)
    await _each_point(kit, other, one, lambda book, steps, second, first, what: judge(book, steps, first, second, what))


async def _each_point(kit: Kit, stopped: Call, meanwhile: Call, judge: Judge) -> None:
    """Stop a call at its first await, its second, … until it has no more; judge each time what came of it."""
    location = await kit.fresh_location()
    one, other, book = await kit.open(location), await kit.open(location), Book()
    for point in range(_POINTS):
        steps = _failed(f"run-{point}")
        for checkpoint in steps:
            await one.write(checkpoint)
        first, second, reached = await interleaved(stopped(one, steps), point, partial(meanwhile, other, steps))
        for outcome in (first, second):
            if isinstance(outcome, Exception) and not isinstance(outcome, CheckpointError):
                raise Violation(f"one of two calls side by side raised {error_line(outcome)}") from outcome
        what = f"after two calls of which one was stopped at await {point + 1}"
        judge(book, steps, first, second, what)
        if kit.thorough:  # otherwise the handle that looks at all runs in the end sees what has become of them
            await _both_agree(kit, one, other, book, steps[0].run_id, what)
        if not reached:
            break
    await agree(await kit.open(location), book, kit.declared, "after calls were stopped in the middle")


async def _both_agree(kit: Kit, one: Handle, other: Handle, book: Book, run_id: str, what: str) -> None:
    alone = Book(
        {known: found for known, found in book.runs.items() if known == run_id},
        book.floors,
        {known: found for known, found in book.gone.items() if known == run_id},
    )
    for handle in (one, other):
        await runs_agree(handle, alone, kit.declared, what)


def _refusal(outcome: Any) -> str | None:
    """The reason for which a call was refused; None if it succeeded."""
    return outcome.reason if isinstance(outcome, CheckpointError) else None


def judge_deletion(book: Book, steps: list[Checkpoint], deleted: Any, wrote: Any, what: str) -> None:
    """A run that is deleted is gone, whatever was written before or is refused after."""
    run_id = steps[0].run_id
    expect(deleted is True, f"delete_run({run_id!r}) beside a write gave {deleted!r}")
    expect(
        _refusal(wrote) in (None, "run-deleted"),
        f"a write {what}, one of which deleted the run, was refused with {wrote!r}",
    )
    book.gone[run_id] = [*steps, resumed_step(steps)]


@group.check(
    "delete_and_write",
    "A deletion and a write side by side: the run is gone, and the write came before or is refused.",
    contract="capability.6, rule.2",
    usual_cause="The tombstone is looked for before the step is stored, and not in the same transaction.",
    needs=("deletion.stays_deleted",),
    capability="deletion",
    deadline=60,
)
async def delete_and_write(kit: Kit) -> None:
    await _in_both_orders(kit, _delete, _write, judge_deletion)


def judge_removal(book: Book, steps: list[Checkpoint], pruned: Any, wrote: Any, what: str) -> None:
    """A run that was resumed before the prune stays whole; one that was pruned before it refuses the step."""
    run_id = steps[0].run_id
    if isinstance(pruned, Exception):
        raise Violation(f"prune(keep_last=0) beside a write raised {error_line(pruned)}") from pruned
    if wrote is None:
        book.runs[run_id] = [*steps, resumed_step(steps)]
        return
    expect(_refusal(wrote) == "run-deleted", f"a write {what}, one of which pruned the run, gave {wrote!r}")
    book.gone[run_id] = steps


def _judge_pruning(book: Book, steps: list[Checkpoint], pruned: Any, wrote: Any, what: str) -> None:
    if isinstance(pruned, Exception):
        raise Violation(f"prune(keep_last=1) beside a write raised {error_line(pruned)}") from pruned
    expect(wrote is None, f"a write {what}, one of which was prune(keep_last=1), was refused with {wrote!r}")
    book.runs[steps[0].run_id] = [*steps, resumed_step(steps)]
    book.floors[steps[0].run_id] = {steps[-1].step, steps[-1].step + 1}


@group.check(
    "prune_and_write",
    "A prune and a run that continues meanwhile: the run stays, or its step is refused.",
    contract="capability.6, prune.2",
    usual_cause="prune reads which runs stand still, and removes them later without looking again.",
    needs=("deletion.prune_keeps_last", "deletion.keep_last_zero_removes"),
    capability="deletion",
    deadline=60,
)
async def prune_and_write(kit: Kit) -> None:
    for keep_last, judge in ((0, judge_removal), (1, _judge_pruning)):
        await _in_both_orders(kit, partial(_prune, keep_last=keep_last), _write, judge)


@group.check(
    "reads_and_removal",
    "A read during which a run is deleted or pruned returns what was there before or after; it never fails, and a run "
    "that continues is never unknown.",
    contract="capability.6, read.1, history.1, search.1",
    usual_cause="A read looks at the store several times: it finds the highest step, or the ids of the runs, and then "
    "asks for records that are gone meanwhile.",
    needs=("deletion.stays_deleted", "deletion.pruned_run_goes_on"),
    capability="deletion",
    deadline=60,
)
async def reads_and_removal(kit: Kit) -> None:
    one, other = await kit.open(), await kit.open()
    for name, read in _reads(kit).items():
        for removal in ("prune", "delete_run"):
            for point in range(_POINTS):
                run_id = f"{name}-{removal}-{point}".replace("(", "-").replace(")", "")
                steps = chain(run_id, 3, last_status="failed", graph_id=run_id, key="first")
                for checkpoint in steps:
                    await one.write(checkpoint)
                meanwhile = partial(remove_run, other, removal, steps)
                first, second, reached = await interleaved(read(one, steps), point, meanwhile)
                what = f"{name} of a run that a {removal} came into at await {point + 1}"
                for outcome in (first, second):
                    if isinstance(outcome, Violation):
                        raise outcome
                    if isinstance(outcome, Exception):
                        raise Violation(f"{what} raised {error_line(outcome)}") from outcome
                known = {each.step: each.digest for each in [*steps, resumed_step(steps)]}
                for found in first:
                    right = found is None or found[1] in ("", known.get(found[0]))
                    expect(right, f"{what} gave {found}, which was never written so")
                if removal == "prune" and name not in ("read_at_step", "read_at_key", "history"):
                    expect(first and first != [None], f"{what} gave nothing; the run is there, before and after")
                if not reached:
                    break


_Steps: TypeAlias = list[tuple[int, str] | None]


def _reads(kit: Kit) -> dict[str, Callable[[Handle, list[Checkpoint]], Awaitable[_Steps]]]:
    """Reads of one run, each of which gives the steps that it found, with their digests if it gives these."""

    async def latest(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        found = await handle.read_latest(steps[0].run_id)
        return [None if found is None else (found.step, found.digest)]

    async def at_step(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        found = await handle.read_at_step(steps[0].run_id, steps[-1].step)
        return [None if found is None else (found.step, found.digest)]

    async def history(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        found = [(each.step, each.digest) async for each in handle.history(steps[0].run_id)]
        expect(found == sorted(found), f"history gave the steps {[step for step, _ in found]}")
        return [*found]

    async def listed(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        found = await handle.list_runs(limit=10_000)
        return [(item.last_step, "") for item in found if item.run_id == steps[0].run_id]

    async def searched(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        found = (await handle.search(graph_id=steps[0].run_id)).items
        return [(item.last_step, "") for item in found]

    async def at_key(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        found = await handle.read_at_key(steps[0].run_id, "first")
        return [None if found is None else (found.step, found.digest)]

    async def rows(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        return [(row.step, "") for row in await handle.timeline(steps[0].run_id)]

    async def counted(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        return [(steps[-1].step, "")] * sum((await handle.count_runs(graph_id=steps[0].run_id)).values())

    async def childless(handle: Handle, steps: list[Checkpoint]) -> _Steps:
        found = await handle.children(steps[0].run_id)
        expect(not found, f"children({steps[0].run_id!r}) gave {[item.run_id for item in found]}; it has none")
        return [(steps[-1].step, "")]

    reads: dict[str, Callable[[Handle, list[Checkpoint]], Awaitable[_Steps]]]
    reads = {"read_latest": latest, "read_at_step": at_step, "list_runs": listed}
    if "history" in kit.declared:
        reads["history"] = history
    if "search" in kit.declared:
        reads |= {"search": searched, "count_runs": counted}
    if "timeline" in kit.declared:
        reads["timeline"] = rows
    if "trees" in kit.declared:
        reads["children"] = childless
    if "keys" in kit.declared:
        reads["read_at_key"] = at_key
    return reads


async def remove_run(handle: Handle, removal: str, steps: list[Checkpoint]) -> None:
    if removal == "delete_run":
        await handle.delete_run(steps[0].run_id)
    else:
        await handle.write(resumed_step(steps))
        await handle.prune(older_than=LATER, statuses=RUNNING, keep_last=1)


@group.check(
    "delete_twice",
    "Of two deletions side by side, or a deletion and a prune, one removes the run and the run is gone.",
    contract="capability.6, delete_run.2",
    usual_cause="Whether the run exists is looked up before the transaction that removes it.",
    needs=("deletion.stays_deleted",),
    capability="deletion",
    deadline=60,
)
async def delete_twice(kit: Kit) -> None:
    def both(book: Book, steps: list[Checkpoint], first: Any, second: Any, what: str) -> None:
        expect(
            {first, second} == {True, False},
            f"two deletions of one run side by side gave {first!r} and {second!r}; one of them removed it",
        )
        book.gone[steps[0].run_id] = steps

    def pruned(book: Book, steps: list[Checkpoint], first: Any, second: Any, what: str) -> None:
        expect(not isinstance(first, Exception), f"a deletion beside a prune raised {first!r}")
        expect(not isinstance(second, Exception), f"a prune beside a deletion raised {second!r}")
        removed = (first is True) + second.runs
        expect(removed == 1, f"delete_run gave {first} and prune {second}: one of them removed the run")
        book.gone[steps[0].run_id] = steps

    await _each_point(kit, _delete, _delete, both)
    await _each_point(kit, _delete, partial(_prune, keep_last=0), pruned)


def batch_of(steps: list[Checkpoint]) -> list[Checkpoint]:
    found = [follow(steps[-1], status="running", executor_id=executor_id(1))]
    for _ in range(4):
        found.append(follow(found[-1]))
    return found


@group.check(
    "batch_and_others",
    "A batch beside a write of another executor, or a deletion: one of the two comes first, and the run is what that "
    "order gives.",
    contract="capability.6, write_many.2",
    usual_cause="The batch is judged once, before it is stored, and not in the transaction that stores it.",
    needs=("batch.conflict_stores_nothing",),
    capability="batch",
    deadline=60,
)
async def batch_and_others(kit: Kit) -> None:
    def rivals(book: Book, steps: list[Checkpoint], batched: Any, wrote: Any, what: str) -> None:
        run_id = steps[0].run_id
        outcomes = [batched is None, wrote is None]
        expect(sum(outcomes) == 1, f"a batch and a rival's write {what} gave {batched!r} and {wrote!r}: one must win")
        loser = wrote if outcomes[0] else batched
        expect(isinstance(loser, CheckpointConflictError), f"the loser of a batch and a rival's write got {loser!r}")
        book.runs[run_id] = [*steps, *(batch_of(steps) if outcomes[0] else [resumed_step(steps)])]

    def deleted(book: Book, steps: list[Checkpoint], batched: Any, gone: Any, what: str) -> None:
        expect(gone is True, f"delete_run beside a batch gave {gone!r}")
        expect(_refusal(batched) in (None, "run-deleted"), f"a batch beside a deletion gave {batched!r}")
        book.gone[steps[0].run_id] = [*steps, *batch_of(steps)]

    await _in_both_orders(kit, _write_batch, _write, rivals)
    if "deletion" in kit.declared:
        await _each_point(kit, _write_batch, _delete, deleted)


async def write_failed(handle: Handle, run_id: str) -> list[Checkpoint]:
    steps = _failed(run_id)
    for checkpoint in steps:
        await handle.write(checkpoint)
    return steps
