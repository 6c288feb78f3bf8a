"""Queues: the checked form of what a worker asks for, and the rules for a store that looks at every run."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError

from stargraph.checkpoint.driver._arguments import MAX_STEP, check_limit
from stargraph.checkpoint.driver._errors import read_only_error
from stargraph.checkpoint.protocol import (
    ENDED,
    Checkpoint,
    GraphVersion,
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueLimits,
    RunSummary,
    is_queue_name,
)
from stargraph.errors import CheckpointCorruptedError, CheckpointError
from stargraph.errors._arguments import check_type

Model = TypeVar("Model", bound=BaseModel)

FORGET_AFTER: Final = 86_400.0
"""After how many silent seconds a process is forgotten."""

LONGEST: Final = 100 * 365.25 * 86_400
"""Seconds beyond which a time is as good as for ever: every store can count that far, forth and back."""

QueueState: TypeAlias = Literal["ready", "scheduled", "running", "awaiting_input", "paused", "failed"]
"""What a run of a queue waits for: the fields of `QueueCounts`."""

_STATES: Final[frozenset[str]] = frozenset(get_args(QueueState))


@dataclass(frozen=True, slots=True)
class Claim:
    """The checked arguments of `claimable`.

    Attributes:
        process_id: who asks.
        queues: the queues to look at, each once.
        limit: at most this many runs.
        fits: only runs of one of these graphs, each once; None for all.
        silent_after: seconds.
        reserve: seconds.
    """

    process_id: str
    queues: tuple[str, ...]
    limit: int
    fits: tuple[GraphVersion, ...] | None
    silent_after: float
    reserve: float

    @property
    def is_empty(self) -> bool:
        """Whether no run can be meant."""
        return not self.limit or not self.queues or self.fits == ()


def check_claim(
    process_id: str,
    queues: Sequence[str],
    *,
    limit: int,
    fits: Sequence[GraphVersion] | None,
    silent_after: float,
    reserve: float,
    read_only: bool,
) -> Claim:
    """Refuse bad arguments of `claimable`, in the same words for every store.

    Args:
        process_id: as `claimable` takes it.
        queues: likewise.
        limit: likewise.
        fits: likewise.
        silent_after: likewise.
        reserve: likewise.
        read_only: the handle never writes.

    Raises:
        CheckpointError: the handle cannot reserve.
        ValueError: an argument is malformed.
    """
    if isinstance(queues, str):
        raise ValueError(f"queues is {queues!r}: give a tuple, as in ({queues!r},)")
    check_type(queues, "queues", Iterable, "a tuple of names, as in ('default',)")
    for queue in queues:
        check_queue_name(queue)
    if not isinstance(process_id, str):
        raise ValueError(f"process_id is {process_id!r}: give ProcessInfo.current().id")
    check_limit(limit)
    for name, seconds in (("silent_after", silent_after), ("reserve", reserve)):
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ValueError(f"{name} is {seconds!r}: give seconds, 0 or more")
    if read_only and reserve:
        raise read_only_error("claimable")
    return Claim(
        process_id,
        tuple(dict.fromkeys(queues)),
        min(limit, MAX_STEP),  # a number that any store can be asked with
        None if fits is None else tuple(dict.fromkeys(GraphVersion(*version) for version in fits)),
        float(min(silent_after, LONGEST)),
        float(min(reserve, LONGEST)),
    )


def check_limits(limits: QueueLimits | None) -> None:
    """Refuse what cannot be the limits of a queue.

    Raises:
        ValueError: it is something else, or its period is longer than a store can count back.
    """
    check_type(limits, "limits", (QueueLimits, NoneType), "QueueLimits of stargraph.checkpoint.protocol, or None")
    if limits is not None and limits.period > LONGEST:
        raise ValueError(f"limits.period is {limits.period!r}: give at most {LONGEST:.0f} seconds, a hundred years")


def check_queue_name(queue: str) -> None:
    """Refuse what cannot name a queue.

    Raises:
        ValueError: it cannot.
    """
    if not is_queue_name(queue):
        raise ValueError(
            f"{queue!r} cannot name a queue: give 1-100 characters of A-Z a-z 0-9 . _ : - that begin with a letter"
            " or digit"
        )


def check_beat(process: ProcessInfo) -> str:
    """Return the id of a process that says that it lives.

    Raises:
        ValueError: it has none.
    """
    check_type(process, "process", ProcessInfo, "ProcessInfo.current()")
    if process.id is None:
        raise ValueError("the process has no id: give ProcessInfo.current()")
    return process.id


def model_from_json(kind: type[Model], text: bytes | str, what: str) -> Model:
    """Return what a store holds as the JSON of a model: a schedule, or the limits of a queue.

    Args:
        kind: the model.
        text: the JSON.
        what: names it in the error, as in "the limits of queue 'default'".

    Raises:
        CheckpointCorruptedError: the text is not what was written (`reason="corrupted-record"`).
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise _corrupted(what) from error


