"""Several processes on one database, and processes that never close."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from support.postgres_records import genesis

from stargraph.checkpoint.postgres import PostgresCheckpointer

pytestmark = pytest.mark.thorough

Opener = Callable[..., PostgresCheckpointer]

RACER = """
import asyncio, sys
sys.path.insert(0, sys.argv[3])
from support.postgres_records import following
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.errors import CheckpointConflictError, CheckpointError

async def main():
    won = 0
    async with PostgresCheckpointer(sys.argv[1], schema=sys.argv[2]) as checkpointer:
        print("ready", flush=True)
        sys.stdin.readline()
        while True:
            tail = await checkpointer.read_latest("raced")
            if tail.step >= 200:
                break
            try:
                await checkpointer.write(following(tail))
                won += 1
            except CheckpointConflictError:
                pass
    print(won)

asyncio.run(main())
"""


async def test_processes_that_race_build_one_chain(
    checkpointer: PostgresCheckpointer, dsn: str, schema: str, pytestconfig: pytest.Config
) -> None:
    first = genesis("raced")
    await checkpointer.write(first)
    tests = str(pytestconfig.rootpath / "tests")
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RACER,
            dsn,
            schema,
            tests,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert await racer.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    assert [racer.returncode for racer in racers] == [0, 0, 0], outputs
    run = [checkpoint async for checkpoint in checkpointer.history("raced")]
    assert sum(int(out) for out, _ in outputs) == len(run) - 1
    assert [checkpoint.step for checkpoint in run] == list(range(len(run)))
    assert all(after.previous_digest == before.digest for before, after in pairwise(run))


NEVER_CLOSED = """
import asyncio, sys
sys.path.insert(0, sys.argv[3])
from support.postgres_records import chain
from stargraph.checkpoint.postgres import PostgresCheckpointer

async def main():
    checkpointer = PostgresCheckpointer(sys.argv[1], schema=sys.argv[2])
    await checkpointer.bootstrap()
    runs = [chain(2) for _ in range(10)]
    await asyncio.gather(*(checkpointer.write_many(run) for run in runs))
    assert await checkpointer.read_latest(runs[3][0].run_id) == runs[3][1]
    return checkpointer, runs

checkpointer, runs = asyncio.run(main())
if sys.argv[4] == "another loop":
    assert asyncio.run(checkpointer.read_latest(runs[0][0].run_id)) == runs[0][1]
"""


@pytest.mark.parametrize("then", ["exit", "another loop"])
def test_a_handle_that_was_never_closed_ends_quietly(
    dsn: str, schema: str, pytestconfig: pytest.Config, then: str
) -> None:
    tests = str(pytestconfig.rootpath / "tests")
    done = subprocess.run(
        [sys.executable, "-c", NEVER_CLOSED, dsn, schema, tests, then], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_loops_side_by_side_share_a_handle(dsn: str, schema: str) -> None:
    checkpointer = PostgresCheckpointer(dsn, schema=schema)
    first = genesis()

    async def write() -> None:
        await checkpointer.bootstrap()
        await checkpointer.write(first)
        await checkpointer.close()

    async def read() -> None:
        await checkpointer.bootstrap()
        assert await checkpointer.read_latest(first.run_id) == first

        def elsewhere() -> None:
            async def read_and_leave() -> None:
                assert await checkpointer.read_latest(first.run_id) == first
                await checkpointer.close()

            asyncio.run(read_and_leave())

        await asyncio.to_thread(elsewhere)
        await checkpointer.bootstrap()
        assert await checkpointer.read_latest(first.run_id) == first
        await checkpointer.close()

    asyncio.run(write())
    asyncio.run(read())
