"""The graphs that a worker has loaded, and which of them a run fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stargraph.checkpoint.protocol import Checkpointer, GraphVersion, RunSummary
from stargraph.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    GraphError,
    HashMismatchError,
    StateError,
    StoreUnavailableError,
)
from stargraph.graph import Graph
from stargraph.graph._options import RunOptions
from stargraph.graph._resume_checks import Accept


class LoadedGraph(NamedTuple):
    """A graph, and how another process can load it.

    Attributes:
        graph: the graph.
        target: its name, as `Graph.load` takes it; None if the program made the graph itself.
    """

    graph: Graph[Any]
    target: str | None


class Versions:
    """The graphs of a worker by their versions; there may be several of one graph.

    Args:
        graphs: graphs, or their names as `Graph.load` takes them.
        accept: the changes that are accepted, as for `Run.resume`.

    Attributes:
        all: the versions.
        by_id: of each graph the version that was named first.

    Raises:
        GraphError: a graph cannot be loaded.
        TypeError: one of them is neither a graph nor a name.
        ValueError: there is none.
    """

    def __init__(self, graphs: Graph[Any] | str | Sequence[Graph[Any] | str], accept: Sequence[Accept]) -> None:
        self._accept = tuple(accept)
        self._loaded: dict[GraphVersion, LoadedGraph] = {}
        for each in [graphs] if isinstance(graphs, (str, Graph)) or not isinstance(graphs, Iterable) else graphs:
            if not isinstance(each, (str, Graph)):
                raise TypeError(f"graphs holds {each!r:.80}: give a Graph, as in Graph(builder), or the name of one")
            loaded = LoadedGraph(load(each), each) if isinstance(each, str) else LoadedGraph(each, None)
            self._loaded.setdefault(_version_of(loaded.graph), loaded)
        if not self._loaded:
            raise ValueError("a worker needs a graph")
        self.all = tuple(self._loaded)
        self.by_id = {version.graph_id: loaded.graph for version, loaded in reversed(self._loaded.items())}

    def exact(self, run: RunSummary) -> LoadedGraph | None:
        """Return the graph that a run was made by, or None if this worker has another version of it, or none."""
        return self._loaded.get(GraphVersion.of(run))

    async def fitting(self, store: Checkpointer, run: RunSummary) -> LoadedGraph | str:
        """Return the graph that a run of another version can go on with, or why there is none.

        It is one with a migrate block for that version, one in which only code changed that the run cannot come to any
        more, or one whose changes are accepted.

        Args:
            store: holds the run.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        why = f"this worker has no graph {run.graph_id!r}"
        for loaded in self._loaded.values():
            if loaded.graph.id != run.graph_id:
                continue
            opened = loaded.graph._run(store, run.run_id, RunOptions())
            try:
                await opened.check(accept=self._accept)
            except CheckpointNotFoundError as error:
                return error.message
            except StoreUnavailableError:
                raise
            except HashMismatchError as error:
                why = "; ".join(error.changes) or error.message  # which name what changed in the code, and no value
            except (StateError, GraphError, CheckpointError) as error:
                why = error.reason or type(error).__qualname__
            else:
                return loaded
        return why


def load(target: str) -> Graph[Any]:
    """Load a graph by its name; its modules may be beside it, installed or in the current directory.

    Args:
        target: as `Graph.load` takes it.

    Raises:
        GraphError: it cannot be loaded.
    """
    return Graph.load(target, code=(Path.cwd(),))


def _version_of(graph: Graph[Any]) -> GraphVersion:
    return GraphVersion(graph.id, graph.graph_hash, graph.runtime_hash)
