"""What takes part in a comparison: a store under one way of using it."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from stargraph_bench._runs import Run, State
from stargraph_bench._work import Work, forget_cached, work_of


@dataclass(frozen=True, slots=True)
class Place:
    """Where contenders may put their stores.

    Attributes:
        folder: a directory on the disk that is measured.
        dsn: a PostgreSQL server's superuser, or empty.
        s3: the URL of an S3 server, or empty.
    """

    folder: Path
    dsn: str = ""
    s3: str = ""


class WrongAnswerError(Exception):
    """A contender did not read back what was written, so its times mean nothing."""


class Contender(ABC):
    """One contender: makes a fresh store, runs what it is given, reads back.

    Args:
        place: where its stores go.

    Attributes:
        runs: what it stores.
        empty_bytes: how many bytes a store takes that holds no run, once that is measured.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.runs: Sequence[Run] = ()
        self.empty_bytes = 0

    @abstractmethod
    async def open(self) -> None:
        """Make a fresh, empty store and open it."""

    async def connect(self) -> None:
        """Open the store that is there, as another process would."""
        raise NotImplementedError(f"{type(self).__name__} is not measured at that")

    @abstractmethod
    async def close(self) -> None:
        """Close the store and leave it where it is, for its size."""

    @abstractmethod
    async def remove(self) -> None:
        """Remove the closed store."""

    @abstractmethod
    async def size(self) -> int:
        """Return how many bytes the closed store takes."""

    def prepare(self, runs: Sequence[Run]) -> None:
        """Take the runs: for each step the values that a node returned. What is made of them is timed."""
        self.runs = runs

    @abstractmethod
    async def execute(self) -> list[float]:
        """Store every step of the prepared runs, all runs at once; return the seconds of each step."""

    @abstractmethod
    async def latest(self, run: Run) -> State:
        """Return the latest state of a run."""

    @abstractmethod
    async def at_step(self, run: Run, step: int) -> State:
        """Return the state of a run at one step."""

    async def list_runs(self, limit: int) -> int:
        """List runs, the newest first, and return how many came."""
        raise NotImplementedError(f"{type(self).__name__} is not measured at that")

    async def fill(self, runs: Sequence[Run]) -> None:
        """Store many runs, fast and without care for durability; not timed."""
        raise NotImplementedError(f"{type(self).__name__} is not measured at that")

    modules: tuple[str, ...] = ()
    """What `connect` imports."""

    async def import_modules(self) -> None:
        """Import what `connect` needs, so that it is not timed."""
        for module in self.modules:
            import_module(module)

    def where(self) -> str:
        """Return where the store is, for `go_to` in another process."""
        raise NotImplementedError(f"{type(self).__name__} is not measured at that")

    def go_to(self, where: str) -> None:
        """Take up the store that another process has made."""
        raise NotImplementedError(f"{type(self).__name__} is not measured at that")

    async def work(self) -> Work:
        """Return what this process, and the server if there is one, have done so far."""
        return work_of()

    async def counts(self) -> dict[str, float]:
        """Return what else was counted since the store was opened, by name: commits, requests."""
        return {}

    async def check(self, run: Run) -> None:
        """Read back the latest state and that of a step in the middle.

        Raises:
            WrongAnswerError: they are not what was written.
        """
        middle = len(run.steps) // 2
        if await self.latest(run) != run.steps[-1].state:
            raise WrongAnswerError(f"{self!r}: the latest state is not what was written")
        if await self.at_step(run, middle) != run.steps[middle].state:
            raise WrongAnswerError(f"{self!r}: the state at step {middle} is not what was written")

    def __repr__(self) -> str:
        return type(self).__name__


class StepWriter(Contender):
    """A contender that is called once a step."""

    @abstractmethod
    async def write(self, run: int, step: int) -> None:
        """Store one step of a prepared run, durably."""

    async def execute(self) -> list[float]:
        took: list[float] = []

        async def drive(run: int) -> None:
            for step in range(len(self.runs[run].steps)):
                begun = time.perf_counter()
                await self.write(run, step)
                took.append(time.perf_counter() - begun)

        if len(self.runs) == 1:
            await drive(0)
        else:
            await asyncio.gather(*map(drive, range(len(self.runs))))
        return took


class InFolder(Contender):
    """A store that is a file in a directory of its own."""

    def fresh_path(self) -> Path:
        """Return where the file goes; whatever was there is gone."""
        self._home = self.place.folder / f"{type(self).__name__}-{uuid.uuid4().hex}"
        self._home.mkdir()
        return self._home / "store.sqlite"

    @property
    def path(self) -> Path:
        """The file."""
        return self._home / "store.sqlite"

    def where(self) -> str:
        return str(self._home)

    def go_to(self, where: str) -> None:
        self._home = Path(where)

    async def size(self) -> int:
        return sum(file.stat().st_size for file in self._home.iterdir())

    async def remove(self) -> None:
        shutil.rmtree(self._home)


_SIZE: Final = """
SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0) FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')
"""


