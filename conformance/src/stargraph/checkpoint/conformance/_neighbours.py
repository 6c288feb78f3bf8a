"""Other processes that hold handles on a check's stores for as long as a session lasts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from stargraph.checkpoint.conformance._interpreters import python_path
from stargraph.checkpoint.conformance.stdio import DriverProcess

CLOCK: Final = "STARGRAPH_CONFORMANCE_CLOCK"
"""Seconds by which the wall clock of a child process is off."""


class Neighbours:
    """One process for each environment, started when it is first needed; may be used from any thread.

    Args:
        spec: the target as `package.module:name`.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._processes: dict[tuple[tuple[str, str], ...], DriverProcess] = {}
        self._lock = threading.Lock()

    def process(self, *, clock: timedelta = timedelta(), environment: Mapping[str, str] | None = None) -> DriverProcess:
        """Return the process with such a clock and environment.

        Args:
            clock: how far its wall clock is ahead.
            environment: what is set beside the environment of this process.
        """
        given = dict(environment or {})
        if clock:
            given[CLOCK] = str(clock.total_seconds())
        key = tuple(sorted(given.items()))
        with self._lock:
            if key not in self._processes:
                self._processes[key] = DriverProcess(self._command(), given | {"PYTHONPATH": python_path()})
            return self._processes[key]

    def _command(self) -> list[str]:
        order = {"target": self._spec, "script": "serve", "location": "", "arguments": {}, "path": sys.path}
        return [sys.executable, "-m", "stargraph.checkpoint.conformance._child", json.dumps(order)]

    def end(self) -> None:
        """End all of them."""
        with self._lock:
            processes, self._processes = self._processes, {}
        for process in processes.values():
            process.end()
