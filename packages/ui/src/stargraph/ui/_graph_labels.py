"""Where the labels of a graph's arrows stand: beside their arrow, and if there is room over no node, label or arrow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

Point = tuple[float, float]

SIZE: Final = 10.0
"""Of the letters."""

_LETTER: Final = 5.3
"""How wide a letter is on average, rather more than it is."""

_GAP: Final = 6.0
_SAMPLES: Final = 12
_WEIGHTS: Final = [
    ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    for t in (at / _SAMPLES for at in range(_SAMPLES + 1))
]
_CELL: Final = 32
"""The side of a square: only what lies in the squares of a label is compared with it."""

_ALONG: Final = (0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2)
"""Where along its arrow a label may stand, the best place first."""


class Box(NamedTuple):
    """A rectangle of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def shared_with(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def holds(self, point: Point) -> bool:
        """Return whether a point lies in it."""
        return self.left <= point[0] <= self.right and self.top <= point[1] <= self.bottom


def curve_of(points: Sequence[Point]) -> list[tuple[Point, Point, Point, Point]]:
    """Return the pieces of a curve down through points: for each its ends, and the two control points between."""
    pieces = []
    for (from_x, from_y), (to_x, to_y) in pairwise(points):
        bend = max((to_y - from_y) / 2, 10)
        pieces.append(((from_x, from_y), (from_x, from_y + bend), (to_x, to_y - bend), (to_x, to_y)))
    return pieces


def sampled(points: Sequence[Point]) -> list[Point]:
    """Return points along the curve through some points."""
    found = []
    for (ax, ay), (bx, by), (cx, cy), (dx, dy) in curve_of(points):
        found += [(a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy) for a, b, c, d in _WEIGHTS]
    return found


class Labels:
    """Finds a place for one label after another.

    Args:
        taken: the boxes of the nodes, and of labels that stand already.
        arrows: points along each arrow.
    """

    def __init__(self, taken: Sequence[Box], arrows: Sequence[Sequence[Point]]) -> None:
        self._taken: list[Box] = []
        self._near: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # of those that are taken, by cell
        for box in taken:
            self._take(box)
        self._points: defaultdict[tuple[int, int], list[Point]] = defaultdict(list)
        for arrow in arrows:
            for point in arrow:
                self._points[int(point[0] // _CELL), int(point[1] // _CELL)].append(point)

    def place(self, text: str, along: Sequence[Point]) -> Box:
        """Return where a label stands.

        Args:
            text: the label.
            along: points along its arrow.
        """
        leans_left = along[-1][0] < along[0][0]
        boxes = [
            beside(text, along[round(share * (len(along) - 1))], leftwards=leftwards)
            for share in _ALONG
            for leftwards in (leans_left, not leans_left)
        ]
        # Of several that are equally free the first; most often that is one that hides nothing.
        box = next((each for each in boxes if not self._hidden(each)), None) or min(boxes, key=self._hidden)
        self._take(box)
        return box

    def _take(self, box: Box) -> None:
        for cell in _cells(box):
            self._near[cell].append(len(self._taken))
        self._taken.append(box)

    def _hidden(self, box: Box) -> float:
        """Return how much a label in a box would hide, or how hard it would be to read."""
        cells = list(_cells(box))
        near = {at for cell in cells for at in self._near.get(cell, ())}
        covered = sum(box.shared_with(self._taken[at]) for at in near)
        crossings = sum(box.holds(point) for cell in cells for point in self._points.get(cell, ()))
        return covered + 20 * crossings


def _cells(box: Box) -> Iterator[tuple[int, int]]:
    """Yield the squares of the drawing that a box touches."""
    for column in range(int(box.left // _CELL), int(box.right // _CELL) + 1):
        for row in range(int(box.top // _CELL), int(box.bottom // _CELL) + 1):
            yield column, row


def beside(text: str, point: Point, *, leftwards: bool) -> Box:
    """Return the box of a label beside a point."""
    width = len(text) * _LETTER
    left = point[0] - _GAP - width if leftwards else point[0] + _GAP
    return Box(left, point[1] - SIZE / 2, left + width, point[1] + SIZE / 2)
