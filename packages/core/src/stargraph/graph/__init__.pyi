from stargraph.checkpoint.protocol import Interrupt, RunSummary
from stargraph.engine import Context, RunEvent, add, append, merge, replace
from stargraph.graph._control import cancel, respond
from stargraph.graph._graph import Graph, load_document
from stargraph.graph._result import RunResult
from stargraph.graph._run import Run
from stargraph.ir import GraphBuilder

__all__ = [
    "Context",
    "Graph",
    "GraphBuilder",
    "Interrupt",
    "Run",
    "RunEvent",
    "RunResult",
    "RunSummary",
    "add",
    "append",
    "cancel",
    "load_document",
    "merge",
    "replace",
    "respond",
]
