"""Compare writes of the S3 driver with bare PUTs of the same bytes by aioboto3, on any store that speaks S3.

    python benchmarks/s3_overhead.py s3://bucket/prefix --endpoint-url http://localhost:9000

Both take turns within each pair of writes, and who comes first alternates, so that what else happens on the machine
meets both alike. Each round gives the ratio of the two medians; what is printed is the median of those ratios, with
the lowest and the highest. CPU is that of this process. The bucket must exist; what is written stays there.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import aioboto3

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3 import S3Checkpointer

START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Cost(NamedTuple):
    """What one write took, in seconds."""

    wall: float
    cpu: float


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
            executor_id=executor,
            timestamp=START,
        )
    ]
    while len(run) < length:
        run.append(
            run[-1].next(
                event="completed", executor_id=executor, timestamp=START + timedelta(seconds=1), changes={"n": len(run)}
            )
        )
    return run


async def measured(action: Callable[[], Awaitable[Any]]) -> Cost:
    """Do something and return what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    await action()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


async def bodies_of(client: Any, bucket: str, prefix: str, run_id: str) -> list[bytes]:
    """The objects that the driver made of a run, in order."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/log/{run_id}/")
    keys = [item["Key"] async for page in pages for item in page["Contents"]]
    bodies = []
    for key in sorted(keys, reverse=True):
        reply = await client.get_object(Bucket=bucket, Key=key)
        bodies.append(await reply["Body"].read())
    return bodies


def in_the_middle(costs: list[Cost]) -> Cost:
    """The median of each part."""
    return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs))


async def play_round(
    store: S3Checkpointer, client: Any, bucket: str, prefix: str, *, steps: int, state_bytes: int
) -> dict[str, Cost]:
    """Write the steps of a run, and as many bare objects; return what one of each took."""
    model = run_of(steps + 1, state_bytes)
    await store.write_many(model)
    bodies = await bodies_of(client, bucket, prefix, model[0].run_id)
    run, name = run_of(steps + 1, state_bytes), uuid.uuid4().hex
    await store.write(run[0])  # the only write with an index entry
    taken: dict[str, list[Cost]] = {"driver": [], "bare": []}
    for step in range(1, steps + 1):
        turns: dict[str, Callable[[], Awaitable[Any]]] = {
            "driver": partial(store.write, run[step]),
            "bare": partial(
                client.put_object, Bucket=bucket, Key=f"{prefix}/bare/{name}/{step:016d}", Body=bodies[step]
            ),
        }
        for who in sorted(turns, reverse=step % 2 == 0):
            taken[who].append(await measured(turns[who]))
    return {who: in_the_middle(costs) for who, costs in taken.items()}


async def compare(options: argparse.Namespace) -> None:
    """Play the rounds and print the ratios."""
    bucket, _, prefix = options.url.removeprefix("s3://").partition("/")
    async with (
        S3Checkpointer(options.url, endpoint_url=options.endpoint_url) as store,
        aioboto3.Session().client("s3", endpoint_url=options.endpoint_url) as client,
    ):
        rounds = [
            await play_round(store, client, bucket, prefix, steps=options.steps, state_bytes=options.state_bytes)
            for _ in range(options.rounds)
        ]
    print(f"{options.rounds} rounds of {options.steps} writes, state of {options.state_bytes} characters")
    for who in ("driver", "bare"):
        cost = in_the_middle([found[who] for found in rounds])
        print(f"{who:7} {1000 * cost.wall:6.2f} ms a write, {1000 * cost.cpu:6.2f} ms of CPU")
    ratios = [Cost(*(ours / bare for ours, bare in zip(*found.values(), strict=True))) for found in rounds]
    for part in Cost._fields:
        values = [getattr(ratio, part) for ratio in ratios]
        print(f"{part:7} {statistics.median(values):6.2f} times the bare PUT ({min(values):.2f} to {max(values):.2f})")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", help="s3://bucket/prefix")
    parser.add_argument("--endpoint-url", help="another store than AWS")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--state-bytes", type=int, default=1024)
    asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
