"""Imports the names of `stargraph.graph` at their first use."""

from importlib import import_module
from typing import Any, Final

_HOMES: Final = {
    "Graph": "stargraph.graph._graph",
    "NodeContext": "stargraph.engine",
    "Run": "stargraph.graph._run",
    "RunEvent": "stargraph.engine",
    "add": "stargraph.engine",
    "append": "stargraph.engine",
    "cancel": "stargraph.graph._control",
    "merge": "stargraph.engine",
    "replace": "stargraph.engine",
    "respond": "stargraph.graph._control",
}


def __getattr__(name: str) -> Any:  # the hook of the package, which imports it
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stargraph.graph' has no attribute {name!r}")
    return getattr(import_module(home), name)
