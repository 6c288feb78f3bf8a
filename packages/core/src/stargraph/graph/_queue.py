"""Runs that wait for a worker: put into a queue, or back into one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, JsonValue, QueueEntry, Status, check_run_id
from stargraph.engine import Plan, Start, first_record, new_executor_id
from stargraph.errors import CheckpointConflictError, CheckpointError
from stargraph.graph._control import append, refuse_ended_or_child
from stargraph.graph._given import as_inputs, as_metadata
from stargraph.graph._records import new_run_id
from stargraph.runtime import dispatch
from stargraph.runtime._given import check_type

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 256
"""How many runs are written side by side: those that a store gets together share its commits."""

_HINTS: Final = {
    "priority": "A priority is a 32-bit integer.",
    "not_before": "Give a time with an offset, as in 2026-01-31T12:00:00Z.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A run to enqueue.

    Attributes:
        inputs: the values that the state begins with.
        run_id: its name, by which it is enqueued once however often that is tried; a UUIDv7 if None.
        queue: the queue; workers name those that they serve.
        priority: runs with a higher priority begin first.
        not_before: the earliest time to begin, an aware datetime; None for at once.
        metadata: tags.
        concurrency_key: runs of the queue with the same one share the queue's limit per key.
    """

    inputs: Mapping[str, JsonValue] = field(default_factory=dict)
    run_id: str | None = None
    queue: str = "default"
    priority: int = 0
    not_before: datetime | None = None
    metadata: Mapping[str, str] | None = None
    concurrency_key: str | None = None


class EnqueuedRun(NamedTuple):
    """What came of a request to enqueue a run.

    Attributes:
        run_id: the run.
        is_new: whether this request stored it; False if the store had an equal run under that id already.
    """

    run_id: str
    is_new: bool


def queued_record(plan: Plan, request: RunRequest, start: Start) -> Checkpoint:
    """Return step 0 of a run that waits for a worker.

    Args:
        plan: the graph.
        request: the run.
        start: the state that its inputs make.

    Raises:
        CheckpointError: a name or a number does not fit (`reason` is `invalid-run-id` or `invalid-queue-entry`).
    """
    entry = _entry(request.queue, request.priority, request.concurrency_key, request.not_before)
    return first_record(
        plan,
        start,
        run_id=new_run_id() if request.run_id is None else check_run_id(request.run_id),
        executor_id=new_executor_id(),
        metadata=as_metadata(request.metadata),
        queue=entry,
    )


def _entry(queue: str, priority: int, concurrency_key: str | None, not_before: datetime | None) -> QueueEntry:
    """Return an entry of a queue; a number is no time: somebody meant seconds from now, and it would be 1970.

    Raises:
        CheckpointError: a name or a number does not fit (`invalid-queue-entry`).
    """
    if not_before is not None and not isinstance(not_before, (datetime, str)):
        raise _refused_entry(f"not_before {not_before!r:.80}: this is not a datetime", "not_before")
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise _refused_entry(f"priority {priority!r:.80}: this is not an integer", "priority")
    try:
        return QueueEntry(name=queue, priority=priority, concurrency_key=concurrency_key, not_before=not_before)
    except ValueError as error:
        raise _invalid_entry(error) from None


def _invalid_entry(error: ValueError) -> CheckpointError:
    errors = getattr(error, "errors", None)
    first = errors(include_url=False, include_context=False)[0] if errors else None
    if first is None:
        return _refused_entry(str(error))
    field = {"name": "queue"}.get(first["loc"][0], first["loc"][0])
    return _refused_entry(f"{field} {first['input']!r:.80}: {first['msg'].replace('Value error, ', '')}", field)


def _refused_entry(complaint: str, field: str | None = None) -> CheckpointError:
    return CheckpointError(
        f"the run cannot be enqueued like that: {complaint}",
        reason="invalid-queue-entry",
        hint=None if field is None else _HINTS.get(field),
    )


