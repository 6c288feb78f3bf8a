"""An open store: its two connections, how they are opened, and how they are let go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from stargraph.checkpoint.sqlite._connection import Connection, hand_over
from stargraph.checkpoint.sqlite._errors import is_busy, store_error
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.checkpoint.sqlite._schema import migrate, needs_migration
from stargraph.checkpoint.sqlite._writer import LOCK_ATTEMPT, Writer
from stargraph.errors import CheckpointError, StoreUnavailableError

Synchronous: TypeAlias = Literal["full", "normal"]
"""When a commit is on disk: at once, or at the next checkpoint of the write-ahead log."""

T = TypeVar("T")

_WAL_FILE_BYTES: Final = 64 * 1024 * 1024
_PAUSE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """How a store is opened.

    Attributes:
        synchronous: when a commit is on disk.
        busy_timeout: how long to wait for another connection's lock, in seconds.
        allow_network_filesystem: take the risk of a filesystem that other machines share.
    """

    synchronous: Synchronous
    busy_timeout: float
    allow_network_filesystem: bool


class Store:
    """An open store.

    Readers have a connection of their own, so that they never wait for a write.

    Args:
        files: the files of it.
        options: how it is opened.
    """

    def __init__(self, files: StoreFiles, options: Options) -> None:
        self._files = files
        self._options = options
        self._reader = Connection(self._open_reader)
        self._writing = Connection(self._open_writer)
        self._process = os.getpid()
        self._finalizer: weakref.finalize[[], object] | None = None
        self.writer: Writer

    async def open(self) -> None:
        """Make the store where there is none, migrate an older one, and connect to it.

        Raises:
            CheckpointError: it cannot be opened.
        """
        try:
            await self._reader.open()
            await self._writing.open()
            self.writer = Writer(self._writing, self._files, self._options.busy_timeout)
        except BaseException as error:
            self.abandon()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise store_error(error, self._files.path) from error
            raise

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the reader's thread.

        Args:
            query: returns what was read, and leaves no statement open.

        Raises:
            CheckpointError: the store cannot be read now.
        """

        def checked(connection: sqlite3.Connection) -> T:
            self._files.check()
            return query(connection)

        try:
            return await self._reader.run(checked)
        except sqlite3.Error as error:
            raise store_error(error, self._files.path) from error

    def ensure_own_process(self) -> None:
        """Refuse to use connections that a parent process opened.

        Raises:
            StoreUnavailableError: `reason="forked"`.
        """
        if os.getpid() != self._process:
            raise StoreUnavailableError(
                f"{self._files.path}: this checkpointer was opened before the process was forked, and SQLite's"
                " connections do not survive that",
                reason="forked",
                hint="Make a new SQLiteCheckpointer in the child and call its bootstrap().",
            )

    def belong_to(self, handle: object) -> None:
        """Close when the handle is gone or the interpreter exits, if nobody closed before.

        Args:
            handle: whose store this is.
        """
        self._finalizer = weakref.finalize(handle, self.abandon)

    def abandon(self) -> None:
        """Close without waiting; in a forked child, do nothing."""
        if os.getpid() == self._process:
            self._shut(None)

    async def close(self) -> None:
        """Close after the work that is waiting."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self.writer.post()  # what was to be written in this turn of the loop
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._shut(lambda: hand_over(loop, _finish, done))
        await done

    def _shut(self, then: Callable[[], None] | None) -> None:
        # The reader first: the last connection moves the log into the database, and only the writer can.
        self._reader.shut(lambda: self._writing.shut(then))

    def _open_reader(self) -> sqlite3.Connection:
        self._files.prepare(allow_network_filesystem=self._options.allow_network_filesystem)
        if not self._files.has_wal():
            self._refuse_untouched()
        connection = self._connect("mode=ro", self._options.busy_timeout)
        try:
            self._look_at(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _look_at(self, connection: sqlite3.Connection) -> None:
        try:
            needs_migration(connection, self._files.path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            # Whoever made the store was lost before it had a write-ahead log. Only a connection that may write
            # can roll that back.
            with contextlib.closing(self._connect("mode=rw", self._options.busy_timeout)) as writing:
                writing.execute("PRAGMA user_version").fetchall()
            needs_migration(connection, self._files.path)

    def _refuse_untouched(self) -> None:
        """Refuse a file that is not ours before SQLite makes a -wal and a -shm file beside it.

        This look takes no locks, so it counts for nothing where somebody opened the file meanwhile.
        """
        with contextlib.closing(self._connect("immutable=1", 0)) as connection:
            try:
                needs_migration(connection, self._files.path)
            except sqlite3.Error:
                return
            except CheckpointError:
                if not self._files.has_wal():
                    raise

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect("mode=rw", LOCK_ATTEMPT)
        try:
            self._patiently(lambda: _use_wal(connection, self._files.path))
            connection.execute(f"PRAGMA synchronous = {self._options.synchronous}")
            if sys.platform == "darwin":
                connection.execute("PRAGMA fullfsync = ON")
                connection.execute("PRAGMA checkpoint_fullfsync = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_FILE_BYTES}")
            if needs_migration(connection, self._files.path):
                self._patiently(lambda: migrate(connection, self._files.path))
            self._files.remember()
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, how: str, timeout: float) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._files.real_path.as_uri()}?{how}", uri=True, timeout=timeout, isolation_level=None
        )

    def _patiently(self, work: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._options.busy_timeout
        while True:
            try:
                return work()
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnavailableError(
            f"{path}: the database stays in journal mode {mode!r}: its filesystem cannot share memory",
            reason="no-wal",
            hint="Put the store on a local filesystem.",
        )
