"""What may be done to a run from anywhere: answer its questions, pause it, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Checkpointer, FanOut, Interrupt, JsonValue
from stargraph.checkpoint.values import canonical, check_json, is_json
from stargraph.engine import Plan, RunLog, StateSpec, answered, cancel_children, new_executor_id
from stargraph.errors import CheckpointConflictError, CheckpointError, StateError
from stargraph.graph._resume_checks import recorded_definition
from stargraph.ir import fits_schema, schema_type, validate_value
from stargraph.runtime import dispatch
from stargraph.runtime._given import check_checkpointer, check_keyring, check_seconds

_TRIES: Final = 100
_POLL_SECONDS: Final = 0.2

CANCEL_GRACE: Final = 10.0
"""Seconds that an executor has to stop its nodes before a cancellation takes the run from it."""

PAUSE_GRACE: Final = 30.0
"""Seconds that an executor has to finish its running nodes before a pause takes the run from it."""


async def append(
    store: Checkpointer, run_id: str, build: Callable[[Checkpoint], Checkpoint | None], keyring: Keyring | None
) -> Checkpoint:
    """Append to a run that an executor may be writing too: build the record again after whatever it writes.

    Args:
        build: makes the next checkpoint from the latest one, or None if there is nothing to append.
        keyring: seals it.

    Returns:
        The latest checkpoint.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
        CheckpointError: as `build` or the store raises.
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    for _ in range(_TRIES):
        tail = await dispatch.read_run(store, run_id, keyring=keyring)
        checkpoint = build(tail)
        if checkpoint is None:
            return tail
        try:
            await dispatch.write(store, checkpoint, keyring=keyring)
        except CheckpointConflictError:
            continue
        return checkpoint
    raise CheckpointConflictError(
        f"run {run_id!r}: an executor was faster, {_TRIES} times in a row",
        reason="busy-run",
        hint="Try again.",
        run_id=run_id,
    )


async def respond(
    store: Checkpointer,
    run_id: str,
    interrupt_id: Interrupt | str,
    value: object,
    *,
    plan: Plan | None = None,
    keyring: Keyring | None = None,
) -> Checkpoint:
    """Record the answer to a question of a run, whoever executes it.

    Args:
        interrupt_id: the question, or its id.
        value: the answer: JSON or, with the graph, what the class of the state has for the field that takes it.
        plan: the graph of the run; if None, the types are those that the log recorded.
        keyring: seals and checks.

    Returns:
        The latest checkpoint.

    Raises:
        StateError: the answer does not fit the field that takes it, or is not JSON.
        CheckpointError: `reason` is `no-such-question`, `run-ended` or `run-not-found`, or as the store raises.
        TypeError: `interrupt_id` is neither a question nor an id.
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    question_id = as_question_id(interrupt_id)
    tail = await dispatch.read_run(store, run_id, keyring=keyring)
    checked = await check_answer(store, tail, question_id, value, plan=plan, keyring=keyring)
    return await _record_answer(store, run_id, question_id, checked, keyring)


def as_question_id(question: object) -> str:
    """Return the id of a question.

    Args:
        question: the question, or its id.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(question, Interrupt):
        return question.id
    if not isinstance(question, str):
        raise TypeError(f"{question!r:.80} is no question: give one of the questions of a run, or its id")
    return question


async def _record_answer(
    store: Checkpointer, run_id: str, interrupt_id: str, checked: JsonValue, keyring: Keyring | None
) -> Checkpoint:
    def answer(latest: Checkpoint) -> Checkpoint:
        return answer_record(latest, interrupt_id, checked, leaves_to_workers=latest.status == "awaiting_input")

    return await append(store, run_id, answer, keyring)


async def check_answer(
    store: Checkpointer,
    tail: Checkpoint,
    interrupt_id: str,
    value: object,
    *,
    plan: Plan | None,
    keyring: Keyring | None,
) -> JsonValue:
    """Return an answer as it is recorded; that of a child run's question is recorded there first.

    Args:
        tail: the latest checkpoint of the run.
        interrupt_id: the question.
        value: the answer.
        plan: the graph of the run, or None.
        keyring: seals and checks.

    Raises:
        StateError: it does not fit.
        CheckpointError: there is no such question.
    """
    interrupt = open_interrupt(tail, interrupt_id)
    path = f"the answer to {interrupt_id!r}"
    if interrupt.child_run_id is not None:
        child = await dispatch.read_run(store, interrupt.child_run_id, keyring=keyring)
        child_question = interrupt_id.removeprefix(f"{interrupt.task_id}/")
        # A crash between the two appends leaves the child answered and the parent not.
        if any(question.id == child_question for question in child.interrupts):
            child_plan = None if plan is None else plan.children[interrupt.node]
            value = await check_answer(store, child, child_question, value, plan=child_plan, keyring=keyring)
            await _record_answer(store, child.run_id, child_question, value, keyring)
            return value
        check_json(value, path)
        await _refuse_other_answer(store, child, child_question, value, keyring)
        return value
    if interrupt.into is None:
        check_json(value, path)
        return value
    if plan is not None:
        return _checked(plan.state, tail, interrupt.into, value, path)

    async def read_step(step: int) -> Checkpoint | None:
        return await dispatch.read_at_step(store, tail.run_id, step, keyring=keyring)

    definition = await recorded_definition(tail, read_step, "graph") or {}
    if "state_class_schema" in definition:
        return _fitting(interrupt.into, value, definition["state_class_schema"], path)
    recorded = definition.get("state_schema", {}).get(interrupt.into)
    return value if recorded is None else validate_value(recorded["type"], value, path)


