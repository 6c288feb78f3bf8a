from stargraph.engine import NodeContext, RunEvent
from stargraph.graph._control import cancel, respond
from stargraph.graph._graph import Graph
from stargraph.graph._run import Run

__all__ = ["Graph", "NodeContext", "Run", "RunEvent", "cancel", "respond"]
