"""What each event makes of a run: the next checkpoint as a function of the latest one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from stargraph.checkpoint.protocol import (
    Checkpoint,
    ErrorInfo,
    FanOut,
    Interrupt,
    JsonValue,
    RecordedCall,
    Status,
    StepRange,
    Task,
    add_step,
)
from stargraph.checkpoint.values import EncodedValue
from stargraph.engine._plan import Completion, Plan
from stargraph.engine._questions import Question
from stargraph.errors import StateError

Updates = Mapping[str, EncodedValue]


def fan_out_of(frontier: tuple[Task | FanOut, ...]) -> FanOut | None:
    """Return the fan_out whose branches run, if they do.

    Args:
        frontier: the frontier of a checkpoint.
    """
    # By its kind: isinstance() asks pydantic about each model that is of another class.
    for item in frontier:
        if item.kind == "fan_out":
            return item
    return None


def tasks_of(frontier: tuple[Task | FanOut, ...]) -> tuple[Task, ...]:
    """Return the tasks that are running or come next.

    Args:
        frontier: the frontier of a checkpoint.
    """
    return tuple([item for item in frontier if item.kind == "task"])


def completed(
    plan: Plan, tail: Checkpoint, task: Task, update: Updates, branches: Mapping[int, Updates]
) -> dict[str, Any]:
    """Return what the completion of a task changes.

    Args:
        plan: the graph.
        tail: the latest checkpoint.
        update: what the node returned, as it is recorded.
        branches: the updates of the branches of its fan_out that have completed, by their index.

    Returns:
        The arguments of `Checkpoint.next` that differ.

    Raises:
        StateError: the update does not fit, two branches replace one field, or a rule cannot be evaluated.
    """
    changes = (
        _node_completed(plan, tail, task, update)
        if task.index is None
        else _branch_completed(plan, tail, task, update, branches)
    )
    # The node may have asked before, and not asked this time: that question is withdrawn.
    interrupts = tail.interrupts and tuple([each for each in tail.interrupts if each.task_id != task.id])
    if len(interrupts) != len(tail.interrupts):
        changes["interrupts"] = interrupts
    changes["status"] = status_of(changes["frontier"], interrupts)
    return changes


def _node_completed(plan: Plan, tail: Checkpoint, task: Task, update: Updates) -> dict[str, Any]:
    changes = plan.state.merge(tail.encoded_state(), [update])
    completion = Completion(
        node=task.node,
        task_id=task.id,
        state={**tail.state, **{name: encoded.value for name, encoded in changes.items()}},
        update={name: encoded.value for name, encoded in update.items()},
    )
    return {"changes": changes, "frontier": plan.after(completion, tail.step + 1, answered=task.rule)}


def _branch_completed(
    plan: Plan, tail: Checkpoint, task: Task, update: Updates, branches: Mapping[int, Updates]
) -> dict[str, Any]:
    step = tail.step + 1
    fan_out = fan_out_of(tail.frontier)
    assert fan_out is not None
    assert task.index is not None
    remaining = tuple([item for item in tasks_of(tail.frontier) if item.id != task.id])
    if fan_out.next_index < fan_out.width:
        remaining = (*remaining, plan.branch(fan_out, fan_out.next_index))
    if remaining:
        frontier: tuple[Task | FanOut, ...] = (
            fan_out.model_copy(
                update={
                    "next_index": min(fan_out.next_index + 1, fan_out.width),
                    "completed_steps": add_step(fan_out.completed_steps, step),
                }
            ),
            *remaining,
        )
        return {"frontier": frontier}
    updates = {**branches, task.index: update}
    _refuse_conflicts(plan, fan_out, updates)
    changes = plan.state.merge(tail.encoded_state(), [updates[index] for index in range(fan_out.width)])
    return {"changes": changes, "frontier": (plan.join(fan_out, step),)}


def _refuse_conflicts(plan: Plan, fan_out: FanOut, updates: Mapping[int, Updates]) -> None:
    owners: dict[str, int] = {}
    for index in range(fan_out.width):
        for name in updates[index]:
            if not plan.state.replaces(name):
                continue
            if name in owners:
                first, second = (_branch_name(plan, fan_out, position) for position in (owners[name], index))
                raise StateError(
                    f"{first} and {second} both replace state.{name}",
                    reason="branch-conflict",
                    hint=f"Give the field {name!r} a reducer (append, merge, add, or your own),"
                    " or let one branch set it.",
                    path=f"state.{name}",
                    node=plan.branch(fan_out, index).node,
                )
            owners[name] = index


def _branch_name(plan: Plan, fan_out: FanOut, index: int) -> str:
    node = plan.branch(fan_out, index).node
    return f"branch {index} of node {node!r}" if fan_out.mode == "map" else f"node {node!r}"


def asked(
    tail: Checkpoint, task: Task, questions: Iterable[Question], now: datetime, moments: tuple[RecordedCall, ...]
) -> dict[str, Any]:
    """Return what questions change; one that is open already is not asked again.

    An open question whose text has changed since is replaced, and one that a child run does not ask any more goes.

    Args:
        tail: the latest checkpoint.
        task: the task that waits for the answers.
        questions: what it asks.
        now: the time of the event.
        moments: the time that the node has read, if it looked: it gets the same one when it continues, since what it
            asks may say it.
    """
    asked_now = {question.id_for(task): question for question in questions}
    of_child = any(question.child_id is not None for question in asked_now.values())
    kept = tuple(
        interrupt
        for interrupt in tail.interrupts
        if interrupt.task_id != task.id
        or interrupt.id in asked_now
        or not (of_child or any(question.replaces(interrupt.id, task) for question in asked_now.values()))
    )
    known = {interrupt.id for interrupt in kept}
    new = tuple(
        Interrupt(
            id=name,
            task_id=task.id,
            node=task.node,
            prompt=question.prompt,
            payload=question.payload,
            into=question.into,
            child_run_id=question.child_run_id,
            asked_at=now,
            due_at=question.due_at(now),
        )
        for name, question in asked_now.items()
        if name not in known
    )
    interrupts = (*kept, *new)
    changes = {"interrupts": interrupts, "status": status_of(tail.frontier, interrupts), "calls": moments}
    return {**changes, "frontier": with_call(tail.frontier, task.id, tail.step + 1)} if moments else changes


def answered(tail: Checkpoint, interrupt: Interrupt, value: JsonValue) -> dict[str, Any]:
    """Return what an answer changes.

    Args:
        tail: the latest checkpoint.
        interrupt: the question, open in it.
        value: the answer, checked.
    """
    interrupts = tuple(other for other in tail.interrupts if other.id != interrupt.id)
    call = RecordedCall(
        kind="answer",
        task_id=interrupt.task_id,
        name=interrupt.id,
        result=value,
        started_at=interrupt.asked_at,
    )
    frontier = with_call(tail.frontier, interrupt.task_id, tail.step + 1)
    status = status_of(frontier, interrupts) if tail.status == "awaiting_input" else tail.status
    return {"interrupts": interrupts, "frontier": frontier, "calls": (call,), "status": status}


def with_call(frontier: tuple[Task | FanOut, ...], task_id: str, step: int) -> tuple[Task | FanOut, ...]:
    """Return a frontier in which a task knows of a call that was recorded at a step."""
    return tuple(
        item.model_copy(update={"calls": add_step(item.calls, step)})
        if isinstance(item, Task) and item.id == task_id
        else item
        for item in frontier
    )


def called(tail: Checkpoint, call: RecordedCall) -> dict[str, Any]:
    """Return what the outcome of a call changes.

    Args:
        tail: the latest checkpoint.
    """
    return {"calls": (call,), "frontier": with_call(tail.frontier, call.task_id, tail.step + 1)}


def failed(tail: Checkpoint, error: ErrorInfo, forgotten: Collection[int]) -> dict[str, Any]:
    """Return what the failure of a run changes.

    Args:
        tail: the latest checkpoint.
        error: what went wrong.
        forgotten: the steps at which calls failed that are made again if the run is resumed.
    """
    changed: dict[str, Any] = {"status": "failed", "error": error}
    if forgotten:
        changed["frontier"] = tuple(
            item.model_copy(update={"calls": _without(item.calls, forgotten)}) if isinstance(item, Task) else item
            for item in tail.frontier
        )
    return changed


def steps_of(ranges: Sequence[StepRange]) -> Iterator[int]:
    """Yield the steps of ranges.

    Args:
        ranges: the ranges, ascending.
    """
    for steps in ranges:
        yield from range(steps.first, steps.last + 1)


def _without(ranges: tuple[StepRange, ...], left_out: Collection[int]) -> tuple[StepRange, ...]:
    kept: tuple[StepRange, ...] = ()
    for step in steps_of(ranges):
        if step not in left_out:
            kept = add_step(kept, step)
    return kept


def status_of(frontier: tuple[Task | FanOut, ...], interrupts: tuple[Interrupt, ...]) -> Status:
    """Return where a run stands that nobody has stopped.

    Args:
        frontier: what is running or comes next.
        interrupts: the open questions.
    """
    if not frontier:
        return "done"
    if not interrupts:
        return "running"
    blocked = {interrupt.task_id for interrupt in interrupts}
    return "awaiting_input" if all(task.id in blocked for task in tasks_of(frontier)) else "running"
