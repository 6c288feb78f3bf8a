"""How many runs started in each part of a range of time, by where they stand now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from stargraph.checkpoint.protocol import Status
from stargraph.ui._svg import Canvas
from stargraph.ui._text import show_number

_ORDER: Final = ("failed", "awaiting_input", "running", "queued", "paused", "cancelled", "moved", "done")
"""From the top of a column to its base."""

_WIDTH: Final = 720.0
_HEIGHT: Final = 84.0
_BASE: Final = 66.0
_GAP: Final = 3.0


@dataclass(frozen=True, slots=True)
class Plot:
    """Counts of runs.

    Attributes:
        edges: where each part of the range begins.
        end: where the last one ends.
        buckets: how many runs started in each, by their status.
    """

    edges: tuple[datetime, ...]
    end: datetime
    buckets: tuple[Mapping[Status, int], ...]

    @property
    def total(self) -> int:
        """How many runs are counted."""
        return sum(sum(bucket.values()) for bucket in self.buckets)


def draw_plot(plot: Plot, *, standalone: bool = False) -> str:
    """Return the plot as SVG: a column for each part of the range.

    Args:
        plot: the counts.
        standalone: whether it is a file of its own.
    """
    canvas = Canvas(_WIDTH, _HEIGHT, _label(plot), standalone=standalone)
    highest = max((sum(bucket.values()) for bucket in plot.buckets), default=0) or 1
    step = _WIDTH / len(plot.buckets)
    canvas.line(0, _BASE, _WIDTH, _BASE, canvas.role("line"))
    for at, bucket in enumerate(plot.buckets):
        top = _BASE
        title = _title(plot, at)
        for status in reversed(_ORDER):
            count = bucket.get(status, 0)
            if count <= 0:
                continue
            height = max(count / highest * (_BASE - 14), 1.5)
            top -= height
            canvas.rect(at * step + _GAP / 2, top, step - _GAP, height - 0.5, canvas.status(status), title=title)
    canvas.text(0, 9, f"{show_number(highest)} at most", paint=canvas.role("muted"), size=10)
    span = plot.end - plot.edges[0]
    form = "%H:%M" if span <= timedelta(days=1) else "%d %b"
    for part in (0, len(plot.edges) // 2):
        canvas.text(
            part * step + _GAP / 2, _HEIGHT - 4, f"{plot.edges[part]:{form}}", paint=canvas.role("muted"), size=10
        )
    canvas.text(_WIDTH, _HEIGHT - 4, "now (UTC)", paint=canvas.role("muted"), size=10, anchor="end")
    return str(canvas)


def _title(plot: Plot, at: int) -> str:
    ends = plot.edges[at + 1] if at + 1 < len(plot.edges) else plot.end
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in plot.buckets[at].items() if count)
    return f"{plot.edges[at]:%d %b %H:%M} to {ends:%d %b %H:%M} UTC: {counts}"


def _label(plot: Plot) -> str:
    totals: dict[str, int] = {}
    for bucket in plot.buckets:
        for status, count in bucket.items():
            totals[status] = totals.get(status, 0) + count
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in totals.items() if count)
    return f"Runs by when they started: {counts or 'none'}"
