"""When a run that failed is tried again, and when it has killed enough processes, both by its log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.engine import retry_seconds
from stargraph.graph._records import POISON
from stargraph.runtime._given import check_count, check_seconds

ReadStep = Callable[[int], Awaitable[Checkpoint | None]]

_HOPELESS: Final = frozenset({POISON, "crash-loop", "max-steps"})
"""Reasons of failures that another attempt cannot change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRetries:
    """How often a run is tried whose node failed, beyond the `retry` of the node itself.

    Attributes:
        attempts: how often at most, the first attempt included; each node that completes resets the count. With 1, a
            run that failed stays failed.
        initial_delay: seconds before the second attempt; doubled before each further one, with jitter.
        max_delay: seconds that no wait exceeds.

    Raises:
        ValueError: a number is out of bounds.
    """

    attempts: int = 1
    initial_delay: float = 1.0
    max_delay: float = 300.0

    def __post_init__(self) -> None:
        check_count(self.attempts, "attempts", least=1)
        check_seconds(self.initial_delay, "initial_delay")
        check_seconds(self.max_delay, "max_delay")

    async def delay(self, failed: Checkpoint, read_step: ReadStep) -> float | None:
        """Return the seconds until a failed run is tried again; None if it stays failed.

        Args:
            failed: its latest checkpoint.
            read_step: reads one step of the run.
        """
        if self.attempts == 1 or (failed.error is not None and failed.error.reason in _HOPELESS):
            return None
        made = (await setbacks(failed, read_step)).failures
        return None if made >= self.attempts else retry_seconds(made, self.initial_delay, self.max_delay)


class Setbacks(NamedTuple):
    """What has gone wrong with a run since its last progress.

    Attributes:
        deaths: how many processes ended while they executed it.
        failures: how often it failed.
    """

    deaths: int
    failures: int


async def setbacks(tail: Checkpoint, read_step: ReadStep) -> Setbacks:
    """Count what has gone wrong with a run since a node of it completed, or since somebody requeued it.

    Args:
        tail: the latest checkpoint. If it is of a run at work, its process counts as lost.
        read_step: reads one step of the run.
    """
    deaths = 1 if tail.status == "running" and tail.process is not None else 0
    failures = 0
    record: Checkpoint | None = tail
    while record is not None and record.event not in ("started", "completed"):
        before = await read_step(record.step - 1) if record.step else None
        if _is_new_chance(record, before):
            break
        failures += record.event == "failed"
        if record.event == "resumed" and before is not None and before.status == "running":
            # A process that resumes its own run, since the store was away, has not died.
            deaths += _process_of(before) not in (None, _process_of(record))
        record = before
    return Setbacks(deaths, failures)


def _is_new_chance(record: Checkpoint, before: Checkpoint | None) -> bool:
    """Return whether somebody requeued the run.

    A retry by a worker sets a due time, and a worker that drains keeps its executor_id: neither is a new chance.
    """
    if record.event != "queued" or record.queue is None:
        return False
    is_drained = before is not None and before.executor_id == record.executor_id
    return record.queue.not_before is None and not is_drained


def _process_of(record: Checkpoint) -> str | None:
    return None if record.process is None else record.process.id
