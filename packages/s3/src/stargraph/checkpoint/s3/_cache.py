"""A disposable copy of records on the local disk. Whatever goes wrong with it costs time and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

Result = TypeVar("Result")

MAX_BYTES: Final = 512 * 1024 * 1024
"""How much a cache holds; then the older half of it goes."""

_MAX_OBJECT_BYTES: Final = 16 * 1024 * 1024
_PATIENCE: Final = 3
_BATCH: Final = 64
_BATCH_BYTES: Final = 1024 * 1024
_MOST_BEHIND_BYTES: Final = 32 * 1024 * 1024

_Copy: TypeAlias = tuple[str, bytes]  # the ETag and the content

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

    @property
    def outlives_the_handle(self) -> bool:
        return self._given is not None

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


class _Recent:
    """What is not in the file yet, so that no write of a checkpoint waits for the disk of this machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, _Copy] = {}
        self._size = 0
        self._leaving: dict[str, _Copy] = {}

    def put(self, key: str, copy: _Copy) -> bool:
        """Add a copy; return whether it is time to move what is here to the file."""
        with self._lock:
            if self._size > _MOST_BEHIND_BYTES:
                return False
            self._waiting[key] = copy
            self._size += len(copy[1])
            return not self._leaving and (len(self._waiting) >= _BATCH or self._size >= _BATCH_BYTES)

    def get(self, key: str) -> _Copy | None:
        with self._lock:
            return self._waiting.get(key) or self._leaving.get(key)

    def move_to(self, database: _Database) -> None:
        with self._lock:
            if self._leaving:
                return
            self._leaving, self._waiting, self._size = self._waiting, {}, 0
        try:
            database.run(lambda connection: _store(connection, database, self._leaving))
        finally:
            with self._lock:
                self._leaving = {}


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
        self._recent = _Recent()
        self._finalizer = weakref.finalize(self, _finish, self._database, self._recent)

    async def get(self, key: str, etag: str | None = None) -> bytes | None:
        """Return an object, or None where it is not here.

        Args:
            key: its key.
            etag: its ETag as the store has it now; None where the object cannot have changed.
        """
        copy = self._recent.get(key)
        if copy is None:
            copy = await asyncio.to_thread(self._database.run, lambda connection: _find(connection, key))
        return copy[1] if copy is not None and etag in (None, copy[0]) else None

    def put(self, key: str, etag: str, body: bytes) -> None:
        """Keep an object; it goes into the file later, with others, on another thread.

        Args:
            key: its key.
            etag: its ETag.
            body: its content.
        """
        if len(body) <= _MAX_OBJECT_BYTES and self._recent.put(key, (etag, body)):
            asyncio.get_running_loop().run_in_executor(None, self._recent.move_to, self._database)

    async def close(self) -> None:
        """Let go of the file; a later use opens it again."""
        await asyncio.to_thread(_finish, self._database, self._recent)


def _finish(database: _Database, recent: _Recent) -> None:
    if database.outlives_the_handle:
        recent.move_to(database)
    database.close()


def _find(connection: sqlite3.Connection, key: str) -> _Copy | None:
    row = connection.execute("SELECT etag, body, checksum FROM objects WHERE key = ?", (key,)).fetchone()
    return None if row is None or _checksum(row[1]) != row[2] else (row[0], row[1])


def _store(connection: sqlite3.Connection, database: _Database, copies: Mapping[str, _Copy]) -> None:
    rows = [(key, etag, body, _checksum(body)) for key, (etag, body) in copies.items()]
    connection.execute("BEGIN")
    connection.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", rows)
    connection.execute("COMMIT")
    database.grow(connection, sum(len(body) for _, body in copies.values()))


def _checksum(body: object) -> bytes:
    return hashlib.blake2b(body if isinstance(body, bytes) else b"", digest_size=16).digest()


def _size_of(connection: sqlite3.Connection) -> int:
    (size,) = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM objects").fetchone()
    return int(size)
