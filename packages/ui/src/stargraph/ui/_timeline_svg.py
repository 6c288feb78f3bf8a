"""When each node ran: a Gantt chart of branches, retries, calls, waits and takeovers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from stargraph.checkpoint.protocol import Checkpoint, StepSummary, Task
from stargraph.ui._steps import began, call_name, index_of
from stargraph.ui._svg import Canvas
from stargraph.ui._text import shorten, show_seconds, visible

_LEFT: Final = 136.0
_WIDTH: Final = 820.0
_BAR: Final = 14.0
_GAP: Final = 4.0
_MOST_LANES: Final = 8
"""How many bars of one node stand below each other; later ones share the last lane."""

_MOST_NODES: Final = 60
_TOP: Final = 26.0
_FOLD: Final = 64.0
_MOST_FOLDS: Final = 5
_STEPS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),
    *(7200, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000),
)
"""How many seconds may lie between two marks of the axis."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of time of one node.

    Attributes:
        node: its name.
        kind: `done`, `failed`, `running`, `call`, `attempt` or `wait`.
        start: when it began.
        end: when it ended; now if it has not.
        title: what it says to a pointer.
        step: the step that recorded its end, or None.
    """

    node: str
    kind: str
    start: datetime
    end: datetime
    title: str
    step: int | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the chart draws.

    Attributes:
        bars: the pieces, by node and start.
        cuts: when another executor took the run over, with its process.
        start: where the chart begins.
        end: where it ends.
    """

    bars: tuple[Bar, ...]
    cuts: tuple[tuple[datetime, str], ...]
    start: datetime
    end: datetime


def timeline_of(latest: Checkpoint, rows: Sequence[StepSummary]) -> Timeline:
    """Return the pieces of time of a run.

    Args:
        latest: its latest checkpoint.
        rows: its steps.
    """
    bars: list[Bar] = []
    asked: dict[str, tuple[str, datetime, str]] = {}
    cuts: list[tuple[datetime, str]] = []
    at: dict[int, datetime] = {}
    ready: dict[str, int] = {}
    for row in rows:
        at[row.step] = row.timestamp
        ready |= {item.id: item.since_step for item in row.frontier if isinstance(item, Task)}
        for call in row.calls:
            if call.kind in ("call", "attempt") and row.last_node:
                what = f"call {call_name(call)}" if call.kind == "call" else "an attempt that failed"
                outcome = f", {call.error_type}" if call.error_type else ""
                kind = "attempt" if call.kind == "attempt" or call.error_type else "call"
                title = f"{what}{outcome}"
                bars.append(_bar(row.last_node, kind, call.started_at, row.timestamp, title, row.step))
        since = began(row)
        if since is None and row.event == "failed" and row.task_id in ready:
            since = at.get(ready[row.task_id])  # the step that does not say when its task began: when it could
        if row.event in ("completed", "failed") and row.last_node and since is not None:
            kind = "done" if row.event == "completed" else "failed"
            bars.append(_bar(row.last_node, kind, since, row.timestamp, f"{row.last_node}{index_of(row)}", row.step))
        open_ids = {each.id for each in row.interrupts}
        for each in row.interrupts:
            asked.setdefault(each.id, (each.node, each.asked_at, "waits" if each.due_at else "asks"))
        for name in [name for name in asked if name not in open_ids]:
            node, moment, word = asked.pop(name)
            bars.append(_bar(node, "wait", moment, row.timestamp, f"{node} {word}", row.step))
        if row.event == "resumed":
            cuts.append((row.timestamp, "resumed by another executor"))
    now = datetime.now(UTC) if latest.status in ("running", "awaiting_input") else latest.timestamp
    for node, moment, word in asked.values():
        bars.append(_bar(node, "wait", moment, now, f"{node} {word} still", None))
    if latest.status == "running":
        waiting = {each.task_id for each in latest.open_interrupts}
        for item in latest.frontier:
            if isinstance(item, Task) and item.id not in waiting:
                moment = at.get(item.since_step, latest.timestamp)
                bars.append(_bar(item.node, "running", moment, now, f"{item.node} runs or comes next", None))
    start = min((bar.start for bar in bars), default=latest.started_at)
    end = max((bar.end for bar in bars), default=latest.timestamp)
    return Timeline(tuple(bars), tuple(cuts), min(start, latest.started_at), max(end, latest.timestamp))


