"""What travels to a Dask worker: names, hashes and JSON; never code, and no secret."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Self

from stargraph.checkpoint.registry import redact
from stargraph.errors import CheckpointError, GraphError
from stargraph.graph import Graph
from stargraph.graph._targets import python_target
from stargraph.ir import IRDocument

STORE_VARIABLE: Final = "STARGRAPH_CHECKPOINT"
"""The environment variable that names the store on a worker."""


@dataclass(frozen=True, slots=True)
class GraphTicket:
    """A graph, as a worker finds it: where it is imported from, what it is, and the hashes that it must have there.

    Attributes:
        target: its name, as `Graph.load` takes it.
        document: the definition of a graph file, as JSON, for a worker that does not have the file; empty for Python.
        graph_id: its id.
        graph_hash: the fingerprint of what shapes execution.
        runtime_hash: the fingerprint of the code of its nodes.
    """

    target: str
    document: str
    graph_id: str
    graph_hash: str
    runtime_hash: str

    @classmethod
    def of(cls, target: str, graph: Graph[Any]) -> Self:
        """Return the ticket of a graph that was loaded here."""
        is_python = python_target(target) is not None
        document = "" if is_python else graph._plan.document.model_dump_json(by_alias=True, exclude_defaults=True)
        return cls(target, document, graph.id, graph.graph_hash, graph.runtime_hash)

    def load(self) -> Graph[Any]:
        """Return the graph as this process has it.

        Raises:
            GraphError: it is not here (`reason` as `Graph.load` raises), or another version of it is
                (`reason="other-code"`).
        """
        graph = _load(self)
        if (graph.id, graph.graph_hash, graph.runtime_hash) != (self.graph_id, self.graph_hash, self.runtime_hash):
            what = "the graph" if graph.graph_hash != self.graph_hash else "the code of its nodes"
            raise GraphError(
                f"graph {self.graph_id!r} ({self.target}): {what} on this worker differs from what enqueued the run",
                reason="other-code",
                hint="Deploy the same version to the workers and to the client; nothing was executed.",
            )
        return graph


@lru_cache(maxsize=32)
def _load(ticket: GraphTicket) -> Graph[Any]:
    try:
        return Graph.load(ticket.target)
    except GraphError as error:
        if error.reason != "unreadable-file" or not ticket.document:
            raise
    return Graph(IRDocument.model_validate_json(ticket.document))


@dataclass(frozen=True, slots=True)
class StoreTicket:
    """A store, as a worker opens it: by the address of its own environment, or by one that has no secret in it.

    Attributes:
        url: the address, or None if it holds a secret: such a one never leaves the client.
        shown: the address without secrets, for messages.
        variable: the environment variable of a worker that names the store; what it says goes before `url`.
    """

    url: str | None
    shown: str
    variable: str = STORE_VARIABLE

    @classmethod
    def of(cls, url: str, variable: str) -> Self:
        """Return the ticket of a store."""
        shown = redact(url)
        return cls(url if shown == url else None, shown, variable)

    def address(self) -> str:
        """Return the address to open.

        Raises:
            CheckpointError: there is none (`reason="no-store-address"`).
        """
        address = os.environ.get(self.variable) or self.url
        if address is None:
            raise CheckpointError(
                f"this worker does not know the address of the store {self.shown}: it has a secret in it, which no task"
                " carries",
                reason="no-store-address",
                hint=f"Set {self.variable} in the environment of the workers.",
            )
        return address


@dataclass(frozen=True, slots=True)
class Ticket:
    """One run to execute.

    Attributes:
        graph: its graph.
        store: holds it.
        run_id: the run.
        alone: execute it in a process of its own, since it was in flight when workers died.
    """

    graph: GraphTicket
    store: StoreTicket
    run_id: str
    alone: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values: what Dask sends needs no class of ours to be read."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the ticket that `as_dict` made plain."""
        graph, store = GraphTicket(**fields["graph"]), StoreTicket(**fields["store"])
        return cls(graph, store, fields["run_id"], fields["alone"])
