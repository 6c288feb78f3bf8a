"""The live display of a run on a terminal: a line for each node that has ended, and below them those that run."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from stargraph.cli._display import TaskClock
from stargraph.cli._event_words import call_words, error_words, question_words, value_words
from stargraph.cli._output import clean, one_line, show_seconds, show_value
from stargraph.cli._secrets import hide_known
from stargraph.cli._streams import SafeStream

if TYPE_CHECKING:
    from stargraph.cli._outcome import RunOutcome
    from stargraph.engine import RunEvent

_TASK: Final = re.compile(r"(.+)-[0-9a-f]{12}(?:\.(\d+))?")
_PERIOD: Final = 0.1
"""How long a drawing stays, in seconds."""
_SHOWN_AT_ONCE: Final = 8
_SHOWN_FIELDS: Final = 20
_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_FRAMES: Final = "-\\|/"

# https://invisible-island.net/xterm/ctlseqs/ctlseqs.html
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_ERASE_BELOW: Final = "\x1b[J"
_STYLE: Final = re.compile(r"(\x1b\[[0-9;:]*m)")
_STYLES: Final = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
_ENABLE_SEQUENCES: Final = 4
"""ENABLE_VIRTUAL_TERMINAL_PROCESSING of the Windows console."""


def can_draw(stream: object) -> bool:
    """Return whether a stream leads to a terminal on which lines can be drawn again.

    Args:
        stream: stdout or stderr.
    """
    if not isinstance(stream, SafeStream) or not stream.isatty():
        return False
    return os.environ.get("TERM", "").lower() not in ("dumb", "unknown") and _sequences_work()


class TerminalDisplay:
    """A line for each node that has ended, and below them those that run.

    What nodes print appears above the live lines. A line that has no end yet is drawn again until it has one, so that
    a progress bar of a node works too.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: SafeStream) -> None:
        unicode = stream.encoding.lower().startswith("utf")
        self._marks = {"completed": "✓", "failed": "✗"} if unicode else {"completed": "+", "failed": "x"}
        self._other_mark = "·" if unicode else "-"
        self._call_marks = {True: self._marks["completed"], False: self._marks["failed"]}
        self._frames = _FRAMES if unicode else _PLAIN_FRAMES
        self._color = "NO_COLOR" not in os.environ
        self._stream = stream
        self._clock = TaskClock()
        self._width = 12
        self._run_id = ""
        self._lock = threading.RLock()
        self._waiting: list[str] = []
        self._unended = ""
        self._rows = 0
        self._drawn_at = 0.0
        self._ended = threading.Event()
        self._sources: list[SafeStream] = []
        self._artist = threading.Thread(target=self._draw_until_the_end, name="stargraph-display", daemon=True)

    def begin(self, *, run_id: str, graph_id: str, checkpoint: str) -> None:
        """Print the run, its graph and its store, and start to show what runs."""
        self._run_id = run_id
        self._sources = [
            stream
            for stream in (self._stream, sys.stdout, sys.stderr)
            if isinstance(stream, SafeStream) and stream.isatty()
        ]
        for stream in self._sources:
            stream.sink = self._take
        self._stream.start_line()
        self._stream.write_now(_HIDE_CURSOR)
        run = self._styled(run_id, "cyan")
        self._say(f"{self._styled(graph_id, 'bold')}  run {run}  {self._styled(checkpoint, 'dim')}")
        self._draw()
        self._artist.start()

    def event(self, event: RunEvent) -> None:
        """Show the event: a node begins to run, or has ended."""
        with self._lock:
            seconds = self._clock.take(event)
        if event.type in ("node_started", "started"):
            return
        style = {"completed": "green", "failed": "red"}.get(event.type, "yellow")
        name = _name(event, self._run_id)
        self._width = max(self._width, len(name))
        line = self._styled(f"  {self._marks.get(event.type, self._other_mark)} ", style)
        line += f"{name:<{self._width}}" + self._styled(f"  step {event.step:<4}", "dim")
        if seconds is not None:
            line += self._styled(f"  {show_seconds(seconds)}", "dim")
        if event.node and event.type != "completed":
            line += self._styled(f"  {event.type}", style)
        if event.attempt is not None and event.attempt > 1:
            line += self._styled(f"  attempt {event.attempt}", "dim")
        self._say(f"{line}  {said}" if (said := hide_known(self._said(event))) else line)
        # Drawing takes longer than a short node; many of them are drawn together.
        if time.monotonic() - self._drawn_at >= _PERIOD:
            self._draw()

    def _said(self, event: RunEvent) -> str:
        """Return what an event says beside where and when."""
        if event.call is not None and event.call.kind != "answer":
            return call_words(event.call, self._call_marks)
        if event.call is not None:
            return value_words(event.call.result)
        if event.type == "emitted":
            return value_words(event.value)
        if event.error is not None:
            return error_words(event.error)
        return "; ".join(map(question_words, event.questions))

    def note(self, text: str) -> None:
        """Show the remark above what runs."""
        self._say(self._styled(text, "yellow"))
        self._draw()

    def end(self, outcome: RunOutcome | None) -> None:
        """Take the running nodes away and print the outcome."""
        self._ended.set()
        with self._lock:
            began = bool(self._sources)
            for stream in self._sources:
                stream.sink = None
            self._end_line()
            self._clock.running.clear()
            self._draw()
            if began:
                self._stream.write_now(_SHOW_CURSOR)
        if outcome is None:
            return
        if outcome.status == "done" and outcome.latest is not None:
            self._show_state(outcome.latest.state)
        style = {"done": "green", "failed": "red"}.get(outcome.status, "yellow")
        step = "nothing stored" if outcome.latest is None else f"step {outcome.latest.step}"
        word = self._styled(self._styled(outcome.status.replace("_", " "), "bold"), style)
        self._stream.write_line(f"{word}  {step}, {show_seconds(outcome.seconds)}")

    def _show_state(self, state: dict[str, Any]) -> None:
        width = max(_columns(self._stream) - 6, 20)
        for name, value in list(state.items())[:_SHOWN_FIELDS]:
            room = max(width - len(name), 10)
            text = show_value(value, room) or f"{len(value)} {_unit(value)}"
            self._stream.write_line(f"    {self._styled(one_line(name), 'bold')} {hide_known(text)}")
        if len(state) > _SHOWN_FIELDS:
            more = f"    and {len(state) - _SHOWN_FIELDS} more fields"
            self._stream.write_line(self._styled(more, "dim"))

    def _take(self, text: str) -> None:
        """Take what a node prints."""
        with self._lock:
            *ended, unended = (self._unended + text).split("\n")
            self._waiting += map(_printed, ended)
            self._unended = unended[unended.rfind("\r", 0, -1) + 1 :]
            if time.monotonic() - self._drawn_at >= _PERIOD:
                self._draw()

    def _say(self, line: str) -> None:
        with self._lock:
            self._end_line()
            self._waiting.append(line)

    def _end_line(self) -> None:
        if self._unended:
            self._waiting.append(_printed(self._unended))
            self._unended = ""

    def _draw_until_the_end(self) -> None:
        while not self._ended.wait(_PERIOD):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._drawn_at = time.monotonic()
            rows = self._live_rows()
            erased = f"\r\x1b[{self._rows - 1}A{_ERASE_BELOW}" if self._rows > 1 else f"\r{_ERASE_BELOW}"
            above = "".join(f"{line}\n" for line in self._waiting)
            below = f"{_NO_WRAP}{chr(10).join(rows)}{_WRAP}" if rows else ""
            self._waiting.clear()
            self._stream.write_now(f"{erased if self._rows else ''}{above}{below}")
            self._rows = len(rows)

    def _live_rows(self) -> list[str]:
        rows = [_printed(self._unended[: 4 * _columns(self._stream)])] if self._unended else []
        tasks = list(self._clock.running.values())
        if not tasks:
            return rows
        now = datetime.now(tasks[0].timestamp.tzinfo)
        frame = self._styled(self._frames[int(time.monotonic() / _PERIOD) % len(self._frames)], "cyan")
        for event in tasks[:_SHOWN_AT_ONCE]:
            seconds = max((now - event.timestamp).total_seconds(), 0.0)
            name = f"{_name(event, self._run_id):<{self._width}}"
            rows.append(f"  {frame} {name} {self._styled(show_seconds(seconds), 'dim')}")
        if len(tasks) > _SHOWN_AT_ONCE:
            rows.append(self._styled(f"    and {len(tasks) - _SHOWN_AT_ONCE} more", "dim"))
        return rows

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._color else text


def _printed(line: str) -> str:
    """Return a line that a node printed as a terminal would leave it, with its colours and without other sequences."""
    line = line.removesuffix("\r").rpartition("\r")[2]
    parts = _STYLE.split(line)
    if len(parts) == 1:
        return clean(line)
    kept = [part if number % 2 else clean(part) for number, part in enumerate(parts)]
    return "".join([*kept, "\x1b[0m"])


def _columns(stream: SafeStream) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _sequences_work() -> bool:
    """Switch control sequences on, which a Windows console asks for; return whether they work."""
    if os.name != "nt":
        return True
    import ctypes

    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009  # only Windows has it
    handle, mode = kernel.GetStdHandle(-11), ctypes.c_ulong()
    if not kernel.GetConsoleMode(handle, ctypes.byref(mode)):
        return False
    return bool(kernel.SetConsoleMode(handle, mode.value | _ENABLE_SEQUENCES))


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
