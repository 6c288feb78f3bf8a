"""Burr's persisters."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from stargraph_bench._contender import InDatabase, InFolder, StepWriter
from stargraph_bench._runs import Run, State


class _Persister(StepWriter):
    """`save` of a persister, of a state that is built for it."""

    persister: Any

    async def write(self, run: int, step: int) -> None:
        from burr.core import State as BurrState

        state = BurrState(self.runs[run].steps[step].state)
        await self.persister.save("bench", self.runs[run].run_id, step, "work", state, "completed")

    async def latest(self, run: Run) -> State:
        return self._state(await self.persister.load("bench", run.run_id))

    async def at_step(self, run: Run, step: int) -> State:
        return self._state(await self.persister.load("bench", run.run_id, step))

    @staticmethod
    def _state(found: Any) -> State:
        state: State = found["state"].get_all()
        return state

    async def close(self) -> None:
        await self.persister.cleanup()


class BurrSQLite(InFolder, _Persister):
    """AsyncSQLitePersister, with WAL, which it does not turn on itself."""

    async def open(self) -> None:
        self.fresh_path()
        await self.connect()

    async def connect(self) -> None:
        from burr.integrations.persisters.b_aiosqlite import AsyncSQLitePersister

        self.persister = await AsyncSQLitePersister.from_values(db_path=str(self.path))
        await self.persister.connection.execute("PRAGMA journal_mode = WAL")
        await self.persister.connection.execute("PRAGMA synchronous = FULL")
        await self.persister.initialize()


class BurrPostgres(InDatabase, _Persister):
    """AsyncPostgreSQLPersister: one connection for one run, a pool for many."""

    async def open(self) -> None:
        await self.fresh_dsn()
        await self.connect()

    async def connect(self) -> None:
        from burr.integrations.persisters.b_asyncpg import AsyncPostgreSQLPersister

        server = urlsplit(self.dsn)
        pool = {"use_pool": True, "min_size": 8, "max_size": 8} if len(self.runs) > 1 else {}
        self.persister = await AsyncPostgreSQLPersister.from_values(
            db_name=server.path[1:],
            user=server.username,
            password=server.password,
            host=server.hostname,
            port=server.port,
            **pool,
        )
        await self.persister.initialize()

    async def close(self) -> None:
        pool = self.persister.pool
        await super().close()
        if pool is not None:
            await pool.close()
        type(self.persister)._pool = None  # which is one for the whole process, also when it is closed
