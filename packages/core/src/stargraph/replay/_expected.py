"""The steps that a graph makes of what the log says: what a replay compares the recorded ones with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, Interrupt, JsonValue, RecordedCall, Task
from stargraph.engine import (
    CallLog,
    Plan,
    Suspended,
    answered,
    asked,
    called,
    error_info,
    failed,
    status_of,
    steps_of,
    tasks_of,
)
from stargraph.engine._migration import migrated, migration_for


def started(plan: Plan, record: Checkpoint, inputs: Mapping[str, JsonValue] | None) -> Checkpoint:
    """Return step 0.

    Args:
        plan: the graph.
        record: the recorded step.
        inputs: what the state begins with; None for what is recorded.
    """
    state, update = plan.state.initial(inputs if inputs is not None else record.update or {})
    return Checkpoint.genesis(
        run_id=record.run_id,
        graph_id=plan.document.id,
        graph_hash=record.graph_hash,
        runtime_hash=record.runtime_hash,
        definition=record.definition,
        state=state,
        update=update,
        frontier=plan.first(0),
        executor_id=record.executor_id,
        timestamp=record.timestamp,
        process=record.process,
        queue=record.queue,
        status="running" if record.queue is None else "queued",
        parent_run_id=record.parent_run_id,
        parent_step=record.parent_step,
        origin=record.origin,
        metadata=record.metadata,
    )


def transition(plan: Plan, previous: Checkpoint, record: Checkpoint) -> Checkpoint | None:
    """Return the step of an event that no node makes, or None if only the log knows it."""
    if record.event == "called":
        return following(previous, record, **called(previous, record.calls[0]))
    if record.event == "answered":
        answer = record.calls[0]
        interrupt = next((each for each in previous.interrupts if each.id == answer.name), None)
        if interrupt is None:
            return None
        return following(previous, record, **answered(previous, interrupt, answer.result))
    if record.event == "resumed":
        old = previous.encoded_state()
        adopted = None if record.definition is None else plan.state.adopted(old, record.encoded_state())
        return following(previous, record, status=status_of(previous.frontier, previous.interrupts), changes=adopted)
    if record.event == "queued":
        status = "awaiting_input" if previous.status == "awaiting_input" else "queued"
        return following(previous, record, status=status, queue=record.queue, error=previous.error)
    if record.event == "moved":
        return following(previous, record, status="moved", frontier=(), interrupts=())
    if record.event in ("paused", "cancelled"):
        return following(previous, record, status=record.event)
    if record.event == "migrated":
        migration = migration_for(plan, previous)
        if migration is None or record.graph_hash != plan.graph_hash:
            return None
        return migrated(
            plan,
            migration,
            previous,
            executor_id=record.executor_id,
            now=record.timestamp,
            recorded=record.encoded_state(),
        )
    return following(previous, record)


def asked_by(
    previous: Checkpoint, record: Checkpoint, task: Task, suspended: Suspended, call_log: CallLog
) -> Checkpoint:
    """Return the step that records the questions of a task."""
    known = {interrupt.id for interrupt in previous.interrupts}
    new: Sequence[Interrupt] = [interrupt for interrupt in record.interrupts if interrupt.id not in known]
    asked_at = new[0].asked_at if new else record.timestamp
    changes = asked(previous, task, suspended.questions, asked_at, beside(record, call_log))
    return following(previous, record, event="asked", update=None, **changes)


def failed_with(previous: Checkpoint, record: Checkpoint, error: BaseException, call_log: CallLog) -> Checkpoint:
    """Return the step that records a failure."""
    info = error_info(error, node=record.last_node)
    if record.error is not None and info.model_copy(update={"traceback": record.error.traceback}) == record.error:
        info = record.error
    changes = failed(previous, info, forgotten(previous, record))
    return following(previous, record, event="failed", update=None, calls=beside(record, call_log), **changes)


def beside(record: Checkpoint, call_log: CallLog) -> tuple[RecordedCall, ...]:
    """Return what a step records beside its outcome: the clock of this execution, and the recorded failed attempts."""
    return (*call_log.moments(), *(call for call in record.calls if call.kind == "attempt"))


def following(previous: Checkpoint, record: Checkpoint, **changes: Any) -> Checkpoint:
    """Return the next step as it comes out now; what the outside world gave is that of the record."""
    return previous.next(
        **{
            "event": record.event,
            "executor_id": record.executor_id,
            "timestamp": record.timestamp,
            "last_node": record.last_node,
            "task_id": record.task_id,
            "task_started_at": record.task_started_at,
            "key": record.key,
            "graph_hash": record.graph_hash,
            "runtime_hash": record.runtime_hash,
            "definition": record.definition,
            "process": record.process,
            **changes,
        }
    )


def forgotten(previous: Checkpoint, record: Checkpoint) -> set[int]:
    """Return the steps whose calls a failure discarded, to be made again."""
    kept = {step for task in tasks_of(record.frontier) for step in steps_of(task.calls)}
    return {step for task in tasks_of(previous.frontier) for step in steps_of(task.calls)} - kept
