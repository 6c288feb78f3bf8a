"""Builders of checkpoint chains."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, Interrupt, Status, Task

STARTED_AT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


def executor_id() -> str:
    return secrets.token_hex(16)


def first(run_id: str = "run-1", *, started_at: datetime = STARTED_AT, **fields: Any) -> Checkpoint:
    """Step 0 of a run."""
    given = {"graph_id": "graph", "state": {"count": 0}, "executor_id": executor_id(), **fields}
    return Checkpoint.genesis(run_id=run_id, graph_hash="a" * 64, runtime_hash="b" * 64, timestamp=started_at, **given)


def following(before: Checkpoint, *, event: str = "completed", status: Status = "running", **fields: Any) -> Checkpoint:
    """The step after another one."""
    step = before.step + 1
    given = {
        "executor_id": before.executor_id,
        "timestamp": before.timestamp + timedelta(seconds=1),
        "changes": {"count": step},
        **fields,
    }
    return before.next(event=event, status=status, **given)  # type: ignore[arg-type]


def chain(run_id: str = "run-1", length: int = 4, *, end: Status = "running", **fields: Any) -> list[Checkpoint]:
    """A run of so many checkpoints; the last one has the status `end`."""
    checkpoints = [first(run_id, **fields)]
    while len(checkpoints) < length:
        last = len(checkpoints) == length - 1
        checkpoints.append(following(checkpoints[-1], status=end if last else "running"))
    return checkpoints


def noise(size: int) -> str:
    """A text that no compression makes much shorter than half of it, and that no other text has a part of."""
    return secrets.token_hex(size // 2)


def endless(run_id: str = "run-1", *, pad: int = 0, **fields: Any) -> Iterator[Checkpoint]:
    """The checkpoints of a run that does not end, each with another text of so many characters."""
    checkpoint = first(run_id, state={"pad": noise(pad), "count": 0}, **fields)
    while True:
        yield checkpoint
        checkpoint = following(checkpoint, changes={"pad": noise(pad), "count": checkpoint.step + 1})


def chat(run_id: str = "run-1", *, message: int = 1000, **fields: Any) -> Iterator[Checkpoint]:
    """The checkpoints of a run whose list of messages grows by one of so many characters with each step."""
    messages = [noise(2 * message)]
    checkpoint = first(run_id, state={"messages": messages, "count": 0}, **fields)
    while True:
        yield checkpoint
        messages = [*messages, noise(message)]
        checkpoint = following(checkpoint, changes={"messages": messages, "count": checkpoint.step + 1})


def wait_until(moment: datetime) -> Interrupt:
    """What makes a run wait until a time."""
    return Interrupt(id="w", task_id="t", node="n", prompt="wait", asked_at=STARTED_AT, due_at=moment)


def task(since_step: int, **fields: Any) -> Task:
    return Task(id=f"task-{since_step}", node="node", since_step=since_step, **fields)
