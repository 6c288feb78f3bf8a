"""A disposable copy of records on the local disk. Whatever goes wrong with it costs time and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

Result = TypeVar("Result")

MAX_BYTES: Final = 512 * 1024 * 1024
"""How much a cache holds; then the older half of it goes."""

_MAX_OBJECT_BYTES: Final = 16 * 1024 * 1024
_PATIENCE: Final = 3

_SCHEMA: Final = """
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS objects (
    key TEXT PRIMARY KEY NOT NULL, etag TEXT NOT NULL, body BLOB NOT NULL, checksum BLOB NOT NULL
);
"""


class _Database:
    """The file, used from any thread."""

    def __init__(self, directory: Path | None, name: str) -> None:
        self._given = directory
        self._name = name
        self._lock = threading.Lock()
        self._temporary: str | None = None
        self._connection: sqlite3.Connection | None = None
        self._size = 0
        self._failures = 0

    def run(self, action: Callable[[sqlite3.Connection], Result]) -> Result | None:
        with self._lock:
            if self._failures >= _PATIENCE:
                return None
            try:
                result = action(self._connection or self._connect())
            except (sqlite3.Error, OSError):
                self._failures += 1
                self._discard(remove=True)
                return None
            self._failures = 0
            return result

    def grow(self, connection: sqlite3.Connection, size: int) -> None:
        self._size += size
        if self._size > MAX_BYTES:
            connection.execute("DELETE FROM objects WHERE rowid <= (SELECT (min(rowid) + max(rowid)) / 2 FROM objects)")
            self._size = _size_of(connection)

    def close(self) -> None:
        with self._lock:
            self._discard(remove=False)

    def _connect(self) -> sqlite3.Connection:
        if self._given is None:
            # Private to this handle: whoever may write to a cache decides what a run goes on from.
            self._temporary = self._temporary or tempfile.mkdtemp(prefix="stargraph-s3-")
            directory = Path(self._temporary)
        else:
            directory = self._given
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / self._name
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            connection.executescript(_SCHEMA)
            self._size = _size_of(connection)
        except sqlite3.Error:
            connection.close()
            path.unlink(missing_ok=True)
            raise
        self._connection = connection
        return connection

    def _discard(self, *, remove: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        elif remove and self._given is not None:
            for path in (self._given / self._name, self._given / f"{self._name}-journal"):
                try:
                    path.unlink(missing_ok=True)
                except OSError:
                    return


class RecordCache:
    """Objects by key and ETag.

    Args:
        directory: where the file is kept, for the next process too; None for a private place that goes
            with the handle.
        store: the store, as the name of the file tells it from others.
    """

    def __init__(self, directory: Path | None, *, store: str) -> None:
        name = f"{hashlib.sha256(store.encode()).hexdigest()[:32]}.sqlite"
        self._database = _Database(directory, name)
        self._finalizer = weakref.finalize(self, self._database.close)

    async def get(self, key: str, etag: str | None = None) -> bytes | None:
        """Return an object, or None where it is not here.

        Args:
            key: its key.
            etag: its ETag as the store has it now; None where the object cannot have changed.
        """
        database = self._database

        def read(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute("SELECT etag, body, checksum FROM objects WHERE key = ?", (key,)).fetchone()
            if row is None or (etag is not None and row[0] != etag) or _checksum(row[1]) != row[2]:
                return None
            body: bytes = row[1]
            return body

        return await asyncio.to_thread(database.run, read)

    async def put(self, key: str, etag: str, body: bytes) -> None:
        """Keep an object.

        Args:
            key: its key.
            etag: its ETag.
            body: its content.
        """
        if len(body) > _MAX_OBJECT_BYTES:
            return
        database = self._database

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (key, etag, body, _checksum(body)))
            database.grow(connection, len(body))

        await asyncio.to_thread(database.run, write)

    async def close(self) -> None:
        """Let go of the file; a later use opens it again."""
        await asyncio.to_thread(self._database.close)


def _checksum(body: object) -> bytes:
    return hashlib.blake2b(body if isinstance(body, bytes) else b"", digest_size=16).digest()


def _size_of(connection: sqlite3.Connection) -> int:
    (size,) = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM objects").fetchone()
    return int(size)
