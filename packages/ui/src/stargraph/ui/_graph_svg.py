"""The graph of a run, with how far it has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint, StepSummary, Task
from stargraph.ui._graph_layout import DONE, HEIGHT, START, WIDTH, Arrow, Layout, arrows_of, lay_out
from stargraph.ui._svg import Canvas, safe
from stargraph.ui._text import shorten, show_number, visible

_MOST_NODES: Final = 400
"""A drawing with more nodes helps nobody."""

_SIGNS: Final = {"done": "✓", "running": "●", "awaiting_input": "?", "failed": "✕", "paused": "‖"}
_KINDS: Final = {"interrupt": "question", "subgraph": "subgraph", "halt": "halt", "wait": "wait", "echo": "echo"}


@dataclass(slots=True)
class Progress:
    """How far a run has come, by node.

    Attributes:
        completed: how often each node has completed.
        states: where each node that is not idle stands now, as a status of a run.
        ended: whether the run has come to its end.
    """

    completed: Counter[str] = field(default_factory=Counter)
    states: dict[str, str] = field(default_factory=dict)
    ended: bool = False


def progress_of(latest: Checkpoint, rows: Sequence[StepSummary]) -> Progress:
    """Return how far a run has come.

    Args:
        latest: its latest checkpoint.
        rows: its steps.
    """
    found = Progress(ended=latest.status == "done")
    for row in rows:
        if row.event == "completed" and row.last_node:
            found.completed[row.last_node] += 1
            found.states[row.last_node] = "done"
    open_state = {"failed": "failed", "paused": "paused", "cancelled": "paused"}.get(latest.status, "running")
    asking = {each.task_id for each in latest.interrupts}
    for item in latest.frontier:
        if isinstance(item, Task):
            found.states[item.node] = "awaiting_input" if item.id in asking else open_state
    if latest.error is not None and latest.error.node:
        found.states[latest.error.node] = "failed"
    return found


def draw_graph(definition: Mapping[str, Any], progress: Progress, *, standalone: bool = False) -> str | None:
    """Return the graph as SVG, or None if it has no nodes or too many.

    Args:
        definition: what the log holds of the graph.
        progress: how far the run has come.
        standalone: whether it is a file of its own.
    """
    nodes = {str(node["id"]): str(node.get("kind", "")) for node in definition.get("nodes", ())}
    if not 0 < len(nodes) <= _MOST_NODES:
        return None
    layout = lay_out(list(nodes), arrows_of(definition))
    back = [each for each in layout.arrows if layout.places[each.target][1] <= layout.places[each.source][1]]
    room = max((len(each.label[:30]) * 5.0 for each in layout.arrows), default=0.0) / 2
    canvas = Canvas(
        layout.width + max(16 * len(back), room), layout.height, _label(nodes, progress), standalone=standalone
    )
    for at, arrow in enumerate(layout.arrows):
        _draw_arrow(canvas, layout, arrow, back.index(arrow) if arrow in back else None, at)
    for name, (x, y) in layout.places.items():
        if name in (START, DONE):
            _draw_end(canvas, name, x, y, ended=progress.ended)
        else:
            _draw_node(canvas, name, nodes[name], x, y, progress)
    return str(canvas)


def _draw_node(canvas: Canvas, name: str, kind: str, x: float, y: float, progress: Progress) -> None:
    state = progress.states.get(name, "none")
    times = progress.completed[name]
    word = "not reached" if state == "none" else state.replace("_", " ")
    canvas.add("<g>")
    canvas.add(f"<title>{safe(f'{name}: {word}, completed {times} times ({kind})')}</title>")
    canvas.rect(x - WIDTH / 2, y - HEIGHT / 2, WIDTH, HEIGHT, canvas.status(state, outline=True), radius=7)
    if state in _SIGNS:
        canvas.text(x - WIDTH / 2 + 16, y + 4.5, _SIGNS[state], paint=canvas.status(state), size=13, anchor="middle")
    left = x - WIDTH / 2 + (28 if state in _SIGNS else 12)
    below = _KINDS.get(kind, kind.rpartition(":")[2])
    room = 15 if times > 1 else 18
    # A function that gives its node the name would only be named twice.
    line = y - 2 if below != name else y + 4.5
    canvas.text(left, line, shorten(visible(name), room), size=13)
    if below != name:
        canvas.text(left, y + 13, shorten(visible(below), 20), paint=canvas.role("muted"), size=10.5)
    if times > 1:
        canvas.text(
            x + WIDTH / 2 - 10, line, f"×{show_number(times)}", paint=canvas.role("muted"), size=11, anchor="end"
        )
    canvas.add("</g>")


def _draw_end(canvas: Canvas, name: str, x: float, y: float, *, ended: bool) -> None:
    paint = canvas.status("done" if ended and name == DONE else "none", outline=True)
    canvas.rect(x - 32, y - 14, 64, 28, paint, radius=14)
    canvas.text(x, y + 4, "start" if name == START else "end", paint=canvas.role("muted"), size=11.5, anchor="middle")


def _draw_arrow(canvas: Canvas, layout: Layout, arrow: Arrow, back: int | None, at: int) -> None:
    """Draw a curve from the lower edge of the one to the upper edge of the other; upwards, along the right side."""
    x1, y1 = layout.places[arrow.source]
    x2, y2 = layout.places[arrow.target]
    paint = canvas.role("edge")
    title = f"<title>{safe(arrow.label)}</title>" if arrow.label else ""
    half = 14 if arrow.source in (START, DONE) else HEIGHT / 2
    top = y2 - (14 if arrow.target in (START, DONE) else HEIGHT / 2)
    if back is not None:
        side = layout.width - 24 + 16 * back
        right1, right2 = x1 + WIDTH / 2, x2 + WIDTH / 2
        canvas.add(
            f'<path d="M{right1:.1f} {y1 + 6:.1f}C{side:.1f} {y1 + 6:.1f} {side:.1f} {y1 + 6:.1f} {side:.1f}'
            f' {(y1 + y2) / 2:.1f}S{side:.1f} {y2 + 6:.1f} {right2 + 7:.1f} {y2 + 6:.1f}" {paint}>{title}</path>'
        )
        canvas.add(f'<path d="M{right2:.1f} {y2 + 6:.1f}l8 -4v8z" {canvas.role("arrow")}/>')
        if arrow.label:
            canvas.text(
                side - 6,
                (y1 + y2) / 2 + 3,
                shorten(visible(arrow.label), 24),
                paint=canvas.role("muted"),
                size=10,
                anchor="end",
            )
        return
    points = [(x1, y1 + half), *layout.bends.get((arrow.source, arrow.target), ()), (x2, top - 7)]
    curve = f"M{x1:.1f} {y1 + half:.1f}"
    for (from_x, from_y), (to_x, to_y) in pairwise(points):
        bend = max((to_y - from_y) / 2, 10)
        curve += f"C{from_x:.1f} {from_y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}"
    canvas.add(f'<path d="{curve}" {paint}>{title}</path>')
    canvas.add(f'<path d="M{x2:.1f} {top:.1f}l-4 -8h8z" {canvas.role("arrow")}/>')
    if arrow.label and (arrow.kind == "next" or at % 2):
        (left, above), (right, below) = points[0], points[1]
        muted = canvas.role("muted")
        canvas.text(
            (left + right) / 2 + 8, (above + below) / 2 + 3, shorten(visible(arrow.label), 30), paint=muted, size=10
        )


def _label(nodes: Mapping[str, str], progress: Progress) -> str:
    parts = [f"{name}: {state.replace('_', ' ')}" for name, state in list(progress.states.items())[:40]]
    return f"Graph of {len(nodes)} nodes. {'; '.join(parts) or 'None was reached yet'}"
