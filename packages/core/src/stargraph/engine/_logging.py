"""What a run logs, on the loggers `stargraph.run`, `stargraph.node` and `stargraph.store`.

Nothing here holds a value of a state, a result or the message of a user's exception: those may be secret.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint, Task
from stargraph.engine._context import Context
from stargraph.engine._failures import name_of
from stargraph.errors import StargraphError

logging.getLogger("stargraph").addHandler(logging.NullHandler())

RUN_LOGGER: Final = logging.getLogger("stargraph.run")
"""Logs what concerns a run as a whole."""
_NODE: Final = logging.getLogger("stargraph.node")
_STORE: Final = logging.getLogger("stargraph.store")

SLOW_SECONDS: Final = 1.0
"""A store is called slow if a write takes longer."""


def facts(run_id: str, step: int, node: str | None = None, attempt: int | None = None) -> dict[str, Any]:
    """Return the fields that every record of a log has beside its message."""
    return {"run_id": run_id, "step": step, "node": node, "attempt": attempt}


def log_completed(checkpoint: Checkpoint, task: Task, started_at: datetime) -> None:
    """Log the end of a node."""
    if _NODE.isEnabledFor(logging.INFO):
        _NODE.info(
            "run %s: node %s completed in %.3f s (step %d)",
            checkpoint.run_id,
            task.node,
            (checkpoint.timestamp - started_at).total_seconds(),
            checkpoint.step,
            extra=facts(checkpoint.run_id, checkpoint.step, task.node),
        )


def log_failed(checkpoint: Checkpoint, task: Task) -> None:
    """Log the failure of a node that fails its run."""
    assert checkpoint.error is not None
    _NODE.error(
        "run %s: node %s failed with %s (step %d)",
        checkpoint.run_id,
        task.node,
        checkpoint.error.reason or checkpoint.error.type,
        checkpoint.step,
        extra=facts(checkpoint.run_id, checkpoint.step, task.node),
    )


def log_lost_changes(checkpoint: Checkpoint, task: Task, fields: Sequence[str]) -> None:
    """Log that a node changed the state that it was given and returned nothing.

    Args:
        checkpoint: the one whose state it is.
        task: the task of the node.
        fields: the fields that it changed.
    """
    _NODE.warning(
        "run %s: node %s changed %s of the state that it was given and returned nothing, so the change is not kept;"
        " a node returns what it updates",
        checkpoint.run_id,
        task.node,
        ", ".join(fields),
        extra=facts(checkpoint.run_id, checkpoint.step, task.node),
    )


def log_retry(context: Context, attempts: int, error: BaseException, seconds: float) -> None:
    """Log that an attempt has failed and another one is due.

    Args:
        context: of the node.
        attempts: how many there are at most.
        error: what the attempt ended with.
        seconds: when the next one begins.
    """
    _NODE.warning(
        "run %s: attempt %d of %d of node %s failed with %s; the next one begins in %.1f s",
        context.run_id,
        context.attempt,
        attempts,
        context.node,
        error.reason if isinstance(error, StargraphError) else name_of(type(error)),
        seconds,
        extra=facts(context.run_id, context._step, context.node, context.attempt),
    )


def log_write(checkpoint: Checkpoint, seconds: float) -> None:
    """Log a write that took long."""
    if seconds > SLOW_SECONDS:
        _STORE.warning(
            "run %s: the store took %.1f s to write up to step %d",
            checkpoint.run_id,
            seconds,
            checkpoint.step,
            extra=facts(checkpoint.run_id, checkpoint.step, checkpoint.last_node),
        )
