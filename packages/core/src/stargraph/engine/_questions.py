"""The questions of one execution of a task: asked, answered, and never lost."""

from __future__ import annotations

import difflib
import hashlib
import threading
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from stargraph.checkpoint.protocol import JsonValue, RecordedCall, Task
from stargraph.checkpoint.values import EncodedValue, check_json, copy_json, format_time, own_json
from stargraph.engine._failures import chain_of, is_a, name_of
from stargraph.errors import NodeError, StateError

_KEY_DIGITS: Final = 6
_TEXT_DIGITS: Final = 12

IN_CALL: Final[ContextVar[list[Question] | None]] = ContextVar("stargraph_in_call", default=None)
"""Collects what the function of a recorded call asks, while it runs."""

# Threads of one node may ask at once. What is done under the lock takes microseconds, so one serves all.
_LOCK: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Question:
    """What a task asks a person.

    Attributes:
        prompt: the question.
        payload: what the person needs to answer.
        key: tells questions of one node apart that are open at the same time.
        into: the field of the state that takes the answer, or None.
        occurrence: counts the questions of one attempt that say the same, from 0.
        child_run_id: the child run that asks, or None.
        child_id: the id of the question in the child run.
        wait: seconds to wait, or the time to wait for; None if it is a question to a person.
    """

    prompt: str
    payload: JsonValue
    key: str | None = None
    into: str | None = None
    occurrence: int = 0
    child_run_id: str | None = None
    child_id: str | None = None
    wait: float | datetime | None = None

    def due_at(self, now: datetime) -> datetime | None:
        """Return when the wait is over; None if it is a question.

        Args:
            now: when it is recorded.
        """
        return now + timedelta(seconds=self.wait) if isinstance(self.wait, float) else self.wait

    def id_for(self, task: Task) -> str:
        """Return the durable id of the question: it follows from the task, the key and what the question says.

        So an answer that is recorded for it answers no question that says anything else.

        Args:
            task: the task that asks.
        """
        return f"{task.id}/{self._said if self.child_id is None else self.child_id}"

    def is_said_by(self, interrupt_id: str) -> bool:
        """Return whether an open question says what this one says, in whatever task of a run or of its child runs.

        Args:
            interrupt_id: the id of the open question.
        """
        return interrupt_id.rpartition("/")[2] == self._said

    def replaces(self, interrupt_id: str, task: Task) -> bool:
        """Return whether an open question of the same task is what this one was before its text changed.

        Args:
            interrupt_id: the id of the open question.
        """
        open_slot, dot, _ = interrupt_id.removeprefix(f"{task.id}/").rpartition(".")
        return self.child_id is None and open_slot + dot == self._slot

    @property
    def _said(self) -> str:
        parts = [self.key, self.prompt, self.payload, self.into, self.occurrence]
        said = EncodedValue.of_checked(parts if self.wait is None else [*parts, "wait"]).digest
        return self._slot + said[:_TEXT_DIGITS]

    @property
    def _slot(self) -> str:
        return "" if self.key is None else f"{hashlib.sha256(self.key.encode()).hexdigest()[:_KEY_DIGITS]}."


class Suspended(BaseException):
    """Ends a task that waits for answers; it runs again when one is there.

    Not an Exception, so that a node's own `except Exception` lets it through.

    Args:
        questions: what it asks.
    """

    def __init__(self, questions: tuple[Question, ...]) -> None:
        super().__init__(questions)
        self.questions = questions


