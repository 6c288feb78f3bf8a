"""Compare the PostgreSQL driver with a raw asyncpg INSERT of the same state and with langgraph-checkpoint-postgres.

One server, one durability (the server's own settings), turns that alternate. Checkpoints and JSON are made before; what
a driver itself does to store them is timed. Each figure is the median, with the quartiles of the ratio:

    pip install langgraph-checkpoint-postgres "psycopg[binary,pool]"
    python benchmarks/postgres_compare.py --dsn postgresql://…/bench

The schema `bench` and LangGraph's tables in `public` are dropped first. Without langgraph-checkpoint-postgres, its
column is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint

START = datetime(2026, 1, 1, tzinfo=UTC)
INSERT = "INSERT INTO bench.raw (run_id, step, record) VALUES ($1, $2, $3)"
Step = Callable[[int, int], Awaitable[Any]]


def run_of(length: int, filler: int) -> list[Checkpoint]:
    """The checkpoints of a run whose state holds so many characters."""
    executor = uuid.uuid4().hex
    run = [
        Checkpoint.genesis(
            run_id=uuid.uuid4().hex,
            graph_id="bench",
            graph_hash="a" * 64,
            runtime_hash="b" * 64,
            state={"n": 0, "text": "x" * filler},
            executor=executor,
            timestamp=START,
        )
    ]
    while len(run) < length:
        run.append(
            run[-1].next(
                event="completed", executor=executor, timestamp=START + timedelta(seconds=1), changes={"n": len(run)}
            )
        )
    return run


class Contest:
    """What takes part: each has a way to write step `step` of run `number`, to store whole runs, and to list 100."""

    def __init__(self) -> None:
        self.writers: dict[str, Callable[[list[list[Checkpoint]]], Step]] = {}
        self.fillers: dict[str, Callable[[list[list[Checkpoint]]], Awaitable[Any]]] = {}
        self.listers: dict[str, Callable[[], Awaitable[Any]]] = {}


async def add_raw(contest: Contest, stack: AsyncExitStack, dsn: str) -> None:
    pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=1, max_size=8))
    await pool.execute("DROP SCHEMA IF EXISTS bench CASCADE; CREATE SCHEMA bench")
    await pool.execute(
        "CREATE TABLE bench.raw (run_id text, step bigint, record bytea, PRIMARY KEY (run_id, step));"
        "ALTER TABLE bench.raw ALTER record SET STORAGE EXTERNAL"
    )
    one = await asyncpg.connect(dsn)
    stack.push_async_callback(one.close)

    def writer(runs: list[list[Checkpoint]]) -> Step:
        records = [[checkpoint.model_dump_json().encode() for checkpoint in run] for run in runs]

        async def step(number: int, at: int) -> None:
            # One run has one connection; many share a pool, which resets a connection each time it is lent.
            execute = one.execute if len(runs) == 1 else pool.execute
            await execute(INSERT, runs[number][at].run_id, at, records[number][at])

        return step

    contest.writers["raw INSERT"] = writer


async def add_stargraph(contest: Contest, stack: AsyncExitStack, dsn: str) -> None:
    checkpointer = await stack.enter_async_context(PostgresCheckpointer(dsn, schema="bench"))

    def writer(runs: list[list[Checkpoint]]) -> Step:
        return lambda number, at: checkpointer.write(runs[number][at])

    async def fill(runs: list[list[Checkpoint]]) -> None:
        await asyncio.gather(*map(checkpointer.write_many, runs))

    contest.writers["stargraph"] = writer
    contest.fillers["stargraph"] = fill
    contest.listers["stargraph"] = lambda: checkpointer.list_runs(limit=100)


async def add_langgraph(contest: Contest, stack: AsyncExitStack, dsn: str) -> None:
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    pool = AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=8,
        open=False,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
    )
    await stack.enter_async_context(pool)
    async with pool.connection() as connection:
        for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_migrations"):
            await connection.execute(f"DROP TABLE IF EXISTS public.{table}")
    saver = AsyncPostgresSaver(pool)
    await saver.setup()

    def writer(runs: list[list[Checkpoint]]) -> Step:
        configs = [{"configurable": {"thread_id": run[0].run_id, "checkpoint_ns": ""}} for run in runs]

        async def step(number: int, at: int) -> None:
            checkpoint = empty_checkpoint() | {"channel_values": dict(runs[number][at].state)}
            configs[number] = await saver.aput(configs[number], checkpoint, {"step": at, "source": "loop"}, {})

        return step

    async def fill(runs: list[list[Checkpoint]]) -> None:
        # One step through its own interface; the others are copies of that row with other ids.
        step = writer(runs)
        await asyncio.gather(*(step(number, 0) for number in range(len(runs))))
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata)"
                " SELECT thread_id, checkpoint_ns, gen_random_uuid()::text, type, checkpoint, metadata"
                " FROM checkpoints CROSS JOIN generate_series(2, %s) WHERE thread_id = ANY (%s)",
                (len(runs[0]), [run[0].run_id for run in runs]),
            )

    contest.writers["langgraph"] = writer
    contest.fillers["langgraph"] = fill

    async def first_hundred() -> list[Any]:
        return [item async for item in saver.alist(None, limit=100)]

    contest.listers["langgraph"] = first_hundred


async def one_run(contest: Contest, steps: int) -> None:
    """Steps a second of a single run, all contestants in turn at each step."""
    kinds = {name: make([run_of(steps, 300)]) for name, make in contest.writers.items()}
    took: dict[str, list[float]] = {name: [] for name in kinds}
    for at in range(steps):
        for name, step in kinds.items():
            began = time.perf_counter()
            await step(0, at)
            took[name].append(time.perf_counter() - began)
    # A ratio for each hundred steps, which saw the same load.
    rates = {
        name: [1 / statistics.median(times[low : low + 100]) for low in range(100, steps, 100)]
        for name, times in took.items()
    }
    report("single run, 1 KB, steps/s", rates)


async def many_runs(contest: Contest, runs: int, steps: int, rounds: int) -> None:
    """Steps a second of many runs at once, contestants in turn."""
    rates: dict[str, list[float]] = {name: [] for name in contest.writers}
    for _ in range(rounds):
        for name, make in contest.writers.items():
            step = make([run_of(steps, 300) for _ in range(runs)])

            async def drive(number: int, step: Step = step) -> None:
                for at in range(steps):
                    await step(number, at)

            began = time.perf_counter()
            await asyncio.gather(*map(drive, range(runs)))
            rates[name].append(runs * steps / (time.perf_counter() - began))
    report(f"{runs} runs at once, steps/s", rates)


async def lists(contest: Contest, runs: int, steps: int, rounds: int) -> None:
    """Milliseconds to list 100 of many runs."""
    for name, fill in contest.fillers.items():
        began = time.perf_counter()
        for low in range(0, runs, 500):
            await fill([run_of(steps, 300) for _ in range(min(500, runs - low))])
        print(f"({name}: {runs * steps:,} checkpoints stored in {time.perf_counter() - began:.0f} s)")
    took: dict[str, list[float]] = {name: [] for name in contest.listers}
    for _ in range(rounds):
        for name, first_hundred in contest.listers.items():
            began = time.perf_counter()
            assert len(await first_hundred()) == 100
            took[name].append((time.perf_counter() - began) * 1000)
    report(f"list 100 of {runs:,} runs of {steps} steps, ms", took)


def report(title: str, values: dict[str, list[float]]) -> None:
    cells = []
    for name, own in values.items():
        cell = f"{name} {statistics.median(own):,.2f}"
        if name != "stargraph":
            ratios = [ours / theirs for ours, theirs in zip(values["stargraph"], own, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cell += f" (stargraph/{name} {middle:.4g}, {low:.4g}…{high:.4g})"
        cells.append(cell)
    print(f"{title}: {', '.join(cells)}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--listed", type=int, default=20_000, help="runs of 20 steps to list from; 0 leaves lists out")
    arguments = parser.parse_args()
    contest = Contest()
    async with AsyncExitStack() as stack:
        await add_raw(contest, stack, arguments.dsn)
        await add_stargraph(contest, stack, arguments.dsn)
        if importlib.util.find_spec("langgraph") and importlib.util.find_spec("psycopg_pool"):
            await add_langgraph(contest, stack, arguments.dsn)
        await one_run(contest, arguments.steps)
        await many_runs(contest, 64, 50, 7)
        if arguments.listed:
            await lists(contest, arguments.listed, 20, 20)


if __name__ == "__main__":
    asyncio.run(main())
