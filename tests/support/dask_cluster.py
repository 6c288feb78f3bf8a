"""A Dask cluster of processes that can be killed one by one: the scheduler too, while client and workers live on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from support.ports import free_port


class DaskProcesses:
    """A scheduler and workers, each a process of its own, on ports of this machine.

    Args:
        folder: for what they say and store.
        workers: how many worker processes.
        threads: of each worker: how many tasks it executes at once.
        environment: added to that of this process, for the workers.
    """

    def __init__(
        self, folder: Path, *, workers: int, threads: int = 2, environment: dict[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._threads = threads
        self._environment = os.environ | (environment or {})
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.scheduler = self._start_scheduler()
        self.workers = [self._start_worker() for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                process.kill()
            process.wait()

    def restart_ended(self) -> None:
        """Start again what has ended, as a supervisor does."""
        if self.scheduler.poll() is not None:
            self.scheduler = self._start_scheduler()
        for number, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[number] = self._start_worker()

    @contextmanager
    def restarting(self) -> Iterator[None]:
        """Start again whatever has ended or ends, all the while."""
        is_over = threading.Event()

        def supervise() -> None:
            while not is_over.wait(0.1):
                self.restart_ended()

        supervisor = threading.Thread(target=supervise)
        supervisor.start()
        try:
            yield
        finally:
            is_over.set()
            supervisor.join()

    def _start_scheduler(self) -> subprocess.Popen[bytes]:
        words = ["--host", "127.0.0.1", "--port", self.address.rpartition(":")[2], "--no-dashboard"]
        return self._spawn("dask_scheduler", *words)

    def _start_worker(self) -> subprocess.Popen[bytes]:
        words = ["--nthreads", str(self._threads), "--no-nanny", "--no-dashboard", "--death-timeout", "60"]
        return self._spawn("dask_worker", self.address, *words, "--local-directory", str(self._folder))

    def _spawn(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{module}.log").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *words],
                env=self._environment,
                stdout=said,
                stderr=said,
            )