async def _refuse_other_answer(
    store: Checkpointer, child: Checkpoint, question: str, value: JsonValue, keyring: Keyring | None
) -> None:
    """Refuse an answer if the child run has another one: it is the one that the child goes on with."""
    latest: Checkpoint | None = child
    while latest is not None:
        for call in latest.calls:
            if call.kind == "answer" and call.name == question:
                if canonical(call.result) == canonical(value):
                    return
                raise CheckpointError(
                    f"the question {question!r} of run {child.run_id!r} is answered already, with {call.result!r:.80}",
                    reason="no-such-question",
                    hint=f"Only its parent does not know that yet. Answer {call.result!r:.80} there, and resume it.",
                    run_id=child.run_id,
                    step=latest.step,
                )
        if latest.step == 0:
            return
        latest = await dispatch.read_at_step(store, child.run_id, latest.step - 1, keyring=keyring)


def _checked(state: StateSpec, tail: Checkpoint, field: str, value: object, path: str) -> JsonValue:
    """Return an answer as it is recorded, if the field takes it, and the class of the state does as a whole."""
    if state.fields is None:
        check_json(value, path)
        return value
    answer = state.fields[field].record(value, path, from_json=is_json(value))
    # Among branches, it will meet a state that does not exist yet.
    if not any(isinstance(item, FanOut) for item in tail.frontier):
        state.merge(tail.encoded_state(), [state.record({field: answer}, tail, from_json=True)])
    return answer


def _fitting(field: str, value: JsonValue, schema: Mapping[str, Any], path: str) -> JsonValue:
    """Return an answer that has the form in which the class of the state stores the field, as far as the log says."""
    wanted = schema.get("properties", {}).get(field, {})
    definitions = schema.get("$defs", {})
    # What a user-defined reducer takes may have any type.
    if ":" in schema.get("reducers", {}).get(field, "") or fits_schema(value, wanted, definitions):
        return value
    raise StateError(
        f"{path}: {value!r:.80} is not a value of the field {field!r}, which is stored as"
        f" {schema_type(wanted, definitions)}",
        reason="wrong-type",
        hint="If the class of the state takes another form too, answer with the graph: by Run.answer, or where the run"
        " executes.",
        path=path,
    )


def answer_record(
    tail: Checkpoint, interrupt_id: str, value: JsonValue, *, leaves_to_workers: bool = False
) -> Checkpoint:
    """Return the checkpoint that records an answer.

    Args:
        tail: the latest checkpoint.
        interrupt_id: the question.
        value: the answer, checked.
        leaves_to_workers: nobody executes the run: if it has a queue, any worker may go on with it.

    Raises:
        StateError: the answer is not JSON.
        CheckpointError: `reason` is `run-ended` or `no-such-question`.
    """
    interrupt = open_interrupt(tail, interrupt_id)
    return tail.next(
        event="answered",
        executor_id=new_executor_id(),
        timestamp=datetime.now(UTC),
        last_node=interrupt.node,
        task_id=interrupt.task_id,
        process=None if leaves_to_workers and tail.queue is not None else tail.process,
        **answered(tail, interrupt, value),
    )


def open_interrupt(tail: Checkpoint, interrupt_id: str) -> Interrupt:
    """Return an open question of a run.

    Args:
        tail: the latest checkpoint.
        interrupt_id: the question.

    Raises:
        CheckpointError: `reason` is `run-ended` or `no-such-question`.
    """
    if tail.status in ENDED:
        raise takes_no_answers(tail)
    for interrupt in tail.questions:
        if interrupt.id == interrupt_id:
            return interrupt
    known = ", ".join(repr(interrupt.id) for interrupt in tail.questions) or "none"
    raise CheckpointError(
        f"run {tail.run_id!r} has no open question {interrupt_id!r}; it may have been answered already",
        reason="no-such-question",
        hint=f"Open questions: {known}.",
        run_id=tail.run_id,
        step=tail.step,
    )


def takes_no_answers(tail: Checkpoint) -> CheckpointError:
    """Return the error of an answer to a run that has ended.

    Args:
        tail: its latest checkpoint.
    """
    return CheckpointError(
        f"run {tail.run_id!r} is {tail.status}: it takes no answers",
        reason="run-ended",
        run_id=tail.run_id,
        step=tail.step,
    )


