"""Prune a store of many runs while others are written: no write may fail, and what does a write take meanwhile?

    python benchmarks/prune_while_writing.py run.sqlite
    python benchmarks/prune_while_writing.py postgresql://…/bench
    python benchmarks/prune_while_writing.py s3://bucket/prefix --runs 2000

The store is filled with ended runs of five steps each, unless it holds some already. Then so many runs are
written, a step each in turn and without a pause, first alone and then while a prune removes all but the last step
of the ended ones by a handle of its own. Durations of single writes are printed for both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.protocol import BatchAppend, Checkpoint, Closing, RunDeletion
from stargraph.checkpoint.registry import open_checkpointer

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Any]:
    store = open_checkpointer(url)
    await store.bootstrap()
    try:
        yield store
    finally:
        if isinstance(store, Closing):
            await store.close()


def begin(run_id: str, at: datetime, size: int) -> Checkpoint:
    return Checkpoint.genesis(
        run_id=run_id,
        graph_id="bench",
        graph_hash="a" * 64,
        runtime_hash="b" * 64,
        state={"n": 0, "text": "x" * size},
        executor_id=uuid.uuid4().hex,
        timestamp=at,
    )


def follow(before: Checkpoint, status: Any = "running") -> Checkpoint:
    return before.next(
        event="completed",
        status=status,
        executor_id=before.executor_id,
        timestamp=before.timestamp + timedelta(seconds=1),
        changes={"n": before.step + 1},
    )


async def fill(store: BatchAppend, runs: int, steps: int, size: int) -> None:
    """Store ended runs, some at once."""
    numbers = iter(range(runs))

    async def some() -> None:
        for number in numbers:
            run = [begin(f"old-{number:06}-{uuid.uuid4().hex[:6]}", LONG_AGO + timedelta(seconds=number), size)]
            while len(run) < steps:
                run.append(follow(run[-1], "done" if len(run) == steps - 1 else "running"))
            await store.write_many(run)

    await asyncio.gather(*(some() for _ in range(32)))


async def write_until(stop: asyncio.Event, store: Any, runs: int, size: int) -> tuple[list[float], list[str]]:
    """Write runs side by side; the seconds of each write, and the failures."""
    seconds: list[float] = []
    failures: list[str] = []

    async def one() -> None:
        checkpoint = begin(uuid.uuid4().hex, datetime.now(UTC), size)
        while not stop.is_set():
            began = time.perf_counter()
            try:
                await store.write(checkpoint)
            except Exception as error:  # noqa: BLE001  # every failure counts, whatever it is
                failures.append(f"{type(error).__name__}: {error}")
            seconds.append(time.perf_counter() - began)
            checkpoint = follow(checkpoint)

    await asyncio.gather(*(one() for _ in range(runs)))
    return seconds, failures


def show(what: str, seconds: list[float], failures: list[str], elapsed: float) -> None:
    centiles = statistics.quantiles(seconds, n=100)
    print(
        f"{what:14} {len(seconds):>8,} writes {len(seconds) / elapsed:>8,.0f}/s   p50 {centiles[49] * 1e3:7.1f} ms"
        f"   p99 {centiles[98] * 1e3:7.1f} ms   max {max(seconds) * 1e3:7.1f} ms   failed {len(failures)}"
    )
    for failure in failures[:3]:
        print(f"    {failure}")


async def main(arguments: argparse.Namespace) -> None:
    async with opened(arguments.url) as writer, opened(arguments.url) as pruner:
        assert isinstance(pruner, RunDeletion)
        assert isinstance(pruner, BatchAppend)
        before = datetime.now(UTC) - timedelta(days=1)
        ready = (await pruner.prune(older_than=before, keep_last=1, dry_run=True)).runs
        if ready < arguments.runs:
            await fill(pruner, arguments.runs - ready, arguments.steps, arguments.size)
        print(f"{arguments.runs:,} ended runs of {arguments.steps} steps; {arguments.writers} runs are written")
        for what in ("alone", "while pruning"):
            stop = asyncio.Event()
            began = time.perf_counter()
            writing = asyncio.create_task(write_until(stop, writer, arguments.writers, arguments.size))
            if what == "alone":
                await asyncio.sleep(arguments.seconds)
            else:
                report = await pruner.prune(older_than=before, keep_last=1)
                took = time.perf_counter() - began
                print(f"pruned {report.checkpoints:,} steps of {report.runs:,} runs in {took:.1f} s")
            elapsed = time.perf_counter() - began
            stop.set()
            show(what, *await writing, elapsed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the store: a path or a URL")
    parser.add_argument("--runs", type=int, default=20_000, help="how many ended runs")
    parser.add_argument("--steps", type=int, default=5, help="how many steps each of them has")
    parser.add_argument("--writers", type=int, default=64, help="how many runs are written meanwhile")
    parser.add_argument("--size", type=int, default=500, help="how many characters the states hold")
    parser.add_argument("--seconds", type=float, default=10, help="how long to write alone")
    asyncio.run(main(parser.parse_args()))
