"""The engine: what makes a graph's definition run, one durable step after the other."""

from stargraph.runtime._context import NodeContext, Suspended
from stargraph.runtime._engine import Engine, new_executor_id
from stargraph.runtime._events import EventType, RunEvent
from stargraph.runtime._expressions import Expression
from stargraph.runtime._failures import error_info, node_cancelled
from stargraph.runtime._fingerprint import ENGINE_SEMANTICS, runtime_changes
from stargraph.runtime._imports import load_object
from stargraph.runtime._journal import Journal, Slot, UnrecordedCallError
from stargraph.runtime._log import Durability, RunLog, TakenOver
from stargraph.runtime._open_work import OpenWork
from stargraph.runtime._plan import Plan
from stargraph.runtime._state import StateField, StateSpec
from stargraph.runtime._subgraph import StoreFaultError, cancel_children, child_inputs, child_outcome, child_run_id
from stargraph.runtime._terms import Terms
from stargraph.runtime._transitions import (
    answered,
    asked,
    called,
    completed,
    failed,
    fork_of,
    status_of,
    steps_of,
    tasks_of,
)
from stargraph.runtime._worker import Worker

__all__ = [
    "ENGINE_SEMANTICS",
    "Durability",
    "Engine",
    "EventType",
    "Expression",
    "Journal",
    "NodeContext",
    "OpenWork",
    "Plan",
    "RunEvent",
    "RunLog",
    "Slot",
    "StateField",
    "StateSpec",
    "StoreFaultError",
    "Suspended",
    "TakenOver",
    "Terms",
    "UnrecordedCallError",
    "Worker",
    "answered",
    "asked",
    "called",
    "cancel_children",
    "child_inputs",
    "child_outcome",
    "child_run_id",
    "completed",
    "error_info",
    "failed",
    "fork_of",
    "load_object",
    "new_executor_id",
    "node_cancelled",
    "runtime_changes",
    "status_of",
    "steps_of",
    "tasks_of",
]
