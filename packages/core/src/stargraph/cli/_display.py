"""What is shown while a run executes: plain lines, or JSON. `_terminal_display` draws on a terminal."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from stargraph.cli._event_words import NOT_RECORDED, error_words, value_words
from stargraph.cli._output import emit, json_text, one_line, shorten
from stargraph.cli._streams import Stream, stdout_kept

if TYPE_CHECKING:
    from stargraph.cli._outcome import RunOutcome
    from stargraph.engine import RunEvent


class Display(Protocol):
    """Shows a run."""

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Say which run it is; called when its first step is stored."""

    def event(self, event: RunEvent) -> None:
        """Show what happened."""

    def note(self, text: str) -> None:
        """Show a remark that is not part of the result."""

    def end(self, outcome: RunOutcome | None) -> None:
        """Show where the run stands; None if an error is reported instead."""


class TaskClock:
    """The tasks that run, and how long each took that has ended."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, str | None], RunEvent] = {}

    def take(self, event: RunEvent) -> float | None:
        """Note an event; return the seconds that a task took if the event ends it."""
        # The runs of a subgraph, one for each item of a map, have tasks of the same ids.
        task = (event.run_id, event.task_id)
        if event.type == "node_started":
            self.running[task] = event
            return None
        if event.type in ("called", "attempt_failed", "emitted"):
            return event.seconds
        started = self.running.pop(task, None)
        return None if started is None else max((event.timestamp - started.timestamp).total_seconds(), 0.0)


class PlainDisplay:
    """A line for each event: a word, then `name=value` fields. The form is stable.

    Args:
        stream: where the lines go.
        each_event: whether more than the outcome is printed.
    """

    def __init__(self, stream: Stream, *, each_event: bool = True) -> None:
        self._stream = stream
        self._each_event = each_event
        self._clock = TaskClock()
        self._run_id = ""

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Print the run, its graph and its store."""
        self._run_id = run_id
        if self._each_event:
            self._line("run", run=run_id, graph=graph_id, checkpoint=checkpoint)

    def event(self, event: RunEvent) -> None:
        """Print the event."""
        seconds = self._clock.take(event)
        if not self._each_event:
            return
        fields: dict[str, object] = {"step": event.step}
        if event.node is not None:
            fields |= {"node": event.node, "task": event.task_id}
        if event.index is not None:
            fields["index"] = event.index
        if event.attempt is not None and (event.attempt > 1 or event.type == "attempt_failed"):
            fields["attempt"] = event.attempt
        if event.run_id != self._run_id:
            fields["run"] = event.run_id
        if seconds is not None:
            fields["seconds"] = f"{seconds:.3f}"
        if event.type not in NOT_RECORDED and not event.durable:
            fields["durable"] = "no"
        self._line(event.type, **fields, **_said(event))

    def note(self, text: str) -> None:
        """Print the remark on stderr."""
        emit(text, sys.stderr)

    def end(self, outcome: RunOutcome | None) -> None:
        """Print the outcome."""
        if outcome is not None:
            step = "none" if outcome.latest is None else outcome.latest.step
            self._line(
                "outcome", status=outcome.status, run=outcome.run_id, step=step, seconds=f"{outcome.seconds:.3f}"
            )

    def _line(self, word: str, **fields: object) -> None:
        pairs = (f"{name}={shlex.quote(one_line(str(value)))}" for name, value in fields.items())
        emit(f"{word:<12} {' '.join(pairs)}", self._stream)


def _said(event: RunEvent) -> dict[str, object]:
    """Return what an event says beside where and when, by the names of the fields of a line."""
    fields: dict[str, object] = {}
    call = event.call
    if call is not None and call.kind == "answer":
        fields |= {"question": call.name, "answer": value_words(call.result)}
    elif call is not None:
        fields |= {"call": call.name, **({} if call.key is None else {"key": call.key})}
        fields["outcome"] = "ok" if call.error is None else error_words(call.error)
    if event.error is not None:
        fields["error"] = error_words(event.error)
    for question in event.questions:
        fields |= {"question": question.id, "prompt": shorten(question.prompt, 120)}
        if question.due_at is not None:
            fields["due"] = question.due_at.isoformat()
        elif question.payload is not None:
            fields["payload"] = value_words(question.payload)
    if event.type == "emitted":
        fields["value"] = value_words(event.value)
    return fields


class JsonDisplay:
    """JSON on stdout: the outcome, and before it each event if that is wanted. What nodes print goes to stderr.

    Args:
        each_event: whether stdout takes the events too, one object a line.
        beside: shows the run on stderr.
    """

    def __init__(self, *, each_event: bool, beside: Display | None = None) -> None:
        self._each_event = each_event
        self._beside = beside
        self._exit = ExitStack()
        self._stdout = self._exit.enter_context(stdout_kept())

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Print the run, its graph and its store."""
        if self._each_event:
            self._line({"type": "run", "run_id": run_id, "graph_id": graph_id, "checkpoint": checkpoint})
        if self._beside:
            self._beside.begin(run_id=run_id, graph_id=graph_id, checkpoint=checkpoint)

    def event(self, event: RunEvent) -> None:
        """Print the event."""
        if self._each_event:
            self._line(event.model_dump(mode="json"))
        if self._beside:
            self._beside.event(event)

    def note(self, text: str) -> None:
        """Print the remark on stderr."""
        (self._beside.note if self._beside else PlainDisplay(sys.stderr).note)(text)

    def end(self, outcome: RunOutcome | None) -> None:
        """Print the outcome."""
        if self._beside:
            self._beside.end(outcome)
        if outcome is not None:
            self._line(outcome.as_json())
        self._exit.close()

    def _line(self, value: dict[str, Any]) -> None:
        emit(json_text(value, indent=None if self._each_event else 2), self._stdout)
