"""The process of a single run, which a worker starts: `python -m stargraph.worker._alone`, its job on stdin."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from stargraph.checkpoint.protocol import ProcessInfo, RunSummary
from stargraph.graph._options import RunOptions
from stargraph.graph._presence import BEAT_SECONDS, BEATEN_FOR
from stargraph.runtime import dispatch
from stargraph.worker._execution import LOGGER, LostRunError, RefusedRunError, RunExecution
from stargraph.worker._heartbeat import ThreadHeartbeat
from stargraph.worker._isolation import REFUSED_CODE
from stargraph.worker._isolation_log import LogSender
from stargraph.worker._metrics import WorkerMetrics
from stargraph.worker._source import StoreSource
from stargraph.worker._versions import load

_GRACE: Final = 30.0
"""Seconds that nodes have to end if the worker says nothing, as one that was killed."""


def main() -> int:
    """Execute the run of the job, and return the exit code of the process."""
    job = json.loads(_read_line())
    sys.path[:] = [*dict.fromkeys([*sys.path, *job["path"]])]
    handlers = None if job["log"] is None else [LogSender(job["log"])]
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=handlers
    )
    logging.getLogger("stargraph").setLevel(job["log_level"])
    # The worker has a signal of its own for each of its processes: it writes, or closes stdin.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return asyncio.run(_execute(job))


async def _execute(job: dict[str, Any]) -> int:
    source = StoreSource(job["store"], job["encryption_keys"], job["encryption_keys_from"])
    graph = load(job["graph"])
    store = source.open()
    heartbeat = ThreadHeartbeat(source.open, ProcessInfo.current, BEAT_SECONDS, WorkerMetrics())
    try:
        await store.bootstrap()
        await heartbeat.start()
        BEATEN_FOR.set(store)
        tail = await dispatch.read_run(store, job["run_id"], keyring=graph._keyring)
        due_at = None if job["due_at"] is None else datetime.fromisoformat(job["due_at"])
        claimed = RunSummary.from_checkpoint(tail).model_copy(update={"last_step": job["step"], "due_at": due_at})
        execution = RunExecution(
            graph, store, claimed, options=RunOptions(durability=job["durability"]), accept=job["accept"]
        )
        _on_word_of_worker(execution.pause)
        try:
            await execution.carry()
        except LostRunError:
            return 0
        except RefusedRunError as refusal:
            LOGGER.error("run %s: it cannot be executed: %s", job["run_id"], refusal)
            return REFUSED_CODE
        return 0
    finally:
        await heartbeat.stop()
        await store.close()


def _on_word_of_worker(pause: Callable[[float], None]) -> None:
    """Pause the run when the worker says so, by a line with the grace in seconds, or when it has ended."""
    loop = asyncio.get_running_loop()

    def listen() -> None:
        word = _read_line()
        try:
            loop.call_soon_threadsafe(pause, float(word) if word.strip() else _GRACE)
        except RuntimeError:
            return  # the run has ended meanwhile

    threading.Thread(target=listen, name="stargraph-worker", daemon=True).start()


def _read_line() -> bytes:
    """Return the next line of stdin, or what came before its end.

    Not by `sys.stdin`, whose buffer has a lock: a thread that waits in it when the process ends makes that a crash.
    """
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


if __name__ == "__main__":
    sys.exit(main())
