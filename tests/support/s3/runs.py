"""Builds runs for the tests of the S3 driver."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, Status

HASH = "0" * 64
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def start(run_id: str = "run", *, at: datetime = NOON, executor: str | None = None, **fields: Any) -> Checkpoint:
    """Return step 0 of a run."""
    fields.setdefault("state", {"steps": 0})
    return Checkpoint.genesis(
        run_id=run_id,
        graph_id=fields.pop("graph_id", "graph"),
        graph_hash=HASH,
        runtime_hash=HASH,
        executor=executor or uuid.uuid4().hex,
        timestamp=at,
        **fields,
    )


def follow(latest: Checkpoint, *, status: Status = "running", executor: str | None = None, **fields: Any) -> Checkpoint:
    """Return the next step of a run."""
    fields.setdefault("changes", {"steps": latest.step + 1})
    return latest.next(
        event="completed",
        status=status,
        executor=executor or latest.executor,
        timestamp=latest.timestamp + timedelta(seconds=1),
        **fields,
    )


def whole_run(run_id: str = "run", steps: int = 4, *, at: datetime = NOON, status: Status = "done") -> list[Checkpoint]:
    """Return the steps of a run that ends with a status."""
    run = [start(run_id, at=at)]
    for step in range(1, steps):
        run.append(follow(run[-1], status=status if step == steps - 1 else "running"))
    return run