async def cancel(
    store: Checkpointer, run_id: str, *, grace: float = CANCEL_GRACE, keyring: Keyring | None = None
) -> Checkpoint:
    """End a run and its child runs as cancelled, whoever executes it; the state that it reached stays.

    An executor at work is asked first, so that it can stop its nodes. If it has not stopped after the grace period, it
    loses the run.

    Args:
        grace: seconds that an executor has.
        keyring: seals and checks.

    Returns:
        The latest checkpoint.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
        CheckpointError: the run has ended (`reason="run-ended"`), or as the store raises.
        ValueError: `grace` is no number of seconds.
    """
    check_seconds(grace, "grace")
    executor_id = new_executor_id()

    def ask(tail: Checkpoint) -> Checkpoint | None:
        _refuse_done(tail)
        if tail.status != "running" or tail.event == "cancel_requested":
            return None
        return tail.next(event="cancel_requested", executor_id=executor_id, timestamp=datetime.now(UTC))

    def end(tail: Checkpoint) -> Checkpoint | None:
        _refuse_done(tail)
        if tail.status == "cancelled":
            return None
        return tail.next(event="cancelled", status="cancelled", executor_id=executor_id, timestamp=datetime.now(UTC))

    await _until_it_stops(store, await append(store, run_id, ask, keyring), grace, keyring)
    tail = await append(store, run_id, end, keyring)
    await cancel_children(RunLog(store, tail, keyring=keyring), tail, executor_id)
    return tail


async def pause(
    store: Checkpointer, run_id: str, *, grace: float | None = PAUSE_GRACE, keyring: Keyring | None = None
) -> Checkpoint:
    """Pause a run, whoever executes it, until somebody resumes or requeues it.

    An executor at work is asked to start no more nodes and let the running ones finish. If it has not paused after the
    grace period, it loses the run, and its nodes run again after a resume. A queued run is paused at once. A run that
    waits for an answer or has failed rests already, and stays as it is.

    Args:
        store: holds the run.
        grace: seconds that an executor has; None returns at once, and lets it take as long as its nodes do.
        keyring: seals and checks.

    Returns:
        The latest checkpoint; the run may have ended before it paused.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
        CheckpointError: the run has ended (`reason="run-ended"`), is a child run, which its parent executes
            (`child-run`), or as the store raises.
        ValueError: `grace` is no number of seconds.
    """
    if grace is not None:
        check_seconds(grace, "grace")
    executor_id = new_executor_id()

    def ask(tail: Checkpoint) -> Checkpoint | None:
        refuse_ended_or_child("pause", tail)
        if tail.status != "running" or tail.event == "pause_requested":
            return None
        return tail.next(event="pause_requested", executor_id=executor_id, timestamp=datetime.now(UTC))

    def rest(tail: Checkpoint) -> Checkpoint | None:
        if tail.status not in ("queued", "running"):
            return None
        return tail.next(event="paused", status="paused", executor_id=executor_id, timestamp=datetime.now(UTC))

    tail = await append(store, run_id, ask, keyring)
    if tail.status == "running" and grace is None:
        return tail
    await _until_it_stops(store, tail, grace or 0, keyring)
    return await append(store, run_id, rest, keyring)


async def _until_it_stops(store: Checkpointer, tail: Checkpoint, grace: float, keyring: Keyring | None) -> None:
    """Wait until a run no longer executes, at most `grace` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace
    while tail.status == "running" and loop.time() < deadline:
        await asyncio.sleep(min(_POLL_SECONDS, grace))
        tail = await dispatch.read_run(store, tail.run_id, keyring=keyring)


def refuse_ended_or_child(do: str, tail: Checkpoint) -> None:
    """Refuse to pause or requeue a run that has ended, or that its parent executes.

    Args:
        do: the verb, as in `pause`.
        tail: where the run stands.

    Raises:
        CheckpointError: `reason` is `run-ended` or `child-run`.
    """
    if tail.status in ENDED:
        raise _nothing_to(do, tail)
    if tail.origin == "subgraph":
        raise CheckpointError(
            f"run {tail.run_id!r} is a child run, which its parent executes",
            reason="child-run",
            hint=f"{do.capitalize()} the parent, run {tail.parent_run_id!r}.",
            run_id=tail.run_id,
            step=tail.step,
        )


def _refuse_done(tail: Checkpoint) -> None:
    if tail.status in ENDED and tail.status != "cancelled":
        raise _nothing_to("cancel", tail)


def _nothing_to(do: str, tail: Checkpoint) -> CheckpointError:
    return CheckpointError(
        f"run {tail.run_id!r} is {tail.status}: there is nothing to {do}",
        reason="run-ended",
        run_id=tail.run_id,
        step=tail.step,
    )
