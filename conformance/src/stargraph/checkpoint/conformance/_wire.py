"""What the driver protocol says as JSON: arguments, results, checkpoints, errors (docs/driver-protocol.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueLimits, RunSummary, Schedule, WorkerInfo
from stargraph.checkpoint.values import format_time
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointCorruptedError,
    CheckpointError,
    StoreUnavailableError,
    StoreVersionError,
)

PROTOCOL: Final = 1
"""The version of the driver protocol; a process that speaks another one is refused."""

WATCH_SECONDS: Final = 10.0
"""Seconds for which one call of `watch` waits; what watches calls it again."""

_ERRORS: Final[dict[str, type[CheckpointError]]] = {
    kind.__name__: kind
    for kind in (
        CheckpointError,
        CheckpointConflictError,
        CheckpointCorruptedError,
        StoreUnavailableError,
        StoreVersionError,
    )
}


class ForeignError(Exception):
    """The driver's process raised what the contract has no word for."""


def checkpoint_to_wire(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as its whole JSON text, with the fields beside it that a store needs to judge and to list.

    The text travels as text: a parser that takes 1.0 for 1 must not touch it.
    """
    return {
        "text": checkpoint.model_dump_json(),
        "run_id": checkpoint.run_id,
        "step": checkpoint.step,
        "digest": checkpoint.digest,
        "previous_digest": checkpoint.previous_digest,
        "status": checkpoint.status,
        "key": checkpoint.key,
        "started_at": format_time(checkpoint.started_at),
        "timestamp": format_time(checkpoint.timestamp),
        "summary": json.loads(RunSummary.from_checkpoint(checkpoint).model_dump_json()),
    }


def checkpoint_from_wire(text: object, run_id: str, step: int | None = None) -> Checkpoint | None:
    """Return the checkpoint of a text that a driver gave for a run, and for a step of it.

    Raises:
        ForeignError: it is not the text of a checkpoint, or of another one than was asked for. A driver that finds that
            raises CheckpointCorruptedError itself.
    """
    if text is None:
        return None
    try:
        found = Checkpoint.model_validate_json(str(text))
    except (ValueError, CheckpointError) as error:
        raise ForeignError(f"run {run_id!r}: what the driver gave is no checkpoint: {error}") from error
    if found.run_id != run_id or (step is not None and found.step != step):
        raise ForeignError(f"run {run_id!r}: the driver gave step {found.step} of run {found.run_id!r}")
    return found


def to_wire(value: Any) -> Any:
    """Return what a method returned as JSON can hold it."""
    if isinstance(value, Checkpoint):
        return value.model_dump_json()
    if isinstance(value, Schedule):  # as text, like a checkpoint: its inputs have to come back exactly
        return value.model_dump_json()
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, list | tuple):
        return [to_wire(item) for item in value]
    return value


def arguments_to_wire(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call: instants as text, checkpoints with their fields."""
    return {name: _argument(value) for name, value in arguments.items()}


def _argument(value: Any) -> Any:
    if isinstance(value, Checkpoint):
        return checkpoint_to_wire(value)
    if isinstance(value, Schedule):
        return {"id": value.id, "text": value.model_dump_json()}
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_argument(item) for item in value]
    return value


_INSTANTS: Final = ("since", "older_than", "updated_since", "updated_before", "due_before")


_PROCESS: Final = TypeAdapter[ProcessInfo](WorkerInfo | ProcessInfo)
_LIMITS: Final = TypeAdapter(QueueLimits)


def arguments_from_wire(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as Python's drivers take them."""
    found = dict(arguments)
    for name in _INSTANTS:
        if isinstance(found.get(name), str):
            found[name] = datetime.fromisoformat(found[name])
    if "checkpoint" in found:
        found["checkpoint"] = _given_checkpoint(found["checkpoint"]["text"])
    if "checkpoints" in found:
        found["checkpoints"] = [_given_checkpoint(each["text"]) for each in found["checkpoints"]]
    for name, kind in (("process", _PROCESS), ("limits", _LIMITS)):
        if isinstance(found.get(name), dict):
            found[name] = kind.validate_json(json.dumps(found[name]))
    if "schedule" in found:
        found["schedule"] = Schedule.model_validate_json(found["schedule"]["text"])
    return found


def _given_checkpoint(text: str) -> Checkpoint:
    """Return a checkpoint that is to be written; one that was altered is refused as `write` refuses it."""
    try:
        return Checkpoint.model_validate_json(text)
    except CheckpointCorruptedError as error:
        raise CheckpointError(
            error.message, reason="invalid-checkpoint", run_id=error.run_id, step=error.step
        ) from error


def error_to_wire(error: BaseException) -> dict[str, Any]:
    """Return an error as a process tells it."""
    kind = next((name for name in type(error).__mro__ if name.__name__ in _ERRORS or name is ValueError), type(error))
    return {
        "class": kind.__name__,
        "message": getattr(error, "message", None) or str(error) or type(error).__name__,
        "reason": getattr(error, "reason", None),
        "run_id": getattr(error, "run_id", None),
        "step": getattr(error, "step", None),
    }


def error_from_wire(fields: Mapping[str, Any]) -> Exception:
    """Return the error that a process reported."""
    kind, message = fields.get("class"), str(fields.get("message"))
    if kind == "ValueError":
        return ValueError(message)
    make: Callable[..., CheckpointError] | None = _ERRORS.get(str(kind))
    if make is None:
        return ForeignError(f"{kind}: {message}")
    return make(message, reason=str(fields.get("reason")), run_id=fields.get("run_id"), step=fields.get("step"))