def _bar(node: str, kind: str, start: datetime, end: datetime, title: str, step: int | None) -> Bar:
    end = max(start, end)
    seconds = show_seconds((end - start).total_seconds())
    recorded = "" if step is None else f", step {step}"
    return Bar(node, kind, start, end, f"{title}: {seconds} from {_exact(start)}{recorded}", step)


def _exact(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"


def draw_timeline(timeline: Timeline, *, standalone: bool = False) -> str | None:
    """Return the chart as SVG, or None if no node has run. What is narrower than a pixel is drawn as one.

    Args:
        timeline: the pieces.
        standalone: whether it is a file of its own.
    """
    by_node: dict[str, list[Bar]] = defaultdict(list)
    for bar in sorted(timeline.bars, key=lambda each: each.start):
        by_node[bar.node].append(bar)
    if not by_node:
        return None
    shown = list(by_node)[:_MOST_NODES]
    span = max((timeline.end - timeline.start).total_seconds(), 0.001)
    axis = _Axis(timeline)
    x_of = axis.x_of
    packed = {node: _packed(by_node[node], x_of) for node in shown}
    heights = {node: max(lane for lane, _ in bars) * (_BAR + _GAP) + _BAR + 10 for node, bars in packed.items()}
    height = _TOP + sum(heights.values()) + 6
    label = f"When the {len(by_node)} nodes ran, over {show_seconds(span)}"
    if axis.folds:
        height += 14
    canvas = Canvas(_WIDTH, height, label, standalone=standalone)
    top = _TOP
    for node in shown[::2]:
        offset = sum(heights[each] for each in shown[: shown.index(node)])
        canvas.rect(0, top + offset, _WIDTH, heights[node], canvas.role("lane"))
    axis.draw(canvas, height)
    for node in shown:
        canvas.text(8, top + 5 + _BAR - 3, shorten(visible(node), 20), size=12)
        for lane, bar in packed[node]:
            y = top + 5 + lane * (_BAR + _GAP)
            left = x_of(bar.start)
            width = max(x_of(bar.end) - left, 1.5)
            match bar.kind:
                case "call" | "attempt":
                    paint = canvas.status("none" if bar.kind == "call" else "failed")
                    canvas.rect(left, y + _BAR - 4, width, 4, paint, title=bar.title)
                case "wait":
                    canvas.rect(left, y, width, _BAR, canvas.role("wait"), title=bar.title, radius=2)
                case "running":
                    canvas.rect(left, y, width, _BAR, canvas.status("running", outline=True), title=bar.title, radius=2)
                case _:
                    canvas.rect(left, y, width, _BAR, canvas.status(bar.kind), title=bar.title, radius=2)
                    if bar.kind == "failed":
                        canvas.text(left + width + 4, y + 11, "✕", paint=canvas.status("failed"), size=11)
        top += heights[node]
    for moment, _ in timeline.cuts:
        canvas.line(x_of(moment), _TOP - 6, x_of(moment), height - 6, canvas.role("cut"))
    return str(canvas)


def _packed(bars: Sequence[Bar], x_of: Callable[[datetime], float]) -> list[tuple[int, Bar]]:
    """Return the bars of a node with their lanes: those that run side by side below each other, in one pixel once."""
    ends: list[float] = []
    placed: list[tuple[int, Bar]] = []
    drawn: set[tuple[int, int, int, str]] = set()
    tasks: list[tuple[int, Bar]] = []
    for bar in bars:
        if bar.kind in ("call", "attempt"):
            continue
        left, right = x_of(bar.start), x_of(bar.end)
        lane = next((at for at, end in enumerate(ends) if end <= left + 0.1), len(ends))
        if lane >= _MOST_LANES:
            lane = min(range(len(ends)), key=ends.__getitem__)
        if lane == len(ends):
            ends.append(right)
        ends[lane] = max(ends[lane], right)
        tasks.append((lane, bar))
        mark = (lane, round(left), round(right), bar.kind)
        if mark not in drawn:
            drawn.add(mark)
            placed.append((lane, bar))
    lanes = [(lane, bar.start, bar.end) for lane, bar in tasks] if len(tasks) <= 500 else []
    for bar in bars:
        if bar.kind in ("call", "attempt"):
            lane = next((at for at, start, end in lanes if start <= bar.start <= end and bar.end <= end), 0)
            mark = (lane, round(x_of(bar.start)), round(x_of(bar.end)), bar.kind)
            if mark not in drawn:
                drawn.add(mark)
                placed.append((lane, bar))
    return placed


class _Axis:
    """Time from left to right. A long pause is folded: a night of waiting would hide the work.

    Args:
        timeline: the pieces.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        start = timeline.start
        active = _merged(
            [
                ((bar.start - start).total_seconds(), (bar.end - start).total_seconds())
                for bar in timeline.bars
                if bar.kind in ("done", "failed", "running")
            ]
        )
        whole = max((timeline.end - start).total_seconds(), 0.001)
        at_work = sum(end - begin for begin, end in active)
        edges = [0.0, *(edge for piece in active for edge in piece), whole]
        idle = sorted(
            ((edges[at + 1] - edges[at], edges[at], edges[at + 1]) for at in range(0, len(edges), 2)), reverse=True
        )
        self.folds = sorted(
            (begin, end) for length, begin, end in idle[:_MOST_FOLDS] if at_work and length > max(at_work, 0.1 * whole)
        )
        folded = sum(end - begin for begin, end in self.folds)
        room = _WIDTH - _LEFT - 12 - len(self.folds) * _FOLD
        self._scale = room / max(whole - folded, 0.001)
        self._whole = whole

    def x_of(self, moment: datetime) -> float:
        """Return where a moment stands."""
        return self._x((moment - self._timeline.start).total_seconds())

    def _x(self, seconds: float) -> float:
        x = _LEFT + seconds * self._scale
        for begin, end in self.folds:
            if seconds <= begin:
                break
            part = min((seconds - begin) / (end - begin), 1.0)
            x += part * (_FOLD - (end - begin) * self._scale)
        return x

    def draw(self, canvas: Canvas, height: float) -> None:
        """Draw the marks of time, and where it is folded."""
        drawn = self._whole - sum(end - begin for begin, end in self.folds)
        step = next((each for each in _STEPS if drawn / each <= 8), drawn)
        muted = canvas.role("muted")
        canvas.text(8, 14, f"{self._timeline.start:%Y-%m-%d %H:%M:%S} UTC", paint=muted, size=10.5)
        starts = [0.0, *(end for _, end in self.folds)]
        ends = [*(begin for begin, _ in self.folds), self._whole]
        last = -_WIDTH
        for begin, end in zip(starts, ends, strict=True):
            mark = math.ceil(begin / step) * step
            while mark <= end + step / 1e6:
                x = self._x(mark)
                canvas.line(x, _TOP - 4, x, height - 6, canvas.role("line"))
                if mark and x - last > 52:  # the moment that stands before the marks is that of the first one
                    canvas.text(x, 14, show_seconds(mark), paint=muted, size=10.5, anchor="middle")
                    last = x
                mark += step
        for begin, end in self.folds:
            x = self._x(begin)
            canvas.rect(x, _TOP - 4, _FOLD, height - _TOP - 2, canvas.role("lane"), title="folded")
            canvas.text(
                x + _FOLD / 2, height - 10, f"⋯ {show_seconds(end - begin)}", paint=muted, size=10, anchor="middle"
            )


def _merged(pieces: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of pieces of time, in order."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(pieces):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found
