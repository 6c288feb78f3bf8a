"""What a copy, an export and an import share: a run read whole before it is passed on, and appended where it goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from stargraph.audit._anchor import Head
from stargraph.audit._verify import verify_run
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.driver import needed_steps
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Checkpointer, PrunedStart, RunDeletion, StepRange
from stargraph.errors import CheckpointError, StoreUnavailableError
from stargraph.runtime import dispatch
from stargraph.runtime._reading import Unreadable, all_runs, read_latest, steps
from stargraph.runtime._tree import with_children
from stargraph.transfer._reports import Refusal

_BATCH_STEPS: Final = 64
_BATCH_BYTES: Final = 8 * 1024 * 1024
_KEPT_BYTES: Final = 16 * 1024 * 1024
"""A run up to this size is read once; a larger one twice, so that none is passed on that turns out to be broken."""


class Refused(Exception):
    """A run cannot be transferred.

    Args:
        refusal: why.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Extent:
    """What a store holds of a run.

    Attributes:
        head: its latest checkpoint.
        first_step: the first step from the one that was asked for.
        steps: how many there are from there to the head.
        floor: the first step of those from which on none is missing.
        below: the steps below the floor that its latest checkpoint needs to be resumed.
        items: the steps, if they are few.
    """

    head: Checkpoint
    first_step: int
    steps: int
    floor: int
    below: frozenset[int]
    items: tuple[Checkpoint, ...] | None

    async def read(self, store: Checkpointer) -> AsyncGenerator[Checkpoint]:
        """Yield the steps.

        Args:
            store: where they are.

        Raises:
            Refused: they are no longer those that were surveyed.
        """
        if self.items is not None:
            for checkpoint in self.items:
                yield checkpoint
            return
        run_id = self.head.run_id
        count = 0
        async with aclosing(steps(store, run_id, from_step=self.first_step, to_step=self.head.step)) as items:
            async for item in items:
                checkpoint = _sound(item, run_id, None)
                if checkpoint.step >= self.floor or checkpoint.step in self.below:
                    yield checkpoint
                    count += 1
        if count != self.steps:
            raise refused(run_id, "run-changed", "it was pruned or deleted while it was read", "Try again.")


async def chosen_runs(
    store: Checkpointer, run_ids: Iterable[str] | None, since: datetime | None, *, children: bool
) -> AsyncGenerator[tuple[str, ...]]:
    """Yield the ids of the runs to transfer, as units: a run comes after its child runs.

    Args:
        store: where they are.
        run_ids: the runs; None for all, each of which is a unit of its own.
        since: if all are meant, only runs that started then or later.
        children: take the child runs of named runs along.
    """
    if run_ids is None:
        # The newest come first, so a child, which started later, comes before its parent.
        async with aclosing(all_runs(store, since=since)) as summaries:
            async for summary in summaries:
                yield (summary.run_id,)
        return
    seen: set[str] = set()
    for run_id in run_ids:
        unit = [each async for each in with_children(store, [run_id], children=children) if each not in seen]
        seen.update(unit)
        if unit:
            yield tuple(unit)


async def survey(store: Checkpointer, run_id: str, *, keyring: Keyring | None, head: Checkpoint, first: int) -> Extent:
    """Read a run from a step on to its head, and refuse it if it is damaged.

    Args:
        store: where it is.
        keyring: checks the seals.
        head: its latest checkpoint.
        first: the step to begin with.

    Raises:
        Refused: a step cannot be read, or does not follow the one before.
    """
    kept: list[Checkpoint] | None = []
    size = 0
    spans: list[StepRange] = []
    before: Checkpoint | None = None
    async with aclosing(steps(store, run_id, from_step=first, to_step=head.step)) as items:
        async for item in items:
            checkpoint = _sound(item, run_id, keyring)
            following = first if before is None else before.step + 1
            if checkpoint.step > following and not isinstance(store, RunDeletion):
                raise refused(run_id, "missing-steps", f"step {following} is missing, and its store prunes nothing")
            if before is None or checkpoint.step > following:
                spans.append(StepRange(first=checkpoint.step, last=checkpoint.step))
            elif checkpoint.previous_digest != before.digest:
                message = f"step {checkpoint.step} does not follow step {before.step}"
                raise refused(run_id, "broken-chain", message, f"`stargraph verify {run_id}` shows more.")
            else:
                spans[-1] = StepRange(first=spans[-1].first, last=checkpoint.step)
            before = checkpoint
            size += size_of(checkpoint)
            if kept is not None:
                kept.append(checkpoint)
            if size > _KEPT_BYTES:
                kept = None
    if before is None or before.digest != head.digest:
        raise refused(run_id, "missing-steps", f"it ends before its latest step, {head.step}")
    *remains, tail = spans
    below: frozenset[int] = frozenset()
    if remains and not first:
        await _refuse_what_no_prune_left(store, run_id)
        needed = () if head.status in ENDED else needed_steps(head)
        below = frozenset(step for span in needed for step in _steps_of(span) if step < tail.first)
        below &= {step for span in remains for step in _steps_of(span)}
    if kept is not None:
        kept = [checkpoint for checkpoint in kept if checkpoint.step >= tail.first or checkpoint.step in below]
    return Extent(
        head,
        min(below, default=tail.first),
        len(below) + tail.last + 1 - tail.first,
        tail.first,
        below,
        None if kept is None else tuple(kept),
    )


