"""What is wrong with the parts of a graph, each with the place that it has in the graph's file or code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stargraph.errors import GraphError
from stargraph.ir import Source, joined, show_path


class Faults:
    """Collects what is wrong with the parts of a graph.

    Args:
        source: where the parts come from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: list[GraphError] = []

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        """Take an error for one of the part at this path."""
        try:
            yield
        except GraphError as error:
            self._found.append(self._source.locate(error, path))

    def add(self, message: str | None, *path: str | int) -> None:
        """Take a complaint about the part at this path; None is none."""
        if message is not None:
            self._found.append(
                self._source.locate(GraphError(f"{show_path(path)}: {message}", reason="bad-expression"), path)
            )

    def refuse(self) -> None:
        """Raise what was found, if anything was."""
        if self._found:
            raise joined(self._found)