async def enqueue_runs(
    plan: Plan, store: Checkpointer, requests: Iterable[RunRequest], *, keyring: Keyring | None
) -> list[EnqueuedRun]:
    """Store step 0 of many runs, all of them or, if one cannot be, none; a write that fails may leave some stored.

    Args:
        plan: the graph.
        requests: the runs.
        keyring: seals what is written.

    Returns:
        What came of each request, in order.

    Raises:
        StateError: inputs do not fit; nothing was written.
        CheckpointConflictError: another run has one of the ids (`reason="run-exists"`).
        CheckpointError: as `queued_record` or the store raises. Enqueueing the same requests again is safe.
    """
    check_type(requests, "runs", Iterable, "a list of RunRequest")
    given = list(requests)
    records: dict[str, Checkpoint] = {}
    named: list[Checkpoint] = []
    order: list[EnqueuedRun] = []
    for request in given:
        check_type(request, "one of runs", RunRequest, "RunRequest, as in RunRequest(inputs={…})")
        record = queued_record(plan, request, await plan.state.initial_in_turns(as_inputs(request.inputs)))
        first = records.setdefault(record.run_id, record)
        if first is record and request.run_id is not None:
            named.append(record)
        elif first is not record:
            _refuse_other(record, first)
        order.append(EnqueuedRun(record.run_id, first is record))

    async def is_known(record: Checkpoint) -> bool:
        stored = await dispatch.read_at_step(store, record.run_id, 0, keyring=keyring)
        if stored is None:
            # Its first steps may have been pruned.
            return await dispatch.read_latest(store, record.run_id, keyring=keyring) is not None
        _refuse_other(record, stored)
        return True

    async def write(record: Checkpoint) -> bool:
        try:
            await dispatch.write(store, record, keyring=keyring)
        except CheckpointConflictError:
            if not await is_known(record):
                raise
            return False
        return True

    # One run at a time, the write itself tells whether the id is free; of several, none is written if one is taken.
    if len(given) > 1:
        known = await _side_by_side(is_known, named)
        for record, there in zip(named, known, strict=True):
            if there:
                del records[record.run_id]
    open_records = list(records.values())
    written = dict(zip(records, await _side_by_side(write, open_records), strict=True))
    return [EnqueuedRun(each.run_id, each.is_new and written.get(each.run_id, False)) for each in order]


def _refuse_other(record: Checkpoint, stored: Checkpoint) -> None:
    """Refuse a run whose id another one has; one of the same graph with the same inputs is the same run."""
    if stored.graph_id == record.graph_id and _input_digests(stored) == _input_digests(record):
        return
    what = f"is a run of graph {stored.graph_id!r}" if stored.graph_id != record.graph_id else "was given other inputs"
    raise CheckpointConflictError(
        f"run {record.run_id!r} exists already, and {what}",
        reason="run-exists",
        hint="Enqueue it under another id: one id stands for one run with its inputs.",
        run_id=record.run_id,
        step=0,
    )


def _input_digests(first: Checkpoint) -> dict[str, str]:
    return {name: value.digest for name, value in (first.encoded_update() or {}).items()}


async def _side_by_side(work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """Return the outcome of some work for each item, in order; the first error ends all of it."""
    outcomes: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def take() -> None:
        for index, item in waiting:
            outcomes[index] = await work(item)

    takers = [asyncio.ensure_future(take()) for _ in range(min(_AT_ONCE, len(items)))]
    try:
        await asyncio.gather(*takers)
    finally:
        for taker in takers:
            taker.cancel()
        await asyncio.gather(*takers, return_exceptions=True)
    return [outcomes[index] for index in range(len(items))]


async def requeue(
    store: Checkpointer,
    run_id: str,
    *,
    queue: str | None = None,
    priority: int | None = None,
    not_before: datetime | None = None,
    keyring: Keyring | None = None,
) -> Checkpoint:
    """Put a run back into its queue, for any worker to go on with it from its latest step.

    It is for runs that failed, were paused or lost their process, and for those that were not enqueued at first. A run
    that waits for an answer or for a time goes on waiting; once that is over, a worker has it. A process that still
    executes the run is refused at its next write.

    Args:
        queue: another queue; if None, the one that it has, or `default`.
        priority: another priority, likewise.
        not_before: the earliest time to go on, an aware datetime; None for at once.
        keyring: seals and checks.

    Returns:
        The latest checkpoint.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
        CheckpointError: the run has ended (`run-ended`), is a child run, which belongs to its parent (`child-run`), or
            a name or a number does not fit (`invalid-queue-entry`); or as the store raises.
    """

    def build(tail: Checkpoint) -> Checkpoint | None:
        refuse_ended_or_child("requeue", tail)
        before = tail.queue or QueueEntry()
        entry = _entry(
            before.name if queue is None else queue,
            before.priority if priority is None else priority,
            before.concurrency_key,
            not_before,
        )
        status: Status = "awaiting_input" if tail.status == "awaiting_input" else "queued"
        if tail.status == status and tail.queue == entry:
            return None
        return queued_again(tail, entry, executor_id=new_executor_id(), status=status)

    return await append(store, run_id, build, keyring)


def queued_again(tail: Checkpoint, entry: QueueEntry, *, executor_id: str, status: Status = "queued") -> Checkpoint:
    """Return the checkpoint that leaves a run to the workers.

    Args:
        tail: the latest checkpoint.
        entry: how it waits for a worker from now on.
        executor_id: names who leaves it.
        status: the status of the run after it.
    """
    return tail.next(
        event="queued",
        status=status,
        executor_id=executor_id,
        timestamp=datetime.now(UTC),
        queue=entry,
        process=None,
        error=tail.error,
    )
