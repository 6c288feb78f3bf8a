"""What is shown while a run executes: live on a terminal, plain lines elsewhere, or events as JSON."""

from __future__ import annotations

import re
import shlex
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from stargraph.cli._output import emit, json_text, one_line, show_seconds, show_value

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from stargraph.cli._outcome import Outcome
    from stargraph.runtime import RunEvent

_BRANCH: Final = re.compile(r"-[0-9a-f]{12}\.(\d+)$")
_SHOWN_AT_ONCE: Final = 8
_SHOWN_FIELDS: Final = 20


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
    console = _terminal(stream)
    shown = PlainProgress(stream) if console is None else LiveProgress(console)
    return JsonProgress(each_event=False, beside=shown) if as_json else shown


def _terminal(stream: TextIO) -> Console | None:
    if not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


class _Clock:
    """How long each task has been running."""

    def __init__(self) -> None:
        self.running: dict[str, RunEvent] = {}

    def take(self, event: RunEvent) -> float | None:
        """Note an event; return the seconds that a task took which it ends."""
        task = event.task_id or ""
        if event.type == "node_started":
            self.running[task] = event
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
        self._clock = _Clock()

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Print the run, its graph and its store."""
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


class LiveProgress:
    """A line for each node that has ended, and below them those that run.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        fancy = console.encoding.lower().startswith("utf")
        self._marks = {"completed": "✓", "failed": "✗"} if fancy else {"completed": "+", "failed": "x"}
        self._other_mark = "·" if fancy else "-"
        self._spinner = Spinner("dots" if fancy else "line", style="cyan")
        self._console = console
        self._clock = _Clock()
        self._width = 12
        self._live = Live(console=console, get_renderable=self._running, refresh_per_second=10, transient=True)

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Print the run, its graph and its store, and begin to show what runs."""
        from rich.text import Text

        self._print(Text.assemble((graph_id, "bold"), "  run ", (run_id, "cyan"), (f"  {checkpoint}", "dim")))
        self._live.start(refresh=True)

    def event(self, event: RunEvent) -> None:
        """Show the event: a node begins to run, or has ended."""
        from rich.text import Text

        seconds = self._clock.take(event)
        if event.type in ("node_started", "started"):
            return
        style = {"completed": "green", "failed": "red"}.get(event.type, "yellow")
        name = _name(event) if event.node else event.type
        self._width = max(self._width, len(name))
        line = Text.assemble(
            (f"  {self._marks.get(event.type, self._other_mark)} ", style),
            f"{name:<{self._width}}",
            (f"  step {event.step:<4}", "dim"),
        )
        if seconds is not None:
            line.append(f"  {show_seconds(seconds)}", "dim")
        if event.node and event.type != "completed":
            line.append(f"  {event.type}", style)
        self._print(line)

    def note(self, text: str) -> None:
        """Show the remark above what runs."""
        from rich.text import Text

        self._print(Text(text, "yellow"))

    def end(self, outcome: Outcome | None) -> None:
        """Take the running nodes away and print the outcome."""
        from rich.text import Text

        self._live.stop()
        if outcome is None:
            return
        if outcome.status == "done" and outcome.latest is not None:
            self._print_state(outcome.latest.state)
        style = {"done": "green bold", "failed": "red bold"}.get(outcome.status, "yellow bold")
        step = "nothing stored" if outcome.latest is None else f"step {outcome.latest.step}"
        self._print(
            Text.assemble((outcome.status.replace("_", " "), style), f"  {step}, {show_seconds(outcome.seconds)}")
        )

    def _print_state(self, state: dict[str, Any]) -> None:
        from rich.text import Text

        width = max(self._console.width - 6, 20)
        for name, value in list(state.items())[:_SHOWN_FIELDS]:
            room = max(width - len(name), 10)
            text = show_value(value, room) or f"{len(value)} {_unit(value)}"
            self._print(Text.assemble("    ", (one_line(name), "bold"), f" {text}"))
        if len(state) > _SHOWN_FIELDS:
            self._print(Text(f"    and {len(state) - _SHOWN_FIELDS} more fields", "dim"))

    def _running(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        tasks = list(self._clock.running.values())
        now = datetime.now(tasks[0].timestamp.tzinfo) if tasks else None
        for event in tasks[:_SHOWN_AT_ONCE]:
            assert now is not None
            seconds = max((now - event.timestamp).total_seconds(), 0.0)
            grid.add_row(" ", self._spinner, f"{_name(event):<{self._width}}", Text(show_seconds(seconds), "dim"))
        if len(tasks) > _SHOWN_AT_ONCE:
            grid.add_row(" ", "", Text(f"and {len(tasks) - _SHOWN_AT_ONCE} more", "dim"), "")
        return grid

    def _print(self, line: RenderableType) -> None:
        self._console.print(line, soft_wrap=True)


def _name(event: RunEvent) -> str:
    branch = _BRANCH.search(event.task_id or "")
    return f"{event.node}[{branch.group(1)}]" if branch else str(event.node)


def _unit(value: object) -> str:
    return "items" if isinstance(value, list) else "keys" if isinstance(value, dict) else "characters"
