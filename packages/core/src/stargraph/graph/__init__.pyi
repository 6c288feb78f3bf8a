from stargraph.engine import Context, RunEvent, add, append, merge, replace
from stargraph.graph._control import cancel, respond
from stargraph.graph._graph import Graph
from stargraph.graph._run import Run
from stargraph.ir import GraphBuilder

__all__ = [
    "Context",
    "Graph",
    "GraphBuilder",
    "Run",
    "RunEvent",
    "add",
    "append",
    "cancel",
    "merge",
    "replace",
    "respond",
]
