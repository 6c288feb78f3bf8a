"""What a step of a run looks like from outside: a row of a timeline, without states and other values."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from stargraph.checkpoint.protocol._checkpoint import Checkpoint
from stargraph.checkpoint.protocol._draft import StoredFields
from stargraph.checkpoint.protocol._records import (
    ErrorInfo,
    Event,
    FanOut,
    FrozenModel,
    Instant,
    Interrupt,
    ProcessInfo,
    RecordedCall,
    Status,
    Step,
    Task,
    due_at_of,
)

_NO_TIME: Final = timedelta()


class CallSummary(FrozenModel):
    """A recorded call without its result.

    Attributes:
        kind: as in `RecordedCall`.
        task_id: the task.
        name: the name of the call.
        key: distinguishes concurrent calls of one name.
        occurrence: counts the calls of the same task and key (or name), from 0.
        outcome: whether it returned or raised.
        error_type: the class of what it raised, or None.
        started_at: when it began.
        seconds: from then until the step that records it; never negative, if a clock was set back.
    """

    kind: Literal["call", "answer", "now", "attempt"]
    task_id: str
    name: str
    key: str | None = None
    occurrence: int = 0
    outcome: Literal["returned", "raised"]
    error_type: str | None = None
    started_at: Instant
    seconds: float

    @classmethod
    def of(cls, call: RecordedCall, recorded_at: datetime) -> CallSummary:
        """Return the summary of a call that a step has recorded."""
        return cls.model_construct(
            kind=call.kind,
            task_id=call.task_id,
            name=call.name,
            key=call.key,
            occurrence=call.occurrence,
            outcome="returned" if call.error is None else "raised",
            error_type=call.error.type if call.error else None,
            started_at=call.started_at,
            seconds=max(recorded_at - call.started_at, _NO_TIME).total_seconds(),
        )


class InterruptSummary(FrozenModel):
    """A question or a wait without its payload.

    Attributes:
        id: durable; the answer names it.
        task_id: the task that is blocked by it.
        node: the node that asks.
        prompt: the question, for a person.
        child_run_id: the run of the subgraph that asks; None if the node itself asks.
        asked_at: when it was asked.
        due_at: when the wait is over; None if the task waits for an answer.
    """

    id: str
    task_id: str
    node: str
    prompt: str
    child_run_id: str | None = None
    asked_at: Instant
    due_at: Instant | None = None

    @classmethod
    def of(cls, interrupt: Interrupt) -> InterruptSummary:
        """Return the summary of an interrupt."""
        return cls.model_construct(
            id=interrupt.id,
            task_id=interrupt.task_id,
            node=interrupt.node,
            prompt=interrupt.prompt,
            child_run_id=interrupt.child_run_id,
            asked_at=interrupt.asked_at,
            due_at=interrupt.due_at,
        )


class StepSummary(FrozenModel):
    """One step of a run without its state and other values: a row of its timeline.

    Attributes:
        step: the position in the log.
        timestamp: when it was recorded.
        event: what it records.
        status: the status of the run after it.
        executor_id: of the executor that wrote it.
        process: the process that started or resumed the run last before it; None if that was not recorded.
        last_node: the node of the event, or None.
        task_id: the task of the event, or None.
        task_started_at: when that task began, or None.
        key: the key of the step, or None.
        frontier: what is running or comes next.
        interrupts: the open questions and waits, without their payloads.
        calls: the calls that it records, without their results.
        due_at: when a run that waits for a time can go on; None if it waits for none.
        error: what failed, or None.
        digest: the digest of the checkpoint.
        previous_digest: the digest of the step before; None at step 0.
        changed: the names of the fields in the update of the step: what the node returned, an answer, the inputs.
        removed: the names of the fields that the state lost with this step; none if the step before cannot be read.
        size: the length of the stored record in bytes; None if unknown.
    """

    step: Step
    timestamp: Instant
    event: Event
    status: Status
    executor_id: str
    process: ProcessInfo | None = None
    last_node: str | None = None
    task_id: str | None = None
    task_started_at: Instant | None = None
    key: str | None = None
    frontier: tuple[Task | FanOut, ...] = ()
    interrupts: tuple[InterruptSummary, ...] = ()
    calls: tuple[CallSummary, ...] = ()
    due_at: Instant | None = None
    error: ErrorInfo | None = None
    digest: str
    previous_digest: str | None = None
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    size: int | None = None

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, before: Checkpoint | None = None, *, size: int | None = None
    ) -> StepSummary:
        """Return the row of a checkpoint.

        Args:
            before: the step before it; None if that is not stored.
            size: the length of its record in bytes; None if unknown.
        """
        return cls.of_fields(
            checkpoint,
            changed=tuple(checkpoint.update or ()),
            removed=removed_names(None if before is None else before.state, checkpoint.state),
            size=size,
        )

    @classmethod
    def of_fields(
        cls,
        fields: Checkpoint | StoredFields,
        *,
        changed: tuple[str, ...],
        removed: tuple[str, ...],
        size: int | None,
    ) -> StepSummary:
        """Return the row of a step whose fields are known; its state and update are not looked at."""
        return cls.model_construct(
            step=fields.step,
            timestamp=fields.timestamp,
            event=fields.event,
            status=fields.status,
            executor_id=fields.executor_id,
            process=fields.process,
            last_node=fields.last_node,
            task_id=fields.task_id,
            task_started_at=fields.task_started_at,
            key=fields.key,
            frontier=fields.frontier,
            interrupts=tuple([InterruptSummary.of(each) for each in fields.interrupts]),
            calls=tuple([CallSummary.of(call, fields.timestamp) for call in fields.calls]),
            due_at=due_at_of(fields.status, fields.interrupts, fields.queue),
            error=fields.error,
            digest=fields.digest,
            previous_digest=fields.previous_digest,
            changed=changed,
            removed=removed,
            size=size,
        )


def removed_names(before: Collection[str] | None, after: Collection[Any]) -> tuple[str, ...]:
    """Return the names that a state lost, in their order.

    Args:
        before: the names before; None if they are not known.
        after: the names after.
    """
    if before is None:
        return ()
    kept = set(after)
    return tuple([name for name in before if name not in kept])
