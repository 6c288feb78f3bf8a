"""The one way to read and write runs: writes that no cancellation tears, and reads that are always checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.driver import InPlaceWrites, LookPolicy, check_timeline, missing_step_error, watch_steps
from stargraph.checkpoint.protocol import (
    BatchAppend,
    Checkpoint,
    Checkpointer,
    PrunedStart,
    RunDeletion,
    RunHistory,
    RunTimeline,
    RunWatch,
    StepSummary,
)
from stargraph.errors import CheckpointCorruptedError, CheckpointNotFoundError
from stargraph.runtime._cancellation import Held, InPlace

T = TypeVar("T")

_LISTED: Final = 1_000
"""How many runs of the list are searched for a run whose records are missing."""

_OF_WHOLE_READS: Final = LookPolicy(first=0.25, longest=1.5)

_WORTH_READING: Final = 16
"""Reading up to this many steps that are not wanted costs less than another request."""


async def write(checkpointer: Checkpointer, checkpoint: Checkpoint, *, keyring: Keyring | None = None) -> None:
    """Append a checkpoint, and wait for the outcome whatever happens to the caller.

    A cancellation that arrives meanwhile is raised once the outcome of the write is known, so that no
    write continues unseen while somebody resumes the run.

    Args:
        checkpointer: the store.
        checkpoint: what to append.
        keyring: seals it.

    Raises:
        CheckpointError: as the store raises.
        asyncio.CancelledError: the caller was cancelled; the checkpoint is stored, or was refused.
    """
    sealed = checkpoint if keyring is None else keyring.seal(checkpoint)
    await _uncancelled(checkpointer, checkpointer.write(sealed))


async def write_many(
    checkpointer: Checkpointer, checkpoints: Sequence[Checkpoint], *, keyring: Keyring | None = None
) -> None:
    """Append consecutive steps of one run, as `write` does; in one go if the store can.

    Args:
        checkpointer: the store.
        checkpoints: the steps, in order.
        keyring: seals them.

    Raises:
        CheckpointError: as the store raises; what is stored is a prefix.
        asyncio.CancelledError: the caller was cancelled; the outcome is known.
    """
    sealed = checkpoints if keyring is None else [keyring.seal(checkpoint) for checkpoint in checkpoints]
    if isinstance(checkpointer, BatchAppend):
        await _uncancelled(checkpointer, checkpointer.write_many(sealed))
        return
    for checkpoint in sealed:
        await run_uncancelled(checkpointer.write(checkpoint))


async def start_pruned(checkpointer: PrunedStart, checkpoints: Sequence[Checkpoint]) -> None:
    """Begin a run with what a prune has left of it, and wait for the outcome as `write` does.

    Args:
        checkpointer: the store.
        checkpoints: the steps, in order.

    Raises:
        CheckpointError: as the store raises.
        asyncio.CancelledError: the caller was cancelled; the outcome is known.
    """
    await run_uncancelled(checkpointer.start_pruned(checkpoints))


async def run_uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Wait for the outcome of a piece of work whatever happens to the caller.

    Args:
        work: what must not be torn.

    Raises:
        asyncio.CancelledError: the caller was cancelled; the work has ended.
        Exception: as the work raises.
    """
    return await Held(asyncio.ensure_future(work))


