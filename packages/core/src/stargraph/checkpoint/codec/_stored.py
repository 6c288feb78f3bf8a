"""The stored form of a checkpoint: two bytes that say how to read it, then its body.

    byte 0   the version of the form
    byte 1   the kind of body; 0 is a keyframe: the whole checkpoint as one JSON object

Kinds that are decoded from other records take further numbers; a reader refuses what it does not know.
"""

from __future__ import annotations

from typing import Final

import orjson

from stargraph.checkpoint.protocol import Checkpoint, format_time
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreVersionError

RECORD_VERSION: Final = 1
"""The version of the form that `encode` writes."""

_KEYFRAME: Final = 0
_HEADER: Final = bytes((RECORD_VERSION, _KEYFRAME))


def encode(checkpoint: Checkpoint) -> bytes:
    """Return the stored form of a checkpoint.

    Args:
        checkpoint: what to store.

    Raises:
        CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
    """
    checkpoint.ensure_valid()
    fields = dict(checkpoint.__dict__)
    fields["state"] = _text_of(checkpoint.state_fragments())
    update = checkpoint.update_fragments()
    fields["update"] = None if update is None else _text_of(update)
    return _HEADER + orjson.dumps(fields, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)


def decode(record: bytes, *, run_id: str, step: int) -> Checkpoint:
    """Return the checkpoint that a record holds.

    Args:
        record: what `encode` returned.
        run_id: the run that it was stored under.
        step: the step that it was stored at.

    Raises:
        CheckpointCorruptedError: it is not what was written, or belongs to another run or step.
        StoreVersionError: a newer version of Stargraph wrote it.
    """
    if record[:1] > _HEADER[:1]:
        raise StoreVersionError(
            f"run {run_id!r}, step {step}: the record has version {record[0]}, and this software reads up to"
            f" {RECORD_VERSION}",
            reason="newer-format",
            hint="Upgrade stargraph-core here to the version that wrote it.",
            run_id=run_id,
            step=step,
        )
    if record[:2] != _HEADER:
        raise _corrupted(run_id, step, "it does not begin like a record")
    try:
        fields = orjson.loads(memoryview(record)[2:])
        if type(fields) is not dict:
            raise ValueError("it is not an object")
        checkpoint = Checkpoint.from_stored(fields)
    except CheckpointCorruptedError as error:
        raise _corrupted(run_id, step, error.message) from None
    except (ValueError, TypeError, CheckpointError) as error:
        # Without its cause, which would quote the content in logs.
        raise _corrupted(run_id, step, str(error).partition("\n")[0]) from None
    if (checkpoint.run_id, checkpoint.step) != (run_id, step):
        raise _corrupted(run_id, step, f"it is step {checkpoint.step} of run {checkpoint.run_id!r}")
    return checkpoint


def _text_of(fragments: object) -> dict[str, orjson.Fragment]:
    assert isinstance(fragments, dict)
    return {key: orjson.Fragment(fragment.encoded) for key, fragment in fragments.items()}


def _plain(value: object) -> object:
    model_fields = getattr(value, "__dict__", None)
    if model_fields is not None:
        return model_fields
    return format_time(value)  # type: ignore[arg-type]  # only models and datetimes get here


def _corrupted(run_id: str, step: int, complaint: str) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the stored record is not what was written: {complaint}",
        reason="corrupted-record",
        hint="Nothing was changed. Restore the store from a backup, or fork the run from an earlier step.",
        run_id=run_id,
        step=step,
    )
