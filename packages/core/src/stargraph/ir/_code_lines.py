"""The lines of Python that make the parts of a graph, so that an error names the user's line."""

from __future__ import annotations

import sys
from typing import Final

from stargraph.ir._positions import Path, Position, Source

_OWN: Final = "stargraph.ir."


class CodeLines:
    """The lines of Python that made the parts of a graph; of a part that has none, the line that began the graph.

    Attributes:
        start: the line that began the graph.
    """

    def __init__(self) -> None:
        self.start = _caller()
        self._lines: dict[Path, Position] = {}

    def note(self, *path: str | int) -> None:
        """Take note that the program makes a part now.

        Args:
            *path: the way to the part.
        """
        self._lines[path] = _caller()

    def find(self, path: Path, *, key: bool = False) -> Position:
        """Return the line that made a part, or the part around it."""
        return next(
            (self._lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in self._lines),
            self.start,
        )

    @property
    def source(self) -> Source:
        """What errors take the lines from."""
        return Source(None, self)


def _caller() -> Position:
    """Return the line of the program that called a method of this package."""
    frame = sys._getframe(1)
    while str(frame.f_globals.get("__name__", "")).startswith(_OWN) and frame.f_back is not None:
        frame = frame.f_back
    return Position(frame.f_lineno, None, frame.f_code.co_filename)