def _uncancelled(checkpointer: object, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """Return what waits for a write of a store: within the task of the caller if the store allows it."""
    # Only a direct subclass of the marker: a class that is derived from such a one may override write.
    return InPlace(work) if InPlaceWrites in type(checkpointer).__bases__ else run_uncancelled(work)


async def read_latest(checkpointer: Checkpointer, run_id: str, *, keyring: Keyring | None = None) -> Checkpoint | None:
    """Read the latest checkpoint of a run, checked.

    Args:
        checkpointer: the store.
        keyring: checks the seal.

    Raises:
        CheckpointCorruptedError: the record is not what was written.
    """
    return _checked(await checkpointer.read_latest(run_id), run_id, None, keyring)


async def read_run(checkpointer: Checkpointer, run_id: str, *, keyring: Keyring | None = None) -> Checkpoint:
    """Read the latest checkpoint of a run that must exist, checked.

    Args:
        checkpointer: the store.
        keyring: checks the seal.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
        CheckpointCorruptedError: the record is not what was written, or is gone though the store lists the run.
    """
    tail = await read_latest(checkpointer, run_id, keyring=keyring)
    if tail is not None:
        return tail
    for summary in await checkpointer.list_runs(limit=_LISTED):
        if summary.run_id == run_id:
            tail = await read_latest(checkpointer, run_id, keyring=keyring)
            if tail is not None:  # it started between the two reads
                return tail
            raise CheckpointCorruptedError(
                f"run {run_id!r}: the store lists it at step {summary.last_step}, but holds no step of it",
                reason="missing-step",
                hint="Restore the store from a backup; `stargraph verify` says what else is damaged.",
                run_id=run_id,
                step=summary.last_step,
            )
    raise run_not_found_error(run_id)


def run_not_found_error(run_id: str) -> CheckpointNotFoundError:
    """Return the error that says that a store holds no such run."""
    return CheckpointNotFoundError(
        f"the store holds no run {run_id!r}",
        reason="run-not-found",
        hint="`stargraph runs` lists the runs that it holds. Check that it is the store that you mean.",
        run_id=run_id,
    )


async def read_at_step(
    checkpointer: Checkpointer, run_id: str, step: int, *, keyring: Keyring | None = None
) -> Checkpoint | None:
    """Read one step of a run, checked.

    Args:
        checkpointer: the store.
        keyring: checks the seal.

    Raises:
        CheckpointCorruptedError: the record is not what was written.
    """
    return _checked(await checkpointer.read_at_step(run_id, step), run_id, step, keyring)


async def read_steps(
    checkpointer: Checkpointer, run_id: str, steps: Sequence[int], *, keyring: Keyring | None = None
) -> AsyncGenerator[Checkpoint]:
    """Yield some steps of a run in order, checked, with few requests; those that were pruned are left out.

    A store with `RunHistory` is asked for ranges: steps that lie between two wanted ones are read too if they are few.

    Args:
        checkpointer: the store.
        steps: the steps, ascending.
        keyring: checks the seals.

    Raises:
        CheckpointCorruptedError: a record is not what was written.
    """
    wanted = frozenset(steps)
    gap = _WORTH_READING if isinstance(checkpointer, RunHistory) else 0
    first = before = None
    spans: list[tuple[int, int]] = []
    for step in steps:
        if first is None or before is None or step > before + 1 + gap:
            if first is not None and before is not None:
                spans.append((first, before))
            first = step
        before = step
    if first is not None and before is not None:
        spans.append((first, before))
    for low, high in spans:
        async with aclosing(history(checkpointer, run_id, from_step=low, to_step=high, keyring=keyring)) as records:
            async for record in records:
                if record.step in wanted:
                    yield record


async def history(
    checkpointer: Checkpointer, run_id: str, *, from_step: int = 0, to_step: int, keyring: Keyring | None = None
) -> AsyncGenerator[Checkpoint]:
    """Yield steps of a run in order, checked; those that were pruned are left out.

    Args:
        checkpointer: the store.
        from_step: the first step.
        to_step: the last step.
        keyring: checks the seals.

    Raises:
        CheckpointCorruptedError: a record is not what was written, does not follow the one before it, or is missing
            though no prune removed it. A store that prunes knows what it removed; in any other one, each gap is a loss.
    """
    prunes = isinstance(checkpointer, RunDeletion)
    previous: Checkpoint | None = None
    async with aclosing(stored_steps(checkpointer, run_id, from_step=from_step, to_step=to_step)) as records:
        async for record in records:
            check_record(record, run_id, record.step)
            if keyring is not None:
                keyring.check(record)
            following = from_step if previous is None else previous.step + 1
            _check_order(previous, record, following)
            if record.step > following and not prunes:
                raise missing_step_error(run_id, following)
            previous = record
            yield record
    following = from_step if previous is None else previous.step + 1
    if following <= to_step and not prunes:
        latest = await checkpointer.read_latest(run_id)
        if latest is not None and latest.step >= following:
            raise missing_step_error(run_id, following)


async def stored_steps(
    checkpointer: Checkpointer, run_id: str, *, from_step: int, to_step: int | None
) -> AsyncGenerator[Checkpoint]:
    """Yield steps of a run in order, as the store returns them, in one go if it can; unchecked.

    Args:
        checkpointer: the store.
        from_step: the first step.
        to_step: the last step; None for all there are.
    """
    if isinstance(checkpointer, RunHistory):
        async with closing(checkpointer.history(run_id, from_step=from_step, to_step=to_step)) as records:
            async for record in records:
                yield record
        return
    if to_step is None:
        latest = await checkpointer.read_latest(run_id)
        to_step = -1 if latest is None else latest.step
    for step in range(from_step, to_step + 1):
        found = await checkpointer.read_at_step(run_id, step)
        if found is not None:
            yield found


@asynccontextmanager
async def closing(records: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close an iterator of a driver at the end, if it is a generator: one may hold a connection until then."""
    try:
        yield records
    finally:
        if isinstance(records, AsyncGenerator):
            await records.aclose()


async def timeline(
    checkpointer: Checkpointer, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
) -> list[StepSummary]:
    """Return rows for the steps of a run, in order; a store without `RunTimeline` is read whole step by whole step.

    Args:
        checkpointer: the store.
        from_step: the first step.
        to_step: the last step; None for all there are.
        limit: at most this many rows.

    Raises:
        CheckpointCorruptedError: what tells an event is not what was written.
    """
    if isinstance(checkpointer, RunTimeline):
        return await checkpointer.timeline(run_id, from_step=from_step, to_step=to_step, limit=limit)
    first, last = check_timeline(from_step, to_step, limit)
    rows: list[StepSummary] = []
    if not limit:
        return rows
    before = await checkpointer.read_at_step(run_id, first - 1) if first else None
    steps = stored_steps(checkpointer, run_id, from_step=first, to_step=None if to_step is None else last)
    async with aclosing(steps) as records:
        async for record in records:
            check_record(record, run_id, record.step)
            known = before if before is not None and before.step == record.step - 1 else None
            rows.append(StepSummary.from_checkpoint(record, known))
            before = record
            if len(rows) == limit:
                break
    return rows


def watch(checkpointer: Checkpointer, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
    """Yield the latest step of a run each time that it has grown; a store without `RunWatch` is read again and again.

    Args:
        checkpointer: the store.
        after_step: only steps above it.
    """
    if isinstance(checkpointer, RunWatch):
        return checkpointer.watch(run_id, after_step=after_step)

    async def latest_step() -> int | None:
        latest = await read_latest(checkpointer, run_id)
        return None if latest is None else latest.step

    return watch_steps(latest_step, after_step=after_step, policy=_OF_WHOLE_READS)


def _check_order(previous: Checkpoint | None, record: Checkpoint, first: int) -> None:
    """Refuse a record that does not follow the one before it; between them, steps may have been pruned."""
    if record.step < first:
        complaint, reason = (
            f"the store returned step {record.step} in place of step {first} or a later one",
            "wrong-record",
        )
    elif previous is not None and record.step == first and record.previous_digest != previous.digest:
        complaint, reason = f"step {record.step} does not follow the step before it", "broken-chain"
    else:
        return
    raise CheckpointCorruptedError(
        f"run {record.run_id!r}: {complaint}",
        reason=reason,
        hint="`stargraph verify` says what was altered.",
        run_id=record.run_id,
        step=record.step,
    )


def _checked(
    checkpoint: Checkpoint | None, run_id: str, step: int | None, keyring: Keyring | None
) -> Checkpoint | None:
    if checkpoint is None:
        return None
    check_record(checkpoint, run_id, step)
    if keyring is not None:
        keyring.check(checkpoint)
    return checkpoint


def check_record(checkpoint: Checkpoint, run_id: str, step: int | None) -> None:
    """Refuse a record that is not the one that was asked for, or not what its digest covers.

    Args:
        checkpoint: what the store returned.
        run_id: the run that was asked for.
        step: the step that was asked for; None if it was the latest.

    Raises:
        CheckpointCorruptedError: it is of another run or step (`reason="wrong-record"`).
        CheckpointError: it was changed after it was made (`reason="invalid-checkpoint"`).
    """
    if checkpoint.run_id != run_id or (step is not None and checkpoint.step != step):
        raise CheckpointCorruptedError(
            f"run {run_id!r}, step {'latest' if step is None else step}: the store returned step {checkpoint.step}"
            f" of run {checkpoint.run_id!r}",
            reason="wrong-record",
            hint="The store's driver is at fault: prove it with stargraph-conformance.",
            run_id=run_id,
            step=step,
        )
    checkpoint.ensure_valid()
