"""The graph of a run, with how far it has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint, StepSummary, Task
from stargraph.ui._graph_labels import SIZE, Box, Labels, Point, beside, curve_of, sampled
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
    asking = {each.task_id for each in latest.open_interrupts}
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
    back = [
        each for each in dict.fromkeys(layout.arrows) if layout.places[each.target][1] <= layout.places[each.source][1]
    ]
    curves = {each: _points_of(layout, each) for each in layout.arrows if each not in back}
    along = {arrow: sampled(points) for arrow, points in curves.items()}
    upward = {arrow: _back_label(layout, arrow, at) for at, arrow in enumerate(back)}
    labels = Labels(
        [*(_box_of(name, place) for name, place in layout.places.items()), *(box for _, box in upward.values())],
        list(along.values()),
    )
    # The branches of a fan-out have one label.
    labelled = {(arrow.source, arrow.label): arrow for arrow in reversed(layout.arrows) if arrow in curves}
    placed = [
        (shorten(visible(arrow.label), 30), along[arrow])
        for arrow in curves
        if arrow.label and labelled[arrow.source, arrow.label] is arrow
    ]
    boxes = [(text, labels.place(text, points)) for text, points in placed]
    left = max(0.0, *(4 - box.left for _, box in boxes), 0.0)
    labels_right = [box.right + 4 for _, box in (*upward.values(), *boxes)]
    right = max([layout.width + 16 * len(back), *labels_right])
    canvas = Canvas(left + right, layout.height, _label(nodes, progress), standalone=standalone)
    canvas.add(f'<g transform="translate({left:.1f} 0)">')
    for arrow in layout.arrows:
        if arrow in curves:
            _draw_arrow(canvas, arrow, curves[arrow])
        else:
            _draw_back(canvas, layout, arrow, _side(layout, back.index(arrow)), upward[arrow])
    for name, (x, y) in layout.places.items():
        if name in (START, DONE):
            _draw_end(canvas, name, x, y, ended=progress.ended)
        else:
            _draw_node(canvas, name, nodes[name], x, y, progress)
    for text, box in boxes:
        canvas.text(box.left, box.bottom - 1.5, text, paint=canvas.role("note"), size=SIZE)
    canvas.add("</g>")
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


def _points_of(layout: Layout, arrow: Arrow) -> list[Point]:
    """Return where an arrow passes, from the lower edge of the one node to the upper edge of the other."""
    x1, y1 = layout.places[arrow.source]
    x2, y2 = layout.places[arrow.target]
    bends = layout.bends.get((arrow.source, arrow.target), ())
    return [(x1, y1 + _half(arrow.source)), *bends, (x2, y2 - _half(arrow.target) - 7)]


def _half(name: str) -> float:
    return 14 if name in (START, DONE) else HEIGHT / 2


def _box_of(name: str, place: Point) -> Box:
    width = 32 if name in (START, DONE) else WIDTH / 2
    return Box(place[0] - width, place[1] - _half(name), place[0] + width, place[1] + _half(name))


def _title_of(arrow: Arrow) -> str:
    return f"<title>{safe(arrow.label)}</title>" if arrow.label else ""


def _draw_arrow(canvas: Canvas, arrow: Arrow, points: list[Point]) -> None:
    (x1, y1), (x2, y2) = points[0], points[-1]
    curve = f"M{x1:.1f} {y1:.1f}"
    for _, (ax, ay), (bx, by), (x, y) in curve_of(points):
        curve += f"C{ax:.1f} {ay:.1f} {bx:.1f} {by:.1f} {x:.1f} {y:.1f}"
    canvas.add(f'<path d="{curve}" {canvas.role("edge")}>{_title_of(arrow)}</path>')
    canvas.add(f'<path d="M{x2:.1f} {y2 + 7:.1f}l-4 -8h8z" {canvas.role("arrow")}/>')


def _draw_back(canvas: Canvas, layout: Layout, arrow: Arrow, side: float, label: tuple[str, Box]) -> None:
    """Draw an arrow that goes up along the right side, and its label."""
    x1, y1 = layout.places[arrow.source]
    x2, y2 = layout.places[arrow.target]
    right1, right2 = x1 + WIDTH / 2, x2 + WIDTH / 2
    canvas.add(
        f'<path d="M{right1:.1f} {y1 + 6:.1f}C{side:.1f} {y1 + 6:.1f} {side:.1f} {y1 + 6:.1f} {side:.1f}'
        f' {(y1 + y2) / 2:.1f}S{side:.1f} {y2 + 6:.1f} {right2 + 7:.1f} {y2 + 6:.1f}" {canvas.role("edge")}>'
        f"{_title_of(arrow)}</path>"
    )
    canvas.add(f'<path d="M{right2:.1f} {y2 + 6:.1f}l8 -4v8z" {canvas.role("arrow")}/>')
    text, box = label
    canvas.text(box.left, box.bottom - 1.5, text, paint=canvas.role("note"), size=SIZE)


def _side(layout: Layout, back: int) -> float:
    return layout.width - 24 + 16 * back


def _back_label(layout: Layout, arrow: Arrow, back: int) -> tuple[str, Box]:
    middle = (layout.places[arrow.source][1] + layout.places[arrow.target][1]) / 2
    text = shorten(visible(arrow.label), 24)
    return text, beside(text, (_side(layout, back), middle), leftwards=False)


def _label(nodes: Mapping[str, str], progress: Progress) -> str:
    parts = [f"{name}: {state.replace('_', ' ')}" for name, state in list(progress.states.items())[:40]]
    return f"Graph of {len(nodes)} nodes. {'; '.join(parts) or 'None was reached yet'}"
