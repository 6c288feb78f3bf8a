"""The file of a run that ended: the run as one SQLite store, derived from its log and never the truth."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3._concurrency import AT_ONCE, map_each
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._objects import ObjectStore, TransientStoreError
from stargraph.checkpoint.s3._reader import RecordReader
from stargraph.errors import CheckpointError

MAX_FILE_BYTES: Final = 5 * 1024**3
"""The most that one request may store; a larger file is not made."""

_AHEAD_BYTES: Final = 64 * 1024 * 1024

logger = logging.getLogger(__name__)


class RunFiles:
    """Makes the files of runs that ended.

    Args:
        store: the objects.
        keys: where they are.
        reader: reads records.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, reader: RecordReader) -> None:
        self._store = store
        self._keys = keys
        self._reader = reader

    async def make(self, last: Checkpoint, size: int) -> None:
        """Store the file of a run beside its log, whole or not at all. A failure is logged and not raised.

        Args:
            last: the checkpoint that ended the run; it is stored.
            size: about how large a record of the run is, in bytes.
        """
        try:
            await self._make(last, size)
        except (CheckpointError, TransientStoreError, OSError, sqlite3.Error) as error:
            # The write that ended the run has succeeded, and the log is all that a reader needs.
            logger.warning("run %r: the file of the ended run was not made: %s", last.run_id, error)

    async def _make(self, last: Checkpoint, size: int) -> None:
        with tempfile.TemporaryDirectory(prefix="stargraph-s3-", ignore_cleanup_errors=True) as directory:
            path = Path(directory) / "run.sqlite"
            if await write_file(self._steps(last, size), path) and path.stat().st_size <= MAX_FILE_BYTES:
                await self._store.create(self._keys.file(last.run_id, last.started_at, last.step), path)

    async def _steps(self, last: Checkpoint, size: int) -> AsyncIterator[list[Checkpoint | None]]:
        width = max(1, min(AT_ONCE, _AHEAD_BYTES // size))

        async def read(step: int) -> Checkpoint | None:
            return last if step == last.step else await self._reader.read_again(last.run_id, step)

        for first in range(0, last.step + 1, width):
            yield await map_each(read, range(first, min(first + width, last.step + 1)))


async def write_file(parts: AsyncIterator[list[Checkpoint | None]], path: Path) -> bool:
    """Write a run to a new SQLite store, one plain file that any SQLite opens.

    Args:
        parts: the steps from 0 on, some at a time.
        path: the file to make.

    Returns:
        False where a step is missing, as after a prune.
    """
    # Imported by the first run that ends.
    from stargraph.checkpoint.sqlite import SQLiteCheckpointer

    async with SQLiteCheckpointer(path, synchronous="normal", allow_network_filesystem=True) as file:
        async for part in parts:
            steps = [checkpoint for checkpoint in part if checkpoint is not None]
            if len(steps) < len(part):
                return False
            await file.write_many(steps)
    await asyncio.to_thread(_settle, path)
    return True


def _settle(path: Path) -> None:
    """Leave the mode that needs further files beside this one."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
