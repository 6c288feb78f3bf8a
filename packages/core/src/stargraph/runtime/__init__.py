"""The engine: what makes a graph's definition run, one durable step after the other."""

from stargraph.runtime._context import NodeContext
from stargraph.runtime._engine import Engine, new_executor_id
from stargraph.runtime._events import EventType, RunEvent
from stargraph.runtime._expressions import Expression
from stargraph.runtime._failures import error_info
from stargraph.runtime._fingerprint import ENGINE_SEMANTICS, runtime_changes
from stargraph.runtime._imports import load_object
from stargraph.runtime._log import Durability, RunLog, TakenOver
from stargraph.runtime._plan import Plan
from stargraph.runtime._state import StateField, StateSpec
from stargraph.runtime._subgraph import cancel_children
from stargraph.runtime._transitions import answered, fork_of, status_of

__all__ = [
    "ENGINE_SEMANTICS",
    "Durability",
    "Engine",
    "EventType",
    "Expression",
    "NodeContext",
    "Plan",
    "RunEvent",
    "RunLog",
    "StateField",
    "StateSpec",
    "TakenOver",
    "answered",
    "cancel_children",
    "error_info",
    "fork_of",
    "load_object",
    "new_executor_id",
    "runtime_changes",
    "status_of",
]
