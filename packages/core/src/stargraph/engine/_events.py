"""What a run reports to its listeners."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, Event, Interrupt, JsonValue, RecordedCall, Task
from stargraph.checkpoint.values import copy_json

EventType: TypeAlias = Literal["node_started", "attempt_failed", "emitted"] | Event
"""The event of a checkpoint, or one that is not recorded: a node begins, an attempt has failed, or it emits."""


class RunEvent(BaseModel):
    """One event of a run.

    Attributes:
        type: what happened.
        run_id: the run.
        step: the step of the checkpoint; of what is not recorded, the latest step then.
        task_id: the task, if it concerns one.
        node: the node, if it concerns one.
        index: the position of the branch in its fan-out; None outside one.
        attempt: counts the attempts of the node, from 1; None if the event is not about a node that runs.
        timestamp: when.
        seconds: how long the task or the call took; None for what has no duration.
        durable: whether the checkpoint is stored already.
        update: what the node returned, if it completed.
        call: the call that was recorded, with its result or its error; of an answer, its name is the question's id.
        error: why an attempt or the run failed.
        questions: what the node waits for now: the questions and times of its task that are open.
        value: what the node emitted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    type: EventType
    run_id: str
    step: int
    task_id: str | None = None
    node: str | None = None
    index: int | None = None
    attempt: int | None = None
    timestamp: datetime
    seconds: float | None = None
    durable: bool
    update: dict[str, Any] | None = None
    call: RecordedCall | None = None
    error: ErrorInfo | None = None
    questions: tuple[Interrupt, ...] = ()
    value: JsonValue = None

    @classmethod
    def of(
        cls, record: Checkpoint, *, durable: bool = True, task: Task | None = None, attempt: int | None = None
    ) -> RunEvent:
        """Return the event of a checkpoint.

        Args:
            record: the checkpoint.
            durable: whether it is stored.
            task: the task that it is about; None for one that another process wrote, or for the run as a whole.
            attempt: counts the attempts of its node, from 1.
        """
        call = record.calls[0] if record.event in ("called", "answered") and record.calls else None
        # A listener may change what it gets, and the record, or the next one, may not be stored yet.
        if call is not None and type(call.result) in (list, dict):
            call = call.model_copy(update={"result": copy_json(call.result)})
        began = record.task_started_at if call is None else call.started_at if call.kind == "call" else None
        return cls.model_construct(
            type=record.event,
            run_id=record.run_id,
            step=record.step,
            task_id=record.task_id,
            node=record.last_node,
            index=None if task is None else task.index,
            attempt=attempt,
            timestamp=record.timestamp,
            seconds=None if began is None else max((record.timestamp - began).total_seconds(), 0.0),
            durable=durable,
            update=record.update,
            call=call,
            error=record.error,
            questions=tuple(
                each.model_copy(update={"payload": copy_json(each.payload)})
                for each in record.interrupts
                if each.task_id == record.task_id
            )
            if record.event == "asked"
            else (),
            value=None,
        )
