"""The live display of a run on a terminal."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from stargraph.cli._output import one_line, show_seconds, show_value
from stargraph.cli._progress import Clock

if TYPE_CHECKING:
    from stargraph.cli._outcome import Outcome
    from stargraph.engine import RunEvent

_TASK: Final = re.compile(r"(.+)-[0-9a-f]{12}(?:\.(\d+))?")
_PERIOD: Final = 0.1
"""How long a drawing stays, in seconds."""
_SHOWN_AT_ONCE: Final = 8
_SHOWN_FIELDS: Final = 20


class Terminal(Console):
    """A console on which threads print in turn.

    The live lines are refreshed by one thread while nodes print from others. A print takes the live lines
    away, writes, and draws them again; rich lets another thread in between, which then takes away other lines.

    Args:
        stream: a terminal.

    Attributes:
        turn: held from the first to the last of a print.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(file=stream, highlight=False)
        self.turn = threading.RLock()

    def __enter__(self) -> Self:
        self.turn.acquire()
        super().__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(exc_type, exc_value, traceback)
        finally:
            self.turn.release()


class LiveProgress:
    """A line for each node that has ended, and below them those that run.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Terminal) -> None:
        fancy = console.encoding.lower().startswith("utf")
        self._marks = {"completed": "✓", "failed": "✗"} if fancy else {"completed": "+", "failed": "x"}
        self._other_mark = "·" if fancy else "-"
        self._spinner = Spinner("dots" if fancy else "line", style="cyan")
        self._console = console
        self._clock = Clock()
        self._width = 12
        self._run_id = ""
        self._live = Live(console=console, get_renderable=self._running, auto_refresh=False, transient=True)
        self._live._lock = console.turn
        self._lines: deque[Text] = deque()
        self._drawn_at = 0.0
        self._ended = threading.Event()
        self._artist = threading.Thread(target=self._draw_until_the_end, name="stargraph-live", daemon=True)

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Print the run, its graph and its store, and begin to show what runs."""
        self._run_id = run_id
        self._print(Text.assemble((graph_id, "bold"), "  run ", (run_id, "cyan"), (f"  {checkpoint}", "dim")))
        self._live.start(refresh=True)
        self._artist.start()

    def event(self, event: RunEvent) -> None:
        """Show the event: a node begins to run, or has ended."""
        seconds = self._clock.take(event)
        if event.type in ("node_started", "started"):
            return
        style = {"completed": "green", "failed": "red"}.get(event.type, "yellow")
        name = _name(event, self._run_id)
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
        self._lines.append(line)
        # Drawing takes longer than a short node; many of them are drawn together.
        if time.monotonic() - self._drawn_at >= _PERIOD:
            self._draw()

    def note(self, text: str) -> None:
        """Show the remark above what runs."""
        self._lines.append(Text(text, "yellow"))
        self._draw()

    def _draw_until_the_end(self) -> None:
        while not self._ended.wait(_PERIOD):
            self._draw()

    def _draw(self) -> None:
        with self._console.turn:
            self._drawn_at = time.monotonic()
            if self._live.is_started:
                self._live.refresh()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines:
                self._print(Text("\n").join(lines))

    def end(self, outcome: Outcome | None) -> None:
        """Take the running nodes away and print the outcome."""
        self._ended.set()
        self._draw()
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
        width = max(self._console.width - 6, 20)
        for name, value in list(state.items())[:_SHOWN_FIELDS]:
            room = max(width - len(name), 10)
            text = show_value(value, room) or f"{len(value)} {_unit(value)}"
            self._print(Text.assemble("    ", (one_line(name), "bold"), f" {text}"))
        if len(state) > _SHOWN_FIELDS:
            self._print(Text(f"    and {len(state) - _SHOWN_FIELDS} more fields", "dim"))

    def _running(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        tasks = list(self._clock.running.values())
        now = datetime.now(tasks[0].timestamp.tzinfo) if tasks else None
        for event in tasks[:_SHOWN_AT_ONCE]:
            assert now is not None
            seconds = max((now - event.timestamp).total_seconds(), 0.0)
            grid.add_row(
                " ", self._spinner, f"{_name(event, self._run_id):<{self._width}}", Text(show_seconds(seconds), "dim")
            )
        if len(tasks) > _SHOWN_AT_ONCE:
            grid.add_row(" ", "", Text(f"and {len(tasks) - _SHOWN_AT_ONCE} more", "dim"), "")
        return grid

    def _print(self, line: RenderableType) -> None:
        self._console.print(line, soft_wrap=True)


def _name(event: RunEvent, run_id: str) -> str:
    """The node, with the subgraphs that it is in and the position of its branch: `enrich[3]/look-up`."""
    way = event.run_id.removeprefix(run_id).split(":")[1:]
    return "/".join(map(_task_name, [*way, event.task_id or event.node or event.type]))


def _task_name(task_id: str) -> str:
    parts = _TASK.fullmatch(task_id)
    if parts is None:
        return task_id
    node, branch = parts.groups()
    return f"{node}[{branch}]" if branch else str(node)


def _unit(value: object) -> str:
    return "items" if isinstance(value, list) else "keys" if isinstance(value, dict) else "characters"
