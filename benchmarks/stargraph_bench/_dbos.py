"""DBOS: a workflow whose steps return what the node returned.

DBOS keeps the outputs of steps and no state: at each step it stores the update alone, and the state at a step is for
the user to fold. It is measured with the updates, which is less than the others store.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Any

from dbos import DBOS, SetWorkflowID

from stargraph_bench import _nodes
from stargraph_bench._contender import Contender, InDatabase, InFolder, WrongAnswerError
from stargraph_bench._runs import Run, State

_TOOK: list[float] = []


@DBOS.step()  # type: ignore[untyped-decorator]
async def _work(run_id: str, number: int) -> State:
    return _nodes.RUNS[run_id].steps[number].update


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def _loop(run_id: str) -> None:
    for number in range(len(_nodes.RUNS[run_id].steps)):
        begun = time.perf_counter()
        await _work(run_id, number)
        _TOOK.append(time.perf_counter() - begun)


class _Dbos(Contender):
    async def launch(self, url: str) -> None:
        DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})
        DBOS.launch()

    async def close(self) -> None:
        DBOS.destroy()

    async def execute(self) -> list[float]:
        _nodes.RUNS = {run.run_id: run for run in self.runs}
        _TOOK.clear()

        async def drive(run: Run) -> None:
            with SetWorkflowID(run.run_id):
                handle = await DBOS.start_workflow_async(_loop, run.run_id)
            await handle.get_result()

        await asyncio.gather(*map(drive, self.runs))
        return list(_TOOK)

    async def check(self, run: Run) -> None:
        steps = await DBOS.list_workflow_steps_async(run.run_id)
        if [step["output"] for step in steps] != [step.update for step in run.steps]:
            raise WrongAnswerError(f"{self!r}: the outputs of the steps are not what was written")

    async def latest(self, run: Run) -> State:
        return await self.at_step(run, -1)

    async def at_step(self, run: Run, step: int) -> State:
        steps = await DBOS.list_workflow_steps_async(run.run_id)
        output: Any = steps[step]["output"]
        state: State = output
        return state


class DbosSQLite(InFolder, _Dbos):
    """DBOS on a SQLite file, with WAL, which it does not turn on itself."""

    async def open(self) -> None:
        connection = sqlite3.connect(self.fresh_path())
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        await self.launch(f"sqlite:///{self.path}")


class DbosPostgres(InDatabase, _Dbos):
    """DBOS on PostgreSQL."""

    async def open(self) -> None:
        dsn = await self.fresh_dsn()
        await self.launch(dsn.replace("postgresql://", "postgresql+psycopg://", 1))