def presence_from_json(text: bytes | str, *, first_seen: datetime, silent_seconds: float) -> ProcessPresence:
    """Return a process that has beaten.

    Args:
        text: the process in JSON, as it described itself last.
        first_seen: when it did so first.
        silent_seconds: how long ago it did so last.

    Raises:
        CheckpointCorruptedError: the text is not what was written (`reason="corrupted-record"`).
    """
    try:
        return ProcessPresence.model_validate(
            {"process": orjson.loads(text), "first_seen": first_seen, "silent_seconds": max(0.0, silent_seconds)}
        )
    except ValueError as error:  # of pydantic or orjson
        raise _corrupted("a process") from error


def _corrupted(what: str) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(
        f"what the store says of {what} is not what was written",
        reason="corrupted-record",
        hint="Checkpoints are not affected. Write it again, or restore the store from a backup.",
    )


def no_limits_error(store: str, queue: str) -> CheckpointError:
    """Return the error of a store that cannot hold the limits of a queue for all workers.

    Args:
        store: what it is, as in "an S3 store".
    """
    return CheckpointError(
        f"{store} cannot hold limits for the queue {queue!r}: nothing in it counts for all workers at once",
        reason="no-limits",
        hint="Keep this queue in PostgreSQL or SQLite, or bound it by the number of workers and their concurrency.",
    )


class QueuedRow(NamedTuple):
    """What a store with an index keeps of a run of a queue until the run ends.

    Attributes:
        queue: the queue.
        state: what it waits for.
        priority: runs with a higher priority go first.
        order_at: of the same priority the earliest goes first.
        wake_at: a `scheduled` run is ready from then on; None for every other.
        version: what `version_key` returns for its graph.
        concurrency_key: its key, in UTF-8.
        process_id: who has a `running` run.
    """

    queue: str
    state: QueueState
    priority: int
    order_at: datetime
    wake_at: datetime | None
    version: bytes
    concurrency_key: bytes | None
    process_id: str | None


def queued_row(latest: Checkpoint | RunSummary) -> QueuedRow | None:
    """Return what an index keeps of a run, by its latest checkpoint; None if the run has ended or has no queue."""
    queue, state = latest.queue, queue_state(latest)
    if queue is None or state is None:
        return None
    key = queue.concurrency_key
    return QueuedRow(
        queue.name,
        state,
        queue.priority,
        latest.due_at or latest.started_at,
        latest.due_at if state == "scheduled" else None,
        version_key(GraphVersion.of(latest)),
        None if key is None else key.encode(),
        process_of(latest),
    )


def repaired_entry(run_id: str, *, was_there: bool, belongs_there: bool) -> str:
    """Return the sentence that says what was repaired in the index of the runs of queues.

    Args:
        was_there: it had an entry.
        belongs_there: it is a run of a queue that has not ended.
    """
    if not was_there:
        return f"run {run_id!r} was missing in the index of queues: workers take it again"
    if not belongs_there:
        return f"run {run_id!r} was still in the index of queues, and has no place there"
    return f"run {run_id!r} was out of date in the index of queues"


def version_key(version: GraphVersion) -> bytes:
    """Return 16 bytes that stand for a version of a graph in an index."""
    return hashlib.sha256("\0".join(version).encode()).digest()[:16]


def queue_state(run: RunSummary | Checkpoint) -> QueueState | None:
    """Return what a run waits for by its summary, whatever the time; None if it has ended or has no queue."""
    if run.queue is None or run.status in ENDED:
        return None
    if run.status == "queued":
        return "ready" if run.due_at is None else "scheduled"
    if run.status == "running":
        return "ready" if process_of(run) is None else "running"
    if run.status == "awaiting_input":
        return "awaiting_input" if run.due_at is None else "scheduled"
    return "paused" if run.status == "paused" else "failed"


