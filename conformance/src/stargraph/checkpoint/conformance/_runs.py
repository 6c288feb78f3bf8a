"""The checkpoints that checks write: small, deterministic, built by the contract's own constructors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint

NOON: Final = datetime(2026, 3, 4, 12, 0, 0, 654321, tzinfo=UTC)
"""When the runs of the checks begin, unless a check says otherwise."""

GRAPH_HASH: Final = "a1" * 32
RUNTIME_HASH: Final = "b2" * 32


def executor_id(number: int = 0) -> str:
    """The id of an executor: two executors never make equal digests."""
    return f"{number:032x}"


def noise(chance: Random, length: int) -> str:
    """Text of so many characters that compression makes no smaller than half."""
    return chance.randbytes((length + 1) // 2).hex()[:length]


def begin(run_id: str = "run", **fields: Any) -> Checkpoint:
    """Step 0 of a run; the fields of `Checkpoint.genesis` that are not given have plain values."""
    plain: dict[str, Any] = {
        "graph_id": "conformance",
        "graph_hash": GRAPH_HASH,
        "runtime_hash": RUNTIME_HASH,
        "state": {"count": 0},
        "executor_id": executor_id(),
        "timestamp": NOON,
    }
    return Checkpoint.genesis(run_id=run_id, **(plain | fields))


def follow(before: Checkpoint, **fields: Any) -> Checkpoint:
    """The step after; the fields of `Checkpoint.next` that are not given have plain values."""
    plain: dict[str, Any] = {
        "event": "completed",
        "executor_id": before.executor_id,
        "timestamp": before.timestamp + timedelta(seconds=1),
        "last_node": "work",
    }
    if "state" not in fields:
        plain["changes"] = {"count": before.step + 1}
    return before.next(**(plain | fields))


def chain(run_id: str = "run", length: int = 3, *, last_status: str | None = None, **fields: Any) -> list[Checkpoint]:
    """The first steps of a run; `fields` are those of step 0, `last_status` that of the last step."""
    steps = [begin(run_id, **fields)]
    for number in range(1, length):
        ending = {"status": last_status} if last_status and number == length - 1 else {}
        steps.append(follow(steps[-1], **ending))
    return steps


def rival(checkpoint: Checkpoint, before: Checkpoint | None, number: int = 99) -> Checkpoint:
    """Another executor's checkpoint for the same step, as valid as the first one."""
    if before is None:
        return begin(checkpoint.run_id, executor_id=executor_id(number), state={"count": -number})
    return follow(before, executor_id=executor_id(number), changes={"count": -number})
