"""Runs the workloads: contenders take turns, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from stargraph_bench._contender import CONTENDERS, Place, make_log_ahead
from stargraph_bench._figures import Figures
from stargraph_bench._worker import ContenderFailedError, Worker
from stargraph_bench._workloads import WORKLOADS, Scale, Workload

_IMPORTS: Final = {
    "sqlite": {
        "stargraph": "stargraph.checkpoint.sqlite",
        "langgraph": "langgraph.checkpoint.sqlite.aio",
        "dbos": "dbos",
        "burr": "burr.integrations.persisters.b_aiosqlite",
        "raw": "sqlite3",
    },
    "postgres": {
        "stargraph": "stargraph.checkpoint.postgres",
        "langgraph": "langgraph.checkpoint.postgres.aio",
        "dbos": "dbos",
        "burr": "burr.integrations.persisters.b_asyncpg",
        "raw": "asyncpg",
    },
    "s3": {"stargraph": "stargraph.checkpoint.s3", "raw": "aioboto3"},
}

_TIME_IMPORT: Final = """
import sys, time
begun = time.perf_counter()
import {module}
print(time.perf_counter() - begun, int("aioboto3" in sys.modules))
"""

IMPORT: Final = "import"
"""The name of the workload that imports a driver in a fresh process."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is measured.

    Attributes:
        scale: how much.
        stores: the kinds of store.
        workloads: the workloads; empty for all.
        contenders: who takes part besides our own; empty for all.
        repeats: how often, where not as each workload says.
    """

    scale: Scale
    stores: Collection[str]
    workloads: Collection[str] = ()
    contenders: Collection[str] = ()
    repeats: int | None = None

    def takes(self, name: str) -> bool:
        """Return whether a workload is measured."""
        return not self.workloads or name in self.workloads

    def names(self, store: str, workload: Workload) -> list[str]:
        """Return who takes part in a workload on a store."""
        return [
            name
            for name, entry in CONTENDERS[store].items()
            if name in workload.contenders and entry.installed and (not self.contenders or name in self.contenders)
        ]


def run(selection: Selection, folder: Path, dsn: str | None, say: Callable[[str], None]) -> Figures:
    """Measure.

    Args:
        selection: what.
        folder: a directory on the disk that is measured.
        dsn: a PostgreSQL server's superuser, if none is to be started.
        say: called with what happens.
    """
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="stargraph-bench-", dir=folder) as home:
        Path(home).chmod(0o755)  # the PostgreSQL server may have to run under another account
        for store in selection.stores:
            with server(store, Path(home), dsn) as place, _Workers(store, place) as workers:
                for workload in WORKLOADS:
                    if store in workload.stores and selection.takes(workload.name):
                        _take_turns(selection, workload, workers, figures, say)
            if selection.takes(IMPORT):
                _time_imports(selection, store, figures, say)
    return figures


class _Workers:
    """The processes of the contenders of a store, each started when it is needed.

    Args:
        store: the kind of store.
        place: where its contenders' stores go.
    """

    def __init__(self, store: str, place: Place) -> None:
        self.store = store
        self._place = place
        self._running: dict[str, Worker] = {}

    def __getitem__(self, contender: str) -> Worker:
        if contender not in self._running:
            self._running[contender] = Worker(self.store, contender, self._place)
        return self._running[contender]

    def stop(self, contender: str) -> None:
        """End the process of a contender; the next use starts another."""
        self._running.pop(contender).stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for contender in list(self._running):
            self.stop(contender)


def _take_turns(
    selection: Selection, workload: Workload, workers: _Workers, figures: Figures, say: Callable[[str], None]
) -> None:
    begun = time.monotonic()
    prefix = f"{workers.store}/{workload.name}"
    taking_part = selection.names(workers.store, workload)

    def each(work: Callable[[str, Worker], None], first: int = 0) -> None:
        for name in taking_part[first:] + taking_part[:first]:
            try:
                work(name, workers[name])
            except ContenderFailedError as error:
                figures.failures[f"{prefix}/{name}"] = str(error)
                say(f"{prefix}/{name} failed:\n{error}")
                workers.stop(name)
                taking_part.remove(name)

    def measure(name: str, worker: Worker) -> None:
        figures.add(f"{prefix}/{name}", worker.measure(repeat + 1))

    repeat = 0
    each(lambda _, worker: worker.begin(workload.name, selection.scale))
    for repeat in range(selection.repeats or (1 if selection.scale == "tiny" else workload.repeats)):
        each(measure, first=repeat % max(1, len(taking_part)))
    each(lambda _, worker: worker.end())
    say(f"{prefix}: {time.monotonic() - begun:.1f} s")


def _time_imports(selection: Selection, store: str, figures: Figures, say: Callable[[str], None]) -> None:
    modules = {
        name: module
        for name, module in _IMPORTS[store].items()
        if CONTENDERS[store][name].installed and (not selection.contenders or name in selection.contenders)
    }
    with tempfile.TemporaryDirectory(prefix="stargraph-bench-") as bytecode:
        # Packages that pip has installed are compiled; those of a checkout may not be.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for repeat in range(selection.repeats or (1 if selection.scale == "tiny" else 7)):
            for name, module in modules.items():
                command = [sys.executable, "-c", _TIME_IMPORT.format(module=module)]
                # The first one only compiles, and fills the caches of the disk.
                for _ in range(2 if repeat == 0 else 1):
                    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                    seconds, loaded = done.stdout.split()[-2:]
                measures = {"seconds": float(seconds)}
                if store == "s3":
                    measures["loads_aioboto3"] = float(loaded)
                figures.add(f"{store}/{IMPORT}/{name}", measures)
    say(f"{store}/{IMPORT}: done")


@contextlib.contextmanager
def server(store: str, home: Path, dsn: str | None = None) -> Iterator[Place]:
    """Yield where contenders put their stores, with a server that runs meanwhile if the store needs one.

    Args:
        store: its name.
        home: a directory on the disk that is measured.
        dsn: a PostgreSQL server that runs already.
    """
    place = Place(home)
    if store == "postgres" and dsn:
        yield replace(place, dsn=dsn)
    elif store == "postgres":
        from support.postgres_server import DEBIAN_BINARIES, LocalServer, embedded_binaries

        settings = {"shared_buffers": "'256MB'"}
        with LocalServer(embedded_binaries() or DEBIAN_BINARIES, settings, directory=home) as server:
            asyncio.run(make_log_ahead(server.dsn))
            yield replace(place, dsn=server.dsn)
    elif store == "s3":
        from support.s3.servers import moto_server

        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        with moto_server() as url:
            yield replace(place, s3=url)
    else:
        yield place
