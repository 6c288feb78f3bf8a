"""What the errors of SQLite and of the operating system mean for a caller."""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from pathlib import Path
from typing import Final

from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreUnavailableError

_WARN_AFTER: Final = 1.0
"""Writers of several processes often wait for each other for a moment; after so many seconds, it is worth a word."""

LOGGER: Final = logging.getLogger("stargraph.checkpoint.sqlite")
LOGGER.addHandler(logging.NullHandler())


def is_busy(error: Exception) -> bool:
    """Return whether another connection held a lock, so that trying again can help."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def store_error(error: Exception, path: Path) -> CheckpointError:
    """Return the error to raise for one of SQLite or of the operating system.

    Args:
        error: what was raised.
        path: the file of the store.
    """
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, OSError):
        return _system_error(error, path)
    if isinstance(error, UnicodeDecodeError):
        return _damaged_error(path, "it holds text that is not UTF-8")
    if not isinstance(error, sqlite3.Error):
        return _failed_error(path, str(error), type(error).__name__)
    code = _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return locked_error(path)
    if code == sqlite3.SQLITE_NOTADB:
        return not_a_store_error(path, "it is not a SQLite database")
    if code == sqlite3.SQLITE_CORRUPT:
        return _damaged_error(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return _disk_full_error(path)
    if code == sqlite3.SQLITE_READONLY:
        return read_only_file_error(path)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StoreUnavailableError(
            f"{path}: SQLite cannot open the file, or the -wal and -shm files that it needs beside it",
            reason="cannot-open",
            hint="Check that the directory exists and that this user may write in it; to only read the store, open it"
            " read-only: read_only=True, or ?read_only=true in a URL.",
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnavailableError(
            f"{path}: the system failed to read or write the file: {error} ({error.sqlite_errorname})",
            reason="io-error",
            hint="Check the disk and its free space, then write the same checkpoint again.",
        )
    return _failed_error(path, str(error), getattr(error, "sqlite_errorname", None) or type(error).__name__)


def _damaged_error(path: Path, complaint: str) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(
        f"{path}: the database file is damaged: {complaint}",
        reason="corrupted-store",
        hint="Copy the file and the -wal file beside it before anything else; then restore a backup, or try"
        " `sqlite3 FILE .recover`.",
    )


def locked_error(path: Path) -> StoreUnavailableError:
    """Return the error of a write that waited too long for another connection."""
    return StoreUnavailableError(
        f"{path}: another connection keeps the write lock of the database",
        reason="locked",
        hint="Look for a program that holds a transaction open on this file, such as a sqlite3 shell; then write"
        " again. busy_timeout says how long to wait.",
    )


class LockWatch:
    """Times how long one call waits for other connections, and says in the log, once, that it has waited for a second.

    Args:
        path: the file of the store.
        timeout: how long the call waits, in seconds, whatever number of locks it meets.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        now = time.monotonic()
        self._deadline = now + timeout
        self._warn_at: float | None = now + _WARN_AFTER

    @property
    def is_over(self) -> bool:
        """Whether the call has waited for long enough."""
        return time.monotonic() > self._deadline

    def waited(self) -> None:
        """Take note that an attempt found the store locked."""
        if self._warn_at is not None and time.monotonic() >= self._warn_at:
            self._warn_at = None
            LOGGER.warning(
                "%s: another connection keeps the write lock; trying again for up to %g s", self._path, self._timeout
            )


def read_only_file_error(path: Path) -> StoreUnavailableError:
    """Return the error of a store that this user cannot write to."""
    return StoreUnavailableError(
        f"{path}: the file, its directory or its filesystem is read-only",
        reason="read-only",
        hint="Give this user write permission for the file and its directory, or choose another path; to only read"
        " the store, open it read-only: read_only=True, or ?read_only=true in a URL.",
    )


def not_a_store_error(path: Path, complaint: str) -> StoreUnavailableError:
    """Return the error of a file that is something else."""
    return StoreUnavailableError(
        f"{path}: this is not a Stargraph store: {complaint}",
        reason="not-a-store",
        hint="Nothing was changed. Choose another path.",
    )


def _failed_error(path: Path, complaint: str, name: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{path}: SQLite failed: {complaint} ({name})",
        reason="store-failed",
        hint="Write the same checkpoint again; that is always safe.",
    )


def _disk_full_error(path: Path) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{path}: no space is left for it",
        reason="disk-full",
        hint="Free space on that disk (or raise the limit), then write again; what was stored is still there.",
    )


def _system_error(error: OSError, path: Path) -> StoreUnavailableError:
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full_error(path)
    if error.errno == errno.EROFS:
        return read_only_file_error(path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreUnavailableError(
            f"{path}: {where}: {error.strerror}",
            reason="permission-denied",
            hint="Give this user permission for the file and its directory, or choose another path.",
        )
    return StoreUnavailableError(
        f"{path}: {where}: {error.strerror or error}",
        reason="cannot-open",
        hint="Check the path; its directory is created if it can be.",
    )


def _primary_code(error: sqlite3.Error) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
