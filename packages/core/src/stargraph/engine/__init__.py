"""The engine: what makes a graph's definition run, one durable step after the other."""

from stargraph.engine._answer_types import answer_type
from stargraph.engine._attempts import NodeFailed, retry_seconds
from stargraph.engine._call_log import CallLog, UnrecordedCallError
from stargraph.engine._call_request import CallRequest, Calls
from stargraph.engine._context import Context
from stargraph.engine._engine import Engine, EngineOptions, new_executor_id
from stargraph.engine._events import EventType, RunEvent
from stargraph.engine._expressions import Expression
from stargraph.engine._failures import RemoteNodeError, call_error, error_info, node_cancelled
from stargraph.engine._fields import StateField
from stargraph.engine._fingerprint import ENGINE_SEMANTICS, runtime_changes
from stargraph.engine._fork_overrides import ForkOverrides
from stargraph.engine._imports import Modules, folder_module, import_failed, user_line
from stargraph.engine._log import Durability, RunLog, StoppedElsewhere
from stargraph.engine._logging import RUN_LOGGER, facts
from stargraph.engine._middleware import (
    CallInfo,
    Hooks,
    Middleware,
    NodeInfo,
    RunInfo,
    StoreInfo,
    around,
    check_middleware,
)
from stargraph.engine._node_pools import CANCEL_SECONDS, NodePools, threads_are_busy
from stargraph.engine._observed_store import observed
from stargraph.engine._pending_tasks import PendingTasks
from stargraph.engine._plan import Plan
from stargraph.engine._questions import Suspended
from stargraph.engine._reach import reachable_code
from stargraph.engine._recorded_calls import CallId
from stargraph.engine._records import first_record, resumed_record
from stargraph.engine._reducers import add, append, merge, replace
from stargraph.engine._results import ResultType
from stargraph.engine._state import Start, StateSpec
from stargraph.engine._subgraph import (
    Pause,
    StoreFaultError,
    cancel_children,
    child_inputs,
    child_outcome,
    child_run_id,
)
from stargraph.engine._task_runner import TaskRunner
from stargraph.engine._transitions import (
    answered,
    asked,
    called,
    completed,
    failed,
    fan_out_of,
    status_of,
    steps_of,
    tasks_of,
)
from stargraph.engine._watcher import WATCH_SECONDS, look_policy

__all__ = [
    "CANCEL_SECONDS",
    "ENGINE_SEMANTICS",
    "RUN_LOGGER",
    "WATCH_SECONDS",
    "CallId",
    "CallInfo",
    "CallLog",
    "CallRequest",
    "Calls",
    "Context",
    "Durability",
    "Engine",
    "EngineOptions",
    "EventType",
    "Expression",
    "ForkOverrides",
    "Hooks",
    "Middleware",
    "Modules",
    "NodeFailed",
    "NodeInfo",
    "NodePools",
    "Pause",
    "PendingTasks",
    "Plan",
    "RemoteNodeError",
    "ResultType",
    "RunEvent",
    "RunInfo",
    "RunLog",
    "Start",
    "StateField",
    "StateSpec",
    "StoppedElsewhere",
    "StoreFaultError",
    "StoreInfo",
    "Suspended",
    "TaskRunner",
    "UnrecordedCallError",
    "add",
    "answer_type",
    "answered",
    "append",
    "around",
    "asked",
    "call_error",
    "called",
    "cancel_children",
    "check_middleware",
    "child_inputs",
    "child_outcome",
    "child_run_id",
    "completed",
    "error_info",
    "facts",
    "failed",
    "fan_out_of",
    "first_record",
    "folder_module",
    "import_failed",
    "look_policy",
    "merge",
    "new_executor_id",
    "node_cancelled",
    "observed",
    "reachable_code",
    "replace",
    "resumed_record",
    "retry_seconds",
    "runtime_changes",
    "status_of",
    "steps_of",
    "tasks_of",
    "threads_are_busy",
    "user_line",
]
