"""Whether a checkpoint is what its digest covers, and one that can be."""

from __future__ import annotations

import operator
from typing import Any

from stargraph.checkpoint.protocol._digest import digest_of
from stargraph.checkpoint.protocol._draft import CheckpointDraft
from stargraph.checkpoint.values._encoded import EncodedValue
from stargraph.errors import CheckpointCorruptedError, CheckpointError


def is_immutable(fields: dict[str, Any]) -> bool:
    """Tell that no field but `metadata` holds a list or an object that could be changed inside."""
    return fields["definition"] is None and not fields["calls"] and not fields["interrupts"]


def is_original(fields: dict[str, Any], original: tuple[tuple[object, ...], dict[str, str]] | None) -> bool:
    """Tell that each field is the very object that it was when the digest was made."""
    if original is None:
        return False
    values, metadata = original
    return (
        len(fields) == len(values)
        and all(map(operator.is_, fields.values(), values))
        and fields["metadata"] == metadata
    )


def digest_or_none(
    fields: dict[str, Any], state: dict[str, EncodedValue], update: dict[str, EncodedValue] | None
) -> str | None:
    """Return the digest of some fields, or None if one of them has a type that has none."""
    try:
        return digest_of(fields, state, update)
    except (TypeError, ValueError, AttributeError):  # a field of another type, which nothing has validated
        return None


def holds_values(members: object, encoded: dict[str, EncodedValue] | None) -> bool:
    """Return whether members hold the very objects that were encoded."""
    if not isinstance(members, dict) or encoded is None or len(members) != len(encoded):
        return False
    for key, value in encoded.items():  # noqa: SIM110  # all() of a generator takes twice as long
        if members.get(key, encoded) is not value.value:
            return False
    return True


def check_shape(checkpoint: CheckpointDraft) -> None:
    """Refuse a checkpoint whose fields contradict each other.

    Raises:
        CheckpointError: `reason="invalid-checkpoint"`.
    """
    fields = checkpoint.__dict__
    is_first, parent = fields["step"] == 0, fields["parent_run_id"]
    complaint = None
    if is_first != (fields["event"] == "started"):
        complaint = "step 0, and only step 0, is the event 'started'"
    elif is_first != (fields["previous_digest"] is None):
        complaint = "every step but step 0 names the digest of the step before it"
    elif (fields["origin"] is None) != (parent is None):
        complaint = "origin and parent_run_id belong together"
    elif fields["parent_step"] is not None and parent is None:
        complaint = "parent_step needs a parent_run_id"
    if complaint is not None:
        raise invalid_error(checkpoint.run_id, checkpoint.step, complaint)


def invalid_error(run_id: object, step: object, complaint: str, hint: str | None = None) -> CheckpointError:
    """Return the error of a checkpoint that cannot be one."""
    return CheckpointError(
        f"run {run_id!r}, step {step}: {complaint}",
        reason="invalid-checkpoint",
        hint=hint,
        run_id=run_id if isinstance(run_id, str) else None,
        step=step if isinstance(step, int) else None,
    )


def digest_mismatch_error(run_id: str, step: int) -> CheckpointCorruptedError:
    """Return the error of a checkpoint whose digest is that of other fields."""
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the digest does not fit the content",
        reason="digest-mismatch",
        hint="The record was altered, or built by hand: build checkpoints with genesis() and next().",
        run_id=run_id,
        step=step,
    )
