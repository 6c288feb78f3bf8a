"""What is opened is let go, memory stays flat, and nothing is printed without need."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from stargraph.checkpoint.protocol import RunDeletion
from stargraph_torture.arenas import ARENAS
from stargraph_torture.fleet import SEARCH_PATH
from stargraph_torture.folders import folder_in_memory
from stargraph_torture.graphs import load_graphs, write_graphs
from stargraph_torture.resources import Held, open_cancel_close, settled, soak
from stargraph_torture.seeds import short_seed

SEED = short_seed()

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts what Linux shows of a process"),
    pytest.mark.thorough,
]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with folder_in_memory() as folder:
        (folder / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        write_graphs(folder)
        yield folder


@pytest.mark.parametrize(
    ("driver", "cycles"),
    [
        ("sqlite", 10),
        ("postgres", 10),
        *(pytest.param(driver, 1_000, id=f"{driver}-long", marks=pytest.mark.slow) for driver in ARENAS),
    ],
)
async def test_a_thousand_handles_leave_nothing_behind(
    driver: str, cycles: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(SEED)
    graph = load_graphs(folder)["map"]
    async with ARENAS[driver](folder) as arena:
        for name, value in arena.environment.items():
            monkeypatch.setenv(name, value)
        for number in range(3):  # what is loaded or made once
            await open_cancel_close(arena.open_at_rest, graph, -number, rng)
        before = Held.now(folder / "temporary")
        for number in range(1, cycles + 1):
            await open_cancel_close(arena.open_at_rest, graph, number, rng)
        after = await settled(before, folder / "temporary")
        assert not after.more_than(before), (before, after, SEED)
        if driver == "postgres":
            watching = await asyncpg.connect(arena.url)
            connected = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            # The server's own processes end a little after the connections.
            until = time.monotonic() + 60
            while (count := await watching.fetchval(connected)) > 1 and time.monotonic() < until:
                await asyncio.sleep(0.05)
            assert count == 1
            await watching.close()


@pytest.mark.parametrize(
    ("driver", "steps", "most"),
    [
        pytest.param("sqlite", 2_500, 5_000, id="short"),
        pytest.param("sqlite", 250_000, 50, id="sqlite", marks=pytest.mark.slow),
        pytest.param("postgres", 100_000, 50, id="postgres", marks=pytest.mark.slow),
    ],
)
async def test_memory_stays_flat(driver: str, steps: int, most: int, folder: Path) -> None:
    async with ARENAS[driver](folder) as arena:
        store = arena.open_at_rest()
        await store.bootstrap()
        assert isinstance(store, RunDeletion)
        growth = await soak(store, store, steps)
        await store.close()
    print(growth)
    assert growth.bytes_per_step < most, growth


@pytest.mark.parametrize("driver", ["sqlite", "postgres", pytest.param("s3", marks=pytest.mark.slow)])
async def test_a_calm_process_says_nothing_in_developer_mode(driver: str, folder: Path) -> None:
    async with ARENAS[driver](folder) as arena:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-X", "dev", "-W", "error", "-m", "stargraph_torture.calm", str(folder), arena.url],
            env={**os.environ, **arena.environment, "PYTHONPATH": SEARCH_PATH},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"done\n", b"")
