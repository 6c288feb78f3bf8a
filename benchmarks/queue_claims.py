"""Measures how many runs workers claim in a second, one at a time, and how that changes with their number.

    PYTHONPATH=benchmarks:tests python benchmarks/queue_claims.py sqlite postgres s3 [--runs 2000] [--workers 1 4 16]

Workers are processes that claim and do nothing else, so the figures are those of the store. What counts is the ratio
to one worker: a store whose workers race for one row gets slower with their number. No run may be claimed twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from stargraph.checkpoint.protocol import Closing, RunQueue
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.graph import Graph, GraphBuilder, RunRequest

_CHUNK: Final = 500


def _graph() -> Graph[Any]:
    builder = GraphBuilder("claims")
    builder.state(n=int)
    builder.add_node("nap", "wait", seconds=1)
    return Graph(builder)


async def _fill(url: str, runs: int) -> None:
    store = open_checkpointer(url)
    await store.bootstrap()
    for start in range(0, runs, _CHUNK):
        numbers = range(start, min(start + _CHUNK, runs))
        await _graph().enqueue_many(store, [RunRequest(inputs={"n": n}, priority=n % 3) for n in numbers])
    if isinstance(store, Closing):
        await store.close()


async def _claim(url: str, name: str) -> None:
    """Claim until nothing is left, and print the ids and the seconds; begins at a line on stdin."""
    store = open_checkpointer(url)
    await store.bootstrap()
    assert isinstance(store, RunQueue)
    print("ready", flush=True)
    sys.stdin.readline()
    found: list[str] = []
    began = time.monotonic()
    last = began
    empty = 0
    while empty < 3:  # rows that others are claiming are passed over
        claimed = await store.claimable(name, ["default"], reserve=3600.0)
        found += [run.run_id for run in claimed]
        last = time.monotonic() if claimed else last
        empty = 0 if claimed else empty + 1
    print(json.dumps({"seconds": last - began, "runs": found}), flush=True)
    if isinstance(store, Closing):
        await store.close()


def measure(url: str, runs: int, workers: int) -> float:
    asyncio.run(_fill(url, runs))
    command = [sys.executable, __file__, "--claim", url]
    processes = [
        subprocess.Popen([*command, f"{number:016x}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(workers)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0]) for process in processes]
    claimed = [run_id for answer in answers for run_id in answer["runs"]]
    twice = len(claimed) - len(set(claimed))
    if len(set(claimed)) != runs or twice:
        raise SystemExit(f"{len(set(claimed))} of {runs} runs were claimed, {twice} twice")
    return runs / float(max(answer["seconds"] for answer in answers))


def _urls(store: str, stack: ExitStack) -> Any:
    from support.places import s3_server
    from support.postgres_server import any_server
    from support.s3.servers import fresh_bucket

    if store == "sqlite":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return lambda number: f"sqlite:///{folder / f'{number}.sqlite'}"
    if store == "postgres":
        dsn = stack.enter_context(any_server())
        return lambda number: f"{dsn}{'&' if '?' in dsn else '?'}schema=claims_{number}"
    endpoint = stack.enter_context(s3_server())
    bucket = fresh_bucket(endpoint)
    return lambda number: f"s3://{bucket}/{number}?endpoint_url={endpoint}"


def main() -> None:
    """Print the claims in a second, and their ratio to those of one worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="*", default=["sqlite", "postgres"])
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--claim", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.claim:
        asyncio.run(_claim(*arguments.claim))
        return
    for store in arguments.stores:
        with ExitStack() as stack:
            url_of = _urls(store, stack)
            rates = {number: measure(url_of(number), arguments.runs, number) for number in arguments.workers}
        one = rates[arguments.workers[0]]
        for number, rate in rates.items():
            print(f"{store:9} {number:3} workers: {rate:8.0f} claims/s, {rate / one:5.2f} of {arguments.workers[0]}")


if __name__ == "__main__":
    main()
