"""The file of a run that ended: the run as one SQLite store, derived from its log and never the truth."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from stargraph.checkpoint.codec import Cipher
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3._concurrency import AT_ONCE
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import LOGGER, ObjectStore, TransientStoreError
from stargraph.checkpoint.s3._read import RecordReader, read_history
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.errors import CheckpointError

MAX_FILE_BYTES: Final = 5 * 1024**3
"""The most that one request may store; a larger file is not made."""


class RunFiles:
    """Makes the files of runs that ended.

    Args:
        store: the objects.
        keys: where they are.
        reader: reads records.
        encryption: the keys that encrypt what is stored, if there are any.
    """

    def __init__(
        self, store: ObjectStore, keys: KeyLayout, log: LogReader, reader: RecordReader, encryption: Cipher | None
    ) -> None:
        self._store = store
        self._keys = keys
        self._log = log
        self._reader = reader
        self._encryption = encryption

    async def make(self, last: Checkpoint) -> None:
        """Store the file of a run beside its log, whole or not at all. A failure is logged and not raised.

        Args:
            last: the checkpoint that ended the run; it is stored.
        """
        try:
            await self._make(last)
        except (CheckpointError, TransientStoreError, OSError, sqlite3.Error) as error:
            # The write that ended the run has succeeded, and the log is all that a reader needs.
            LOGGER.warning("run %r: the file of the ended run was not made: %s", last.run_id, error)

    async def _make(self, last: Checkpoint) -> None:
        steps = read_history(self._log, self._reader, last.run_id)
        with tempfile.TemporaryDirectory(prefix="stargraph-s3-", ignore_cleanup_errors=True) as directory:
            path = Path(directory) / "run.sqlite"
            if await write_file(steps, path, self._encryption) == last.step + 1 and _size(path) <= MAX_FILE_BYTES:
                await self._store.create(self._keys.file(last.run_id, last.started_at, last.step), path)


async def write_file(steps: AsyncIterator[Checkpoint], path: Path, encryption: Cipher | None = None) -> int:
    """Write a run to a new SQLite store, one plain file that any SQLite opens.

    Args:
        steps: the steps of a run, in order.
        path: the file to make.
        encryption: the keys that encrypt it.

    Returns:
        How many steps it holds: those before the first one that is missing, as after a prune.
    """
    # Imported by the first run that ends.
    from stargraph.checkpoint.sqlite import SQLiteCheckpointer

    count = 0
    async with SQLiteCheckpointer(
        path, synchronous="normal", allow_network_filesystem=True, encryption=encryption
    ) as file:
        batch: list[Checkpoint] = []
        async for checkpoint in steps:
            if checkpoint.step != count:
                break
            batch.append(checkpoint)
            count += 1
            if len(batch) == AT_ONCE:
                await file.write_many(batch)
                batch = []
        await file.write_many(batch)
    await asyncio.to_thread(_settle, path)
    return count


def _size(path: Path) -> int:
    return path.stat().st_size


def _settle(path: Path) -> None:
    """Leave the mode that needs further files beside this one."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