async def _refuse_what_no_prune_left(store: Checkpointer, run_id: str) -> None:
    report = await verify_run(store, run_id)
    for finding in () if report is None else report.findings:
        if finding.kind == "missing-steps":
            raise refused(run_id, finding.kind, finding.message, f"`stargraph verify {run_id}` shows more.")


def _steps_of(span: StepRange) -> range:
    return range(span.first, span.last + 1)


class BatchWriter:
    """Appends the steps of one run, several at a time if the store can.

    Args:
        store: where they go.

    Attributes:
        written: how many steps were.
        floor: the step up to which steps may be missing, if the run was pruned and begins here; else 0.
    """

    def __init__(self, store: Checkpointer) -> None:
        self.written = 0
        self.floor = 0
        self._store = store
        self._batch: list[Checkpoint] = []
        self._size = 0

    async def add(self, checkpoint: Checkpoint) -> None:
        """Take the next step.

        Args:
            checkpoint: the step.

        Raises:
            Refused: the store does not take it.
        """
        self._batch.append(checkpoint)
        self._size += size_of(checkpoint)
        if checkpoint.step < self.floor:
            return  # all that there is up to the floor goes in one piece
        if checkpoint.step == self.floor or len(self._batch) == _BATCH_STEPS or self._size >= _BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what was taken.

        Raises:
            Refused: the store does not take it.
        """
        batch, self._batch, self._size = self._batch, [], 0
        if not batch:
            return
        try:
            if batch[-1].step > self.floor or not self.floor:
                await dispatch.write_many(self._store, batch)
            elif isinstance(self._store, PrunedStart):
                await dispatch.start_pruned(self._store, batch)
            else:
                raise not_startable(batch[0].run_id)
        except StoreUnavailableError:
            raise
        except CheckpointError as error:
            raise Refused(
                Refusal(
                    run_id=batch[0].run_id,
                    reason=error.reason or "refused",
                    message=error.message,
                    hint="Another process wrote the run there, or deleted it.",
                )
            ) from error
        self.written += len(batch)


async def present_in(store: Checkpointer, head: Head, source: Checkpointer | None = None) -> Checkpoint | None:
    """Return the latest checkpoint that is in the destination of a run already, compared as far as it can be.

    Args:
        store: where the run goes.
        head: its latest step where it comes from.
        source: where it comes from; None if its steps are compared as they pass.

    Raises:
        Refused: what is there is another run of that id, or damaged.
    """
    run_id = head.run_id
    there = await read_latest(store, run_id)
    if there is None:
        return None
    if isinstance(there, Unreadable):
        raise refused(run_id, "corrupted-record", f"what the destination holds is damaged: {there.message}")
    common = min(there.step, head.step)
    theirs = there if common == there.step else await _step(store, run_id, common)
    if theirs is None:
        raise refused(run_id, "pruned", f"step {common} was pruned there, so the two cannot be compared")
    ours: Head | Checkpoint | None = head
    if common < head.step:
        # Where the source has pruned it since, the next step proves by its previous_digest that it follows.
        ours = None if source is None else await _step(source, run_id, common)
    if ours is not None and ours.digest != theirs.digest:
        raise diverged(run_id, common)
    return there


async def _step(store: Checkpointer, run_id: str, step: int) -> Checkpoint | None:
    async with aclosing(steps(store, run_id, from_step=step, to_step=step)) as items:
        async for item in items:
            return _sound(item, run_id, None)
    return None


def diverged(run_id: str, step: int) -> Refused:
    """Return the refusal of a run that has other steps in the destination.

    Args:
        step: a step at which the two differ.
    """
    return refused(
        run_id,
        "diverged",
        f"the destination holds another run of that id: step {step} differs",
        "Nothing of it was changed. Copy into another store.",
    )


def not_joined(run_id: str, step: int, floor: int) -> Refused:
    """Return the refusal of a run that the destination holds up to a step after which steps were pruned.

    Args:
        step: the first step that the destination lacks.
        floor: the step up to which steps were pruned.
    """
    return refused(
        run_id,
        "pruned",
        f"the destination holds it up to step {step - 1}, and steps between that and step {floor} were pruned since",
        "Copy it into another store.",
    )


def not_startable(run_id: str) -> Refused:
    """Return the refusal of a pruned run that a store cannot begin."""
    return refused(
        run_id,
        "pruned",
        "its first steps were pruned, and the driver of the destination takes a run only from step 0 on",
        "`stargraph export` keeps what remains of it in a file; a driver with `start_pruned` takes it.",
    )


def refused(run_id: str, reason: str, message: str, hint: str | None = None) -> Refused:
    """Return the exception that ends the transfer of one run.

    Args:
        reason: a stable word.
        message: why, in words.
        hint: what to do.
    """
    return Refused(Refusal(run_id=run_id, reason=reason, message=message, hint=hint))


async def confirm(store: Checkpointer, head: Head, *, keyring: Keyring | None) -> None:
    """Read a run back from the destination, and compare its head.

    Args:
        store: where it went.
        head: its latest step where it came from; the chain makes it stand for all.
        keyring: checks the seals.

    Raises:
        Refused: it is not what was written.
    """
    report = await verify_run(store, head.run_id, keyring=keyring, anchored=head)
    if report is None or report.findings:
        complaint = report.findings[0].message if report is not None else "it is not there"
        raise refused(head.run_id, "not-verified", f"read back, it is not what was written: {complaint}")


def head_of(checkpoint: Checkpoint) -> Head:
    """Return a checkpoint as the head of its run.

    Args:
        checkpoint: the latest one.
    """
    return Head(run_id=checkpoint.run_id, step=checkpoint.step, digest=checkpoint.digest, status=checkpoint.status)


async def latest_of(store: Checkpointer, run_id: str, *, must_exist: bool) -> Checkpoint | None:
    """Return the latest checkpoint of a run that is to be transferred.

    Args:
        store: where it is.
        must_exist: raise if there is no such run; else it was deleted since it was listed.

    Raises:
        CheckpointNotFoundError: there is none.
        Refused: it cannot be read.
    """
    latest = await read_latest(store, run_id)
    if isinstance(latest, Unreadable):
        raise refused(run_id, "corrupted-record", latest.message, f"`stargraph verify {run_id}` shows more.")
    if latest is None and must_exist:
        raise dispatch.run_not_found_error(run_id)
    return latest


def refuse_moved(latest: Checkpoint) -> None:
    """Refuse a run that was moved: two copies of it could be resumed.

    Raises:
        Refused: it was moved.
    """
    if latest.status == "moved":
        raise refused(
            latest.run_id,
            "run-moved",
            "it was moved to another store, and is resumed there",
            "Copy it from there. If the move was interrupted, repeat it.",
        )


def refuse_seal(checkpoint: Checkpoint, keyring: Keyring | None) -> None:
    """Refuse a checkpoint that no key sealed.

    Args:
        keyring: the keys; None if seals are not checked.

    Raises:
        Refused: its seal is not taken.
    """
    refusal = None if keyring is None else keyring.refusal(checkpoint.seal, checkpoint.digest)
    if keyring is not None and refusal is not None:
        reason, complaint = refusal
        message = f"step {checkpoint.step}: {complaint}"
        raise refused(checkpoint.run_id, reason, message, f"Check {keyring.source}; `stargraph verify` shows more.")


def size_of(checkpoint: Checkpoint) -> int:
    """Return about how many bytes a checkpoint takes."""
    return sum(len(encoded.encoded) for encoded in checkpoint.encoded_state().values())


def _sound(item: Checkpoint | Unreadable, run_id: str, keyring: Keyring | None) -> Checkpoint:
    if isinstance(item, Unreadable):
        reason = "missing-steps" if item.is_missing else "corrupted-record"
        raise refused(run_id, reason, item.message, f"`stargraph verify {run_id}` shows more.")
    refuse_seal(item, keyring)
    return item
