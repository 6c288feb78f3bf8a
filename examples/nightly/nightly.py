"""Tonight's sales files become one report each, on machines that may vanish at any moment; all state is in the bucket.

NIGHTLY_BUCKET names the bucket. `enqueue DATE` stores a run for each CSV file below inbox/DATE/, `work` executes runs
until none is left, `report DATE` adds the reports up. Start each as often as you like, on as many machines as you like.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import os
import time
from collections import defaultdict
from typing import Any

import boto3

from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.graph import Graph, GraphBuilder, RunRequest
from stargraph.ir import RetrySpec
from stargraph.worker import RunRetries, Worker

BUCKET = os.environ.get("NIGHTLY_BUCKET", "sales")
STORE = f"s3://{BUCKET}/stargraph"
GRAPH = f"{__file__}:graph"
SILENT_AFTER = float(os.environ.get("NIGHTLY_SILENT_AFTER", "30"))
ENDED = ("done", "failed", "cancelled")

builder = GraphBuilder("nightly")
builder.state(key=str, totals=(dict[str, int], {}), rejected=(list[int], []), report=(str, ""))
again = RetrySpec(attempts=5, on=("botocore.exceptions:EndpointConnectionError",))


@builder.node(retry=again)
def add_up(state: Any) -> dict[str, Any]:
    """Add up the cents of each shop; a line that is not a sale is rejected by its number."""
    body = boto3.client("s3").get_object(Bucket=BUCKET, Key=state.key)["Body"].read().decode()
    totals: dict[str, int] = defaultdict(int)
    rejected = []
    for number, row in enumerate(csv.DictReader(io.StringIO(body)), start=2):
        time.sleep(float(os.environ.get("NIGHTLY_PACE", "0")))
        try:
            totals[row["shop"]] += int(row["cents"])
        except (KeyError, TypeError, ValueError):
            rejected.append(number)
    return {"totals": dict(totals), "rejected": rejected}


@builder.node(retry=again)
def publish(state: Any) -> dict[str, Any]:
    """Write the report under a name that follows from the file: to do it twice is to do it once."""
    report = state.key.replace("inbox/", "reports/").removesuffix(".csv") + ".json"
    body = json.dumps({"totals": state.totals, "rejected": state.rejected}).encode()
    boto3.client("s3").put_object(Bucket=BUCKET, Key=report, Body=body)
    return {"report": report}


graph = Graph(builder)


def keys(prefix: str) -> list[str]:
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


async def enqueue(date: str) -> None:
    """Store a run for each file of that night. The id of a run is its file, so a second time stores nothing."""
    runs = [
        RunRequest(inputs={"key": key}, run_id=key.removesuffix(".csv").replace("/", "."), metadata={"night": date})
        for key in keys(f"inbox/{date}/")
    ]
    async with S3Checkpointer(STORE) as store:
        await store.bootstrap()
        enqueued = await Graph.load(GRAPH).enqueue_many(store, runs)
    print(f"{sum(each.is_new for each in enqueued)} of {len(enqueued)} files are new")


async def work() -> None:
    """Execute runs until all have ended; go on with those of a machine that says nothing for SILENT_AFTER seconds."""
    while True:
        worker = Worker(STORE, GRAPH, retries=RunRetries(attempts=3), silent_after=SILENT_AFTER, until_idle=True)
        metrics = await worker.run()
        print(f"done: {metrics.executions['done']}, taken over: {metrics.takeovers}")
        async with S3Checkpointer(STORE) as store:
            counts = await store.count_runs()
        if not sum(count for status, count in counts.items() if status not in ENDED):
            return
        await asyncio.sleep(SILENT_AFTER / 3)


async def report(date: str) -> None:
    """Add the reports of a night up; say which files have none."""
    client = boto3.client("s3")
    totals: dict[str, int] = defaultdict(int)
    reports = keys(f"reports/{date}/")
    for key in reports:
        for shop, cents in json.loads(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())["totals"].items():
            totals[shop] += cents
    for shop, cents in sorted(totals.items()):
        print(f"{shop:10} {cents / 100:10.2f}")
    print(f"{len(reports)} of {len(keys(f'inbox/{date}/'))} files")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command in (enqueue, report):
        added = commands.add_parser(command.__name__)
        added.add_argument("date")
        added.set_defaults(command=command)
    commands.add_parser("work").set_defaults(command=work)
    options = vars(parser.parse_args())
    asyncio.run(options.pop("command")(**options))


if __name__ == "__main__":
    main()
