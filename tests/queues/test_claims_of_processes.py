"""Processes that claim at once: each run goes to one of them, and limits hold for all of them together."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from support.checkpoints import genesis
from support.places import DRIVERS, Place

from queue_claims import measure
from stargraph.checkpoint.protocol import QueueEntry, QueueLimits, RunQueue
from stargraph.checkpoint.registry import open_checkpointer

pytestmark = pytest.mark.thorough

CLAIM = """
import asyncio, json, sys
from stargraph.checkpoint.registry import open_checkpointer

async def main():
    url, name = sys.argv[1:]
    async with open_checkpointer(url) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        found = []
        for _ in range(8):
            found += [run.run_id for run in await store.claimable(name, ["default"], limit=2, reserve=3600.0)]
        print(json.dumps(found))

asyncio.run(main())
"""


@pytest.fixture(params=[driver for driver in DRIVERS if driver != "s3"])
def driver(request: pytest.FixtureRequest) -> str:
    driver: str = request.param
    return driver


async def test_each_run_goes_to_one_process(place: Place) -> None:
    """`measure` refuses if a run was claimed twice, or by nobody."""
    assert await asyncio.to_thread(measure, place.url, 60, 3) > 0


async def test_limits_hold_for_all_processes(place: Place) -> None:
    async with open_checkpointer(place.url) as store:
        assert isinstance(store, RunQueue)
        for number in range(30):
            await store.write(genesis(run_id=f"r{number:02}", status="queued", queue=QueueEntry()))
        await store.set_limits("default", QueueLimits(concurrency=7))
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CLAIM, place.url, f"{number:016x}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(3)
        ]

        def claims() -> list[str]:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [process.communicate()[0] for process in processes]
            return [run_id for answer in answers for run_id in json.loads(answer)]

        found = await asyncio.to_thread(claims)
        # Each passes over what another is about to take, and may so have found nothing in its last rounds.
        found += [run.run_id for run in await store.claimable("f" * 16, ["default"], limit=30, reserve=3600.0)]
        assert len(found) == len(set(found)) == 7
