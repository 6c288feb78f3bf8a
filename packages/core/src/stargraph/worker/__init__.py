"""Workers: processes that take runs from the queues of a store, execute them, and go on with those that others lost."""

from stargraph.worker._fleet import StrandedRun, damaged_runs, living_processes, orphaned_runs, stranded_runs
from stargraph.worker._metrics import WorkerMetrics
from stargraph.worker._retries import RunRetries
from stargraph.worker._schedules import Scheduler, due_times
from stargraph.worker._source import StoreSource
from stargraph.worker._worker import Worker

__all__ = [
    "RunRetries",
    "Scheduler",
    "StoreSource",
    "StrandedRun",
    "Worker",
    "WorkerMetrics",
    "damaged_runs",
    "due_times",
    "living_processes",
    "orphaned_runs",
    "stranded_runs",
]
