"""What is shown while a run executes: live on a terminal, plain lines elsewhere, or events as JSON."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from stargraph.cli._output import emit, json_text, one_line

if TYPE_CHECKING:
    from stargraph.cli._outcome import Outcome
    from stargraph.engine import RunEvent


class Progress(Protocol):
    """Shows a run."""

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Say which run it is; called when its first step is stored."""

    def event(self, event: RunEvent) -> None:
        """Show what happened."""

    def note(self, text: str) -> None:
        """Show a remark that is not part of the result."""

    def end(self, outcome: Outcome | None) -> None:
        """Show where the run stands; None where an error is told instead."""


def choose_progress(*, as_json: bool, events: bool, quiet: bool) -> Progress:
    """Return what suits the options and where the output goes.

    Args:
        as_json: stdout takes one JSON object.
        events: stdout takes JSON Lines.
        quiet: only the outcome.
    """
    if events:
        return JsonProgress(each_event=True)
    if as_json and quiet:
        return JsonProgress(each_event=False)
    if quiet:
        return PlainProgress(sys.stdout, each_event=False)
    stream = sys.stderr if as_json else sys.stdout
    shown = _live(stream) or PlainProgress(stream)
    return JsonProgress(each_event=False, beside=shown) if as_json else shown


def _live(stream: TextIO) -> Progress | None:
    if not stream.isatty():
        return None
    from stargraph.cli._live import LiveProgress, Terminal

    terminal = Terminal(stream)
    return LiveProgress(terminal) if terminal.is_terminal and not terminal.is_dumb_terminal else None


class Clock:
    """The tasks that run, and how long those took that ended."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, str | None], RunEvent] = {}

    def take(self, event: RunEvent) -> float | None:
        """Note an event; return the seconds that a task took which it ends."""
        # The runs of a subgraph, one for each item of a map, have tasks of the same ids.
        task = (event.run_id, event.task_id)
        if event.type == "node_started":
            self.running[task] = event
            return None
        if event.type == "called":
            return None
        started = self.running.pop(task, None)
        return None if started is None else max((event.timestamp - started.timestamp).total_seconds(), 0.0)


class PlainProgress:
    """A line for each event: a word, then `name=value` fields. The form is stable.

    Args:
        stream: where the lines go.
        each_event: whether more than the outcome is printed.
    """

    def __init__(self, stream: TextIO, *, each_event: bool = True) -> None:
        self._stream = stream
        self._each_event = each_event
        self._clock = Clock()
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
        if event.run_id != self._run_id:
            fields["run"] = event.run_id
        if seconds is not None:
            fields["seconds"] = f"{seconds:.3f}"
        if event.type != "node_started" and not event.durable:
            fields["durable"] = "no"
        self._line(event.type, **fields)

    def note(self, text: str) -> None:
        """Print the remark on stderr."""
        emit(text, sys.stderr)

    def end(self, outcome: Outcome | None) -> None:
        """Print the outcome."""
        if outcome is not None:
            step = "none" if outcome.latest is None else outcome.latest.step
            self._line(
                "outcome", status=outcome.status, run=outcome.run_id, step=step, seconds=f"{outcome.seconds:.3f}"
            )

    def _line(self, word: str, **fields: object) -> None:
        # A run goes on to its end although nobody reads any more what it does.
        pairs = (f"{name}={shlex.quote(one_line(str(value)))}" for name, value in fields.items())
        emit(f"{word:<12} {' '.join(pairs)}", self._stream)


class JsonProgress:
    """JSON on stdout: the outcome, and before it each event where that is wanted.

    Args:
        each_event: whether stdout takes the events too, one object a line.
        beside: shows progress elsewhere.
    """

    def __init__(self, *, each_event: bool, beside: Progress | None = None) -> None:
        self._stdout = sys.stdout
        self._each_event = each_event
        self._beside = beside
        # What a node prints must not get between the JSON.
        sys.stdout = sys.stderr

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
        (self._beside.note if self._beside else PlainProgress(sys.stderr).note)(text)

    def end(self, outcome: Outcome | None) -> None:
        """Print the outcome."""
        if self._beside:
            self._beside.end(outcome)
        sys.stdout = self._stdout
        if outcome is not None:
            self._line(outcome.as_json())

    def _line(self, value: dict[str, Any]) -> None:
        emit(json_text(value, indent=None if self._each_event else 2), self._stdout)
