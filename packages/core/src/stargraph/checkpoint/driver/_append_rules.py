"""The rules of an append, which every driver decides by, so that every store refuses the same in the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from stargraph.checkpoint.driver._errors import run_deleted_error
from stargraph.checkpoint.protocol._checkpoint import Checkpoint
from stargraph.checkpoint.protocol._records import ENDED, FanOut, Status, StepRange
from stargraph.errors import CheckpointConflictError, CheckpointError
from stargraph.errors._arguments import check_type


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a run, as a store knows it when it decides about an append.

    Attributes:
        step: the highest stored step.
        digest: its digest.
        status: its status.
        floor: the first step of the unbroken end of the run; above 0 after a prune. A few steps that a resume needs may
            lie below.
    """

    step: int
    digest: str
    status: Status
    floor: int = 0


def judge_append(
    checkpoint: Checkpoint,
    *,
    tail: Tail | None,
    stored_digest: str | None,
    deleted: bool = False,
    fingerprint: Callable[[str], str] = str,
) -> Literal["append", "stored"]:
    """Decide whether a checkpoint is appended, by the rules of `write` in the contract's order.

    Args:
        checkpoint: what is to be written; it has passed `ensure_valid`.
        tail: the run as it is stored, or None if it is unknown.
        stored_digest: the digest of the stored checkpoint of the same run and step, or None.
        deleted: the run was deleted; nothing else is looked at then.
        fingerprint: returns what the store keeps instead of a digest, if it does.

    Returns:
        `append`, or `stored` if the very same checkpoint is there already.

    Raises:
        CheckpointConflictError: another checkpoint is stored at this step (`reason="step-taken"`), or this
            one follows another step than the latest (`reason="wrong-predecessor"`).
        CheckpointError: `reason` is `run-deleted`, `step-gap`, `pruned`, `run-ended` or `plain-run`.
    """
    run_id, step = checkpoint.run_id, checkpoint.step
    if deleted:
        raise run_deleted_error(run_id, step)
    where = f"run {run_id!r}, step {step}"
    digest = fingerprint(checkpoint.digest)
    previous_digest = None if checkpoint.previous_digest is None else fingerprint(checkpoint.previous_digest)
    if stored_digest is not None:
        if stored_digest == digest:
            return "stored"
        raise CheckpointConflictError(
            f"{where}: another checkpoint is stored at this step ({stored_digest[:12]}…, not {digest[:12]}…)",
            reason="step-taken",
            hint="Stop this executor: another one has taken the run over.",
            run_id=run_id,
            step=step,
        )
    if tail is None:
        if step == 0:
            return "append"
        raise CheckpointError(
            f"{where}: the store knows no such run, and a run begins at step 0",
            reason="step-gap",
            hint="Write the steps before it first, or check that this is the store that holds the run.",
            run_id=run_id,
            step=step,
        )
    if step < tail.floor:
        raise CheckpointError(
            f"{where}: the steps below {tail.floor} were pruned",
            reason="pruned",
            hint="A pruned step cannot be restored; resume the run from its latest step.",
            run_id=run_id,
            step=step,
        )
    if step != tail.step + 1:
        raise CheckpointError(
            f"{where}: the latest step is {tail.step}, so the next one is {tail.step + 1}",
            reason="step-gap",
            hint="Read the latest checkpoint and build the next one from it.",
            run_id=run_id,
            step=step,
        )
    if tail.status in ENDED:
        raise _run_ended(checkpoint, tail.status, tail.step)
    if previous_digest != tail.digest and tail.digest == checkpoint.previous_digest:
        raise CheckpointError(
            f"{where}: the run was started without encryption, and cannot be continued with it in this store",
            reason="plain-run",
            hint="Copy the run to a new store with the keys, and resume it there.",
            run_id=run_id,
            step=step,
        )
    if previous_digest != tail.digest:
        raise CheckpointConflictError(
            f"{where}: it follows {(previous_digest or 'nothing')[:12]}…, but step {tail.step} is {tail.digest[:12]}…",
            reason="wrong-predecessor",
            hint="Stop this executor: another one wrote the step before.",
            run_id=run_id,
            step=step,
        )
    return "append"


