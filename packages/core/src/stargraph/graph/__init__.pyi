from stargraph.checkpoint.protocol import Interrupt, RunSummary
from stargraph.engine import (
    CallInfo,
    Context,
    Middleware,
    NodeInfo,
    RunEvent,
    RunInfo,
    StoreInfo,
    add,
    append,
    merge,
    replace,
)
from stargraph.graph._control import cancel, pause, respond
from stargraph.graph._document import load_document
from stargraph.graph._graph import Graph
from stargraph.graph._queue import EnqueuedRun, RunRequest, requeue
from stargraph.graph._result import RunResult
from stargraph.graph._resume_checks import recorded_definition
from stargraph.graph._run import Run
from stargraph.ir import GraphBuilder

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
