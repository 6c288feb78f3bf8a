"""A process whose file accesses are recorded: it writes runs to a SQLite store, and tells what was acknowledged.

Usage: power_loss_program.py STORE LEDGER full|normal SEED [skips fsync]
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast
from unittest import mock

from support.checkpoints import genesis

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _connection, _wal
from stargraph_torture.ledger import Ledger

RUNS = 6
STEPS = 12


async def main(path: str, ledger_path: str, synchronous: str, seed: int) -> None:
    ledger = Ledger(Path(ledger_path))
    rng = random.Random(seed)
    for part in range(2):  # a store is closed and opened again, and its log goes away in between
        async with SQLiteCheckpointer(path, synchronous=cast('Literal["full", "normal"]', synchronous)) as store:
            await asyncio.gather(*(_write_run(store, ledger, rng, f"r{part}-{number}") for number in range(RUNS)))
            victim = f"r{part}-0"
            ledger.add("deleting", run=victim)
            await store.delete_run(victim)


async def _write_run(store: SQLiteCheckpointer, ledger: Ledger, rng: random.Random, run_id: str) -> None:
    latest = genesis(run_id=run_id, state={"n": 0, "text": ""}, timestamp=datetime.now(UTC))
    batch = [latest]
    for n in range(1, STEPS):
        if len(batch) > 1:
            await store.write_many(batch)
        else:
            await store.write(batch[0])
        for checkpoint in batch:
            ledger.add("acknowledged", run=run_id, step=checkpoint.step, digest=checkpoint.digest)
        batch = []
        for _ in range(rng.choice([1, 1, 1, 3])):
            latest = _following(latest, n, rng)
            batch.append(latest)


def _following(latest: Checkpoint, n: int, rng: random.Random) -> Checkpoint:
    return latest.next(
        event="completed",
        executor_id=latest.executor_id,
        timestamp=datetime.now(UTC),
        changes={"n": n, "text": rng.randbytes(rng.randrange(3_000)).hex()},
    )


def _open_without_sync(self: _connection.Store) -> Any:
    connection = _open_writer(self)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


_open_writer = _connection.Store._open_writer

if __name__ == "__main__":
    store_path, ledger_file, how, seed_text, *planted = sys.argv[1:]
    mock.patch.object(_wal, "_CHECKPOINT_BYTES", 128 * 1024).start()  # so that its log is moved often
    if planted:
        mock.patch.object(_connection.Store, "_open_writer", _open_without_sync).start()
    asyncio.run(main(store_path, ledger_file, how, int(seed_text)))
