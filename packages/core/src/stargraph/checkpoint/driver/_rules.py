"""The rules that every driver decides by, so that every store refuses alike and in the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from stargraph.checkpoint.protocol._models import Checkpoint
from stargraph.checkpoint.protocol._records import ENDED, FanOut, Status, StepRange, as_utc
from stargraph.errors import CheckpointConflictError, CheckpointError


@dataclass(frozen=True, slots=True)
class Tail:
    """What a store knows of a run when it decides whether a checkpoint may be appended.

    Attributes:
        step: the highest stored step.
        digest: the digest of it.
        status: the status of it.
        floor: the lowest stored step; above 0 after a prune.
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
    fingerprint: Callable[[str], str] = str,
) -> Literal["append", "stored"]:
    """Decide what becomes of a checkpoint: the rules of `write`, in the contract's order.

    Args:
        checkpoint: what is to be written; valid already.
        tail: the run as it is stored, or None where it is unknown.
        stored_digest: the digest of the stored checkpoint of the same run and step, or None.
        fingerprint: makes of a digest what the store keeps instead, where it does.

    Returns:
        `append`, or `stored` where the very same checkpoint is there already.

    Raises:
        CheckpointConflictError: another checkpoint is stored at this step (`reason="step-taken"`), or this
            one follows another step than the latest (`reason="wrong-predecessor"`).
        CheckpointError: `reason` is `step-gap`, `pruned`, `run-ended` or `plain-run`.
    """
    run_id, step = checkpoint.run_id, checkpoint.step
    where = f"run {run_id!r}, step {step}"
    digest = fingerprint(checkpoint.digest)
    previous_digest = None if checkpoint.previous_digest is None else fingerprint(checkpoint.previous_digest)
    if stored_digest is not None:
        if stored_digest == digest:
            return "stored"
        raise CheckpointConflictError(
            f"{where}: another checkpoint is stored at this step ({stored_digest[:12]}…, not {digest[:12]}…)",
            reason="step-taken",
            hint="Another executor has taken this run over; this one must stop.",
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
            hint="A pruned step is gone for good; the run goes on from its latest step.",
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
            f"{where}: the run was begun without encryption, and cannot go on with it in this store",
            reason="plain-run",
            hint="Copy it to a new store with the keys, and resume it there.",
            run_id=run_id,
            step=step,
        )
    if previous_digest != tail.digest:
        raise CheckpointConflictError(
            f"{where}: it follows {(previous_digest or 'nothing')[:12]}…, but step {tail.step} is {tail.digest[:12]}…",
            reason="wrong-predecessor",
            hint="Another executor wrote the step before; this one must stop.",
            run_id=run_id,
            step=step,
        )
    return "append"


def not_bootstrapped_error() -> CheckpointError:
    """Return the error of a method that was called before `bootstrap`."""
    return CheckpointError(
        "the checkpointer is not ready: bootstrap() was not called",
        reason="not-bootstrapped",
        hint="Call `await checkpointer.bootstrap()` once at start-up; it is idempotent.",
    )


def closed_error() -> CheckpointError:
    """Return the error of a method that was called after `close`."""
    return CheckpointError(
        "the checkpointer is closed",
        reason="closed",
        hint="Call `await checkpointer.bootstrap()` to open it again.",
    )


def read_only_error(what: str) -> CheckpointError:
    """Return the error of a change that a read-only handle was asked for.

    Args:
        what: the method that was called, as in `write`.
    """
    return CheckpointError(
        f"{what}: the checkpointer is read-only",
        reason="read-only",
        hint="Open the store without read_only=True to change it.",
    )


def run_deleted_error(run_id: str, step: int) -> CheckpointError:
    """Return the error of a write to a run that was deleted.

    Args:
        run_id: the run.
        step: the step that was to be written.
    """
    return CheckpointError(
        f"run {run_id!r}, step {step}: the run was deleted",
        reason="run-deleted",
        hint="A deleted run takes no further step; start a new one under another id.",
        run_id=run_id,
        step=step,
    )


def check_batch(checkpoints: list[Checkpoint]) -> None:
    """Refuse a batch that is not consecutive steps of one run, or goes on after its end.

    Args:
        checkpoints: what `write_many` was given.

    Raises:
        CheckpointError: `reason` is `invalid-batch` or `run-ended`.
    """
    for before, after in pairwise(checkpoints):
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


def _run_ended(checkpoint: Checkpoint, status: Status, since_step: int) -> CheckpointError:
    return CheckpointError(
        f"run {checkpoint.run_id!r}, step {checkpoint.step}: the run is {status} since step {since_step}",
        reason="run-ended",
        hint="An ended run takes no further step; fork it to go on from one of its steps.",
        run_id=checkpoint.run_id,
        step=checkpoint.step,
    )


def check_listing(since: datetime | None, limit: int) -> datetime | None:
    """Refuse bad arguments of `list_runs` and `search`.

    Args:
        since: the instant, or None.
        limit: how many.

    Returns:
        `since` in UTC.

    Raises:
        ValueError: `since` is naive, or `limit` is negative.
    """
    check_limit(limit)
    return None if since is None else check_instant(since, "since")


def check_limit(limit: int) -> None:
    """Refuse a limit that is negative or no integer.

    Raises:
        ValueError: it is.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise ValueError(f"limit is {limit!r}: give 0 or more")


def check_instant(moment: datetime, name: str) -> datetime:
    """Refuse a naive datetime; return an aware one in UTC.

    Args:
        moment: the datetime.
        name: the name of the argument, for the error.

    Raises:
        ValueError: it is naive, or outside the years 1 to 9999 in UTC.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ValueError(
            f"{name} is {moment!r}: give a datetime with its offset, as in datetime(2026, 1, 31, tzinfo=timezone.utc)"
        )
    return as_utc(moment)


def needed_steps(latest: Checkpoint) -> tuple[StepRange, ...]:
    """Return the steps that a run must still have to go on from its latest checkpoint, whatever is pruned.

    Args:
        latest: the checkpoint with the highest step.
    """
    needed = [StepRange(first=latest.step, last=latest.step)]
    for item in latest.frontier:
        needed.append(StepRange(first=item.since_step, last=item.since_step))
        needed += item.completed_steps if isinstance(item, FanOut) else item.calls
    return tuple(needed)