_LOG_SEGMENTS: Final = 4
"""So many segments of the write-ahead log are used once more: PostgreSQL keeps five by default."""


class InDatabase(Contender):
    """A store that is a PostgreSQL database of its own."""

    async def fresh_dsn(self) -> str:
        """Make an empty database and return its DSN."""
        self._database = f"bench_{uuid.uuid4().hex}"
        await self._admin(f"CREATE DATABASE {self._database}", "CHECKPOINT")
        self.dsn = f"{self.place.dsn.rpartition('/')[0]}/{self._database}"
        self._folder = Path(await self._ask("SHOW data_directory"))
        forget_cached(self._folder / "pg_wal")  # the checkpoint has written all of it
        return self.dsn

    def where(self) -> str:
        return self.dsn

    def go_to(self, where: str) -> None:
        self.dsn = where

    async def work(self) -> Work:
        return work_of(int((self._folder / "postmaster.pid").read_text().split()[0]))

    async def size(self) -> int:
        return int(await self._ask(_SIZE))

    async def remove(self) -> None:
        await self._admin(f"DROP DATABASE {self._database} WITH (FORCE)")

    async def settle(self) -> None:
        """Vacuum, so that no background work falls into what is measured."""
        await self._ask("VACUUM (ANALYZE)")
        await self._ask("CHECKPOINT")

    async def transactions(self) -> int:
        """Return how many transactions have written something so far, on the whole server."""
        return int(await self._ask("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))

    async def _ask(self, statement: str) -> Any:
        import asyncpg

        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def _admin(self, *statements: str) -> None:
        await _run_statements(self.place.dsn, *statements)


async def make_log_ahead(dsn: str) -> None:
    """Make the segments of the write-ahead log that a new server is going to use in turn.

    Args:
        dsn: of a superuser of the server.
    """
    switch = "SELECT pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()"
    await _run_statements(dsn, *[switch] * _LOG_SEGMENTS, "CHECKPOINT")


async def _run_statements(dsn: str, *statements: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender in the list of them.

    Attributes:
        target: its module and class.
        needs: the module that must be installed.
    """

    target: str
    needs: str

    @property
    def installed(self) -> bool:
        """Whether it can take part here."""
        try:
            return find_spec(self.needs) is not None
        except ModuleNotFoundError:
            return False

    def make(self, place: Place) -> Contender:
        """Return the contender."""
        module, _, name = self.target.partition(":")
        made: Callable[[Place], Contender] = getattr(import_module(f"stargraph_bench.{module}"), name)
        return made(place)


CONTENDERS: Final[dict[str, dict[str, Entry]]] = {
    "sqlite": {
        "stargraph": Entry("_stargraph:StargraphSQLite", "stargraph.checkpoint.sqlite"),
        "stargraph-cache": Entry("_stargraph:StargraphSQLiteCache", "stargraph.checkpoint.sqlite"),
        "langgraph": Entry("_langgraph:LangGraphSQLite", "langgraph.checkpoint.sqlite"),
        "langgraph-delta": Entry("_langgraph:LangGraphDeltaSQLite", "langgraph.checkpoint.sqlite"),
        "dbos": Entry("_dbos:DbosSQLite", "dbos"),
        "burr": Entry("_burr:BurrSQLite", "burr"),
        "raw": Entry("_raw:RawSQLite", "sqlite3"),
        "stargraph-engine": Entry("_stargraph:EngineSQLite", "stargraph.checkpoint.sqlite"),
        "langgraph-engine": Entry("_langgraph:LangGraphEngineSQLite", "langgraph.checkpoint.sqlite"),
        "langgraph-delta-engine": Entry("_langgraph:LangGraphDeltaEngineSQLite", "langgraph.checkpoint.sqlite"),
    },
    "postgres": {
        "stargraph": Entry("_stargraph:StargraphPostgres", "stargraph.checkpoint.postgres"),
        "stargraph-cache": Entry("_stargraph:StargraphPostgresCache", "stargraph.checkpoint.postgres"),
        "langgraph": Entry("_langgraph:LangGraphPostgres", "langgraph.checkpoint.postgres"),
        "langgraph-delta": Entry("_langgraph:LangGraphDeltaPostgres", "langgraph.checkpoint.postgres"),
        "dbos": Entry("_dbos:DbosPostgres", "dbos"),
        "burr": Entry("_burr:BurrPostgres", "burr"),
        "raw": Entry("_raw:RawPostgres", "asyncpg"),
        "stargraph-engine": Entry("_stargraph:EnginePostgres", "stargraph.checkpoint.postgres"),
        "langgraph-engine": Entry("_langgraph:LangGraphEnginePostgres", "langgraph.checkpoint.postgres"),
        "langgraph-delta-engine": Entry("_langgraph:LangGraphDeltaEnginePostgres", "langgraph.checkpoint.postgres"),
    },
    "s3": {
        "stargraph": Entry("_stargraph:StargraphS3", "stargraph.checkpoint.s3"),
        "raw": Entry("_raw:RawS3", "aioboto3"),
    },
}
