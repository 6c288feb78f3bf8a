"""The bare media: the same bytes, the same durability, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from stargraph_bench._contender import InDatabase, InFolder, StepWriter
from stargraph_bench._runs import Run, State

_TABLE = """
CREATE TABLE states (run_id TEXT NOT NULL, step BIGINT NOT NULL, state {blob} NOT NULL, PRIMARY KEY (run_id, step))
"""


class _Raw(StepWriter):
    """Rows of a run's id, a step and the JSON text of the whole state."""

    def row(self, run: int, step: int) -> tuple[str, int, bytes]:
        """Return the row of a step."""
        return self.runs[run].run_id, step, orjson.dumps(self.runs[run].steps[step].state)


class RawSQLite(InFolder, _Raw):
    """The standard library's sqlite3 on the loop's own thread: WAL, synchronous=FULL, one INSERT a step."""

    async def open(self) -> None:
        self.fresh_path()
        await self.connect()
        self._connection.execute(_TABLE.format(blob="BLOB"))

    async def connect(self) -> None:
        self._connection = sqlite3.connect(self.path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")

    async def close(self) -> None:
        self._connection.close()

    async def write(self, run: int, step: int) -> None:
        self._connection.execute("INSERT INTO states VALUES (?, ?, ?)", self.row(run, step))

    async def latest(self, run: Run) -> State:
        return self._read("SELECT state FROM states WHERE run_id = ? ORDER BY step DESC LIMIT 1", (run.run_id,))

    async def at_step(self, run: Run, step: int) -> State:
        return self._read("SELECT state FROM states WHERE run_id = ? AND step = ?", (run.run_id, step))

    async def fill(self, runs: Sequence[Run]) -> None:
        self._connection.execute("BEGIN")
        for run in runs:
            rows = [(run.run_id, number, orjson.dumps(step.state)) for number, step in enumerate(run.steps)]
            self._connection.executemany("INSERT INTO states VALUES (?, ?, ?)", rows)
        self._connection.execute("COMMIT")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _read(self, statement: str, values: tuple[Any, ...]) -> State:
        (text,) = self._connection.execute(statement, values).fetchone()
        state: State = orjson.loads(text)
        return state


class RawPostgres(InDatabase, _Raw):
    """asyncpg: one INSERT a step, on one connection for one run, on a pool of eight for many."""

    modules = ("asyncpg",)

    _one: Any
    _pool: Any

    async def open(self) -> None:
        await self.fresh_dsn()
        await self.connect()
        await self._one.execute(_TABLE.format(blob="BYTEA"))
        await self._one.execute("ALTER TABLE states ALTER state SET STORAGE EXTERNAL")

    async def connect(self) -> None:
        import asyncpg

        self._one = await asyncpg.connect(self.dsn)
        self._pool = None
        if len(self.runs) > 1:
            self._pool = await asyncpg.create_pool(self.dsn, min_size=8, max_size=8)

    async def close(self) -> None:
        await self._one.close()
        if self._pool is not None:
            await self._pool.close()

    async def write(self, run: int, step: int) -> None:
        execute = (self._pool or self._one).execute
        await execute("INSERT INTO states VALUES ($1, $2, $3)", *self.row(run, step))

    async def latest(self, run: Run) -> State:
        return await self._read("SELECT state FROM states WHERE run_id = $1 ORDER BY step DESC LIMIT 1", run.run_id)

    async def at_step(self, run: Run, step: int) -> State:
        return await self._read("SELECT state FROM states WHERE run_id = $1 AND step = $2", run.run_id, step)

    async def fill(self, runs: Sequence[Run]) -> None:
        await self._one.copy_records_to_table(
            "states",
            records=(
                (run.run_id, number, orjson.dumps(step.state)) for run in runs for number, step in enumerate(run.steps)
            ),
        )
        await self.settle()

    async def _read(self, statement: str, *values: object) -> State:
        state: State = orjson.loads(await self._one.fetchval(statement, *values))
        return state


class RawS3(_Raw):
    """aioboto3: one conditional PUT a step, one client."""

    async def open(self) -> None:
        from stargraph_bench._object_store import ObjectStore

        self._objects = ObjectStore(self.place.s3)
        self._context = self._objects.session.client("s3", endpoint_url=self.place.s3)
        self._client = await self._context.__aenter__()

    async def close(self) -> None:
        await self._context.__aexit__(None, None, None)

    async def remove(self) -> None:
        self._objects.remove()

    async def size(self) -> int:
        return self._objects.uploaded

    async def counts(self) -> dict[str, float]:
        return {"puts_a_write": self._objects.puts / sum(len(run.steps) for run in self.runs)}

    async def write(self, run: int, step: int) -> None:
        run_id, number, state = self.row(run, step)
        await self._client.put_object(
            Bucket=self._objects.bucket, Key=f"{run_id}/{number:012}", Body=state, IfNoneMatch="*"
        )

    async def latest(self, run: Run) -> State:
        return await self.at_step(run, len(run.steps) - 1)

    async def at_step(self, run: Run, step: int) -> State:
        answer = await self._client.get_object(Bucket=self._objects.bucket, Key=f"{run.run_id}/{step:012}")
        state: State = orjson.loads(await answer["Body"].read())
        return state
