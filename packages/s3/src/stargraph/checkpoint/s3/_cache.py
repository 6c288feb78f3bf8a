"""Copies of records: in memory, and on the local disk if a directory is given. Without them every read costs more time.

What is on the disk is encrypted, with a key for each run that is an object of the store: who deletes the run destroys
the key, and no copy on any machine can be read any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sqlite3
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stargraph.checkpoint.s3._objects import LOGGER, ObjectStore, TransientStoreError
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.errors import CheckpointError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Result = TypeVar("Result")

MEMORY_BYTES: Final = 64 * 1024 * 1024
"""How much is kept in memory; then what was not used for longest goes."""

DISK_BYTES: Final = 512 * 1024 * 1024
"""How much a file holds; then the older half of it goes."""

_MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
_MAX_FAILURES: Final = 3
_BATCH: Final = 64
_BATCH_BYTES: Final = 1024 * 1024
_BEHIND_BYTES: Final = 32 * 1024 * 1024
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_RUN_KEYS: Final = 10_000

_SCHEMA: Final = """
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS copies (
    key TEXT PRIMARY KEY NOT NULL, run_id TEXT NOT NULL, etag TEXT NOT NULL, sealed BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS copies_by_run ON copies (run_id);
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of an object.

    Attributes:
        run_id: the run whose record it holds.
        key: its key.
        etag: its ETag when it was copied.
        body: its content.
    """

    run_id: str
    key: str
    etag: str
    body: bytes


class RecordCache:
    """Objects by key and ETag. To be used in one event loop.

    Args:
        disk: the copies on the disk, if there are any.
    """

    def __init__(self, disk: DiskCache | None = None) -> None:
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self._size = 0
        self._disk = disk

    async def get(self, run_id: str, key: str, etag: str | None = None) -> bytes | None:
        """Return an object, or None if there is no copy of it.

        Args:
            run_id: the run whose record it holds.
            etag: its ETag as the store has it now; None if the object cannot have changed.
        """
        copy = self._copies.get(key)
        if copy is not None:
            self._copies.move_to_end(key)
        elif self._disk is not None:
            copy = await self._disk.get(run_id, key)
        return copy.body if copy is not None and etag in (None, copy.etag) else None

    async def put(self, copy: Copy) -> None:
        """Keep an object; it goes to the disk later, with others, on another thread."""
        if len(copy.body) > _MAX_RECORD_BYTES:
            return
        self._forget(copy.key)
        self._copies[copy.key] = copy
        self._size += len(copy.body)
        while self._size > MEMORY_BYTES:
            self._forget(next(iter(self._copies)))
        if self._disk is not None:
            await self._disk.put(copy)

    async def evict(self, run_id: str) -> None:
        """Forget the copies of a run that was deleted."""
        for key in [key for key, copy in self._copies.items() if copy.run_id == run_id]:
            self._forget(key)
        if self._disk is not None:
            await self._disk.evict(run_id)

    async def close(self) -> None:
        """Write what is on its way to the disk, and let go of the file."""
        if self._disk is not None:
            await self._disk.close()

    def _forget(self, key: str) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            self._size -= len(copy.body)


class DiskCache:
    """A file with encrypted copies. Whatever goes wrong with it costs time and nothing else.

    Args:
        directory: where the file is.
        name: the store, as the name of the file tells it from others.
        run_keys: the keys of runs.
    """

    def __init__(self, directory: Path, *, name: str, run_keys: RunKeys) -> None:
        self._file = _File(directory / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.sqlite")
        self._run_keys = run_keys
        self._waiting: list[tuple[Copy, AESGCM]] = []
        self._size = 0
        self._writing: asyncio.Future[None] | None = None

    async def get(self, run_id: str, key: str) -> Copy | None:
        """Return a copy, or None if there is none, or none that can be read."""
        row = await asyncio.to_thread(self._file.run, lambda connection: _find(connection, key))
        run_key = None if row is None else await self._run_keys.of(run_id)
        return None if row is None or run_key is None else _opened(row, run_id, key, run_key)

    async def put(self, copy: Copy) -> None:
        """Write a copy, some time later."""
        run_key = await self._run_keys.of(copy.run_id)
        if run_key is None or self._size > _BEHIND_BYTES:
            return
        self._waiting.append((copy, run_key))
        self._size += len(copy.body)
        idle = self._writing is None or self._writing.done()
        if idle and (len(self._waiting) >= _BATCH or self._size >= _BATCH_BYTES):
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, self._take())

    async def evict(self, run_id: str) -> None:
        """Remove the copies of a run, and forget its key."""
        self._run_keys.forget(run_id)
        self._waiting = [(copy, key) for copy, key in self._waiting if copy.run_id != run_id]
        self._size = sum(len(copy.body) for copy, _ in self._waiting)
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await asyncio.to_thread(
            self._file.run, lambda connection: connection.execute("DELETE FROM copies WHERE run_id = ?", (run_id,))
        )

    async def close(self) -> None:
        """Write what waits, and close the file."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._waiting:
            await asyncio.to_thread(self._write, self._take())
        await asyncio.to_thread(self._file.close)

    def _take(self) -> list[tuple[Copy, AESGCM]]:
        taken, self._waiting, self._size = self._waiting, [], 0
        return taken

    def _write(self, copies: Sequence[tuple[Copy, AESGCM]]) -> None:
        rows = [(copy.key, copy.run_id, copy.etag, _sealed(copy, run_key)) for copy, run_key in copies]
        self._file.run(lambda connection: self._file.add(connection, rows), create=True)


class RunKeys:
    """The keys that copies on disks are encrypted with, one for each run, kept in the store.

    Args:
        store: the objects.
        keys: where they are.
        read_only: make none.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, *, read_only: bool) -> None:
        self._store = store
        self._keys = keys
        self._read_only = read_only
        self._known: OrderedDict[str, AESGCM] = OrderedDict()

    async def of(self, run_id: str) -> AESGCM | None:
        """Return the key of a run, or None if it was destroyed, or cannot be made or read now."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        known = self._known.get(run_id)
        if known is None:
            try:
                secret = await self._secret(self._keys.cache_key(run_id))
            except (CheckpointError, TransientStoreError) as error:
                LOGGER.warning("run %r: its records are not cached: %s", run_id, error)
                return None
            if secret is None or len(secret) != _KEY_BYTES:
                return None
            known = self._known[run_id] = AESGCM(secret)
            if len(self._known) > _RUN_KEYS:
                self._known.popitem(last=False)
        return known

    def forget(self, run_id: str) -> None:
        """Forget the key of a run."""
        self._known.pop(run_id, None)

    async def _secret(self, key: str) -> bytes | None:
        found = await self._store.get(key)
        if found is None and not self._read_only:
            made = secrets.token_bytes(_KEY_BYTES)
            found = made if await self._store.create(key, made) is not None else await self._store.get(key)
        return found


def check_cache_dir(directory: Path) -> None:
    """Make a directory for copies that only this user can enter, or check that it is one.

    Raises:
        CheckpointError: others can enter it (`reason="cache-not-private"`), or `cryptography` is not installed
            (`reason="no-cryptography"`).
    """
    try:
        import cryptography  # noqa: F401  # looked for
    except ImportError:
        raise CheckpointError(
            "cache_dir needs the package `cryptography`, which is not installed",
            reason="no-cryptography",
            hint="pip install 'stargraph-core[encryption]'",
        ) from None
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        LOGGER.warning("cache_dir %s cannot be used, so nothing is cached on disk: %s", directory, error)
        return
    if os.name == "posix" and (stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (os.geteuid(), 0)):
        raise CheckpointError(
            f"cache_dir {str(directory)!r}: other users can enter it, or own it",
            reason="cache-not-private",
            hint=f"Copies of records belong in a directory of your own: chmod 700 {directory}",
        )


class _File:
    """The SQLite file, used from any thread; given up after a few failures."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._size = 0
        self._failures = 0

    def run(self, action: Callable[[sqlite3.Connection], Result], *, create: bool = False) -> Result | None:
        with self._lock:
            missing = self._connection is None and not create and not self._path.exists()
            if missing or self._failures >= _MAX_FAILURES:
                return None
            try:
                result = action(self._connection or self._connect())
            except (sqlite3.Error, OSError):
                self._failures += 1
                self._discard()
                return None
            self._failures = 0
            return result

    def add(self, connection: sqlite3.Connection, rows: Sequence[tuple[str, str, str, bytes]]) -> None:
        connection.execute("BEGIN")
        connection.executemany("INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        self._size += sum(len(sealed) for *_, sealed in rows)
        if self._size > DISK_BYTES:
            connection.execute("DELETE FROM copies WHERE rowid <= (SELECT (min(rowid) + max(rowid)) / 2 FROM copies)")
            self._size = _size_of(connection)

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            connection.executescript(_SCHEMA)
            self._size = _size_of(connection)
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                return


def _find(connection: sqlite3.Connection, key: str) -> tuple[Any, Any] | None:
    row: tuple[Any, Any] | None = connection.execute("SELECT etag, sealed FROM copies WHERE key = ?", (key,)).fetchone()
    return row


def _size_of(connection: sqlite3.Connection) -> int:
    (size,) = connection.execute("SELECT coalesce(sum(length(sealed)), 0) FROM copies").fetchone()
    return int(size)


def _sealed(copy: Copy, run_key: AESGCM) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + run_key.encrypt(nonce, copy.body, _bound_to(copy.key, copy.etag))


def _opened(row: tuple[Any, Any], run_id: str, key: str, run_key: AESGCM) -> Copy | None:
    from cryptography.exceptions import InvalidTag

    etag, sealed = row
    try:
        body = run_key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound_to(key, etag))
    except (InvalidTag, ValueError, TypeError, AttributeError):  # a damaged row may hold anything
        return None
    return Copy(run_id, key, etag, body)


def _bound_to(key: str, etag: str) -> bytes:
    return f"{key}\n{etag}".encode()
