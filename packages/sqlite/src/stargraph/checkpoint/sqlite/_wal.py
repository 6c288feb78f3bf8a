"""The write-ahead log of an open store: its file is kept longer than the log, and its content moved or erased."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

from stargraph.checkpoint.sqlite._schema import PAGE_BYTES

_CHECKPOINT_BYTES: Final = 1024 * 1024
"""A log of this length is moved into the database. Its file is then written over, which costs no zeros ahead."""

_AHEAD_BYTES: Final = 128 * 1024
"""By how much the file of the log is made longer at a time."""

_PIECE_BYTES: Final = 4096
"""What is appended in one call. Linux keeps a longer piece as one, and writes all of it when a part has changed."""

_PAGES_PER_CHANGE: Final = 2
_PAGES_PER_COMMIT: Final = 1
"""What a commit adds to the log besides the bytes of its changes: rather more than it is."""


class WriteAheadLog:
    """The log of the connection that writes.

    Args:
        path: its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._length, self._inode = self._look()
        self._used = self._length
        self._must_erase = False

    def committed(self, *, changes: int, size: int) -> bool:
        """Take note of a commit; return whether `tidy` has something to do.

        Args:
            changes: how many changes it committed.
            size: about how many bytes they were.
        """
        self._used += (_PAGES_PER_COMMIT + _PAGES_PER_CHANGE * changes) * PAGE_BYTES + size
        return self._used >= _CHECKPOINT_BYTES or self._is_short()

    def tidy(self, connection: sqlite3.Connection) -> None:
        """Move the log into the database if it is long, else make its file longer.

        RESTART holds the write lock meanwhile. The log can then not be reset under the checkpoint, which is what
        SQLite's WAL-reset bug before 3.51.3 takes; and the WAL file is overwritten instead of made again, which
        halves the cost of a commit.

        Args:
            connection: that commits, in autocommit mode.
        """
        if self._used < _CHECKPOINT_BYTES:
            self._lengthen()
            return
        self._used = 0
        if self._must_erase:
            self.erase(connection)
            return
        with contextlib.suppress(sqlite3.Error):  # nothing is lost: the log is tried again after as many bytes
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def erase(self, connection: sqlite3.Connection) -> bool:
        """Move the log into the database and cut its file to nothing, so that no older content stays in it.

        Args:
            connection: that writes, in autocommit mode.

        Returns:
            Whether it is done; if another connection still reads or writes, it is tried again with a later commit.
        """
        self._must_erase = True
        try:
            ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError:
            return False
        if not busy:
            self._must_erase = False
            self._used = self._length = 0
        return not busy

    def _lengthen(self) -> None:
        """Keep the file longer than the log.

        A commit that makes its file longer waits for the file system's journal as well, which can double what it
        costs. The zeros read as the end of the log. They are appended, so they never overwrite what another process
        writes meanwhile.
        """
        with contextlib.suppress(OSError):  # a commit that finds no room says so itself
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) == self._inode:
                    self._length = status.st_size
                    if self._is_short():
                        self._append_zeros(descriptor)
            finally:
                os.close(descriptor)

    def _is_short(self) -> bool:
        return self._used + _AHEAD_BYTES // 2 >= self._length

    def _append_zeros(self, descriptor: int) -> None:
        end = self._length + _AHEAD_BYTES
        while self._length < end:
            self._length += os.write(descriptor, bytes(_PIECE_BYTES - self._length % _PIECE_BYTES))

    def _look(self) -> tuple[int, tuple[int, int]]:
        try:
            status = os.stat(self._path)  # noqa: PTH116
        except FileNotFoundError:
            return 0, (0, 0)
        return status.st_size, (status.st_dev, status.st_ino)
