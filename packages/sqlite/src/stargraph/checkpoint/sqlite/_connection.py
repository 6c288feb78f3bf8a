"""An open store: its connections, how they are opened, and how they are let go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from stargraph.checkpoint.driver import DamagedRun
from stargraph.checkpoint.sqlite._errors import LockWatch, is_busy, store_error
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.checkpoint.sqlite._options import Options
from stargraph.checkpoint.sqlite._read_only import ReadOnlyFile
from stargraph.checkpoint.sqlite._schema import MIGRATIONS, PAGE_BYTES, migrate, stored_version
from stargraph.checkpoint.sqlite._thread import ConnectionThread, Thread, hand_over
from stargraph.checkpoint.sqlite._writer import LOCK_ATTEMPT, Writer
from stargraph.errors import StoreUnavailableError

T = TypeVar("T")

_WAL_FILE_BYTES: Final = 64 * 1024 * 1024
_READ_CACHE_KIB: Final = 8 * 1024
"""How much the reader keeps of the file, at most. With SQLite's 2 MiB, the small pages are read from the system again
and again."""

_PAUSE: Final = 0.01
_MAX_TIMEOUT: Final = 2**31 - 1
"""Milliseconds, an int of C."""


_FAULTS: Final = (sqlite3.Error, OSError, UnicodeDecodeError)
"""What reading a store may raise; the last one if a damaged file makes SQLite's own message unreadable."""


