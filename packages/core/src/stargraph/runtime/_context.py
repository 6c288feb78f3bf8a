"""What a node is told about its run, and what it may ask of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from stargraph.checkpoint.protocol import Checkpoint, Fragment, JsonValue, RecordedCall, Task
from stargraph.errors import NodeError, StateError


@dataclass(frozen=True, slots=True)
class Question:
    """What a task asks a person.

    Attributes:
        prompt: the question.
        payload: what the person needs to answer.
        into: the field of the state that takes the answer, where one does.
        occurrence: counts the questions of the task, from 0.
        child_run_id: the child run that asks, where one does.
        child_id: the id of the question in the child run.
    """

    prompt: str
    payload: JsonValue
    into: str | None = None
    occurrence: int = 0
    child_run_id: str | None = None
    child_id: str | None = None

    def id_for(self, task: Task) -> str:
        """Return the durable id of the question.

        Args:
            task: the task that asks.
        """
        if self.child_id is not None:
            return f"{task.id}/{self.child_id}"
        return f"{task.id}/{self.occurrence}"


class Suspended(BaseException):
    """Ends a task that waits for answers; it runs again when one is there.

    Not an Exception, so that a node's own `except Exception` lets it through.

    Args:
        questions: what it asks.
    """

    def __init__(self, questions: tuple[Question, ...]) -> None:
        super().__init__(questions)
        self.questions = questions


class NodeContext:
    """What a node is given beside the state.

    Attributes:
        run_id: the run.
        task_id: the task; the same in every try and every resume of it.
        node: the id of the node.
        attempt: counts the tries in this process, from 1.
        index: the position of the branch in its fork; None outside one.
        item: the item of a map's branch; None elsewhere.
        metadata: the tags of the run.
    """

    def __init__(
        self, checkpoint: Checkpoint, task: Task, *, item: JsonValue = None, recorded: Sequence[RecordedCall] = ()
    ) -> None:
        self.run_id = checkpoint.run_id
        self.task_id = task.id
        self.node = task.node
        self.attempt = 1
        self.index = task.index
        self.item = item
        self.metadata = dict(checkpoint.metadata)
        self._answers = {call.occurrence: call.result for call in recorded if call.kind == "answer"}
        self._asked = 0
        self._detached = False

    def __repr__(self) -> str:
        return f"NodeContext(run_id={self.run_id!r}, task_id={self.task_id!r}, attempt={self.attempt})"

    @property
    def idempotency_key(self) -> str:
        """A text that is the same in every try and every resume of this task, and in no other task.

        Give it to a remote service, so that it can tell a repeated request from a new one.
        """
        return hashlib.sha256(f"{self.run_id}\n{self.task_id}".encode()).hexdigest()[:32]

    def interrupt(self, prompt: str, payload: JsonValue = None) -> JsonValue:
        """Return a person's answer, or end the node until there is one; then it runs again from its beginning.

        Args:
            prompt: the question.
            payload: what the person needs to answer; JSON.

        Raises:
            StateError: the payload is not JSON, or the prompt is not text.
        """
        return self.ask(prompt, payload, into=None)

    def ask(self, prompt: str, payload: JsonValue, *, into: str | None) -> JsonValue:
        """Like `interrupt`, for an answer that goes into a field of the state.

        Args:
            prompt: the question.
            payload: what the person needs to answer.
            into: the field.
        """
        if self._detached:
            raise NodeError(
                "ctx.interrupt() cannot be used in a node that runs in another process",
                reason="detached-node",
                hint="Make the node an async function, or give graph.start() an executor of threads.",
                node=self.node,
            )
        occurrence = self._asked
        self._asked += 1
        if occurrence in self._answers:
            return self._answers[occurrence]
        if not isinstance(prompt, str):
            raise StateError(
                f"the prompt of ctx.interrupt() is a value of type {type(prompt).__qualname__}",
                reason="bad-prompt",
                hint="A prompt is text; what else the person needs goes into payload.",
                node=self.node,
            )
        asked = Fragment.of(payload, "payload").value
        raise Suspended((Question(prompt, asked, into, occurrence),))

    def detached(self) -> NodeContext:
        """Return a copy for another process, in which nothing can be asked of the run."""
        copied = copy.copy(self)
        copied._detached = True
        return copied

    def begin(self, attempt: int) -> None:
        """Make ready for a try.

        Args:
            attempt: counts the tries, from 1.
        """
        self.attempt = attempt
        self._asked = 0
