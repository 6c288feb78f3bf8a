from stargraph.engine import NodeContext, RunEvent, add, append, merge, replace
from stargraph.graph._control import cancel, respond
from stargraph.graph._graph import Graph
from stargraph.graph._run import Run

__all__ = ["Graph", "NodeContext", "Run", "RunEvent", "add", "append", "cancel", "merge", "replace", "respond"]
