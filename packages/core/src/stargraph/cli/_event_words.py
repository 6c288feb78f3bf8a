"""What a step or an event says, in a few words: calls, questions, answers, attempts that failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from stargraph.cli._output import one_line, shorten, show_time

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, Interrupt, RecordedCall

MARKS: Final = {True: "✓", False: "✗"}

NOT_RECORDED: Final = frozenset({"node_started", "attempt_failed", "emitted"})
"""Events that are no steps."""

_SHOWN: Final = 120
"""How many characters of an error, a prompt or a value are shown."""


def call_words(call: RecordedCall, marks: dict[bool, str] = MARKS) -> str:
    """Return a call with its outcome, as in `✓ fetch` or `✗ fetch: OSError: no route`."""
    name = one_line(call.name if call.key is None else f"{call.name}[{call.key}]")
    mark = marks[call.error is None]
    return f"{mark} {name}" if call.error is None else f"{mark} {name}: {error_words(call.error)}"


def error_words(error: ErrorInfo) -> str:
    """Return an error as one line."""
    return one_line(shorten(f"{error.type}: {error.message}", _SHOWN))


def value_words(value: Any) -> str:
    """Return a value as JSON on one line."""
    return one_line(shorten(json.dumps(value, ensure_ascii=False), _SHOWN))


def question_words(question: Interrupt) -> str:
    """Return what a task waits for: a question with what it is about, or a time."""
    if question.due_at is not None:
        return f"waits until {show_time(question.due_at)}"
    prompt = one_line(shorten(question.prompt, _SHOWN))
    return f"asks {prompt}" if question.payload is None else f"asks {prompt}  {value_words(question.payload)}"


def step_words(record: Checkpoint, before: Checkpoint | None, shown: Collection[str] = ()) -> list[str]:
    """Return what a step says beside the changes of the state.

    Args:
        record: the step.
        before: the step before it, if it is known.
        shown: the ids of the questions that are shown elsewhere; only their ids are repeated.
    """
    known = {each.id: each for each in before.interrupts} if before else {}
    asks = record.interrupts if record.event == "asked" else ()
    new = [each for each in asks if each.id not in known]
    words = [f"asks {each.id}" if each.id in shown else question_words(each) for each in new]
    for call in record.calls:
        if call.kind == "call":
            words.append(call_words(call))
        elif call.kind == "answer":
            asked = known.get(call.name)
            waited = asked is not None and asked.due_at is not None
            words.append("the time has come" if waited else f"answer {value_words(call.result)}")
    return [*words, *attempt_words(record.calls)]


def attempt_words(calls: Sequence[RecordedCall]) -> Iterable[str]:
    """Yield the attempts that failed."""
    for call in calls:
        if call.kind == "attempt" and call.error is not None:
            yield f"✗ attempt {call.occurrence + 1}: {error_words(call.error)}"


def index_of(record: Checkpoint, before: Checkpoint | None) -> int | None:
    """Return the position of the branch that a step is about, or None."""
    frontier = (*(before.frontier if before else ()), *record.frontier)
    return next((item.index for item in frontier if item.kind == "task" and item.id == record.task_id), None)
