"""Graphs that run durably: load one, start it, resume it anywhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stargraph.graph._graph import Graph
    from stargraph.graph._run import Run
    from stargraph.runtime import NodeContext, RunEvent

__all__ = ["Graph", "NodeContext", "Run", "RunEvent"]

_HOMES = {
    "Graph": "stargraph.graph._graph",
    "Run": "stargraph.graph._run",
    "NodeContext": "stargraph.runtime",
    "RunEvent": "stargraph.runtime",
}


def __getattr__(name: str) -> object:
    # pydantic and asyncio take longer to import than a command-line tool may take to say --help.
    import importlib

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