def check_batch(checkpoints: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Refuse a batch of `write_many` that is not consecutive steps of one run, or goes on after its end.

    Returns:
        The steps; an iterator is at its end by now.

    Raises:
        CheckpointError: `reason` is `invalid-batch` or `run-ended`.
        TypeError: it holds something else.
    """
    check_type(checkpoints, "checkpoints", Iterable, "a list of checkpoints")
    steps = tuple(checkpoints)
    _check_checkpoints(steps)
    for before, after in pairwise(steps):
        if after.run_id != before.run_id or after.step != before.step + 1 or after.previous_digest != before.digest:
            raise CheckpointError(
                f"run {after.run_id!r}, step {after.step} does not follow run {before.run_id!r}, step {before.step}",
                reason="invalid-batch",
                hint="write_many takes consecutive steps of one run, in order.",
                run_id=after.run_id,
                step=after.step,
            )
        if before.status in ENDED:
            raise _run_ended(after, before.status, before.step)
    return steps


def check_pruned_start(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Return the steps that `start_pruned` was given, if they can be what a prune has left of a run.

    Raises:
        CheckpointError: `reason` is `invalid-batch` or `run-ended`.
    """
    check_type(checkpoints, "checkpoints", Iterable, "a list of checkpoints")
    steps = tuple(checkpoints)
    _check_checkpoints(steps)
    for before, after in pairwise(steps):
        if after.run_id != before.run_id or after.step <= before.step:
            raise _not_what_a_prune_left(after, f"it comes after step {before.step} of run {before.run_id!r}")
        if after.step == before.step + 1 and after.previous_digest != before.digest:
            raise _not_what_a_prune_left(after, "it does not follow the step before it")
        if before.status in ENDED:
            raise _run_ended(after, before.status, before.step)
    if not steps:
        raise CheckpointError("start_pruned was given no step", reason="invalid-batch")
    if steps[-1].step == 0 or (len(steps) > 1 and steps[-2].step == steps[-1].step - 1):
        raise _not_what_a_prune_left(steps[-1], "no step is missing before it, so it is not the floor")
    return steps


def _check_checkpoints(checkpoints: Sequence[object]) -> None:
    for checkpoint in checkpoints:
        check_type(checkpoint, "one of checkpoints", Checkpoint, "checkpoints, as Checkpoint.next makes them")


def judge_pruned_start(
    checkpoints: Sequence[Checkpoint],
    *,
    stored_digests: Mapping[int, str],
    deleted: bool = False,
    fingerprint: Callable[[str], str] = str,
) -> None:
    """Say why a run could not be started with what a prune has left of it: return if these very steps are stored.

    Args:
        checkpoints: what is to be stored; they have passed `check_pruned_start`.
        stored_digests: the digests of those steps of the run that are stored.
        deleted: the run was deleted; nothing else is looked at then.
        fingerprint: returns what the store keeps instead of a digest, if it does.

    Raises:
        CheckpointConflictError: the store has other steps of that run (`reason="run-exists"`).
        CheckpointError: the run was deleted.
    """
    last = checkpoints[-1]
    if deleted:
        raise run_deleted_error(last.run_id, last.step)
    if any(stored_digests.get(step.step) != fingerprint(step.digest) for step in checkpoints):
        raise CheckpointConflictError(
            f"run {last.run_id!r}: the store has other steps of it than those that a prune has left",
            reason="run-exists",
            hint="Copy the run into another store.",
            run_id=last.run_id,
            step=last.step,
        )


def _not_what_a_prune_left(checkpoint: Checkpoint, complaint: str) -> CheckpointError:
    return CheckpointError(
        f"run {checkpoint.run_id!r}, step {checkpoint.step}: {complaint}",
        reason="invalid-batch",
        hint="start_pruned takes the steps that a prune has left of one run, in order.",
        run_id=checkpoint.run_id,
        step=checkpoint.step,
    )


def _run_ended(checkpoint: Checkpoint, status: Status, since_step: int) -> CheckpointError:
    return CheckpointError(
        f"run {checkpoint.run_id!r}, step {checkpoint.step}: the run is {status} since step {since_step}",
        reason="run-ended",
        hint="An ended run takes no further step; fork it to continue from one of its steps.",
        run_id=checkpoint.run_id,
        step=checkpoint.step,
    )


def needed_steps(latest: Checkpoint) -> tuple[StepRange, ...]:
    """Return the steps that a run needs to be resumed from its latest checkpoint: a prune keeps them."""
    needed = [StepRange(first=latest.step, last=latest.step)]
    for item in latest.frontier:
        needed.append(StepRange(first=item.since_step, last=item.since_step))
        needed += item.completed_steps if isinstance(item, FanOut) else item.calls
    return tuple(needed)
