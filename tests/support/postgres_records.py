"""Runs for the tests of the PostgreSQL driver."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, JsonValue

START = datetime(2026, 1, 1, tzinfo=UTC)


def new_id() -> str:
    """Return an id that no other test uses."""
    return f"run-{uuid.uuid4().hex}"


def genesis(run_id: str | None = None, *, state: Mapping[str, JsonValue] | None = None, **fields: Any) -> Checkpoint:
    """Return a step 0."""
    return Checkpoint.genesis(
        run_id=run_id or new_id(),
        graph_id=fields.pop("graph_id", "triage"),
        graph_hash="a" * 64,
        runtime_hash="b" * 64,
        state={"n": 0} if state is None else state,
        executor_id=uuid.uuid4().hex,
        timestamp=fields.pop("timestamp", START),
        **fields,
    )


def following(checkpoint: Checkpoint, **fields: Any) -> Checkpoint:
    """Return a next step; two calls make two different ones."""
    step = checkpoint.step + 1
    return checkpoint.next(
        event=fields.pop("event", "completed"),
        executor_id=uuid.uuid4().hex,
        timestamp=fields.pop("timestamp", checkpoint.timestamp + timedelta(seconds=1)),
        changes=fields.pop("changes", {"n": step}),
        **fields,
    )


def chain(length: int, *, run_id: str | None = None, **fields: Any) -> list[Checkpoint]:
    """Return the first steps of a run."""
    checkpoints = [genesis(run_id, **fields)]
    while len(checkpoints) < length:
        checkpoints.append(following(checkpoints[-1]))
    return checkpoints