def counted_state(run: RunSummary, now: datetime, *, is_reserved: bool) -> QueueState | None:
    """Return what a run of a queue counts as now; None if it has ended or has no queue.

    Args:
        now: the time by the store's clock.
        is_reserved: it was handed out.
    """
    state = queue_state(run)
    if state is None:
        return None
    if is_reserved:
        return "running"
    return "ready" if state == "scheduled" and run.due_at is not None and run.due_at <= now else state


def process_of(run: RunSummary | Checkpoint) -> str | None:
    """Return the id of the process that has a running run, or None if no process has it."""
    return run.process.id if run.status == "running" and run.process is not None else None


def claim_order(run: RunSummary) -> tuple[int, datetime, str]:
    """Return what runs of queues are sorted by: the highest priority, then the earliest due time, then the id."""
    assert run.queue is not None
    return (-run.queue.priority, run.due_at or run.started_at, run.run_id)


def can_go_on(run: RunSummary, now: datetime, living: Collection[str]) -> bool:
    """Return whether a run of a queue can go on now.

    Args:
        now: the time by the store's clock.
        living: the ids of the processes that live.
    """
    state = queue_state(run)
    if state == "scheduled":
        return run.due_at is not None and run.due_at <= now
    return state == "ready" or (state == "running" and (process_of(run) or "") not in living)


def fits_claim(run: RunSummary, claim: Claim) -> bool:
    """Return whether a run is of a queue and a graph that a worker asks for."""
    return (
        run.queue is not None
        and run.queue.name in claim.queues
        and (claim.fits is None or GraphVersion.of(run) in claim.fits)
    )


class Slots:
    """What the limits of queues leave, while runs are handed out.

    Args:
        limits: the limits of each queue that has some.
        active: queue and concurrency key of each run that is executed or reserved now.
        recent: how many runs of each queue were handed out in its last period.
    """

    def __init__(
        self,
        limits: Mapping[str, QueueLimits],
        active: Iterable[tuple[str, str | None]],
        recent: Mapping[str, int],
    ) -> None:
        self._limits = limits
        counted = list(active)
        self._per_queue = Counter(queue for queue, _ in counted)
        self._per_key = Counter(counted)
        self._recent = Counter(recent)

    def take(self, queue: str, key: str | None, *, is_active: bool) -> bool:
        """Take a slot for a run; return False if its queue has none left.

        Args:
            key: its concurrency key.
            is_active: it is counted already, since a process that is gone has it.
        """
        limits = self._limits.get(queue)
        if limits is not None:
            if limits.rate is not None and self._recent[queue] >= limits.rate:
                return False
            if not is_active and (self._is_full(queue, limits) or self._is_key_full(queue, key, limits)):
                return False
        self._recent[queue] += 1
        if not is_active:
            self._per_queue[queue] += 1
            self._per_key[queue, key] += 1
        return True

    def full_queues(self) -> list[str]:
        """Return the queues of which as many runs are active as their limit allows."""
        return [queue for queue, limits in self._limits.items() if self._is_full(queue, limits)]

    def full_keys(self) -> list[tuple[str, str]]:
        """Return the concurrency keys of which as many runs are active as their limit allows, each with its queue."""
        return [
            (queue, key)
            for queue, key in self._per_key
            if key is not None and queue in self._limits and self._is_key_full(queue, key, self._limits[queue])
        ]

    def _is_full(self, queue: str, limits: QueueLimits) -> bool:
        return limits.concurrency is not None and self._per_queue[queue] >= limits.concurrency

    def _is_key_full(self, queue: str, key: str | None, limits: QueueLimits) -> bool:
        return key is not None and limits.per_key is not None and self._per_key[queue, key] >= limits.per_key


def counts_of(states: Iterable[tuple[str, str, int]], limits: Mapping[str, QueueLimits]) -> list[QueueCounts]:
    """Return what `queue_counts` returns.

    Args:
        states: queue, state and number of its runs.
        limits: the limits of each queue that has some.
    """
    queues: dict[str, dict[str, int]] = {queue: {} for queue in limits}
    for queue, state, number in states:
        if state not in _STATES:
            raise _corrupted(f"the index of the runs of queue {queue!r}")
        counts = queues.setdefault(queue, {})
        counts[state] = counts.get(state, 0) + number
    return [
        QueueCounts.model_validate({"queue": queue, "limits": limits.get(queue), **queues[queue]})
        for queue in sorted(queues)
    ]
