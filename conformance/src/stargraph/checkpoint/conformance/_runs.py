"""The checkpoints that checks write: small, deterministic, built by the contract's own constructors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueEntry, QueueLimits, Schedule

NOON: Final = datetime(2026, 3, 4, 12, 0, 0, 654321, tzinfo=UTC)
"""When the runs of the checks begin, unless a check says otherwise."""

LATER: Final = NOON + timedelta(days=365)
"""When all steps of the checks are old enough to be pruned."""

GRAPH_HASH: Final = "a1" * 32
RUNTIME_HASH: Final = "b2" * 32


INDEXED: Final[dict[str, Any]] = {
    "metadata": {"team": "red"},
    "queue": QueueEntry(),
    "parent_run_id": "other",
    "parent_step": 0,
    "origin": "subgraph",
}
"""Fields of step 0 that many a store keeps in a table of its own, beside the record."""


LINES: Final = "a\r\nb\u2028c\u2029d\u0085e\x0b\x0c\x1cf\ufeffg\u200bh "
"""Text that some take for several lines, or of which they leave out what nobody sees: JSON escapes only half of it."""


def executor_id(number: int = 0) -> str:
    """The id of an executor: two executors never make equal digests."""
    return f"{number:032x}"


def process_info(number: int) -> ProcessInfo:
    """A process of the checks: it exists in the store alone."""
    return ProcessInfo(host="conformance", pid=number, version="1", worker=None, id=f"{number:016x}")


BEATS: Final = (process_info(1), process_info(1).model_copy(update={"worker": "blue"}))
LIMITS: Final = (QueueLimits(concurrency=7), QueueLimits(concurrency=8))
SCHEDULES: Final = tuple(Schedule(id="kept", cron=f"0 {hour} * * *", graph_id="g", since=NOON) for hour in (3, 4))
"""What a store holds of a process, a queue and a schedule, and what a process that is killed was saying of them."""


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


def payload_step(before: Checkpoint | None, run_id: str, payload: str, executor: int) -> Checkpoint:
    """A step with a payload; those of different executors are equally long if their payloads are."""
    if before is None:
        first = {"executor_id": executor_id(executor), "state": {"payload": payload}, "key": "key-0"}
        return begin(run_id, **first, **INDEXED)
    key = f"key-{before.step + 1}"
    return follow(before, executor_id=executor_id(executor), changes={"payload": payload}, key=key)


def chain(
    run_id: str = "run",
    length: int = 3,
    *,
    last_status: str | None = None,
    keys: Sequence[str | None] = (None,),
    **fields: Any,
) -> list[Checkpoint]:
    """The first steps of a run.

    Args:
        last_status: the status of the last step.
        keys: the keys of the steps, again and again.
        fields: those of step 0.
    """
    steps = [begin(run_id, **({"key": keys[0]} | fields))]
    for number in range(1, length):
        ending = {"status": last_status} if last_status and number == length - 1 else {}
        steps.append(follow(steps[-1], key=keys[number % len(keys)], **ending))
    return steps


def rivals(checkpoint: Checkpoint, before: Checkpoint | None) -> Iterator[tuple[Checkpoint, str]]:
    """Yield other checkpoints for the same step, each with who made it: each differs in one thing alone.

    A retry is recognised by its digest and by nothing else: not by its executor, its state, its time or its event.
    """
    yield rival(checkpoint, before), "another executor"
    same: dict[str, Any] = {"executor_id": checkpoint.executor_id, "timestamp": checkpoint.timestamp}
    later = checkpoint.timestamp + timedelta(microseconds=1)
    if before is None:
        whole: dict[str, Any] = same | {"state": checkpoint.fresh_state(), "metadata": dict(checkpoint.metadata)}
        yield begin(checkpoint.run_id, **(whole | {"state": {"count": -1}})), "the same executor, with another state"
        yield begin(checkpoint.run_id, **(whole | {"timestamp": later})), "the same executor, at another time"
        yield (
            begin(checkpoint.run_id, **(whole | {"executor_id": executor_id(98)})),
            "another executor, with the same state",
        )
        yield (
            begin(checkpoint.run_id, **(whole | {"metadata": {"tag": "other"}})),
            "the same executor, with another tag",
        )
        return
    whole = same | {
        "event": checkpoint.event,
        "status": checkpoint.status,
        "state": checkpoint.fresh_state(),
        "last_node": checkpoint.last_node,
    }
    yield before.next(**(whole | {"state": {"count": -1}})), "the same executor, with another state"
    yield before.next(**(whole | {"timestamp": later})), "the same executor, at another time"
    yield before.next(**(whole | {"executor_id": executor_id(98)})), "another executor, with the same state"
    yield before.next(**(whole | {"last_node": "other"})), "the same executor, after another node"
    yield before.next(**(whole | {"update": {"count": 5}})), "the same executor, with another update"


def rival(checkpoint: Checkpoint, before: Checkpoint | None, number: int = 99) -> Checkpoint:
    """Another executor's checkpoint for the same step, as valid as the first one."""
    if before is None:
        return begin(checkpoint.run_id, executor_id=executor_id(number), state={"count": -number})
    return follow(before, executor_id=executor_id(number), changes={"count": -number})