class Questions:
    """What one execution of a task asks, and the answers that its log has.

    Args:
        recorded: what its log has of its calls and answers.
        fields: the fields of the state that may take an answer; None if none is declared.
    """

    def __init__(
        self, task: Task, recorded: Sequence[RecordedCall] = (), *, fields: Collection[str] | None = None
    ) -> None:
        self._task = task
        self._fields = fields
        self._answers = {call.name: call.result for call in recorded if call.kind == "answer"} if recorded else {}
        self._counts: dict[str, int] = {}
        self._open: tuple[Question, ...] = ()
        self._misuse: NodeError | None = None
        self._ended = False

    def begin(self) -> None:
        """Make ready for another attempt."""
        self._counts = {}
        self._open = ()
        self._misuse = None
        self._ended = False

    def ask(self, prompt: str, payload: JsonValue, *, key: str | None, into: str | None) -> JsonValue:
        """Return the recorded answer to a question, or raise `Suspended`, which ends the node until there is one.

        Args:
            prompt: the question.
            payload: what the person needs to answer.
            key: tells questions apart that are open at the same time.
            into: the field of the state that takes the answer.

        Raises:
            StateError: the prompt or the key is not text, the payload is not JSON, or there is no such field.
            NodeError: `reason` is `concurrent-questions` or `node-ended`.
        """
        self._check(prompt, key, into)
        asked = own_json(payload, "payload")
        with _LOCK:
            return self._answer_to(Question(prompt, asked, key, into))

    def wait(self, wait: float | datetime) -> None:
        """Return if a wait is over, or raise `Suspended`, which ends the node until it is.

        Args:
            wait: seconds, or the time to wait for.

        Raises:
            NodeError: the node has ended (`reason="node-ended"`).
        """
        if isinstance(wait, datetime):
            text = format_time(wait)
            question = Question(f"wait until {text}", {"until": text}, wait=wait)
        else:
            question = Question(f"wait {wait:g} s", {"seconds": wait}, wait=wait)
        with _LOCK:
            self._answer_to(question)

    def _answer_to(self, question: Question) -> JsonValue:
        if self._ended:
            raise NodeError(
                f"the node asked {_shown(question)} after it had ended",
                reason="node-ended",
                hint="Await everything that the node starts before it returns.",
                node=self._task.node,
            )
        said = question.id_for(self._task)
        occurrence = self._counts.get(said, 0)
        if occurrence:
            question = replace(question, occurrence=occurrence)
        name = question.id_for(self._task)
        if name in self._answers:
            self._counts[said] = occurrence + 1
            return copy_json(self._answers[name])
        in_call = IN_CALL.get()
        if in_call is not None:
            in_call.append(question)
        # Of two waits, neither has an answer that could reach the other one.
        other = next((each for each in self._open if each.key == question.key and each.wait is None), None)
        if other is not None and question.wait is None:
            self._misuse = NodeError(
                f"the node asked {_shown(question)} while {_shown(other)} was open, and nothing tells the two apart",
                reason="concurrent-questions",
                hint="Give each question of a node that is open at the same time a key, as in"
                " ctx.interrupt(prompt, key='mail'). A question ends the node with an exception: do not catch it.",
                node=self._task.node,
            )
            raise self._misuse
        self._counts[said] = occurrence + 1
        self._open = (*self._open, question)
        raise Suspended((question,))

    def _check(self, prompt: object, key: object, into: object) -> None:
        for value, what in ((prompt, "prompt"), ("" if key is None else key, "key")):
            if not isinstance(value, str):
                raise StateError(
                    f"the {what} of ctx.interrupt() is a value of type {type(value).__qualname__}",
                    reason="bad-prompt",
                    hint="A prompt and a key are text; what else the person needs goes into payload.",
                    node=self._task.node,
                )
            check_json(value, f"the {what} of ctx.interrupt()")
        if into is not None and self._fields is not None and into not in self._fields:
            close = difflib.get_close_matches(str(into), self._fields, n=1)
            raise StateError(
                f"ctx.interrupt() asks for the field {into!r:.80}, which the state does not have",
                reason="unknown-field",
                hint=f"Did you mean {close[0]!r}?" if close else "Name a field of the state, or leave out into=.",
                node=self._task.node,
            )

    def outcome_of(self, raised: BaseException | None) -> BaseException | None:
        """Close an attempt, and return what it ends with: None if it returned and has no open question.

        Args:
            raised: what the node raised, or None if it returned.

        Returns:
            `Suspended` if the node let that through, in a group or not; else what it raised itself; and a NodeError
            (`reason="question-lost"`) if it returned, or turned the question into another exception.
        """
        with _LOCK:
            self._ended = True
            asked, misuse = self._open, self._misuse
        if misuse is not None:
            return misuse
        if raised is None:
            return question_lost(self._task, asked, "the node returned") if asked else None
        suspended, rest = _split(raised)
        if suspended and rest is None:
            return Suspended(asked) if asked else question_lost(self._task, asked, "raised another attempt's", raised)
        failure = raised if rest is None else rest
        if asked and (_used_as_a_value(failure) or any(is_a(link, Suspended) for link in chain_of(failure))):
            return question_lost(self._task, asked, f"the node raised {name_of(type(failure))}", failure)
        return failure


def question_lost(task: Task, asked: Sequence[Question], instead: str, cause: BaseException | None = None) -> NodeError:
    """Return the error of a node that did not let an unanswered question end it.

    Args:
        asked: what it asked.
        instead: what happened then.
        cause: what was raised instead, or None.
    """
    message = f"the node asked {_shown(asked[0])}, got no answer, and {instead}" if asked else f"the node {instead}"
    error = NodeError(
        message,
        reason="question-lost",
        hint="ctx.interrupt() ends the node with a BaseException: let it through. Catch Exception"
        " and not BaseException around it, and do not collect it with gather(return_exceptions=True) or wait().",
        node=task.node,
    )
    error.__cause__ = cause
    return error


def _used_as_a_value(failure: BaseException) -> bool:
    """Return whether a node took a question that `gather(return_exceptions=True)` had collected for its answer."""
    return type(failure) in (TypeError, AttributeError) and Suspended.__name__ in str(failure)


def _split(raised: BaseException) -> tuple[bool, BaseException | None]:
    """Return whether an exception is a `Suspended` or a group with one in it, and return what else is in it."""
    if is_a(raised, Suspended):
        return True, None
    if not is_a(raised, BaseExceptionGroup):
        return False, raised
    suspended, rest = raised.split(Suspended)
    return suspended is not None, rest


def _shown(question: Question) -> str:
    prompt = question.prompt if len(question.prompt) <= 80 else f"{question.prompt[:79]}…"
    return repr(prompt) if question.key is None else f"{prompt!r} (key {question.key!r})"
