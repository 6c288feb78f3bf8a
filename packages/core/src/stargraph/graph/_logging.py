"""What a run logs about itself as a whole, on the logger `stargraph.run`."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, RunSummary
from stargraph.engine import RUN_LOGGER, RunInfo, facts
from stargraph.errors import CheckpointConflictError, StargraphError


async def logged(info: RunInfo, execute: Callable[[], Awaitable[Checkpoint]]) -> Checkpoint:
    """Execute a run, note how that ended, and log it.

    Args:
        info: the execution.
        execute: executes it, and returns where it stands then.
    """
    run_id = info.run_id
    RUN_LOGGER.info("run %s: %s", run_id, _BEGINNINGS[info.action], extra=facts(run_id, max(info.step, 0)))
    began = time.monotonic()
    try:
        tail = await execute()
    except CheckpointConflictError as error:
        if error.reason == "run-exists":  # nothing was stopped, and that run is none of this execution's
            RUN_LOGGER.warning("run %s: not started, since it exists already", run_id, extra=facts(run_id, 0))
        else:
            RUN_LOGGER.warning(
                "run %s: stopped here by %s (step %s)",
                run_id,
                error.reason,
                error.step,
                extra=facts(run_id, error.step or 0),
            )
        raise
    except Exception as error:
        what = error.reason if isinstance(error, StargraphError) else type(error).__qualname__
        RUN_LOGGER.error("run %s: the execution ended with %s", run_id, what, extra=facts(run_id, max(info.step, 0)))
        raise
    info.ended(RunSummary.from_checkpoint(tail))
    RUN_LOGGER.log(
        logging.ERROR if tail.status == "failed" else logging.INFO,
        "run %s: %s after %.3f s (step %d)",
        run_id,
        tail.status,
        time.monotonic() - began,
        tail.step,
        extra=facts(run_id, tail.step, tail.error.node if tail.error else None),
    )
    return tail


def log_takeover(tail: Checkpoint) -> None:
    """Log that a run was taken from an executor that has not recorded an end of its execution.

    Args:
        tail: its latest checkpoint before that.
    """
    if tail.status != "running" or tail.event == "answered":
        return
    process = tail.process
    if process is None:
        former = "an unknown process"
    elif process.id is not None and process.id == ProcessInfo.current().id:
        former = "another execution in this process"
    else:
        former = f"process {process.pid} on {process.host}"
    RUN_LOGGER.warning(
        "run %s: taken over from %s (step %d)", tail.run_id, former, tail.step, extra=facts(tail.run_id, tail.step)
    )


_BEGINNINGS = {"start": "started", "resume": "resumed"}
