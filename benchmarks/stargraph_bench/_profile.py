"""Where the time of one write to SQLite goes: each stage alone, and the whole beside them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph_bench._contender import Place
from stargraph_bench._raw import RawSQLite
from stargraph_bench._runs import Run, chat, make_run, small
from stargraph_bench._stargraph import StargraphSQLite, checkpoints

_COUNTED = 500


def profile(folder: Path) -> str:
    """Return a table of what one write costs, in microseconds, and the system calls that it makes.

    Args:
        folder: a directory on the disk that is measured.
    """
    with tempfile.TemporaryDirectory(prefix="stargraph-bench-", dir=folder) as home:
        lines = ["| stage | small, µs | chat at 100 KB, µs |", "| --- | --- | --- |"]
        columns = [
            asyncio.run(_stages(make_run(small, 1000, 1), Path(home))),
            asyncio.run(_stages(make_run(chat, 100, 1), Path(home))),
        ]
        lines += [f"| {stage} | {columns[0][stage]:.1f} | {columns[1][stage]:.1f} |" for stage in columns[0]]
        return "\n".join([*lines, "", *_system_calls(Path(home))])


async def _stages(run: Run, home: Path) -> dict[str, float]:
    built = list(checkpoints(run))
    last, step = built[-2], run.steps[-1]
    checkpoint = built[-1]

    def build() -> Checkpoint:
        return last.next(
            event="completed",
            executor_id=checkpoint.executor_id,
            timestamp=checkpoint.timestamp,
            changes={name: step.state[name] for name in step.changed},
            update=step.update,
            last_node=checkpoint.last_node,
            task_id=checkpoint.task_id,
            task_started_at=checkpoint.task_started_at,
            frontier=checkpoint.frontier,
        )

    text = checkpoint.state_json()
    stages = {
        "build the checkpoint, before the write (`next`)": _alone(build),
        "check it against its digest (`ensure_valid`)": _alone(checkpoint.ensure_valid),
        "its summary as JSON": _alone(lambda: RunSummary.from_checkpoint(checkpoint).model_dump_json()),
        "a hop to a thread and back": await _hop(),
        "INSERT of the state's text, no fdatasync": _insert(home, text, "OFF"),
        "INSERT of the state's text, with fdatasync": _insert(home, text, "FULL"),
    }
    for name, contender in (("`write`", StargraphSQLite(Place(home))), ("raw INSERT", RawSQLite(Place(home)))):
        contender.prepare([run])
        await contender.open()
        stages[f"whole {name}"] = statistics.median(await contender.execute()) * 1e6
        await contender.check(run)
        await contender.close()
        await contender.remove()
    return stages


def _alone(work: Callable[[], object]) -> float:
    took = []
    for _ in range(300):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e6


async def _hop() -> float:
    import aiosqlite

    async with aiosqlite.connect(":memory:") as connection:
        took = []
        for _ in range(1000):
            begun = time.perf_counter()
            await connection.commit()  # with nothing to commit
            took.append(time.perf_counter() - begun)
        return statistics.median(took) * 1e6


def _insert(home: Path, text: bytes, synchronous: str) -> float:
    path = home / f"insert-{synchronous}"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE states (step INTEGER PRIMARY KEY, state BLOB)")
        return _alone(lambda: connection.execute("INSERT INTO states (state) VALUES (?)", (text,)))
    finally:
        connection.close()
        path.unlink()


def _system_calls(home: Path) -> list[str]:
    """Count the system calls of a write: those of many writes without those of one."""
    if shutil.which("strace") is None:
        return ["System calls are counted where strace is installed."]
    one, many = (_traced(home, writes) for writes in (1, 1 + _COUNTED))
    calls = {name: (count - one.get(name, 0)) / _COUNTED for name, count in many.items()}
    shown = [f"{name} {count:.1f}" for name, count in sorted(calls.items(), key=lambda call: -call[1]) if count >= 0.1]
    return [f"System calls a write: {sum(calls.values()):.1f} in all: {', '.join(shown)}."]


def _traced(home: Path, writes: int) -> dict[str, int]:
    counts = home / f"strace-{writes}"
    command = ["strace", "-f", "-c", "-U", "calls,name", "-o", str(counts), sys.executable, "-m", __name__]
    subprocess.run(
        [*command, str(home), str(writes)], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    rows = (line.split() for line in counts.read_text().splitlines())
    return {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit() and row[1] != "total"}


async def _write(home: Path, writes: int) -> None:
    contender = StargraphSQLite(Place(home))
    contender.prepare([make_run(small, writes, 1)])
    await contender.open()
    await contender.execute()
    await contender.close()
    await contender.remove()


if __name__ == "__main__":
    asyncio.run(_write(Path(sys.argv[1]), int(sys.argv[2])))
