"""Graphs that run durably: load one, start it, resume it anywhere.

The names are imported at their first use: pydantic and asyncio take longer to import than a command-line tool
may take to say `--help`.
"""

from stargraph.graph._lazy import __getattr__  # noqa: F401  # the hook that imports them

__all__ = [
    "CallInfo",
    "Context",
    "EnqueuedRun",
    "Graph",
    "GraphBuilder",
    "Interrupt",
    "Middleware",
    "NodeInfo",
    "Run",
    "RunEvent",
    "RunInfo",
    "RunRequest",
    "RunResult",
    "RunSummary",
    "StoreInfo",
    "add",
    "append",
    "cancel",
    "load_document",
    "merge",
    "pause",
    "recorded_definition",
    "replace",
    "requeue",
    "respond",
]
