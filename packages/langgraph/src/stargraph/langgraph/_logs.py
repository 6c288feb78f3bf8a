"""The logs that one event loop uses, with their latest steps: those that were used last, within bounds."""

from __future__ import annotations

from typing import Final

from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._store import LogStore

_BUDGET: Final = 256 * 1024 * 1024
"""Bytes of memory, as `ThreadLog.memory` counts them."""

_MOST: Final = 4096


class ThreadLogs:
    """Hands out the one log of each thread and namespace, and drops idle ones beyond its bounds.

    A log that was dropped reads its latest step again when it is used next. Whoever has it still may go on: two logs
    of one thread are like two processes.

    Args:
        store: keeps the logs.
        budget: bytes of memory that they may take.
    """

    def __init__(self, store: LogStore, budget: int = _BUDGET) -> None:
        self._store = store
        self._budget = budget
        self._used = 0
        self._logs: dict[tuple[str, str], ThreadLog] = {}  # the one that was used last is the last one

    def get(self, thread_id: str, namespace: str) -> ThreadLog:
        """Return the log of a thread in a namespace."""
        name = thread_id, namespace
        log = self._logs.pop(name, None)
        if log is None:
            log = ThreadLog(self._store, thread_id, namespace, self._grown)
            if len(self._logs) >= _MOST:
                self._drop(len(self._logs) - _MOST // 2)
        self._logs[name] = log
        return log

    def all(self) -> list[ThreadLog]:
        """Return all logs; event loops of other threads may ask for them."""
        return list(self._logs.values())

    def _grown(self, log: ThreadLog, by: int) -> None:
        """Count what a log takes now."""
        if self._logs.get((log.thread_id, log.namespace)) is log:
            self._used += by
            if self._used > self._budget:
                self._drop(0)

    def _drop(self, count: int) -> None:
        """Drop idle logs, those first that were not used for longest: so many, and more beyond the budget."""
        newest = len(self._logs) - 1
        for position, (name, log) in enumerate(list(self._logs.items())):
            if count <= 0 and self._used <= self._budget:
                return
            if log.is_idle and position < newest:
                del self._logs[name]
                self._used -= log.memory
                count -= 1
