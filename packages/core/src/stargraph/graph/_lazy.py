"""Imports the names of `stargraph.graph` at their first use."""

from importlib import import_module
from typing import Any, Final

_HOMES: Final = {
    "CallInfo": "stargraph.engine",
    "Context": "stargraph.engine",
    "EnqueuedRun": "stargraph.graph._queue",
    "Graph": "stargraph.graph._graph",
    "GraphBuilder": "stargraph.ir",
    "Interrupt": "stargraph.checkpoint.protocol",
    "Middleware": "stargraph.engine",
    "NodeInfo": "stargraph.engine",
    "Run": "stargraph.graph._run",
    "RunEvent": "stargraph.engine",
    "RunInfo": "stargraph.engine",
    "RunRequest": "stargraph.graph._queue",
    "RunResult": "stargraph.graph._result",
    "RunSummary": "stargraph.checkpoint.protocol",
    "StoreInfo": "stargraph.engine",
    "add": "stargraph.engine",
    "append": "stargraph.engine",
    "cancel": "stargraph.graph._control",
    "load_document": "stargraph.graph._document",
    "merge": "stargraph.engine",
    "pause": "stargraph.graph._control",
    "recorded_definition": "stargraph.graph._resume_checks",
    "replace": "stargraph.engine",
    "requeue": "stargraph.graph._queue",
    "respond": "stargraph.graph._control",
}


def __getattr__(name: str) -> Any:  # the hook of the package, which imports it
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stargraph.graph' has no attribute {name!r}")
    return getattr(import_module(home), name)
