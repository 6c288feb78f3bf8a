"""Reading a store without writing a byte, and without leaving a file beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from stargraph.checkpoint.driver import no_store_error
from stargraph.checkpoint.sqlite._errors import is_busy, locked_error, not_a_store_error
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.checkpoint.sqlite._options import Options
from stargraph.checkpoint.sqlite._schema import check_to_read

if TYPE_CHECKING:
    import tempfile

T = TypeVar("T")

_PAUSE: Final = 0.01

_PASSING: Final = (sqlite3.SQLITE_READONLY_CANTINIT, sqlite3.SQLITE_READONLY_RECOVERY, sqlite3.SQLITE_READONLY_CANTLOCK)

_NEVER_CLOSED: Final[list[sqlite3.Connection]] = []
"""Connections without locks that were to be closed while another connection was open. On POSIX systems, that would
drop the locks which this process has on the file."""


class _Status(NamedTuple):
    device: int
    inode: int
    size: int
    changed_at: int


class _Stamp(NamedTuple):
    """What the files of a store are like at a time; None for one that does not exist."""

    database: _Status | None
    wal: _Status | None
    shm: _Status | None
    journal: _Status | None

    @property
    def is_shared(self) -> bool:
        """Whether there are a log and its index."""
        return self.wal is not None and self.shm is not None and self.shm.size > 0

    @property
    def has_log(self) -> bool:
        """Whether there is a log with content."""
        return self.wal is not None and self.wal.size > 0

    @property
    def has_journal(self) -> bool:
        """Whether a change was begun by somebody who did not use a write-ahead log."""
        return self.journal is not None and self.journal.size > 0


class ReadOnlyFile:
    """The files of a store, read in the way that they allow.

    - Somebody has the store open, or was lost while it had: the write-ahead log and its index in shared memory are
      there, and SQLite reads them without changing them (`readonly_shm`).
    - Nobody has it open: there is no log, and the database file does not change, so SQLite reads that alone
      (`immutable`). Without that, it would make a log and an index.
    - There is a log but no index, as in a copy of the two files: SQLite cannot read that without making an index.
      So both are copied to a private temporary directory, and read there.

    In the last two cases no lock keeps others from writing. So each read looks whether the files are still what they
    were before it; if not, it is done again, in the way that they allow then.

    Args:
        files: of the store.
        options: how it is opened.
    """

    def __init__(self, files: StoreFiles, options: Options) -> None:
        self._files = files
        self._options = options
        self._connection: sqlite3.Connection | None = None
        self._connected_at: _Stamp | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def open(cls, files: StoreFiles, options: Options) -> ReadOnlyFile:
        """Return the files of a store that can be read.

        Raises:
            CheckpointError: they cannot be read, or are not a store of a known format.
            sqlite3.Error: likewise.
        """
        file = cls(files, options)
        try:
            file.read(lambda connection: check_to_read(connection, files.path))
        except BaseException:
            file.close()
            raise
        return file

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on a state of the store that nobody changes meanwhile.

        Args:
            query: returns what was read, and leaves no statement open.

        Raises:
            CheckpointError: the store is gone.
            sqlite3.Error: it cannot be read.
        """
        deadline = time.monotonic() + self._options.busy_timeout
        while True:
            stamp = self._stamp()
            try:
                found = self._read_shared(query) if stamp.is_shared else query(self._unlocked_connection(stamp))
            except (sqlite3.Error, OSError) as error:
                if self._stamp() == stamp and not _may_pass(error):
                    raise
                failure: Exception = error
            else:
                if stamp.is_shared or self._stamp() == stamp:
                    return found
                failure = locked_error(self._files.path)
            if time.monotonic() > deadline:
                raise failure
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Let go of the files."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._copy is None and os.name == "posix" and self._files.shm_path.exists():
                _NEVER_CLOSED.append(connection)
            else:
                connection.close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def _read_shared(self, query: Callable[[sqlite3.Connection], T]) -> T:
        # Opened for each read: a connection that stays would keep the last writer from removing the log.
        self.close()
        if not self._options.allow_network_filesystem:
            self._files.refuse_network_filesystem()
        with contextlib.closing(_connect(self._files.real_path, "mode=ro&readonly_shm=1")) as connection:
            return query(connection)

    def _unlocked_connection(self, stamp: _Stamp) -> sqlite3.Connection:
        """Return a connection without locks, which reads the files as they were at a time."""
        if self._connection is None or self._connected_at != stamp:
            self.close()
            if stamp.has_journal:
                self._connection = _connect(self._files.real_path, "mode=ro")
            elif stamp.has_log:
                self._connection = self._connect_to_copy()
            else:
                self._connection = _connect(self._files.real_path, "immutable=1")
            self._connected_at = stamp
        return self._connection

    def _connect_to_copy(self) -> sqlite3.Connection:
        # Few stores need them, and the import of the driver would take a twentieth longer.
        import shutil
        import tempfile

        # Nobody has the files open, so that opening and closing them here drops no locks.
        self._copy = tempfile.TemporaryDirectory(prefix="stargraph-")
        copy = Path(self._copy.name) / "copy.sqlite"
        shutil.copyfile(self._files.real_path, copy)
        shutil.copyfile(self._files.wal_path, f"{copy}-wal")
        return _connect(copy, "mode=rw")

    def _stamp(self) -> _Stamp:
        self._files.refuse_what_is_no_file()
        real = self._files.real_path
        stamp = _Stamp(*(_status(f"{real}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")))
        if stamp.database is None:
            raise no_store_error(str(self._files.path))
        if stamp.database.size == 1:
            # SQLite takes such a file for an empty one.
            raise not_a_store_error(self._files.path, "it is not a SQLite database")
        return stamp


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=0, isolation_level=None, check_same_thread=False)


def _status(path: str) -> _Status | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # Path.stat costs several times as much
    except FileNotFoundError:
        return None
    return _Status(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _may_pass(error: Exception) -> bool:
    """Return whether another process may just be at work on the files, so that a read can succeed a little later."""
    return is_busy(error) or getattr(error, "sqlite_errorcode", None) in _PASSING
