"""One worker process of the fleet: `python -m stargraph_torture.workers.process JOB`, the job as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import time_machine

from stargraph.graph import Middleware, StoreInfo
from stargraph.worker import Worker
from stargraph_torture.workers.steps import ledger


class Acknowledgements(Middleware):
    """Writes down which nodes the store has acknowledged."""

    @asynccontextmanager
    async def store(self, store: StoreInfo) -> AsyncIterator[None]:
        """Write down what was stored."""
        yield
        for checkpoint in store.checkpoints:
            if store.operation.startswith("write") and checkpoint.event == "completed":
                ledger().add("stored", run=checkpoint.run_id, node=checkpoint.last_node)


def main() -> None:
    """Be a worker until the fleet is done with it."""
    job = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if job["skew"]:
        time_machine.travel(datetime.now(UTC) + timedelta(seconds=job["skew"]), tick=True).start()
    worker = Worker(
        job["store"],
        job["graphs"],
        concurrency=job["concurrency"],
        silent_after=job["silent_after"],
        grace=5.0,
        poll=0.2,
        middleware=[Acknowledgements()],
    )
    asyncio.run(worker.run())


if __name__ == "__main__":
    main()
