from stargraph.graph._control import cancel, respond
from stargraph.graph._graph import Graph
from stargraph.graph._run import Run
from stargraph.runtime import NodeContext, RunEvent

__all__ = ["Graph", "NodeContext", "Run", "RunEvent", "cancel", "respond"]