class OpenStore:
    """What every open store has: threads with connections, and the process that opened them.

    Args:
        files: of the store.
        threads: in the order in which they are shut; the first one is the reader's.

    Attributes:
        damaged: the runs that the latest claim left out.
    """

    def __init__(self, files: StoreFiles, *threads: Thread) -> None:
        self._files = files
        self._threads = threads
        self._process = os.getpid()
        self.damaged: tuple[DamagedRun, ...] = ()
        self._finalizer: weakref.finalize[[], object] | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            CheckpointError: the store cannot be opened.
        """
        try:
            await self._open()
        except BaseException as error:
            self.abandon()
            if isinstance(error, _FAULTS):
                raise store_error(error, self._files.path) from error
            raise

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the thread of the reader.

        Args:
            query: returns what was read, and leaves no statement open.

        Raises:
            CheckpointError: the store cannot be read now.
        """
        try:
            return await self._read(query)
        except _FAULTS as error:
            raise store_error(error, self._files.path) from error

    def read_here(self, query: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run a query on the thread of the caller, if nothing is in its way.

        Args:
            query: reads a few pages, and leaves no statement open.

        Returns:
            None if it could not be run here: `read` runs it, or says why not.
        """
        return None

    def close_with(self, handle: object) -> None:
        """Close when the handle is gone or the interpreter exits, unless somebody closes it before."""
        self._finalizer = weakref.finalize(handle, self.abandon)

    def abandon(self) -> None:
        """Close without waiting; in a forked child, do nothing."""
        if os.getpid() == self._process:
            _shut(self._threads, None)

    async def close(self) -> None:
        """Close after the work that is waiting."""
        if self._finalizer is not None:
            self._finalizer.detach()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        _shut(self._threads, lambda: hand_over(loop, _finish, done))
        await done

    async def _open(self) -> None:
        await self._threads[0].open()

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        raise NotImplementedError


class ReadOnlyStore(OpenStore):
    """An open store that is never written to.

    Args:
        files: of the store.
        options: how it is opened.
    """

    def __init__(self, files: StoreFiles, options: Options) -> None:
        self._reader = ConnectionThread(lambda: ReadOnlyFile.open(files, options))
        super().__init__(files, self._reader)

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await self._reader.run(lambda file: file.read(query))


class Store(OpenStore):
    """An open store.

    Readers have a connection of their own, so that they never wait for a write. That of the writer opens with the first
    change: a process that only reads needs no more than one thread and one connection.

    Args:
        files: of the store.
        options: how it is opened.
    """

    writer: Writer

    def __init__(self, files: StoreFiles, options: Options) -> None:
        self._options = options
        self._is_ready = False
        self._opening: LockWatch | None = None
        self._is_patient = False  # the reader waits for locks
        self._reader = ConnectionThread(self._open_reader)
        self._writing = ConnectionThread(self._open_writer)
        super().__init__(files, self._reader, self._writing)
        self.writer = Writer(self._writing, files, options.busy_timeout)

    async def _open(self) -> None:
        """Make the store if there is none, migrate an older one, and connect to it."""
        self._opening = self._watch()
        await super()._open()
        if not self._is_ready:
            await self._writing.open()
        self._opening = None

    async def close(self) -> None:
        """Close after the work that is waiting."""
        try:
            await self.writer.drain()
        finally:
            await super().close()

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def checked(connection: sqlite3.Connection) -> T:
            self._files.check()
            self._wait_for_locks(connection, patient=True)
            return query(connection)

        return await self._reader.run(checked)

    def read_here(self, query: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._options.allow_network_filesystem:
            return None  # a page may take long to come

        def at_once(connection: sqlite3.Connection) -> T:
            self._files.check()
            self._wait_for_locks(connection, patient=False)
            return query(connection)

        try:
            return self._reader.run_here(at_once)
        except _FAULTS:
            return None

    def _wait_for_locks(self, connection: sqlite3.Connection, *, patient: bool) -> None:
        """Let the reader wait for the locks of others as long as its user has said, or not at all."""
        if patient != self._is_patient:  # it mostly stays what it is, and each statement takes microseconds
            seconds = self._options.busy_timeout if patient else 0
            connection.execute(f"PRAGMA busy_timeout = {min(int(1000 * seconds), _MAX_TIMEOUT)}")
            self._is_patient = patient

    def _open_reader(self) -> sqlite3.Connection:
        self._files.prepare(allow_network_filesystem=self._options.allow_network_filesystem)
        self._refuse_to_recover()
        # It may write, so that it moves the log into the database if it is the last one to close, and recovers what a
        # lost process has left; no statement of it may.
        connection = self._connect("mode=rw", LOCK_ATTEMPT)
        try:
            connection.execute("PRAGMA query_only = ON")
            self._flush_fully(connection)
            self._retry_while_locked(lambda: self._look(connection), self._opening or self._watch())
            self._is_patient = False
            self._wait_for_locks(connection, patient=True)
        except BaseException:
            connection.close()
            raise
        return connection

    def _look(self, connection: sqlite3.Connection) -> None:
        """Check what the file is, and whether its tables can be used as they are; each statement may meet a lock."""
        version = stored_version(connection, self._files.path)
        connection.execute(f"PRAGMA cache_size = {-_READ_CACHE_KIB}")  # reads the schema
        # A store that a program has taken out of write-ahead logging has no log now.
        if version == max(MIGRATIONS) and self._files.wal_path.exists():
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 0")  # which reads, and checks, all definitions
            self._files.remember()
            self._is_ready = True

    def _refuse_to_recover(self) -> None:
        """Refuse a file that is not ours before a connection that may write moves its log into it, or rolls it back."""
        if self._files.wal_path.exists():
            how = "mode=ro"
        elif self._files.journal_path.exists():
            how = "immutable=1"  # which reads the file as it is; nothing else does before a transaction is rolled back
        else:
            return
        with contextlib.closing(self._connect(how, LOCK_ATTEMPT)) as connection:
            try:
                stored_version(connection, self._files.path)
            except sqlite3.Error:
                return  # the connection that may write meets it too, and waits for what goes away

    def _open_writer(self) -> sqlite3.Connection:
        try:
            if self._is_ready:
                self._files.check()  # else another file could be made a store
            return self._connect_writer()
        except _FAULTS as error:
            raise store_error(error, self._files.path) from error

    def _connect_writer(self) -> sqlite3.Connection:
        watch = self._opening or self._watch()
        connection = self._connect("mode=rw", LOCK_ATTEMPT)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that is still empty
            self._retry_while_locked(lambda: _use_wal(connection, self._files.path), watch)
            connection.execute(f"PRAGMA synchronous = {self._options.synchronous}")
            self._flush_fully(connection)
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_FILE_BYTES}")
            version = self._retry_while_locked(lambda: stored_version(connection, self._files.path), watch)
            if version < max(MIGRATIONS):
                self._retry_while_locked(lambda: migrate(connection, self._files.path), watch)
            if self._is_ready:
                self._files.check()
            else:
                self._files.remember()
                self._is_ready = True
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _flush_fully(connection: sqlite3.Connection) -> None:
        """Have macOS empty the disk's own cache too, which fsync leaves to its devices."""
        if sys.platform == "darwin":
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")

    def _connect(self, how: str, timeout: float) -> sqlite3.Connection:
        # A ConnectionThread lets one thread use it at a time.
        return sqlite3.connect(
            f"{self._files.real_path.as_uri()}?{how}",
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
        )

    def _watch(self) -> LockWatch:
        """Begin to time how long a call waits for locks."""
        return LockWatch(self._files.path, self._options.busy_timeout)

    @staticmethod
    def _retry_while_locked(work: Callable[[], T], watch: LockWatch) -> T:
        while True:
            try:
                return work()
            except sqlite3.Error as error:
                if not is_busy(error) or watch.is_over:
                    raise
            watch.waited()
            time.sleep(_PAUSE)


def _shut(threads: tuple[Thread, ...], then: Callable[[], None] | None) -> None:
    """Shut threads one after the other."""
    if threads:
        threads[0].shut(lambda: _shut(threads[1:], then))
    elif then is not None:
        then()


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
