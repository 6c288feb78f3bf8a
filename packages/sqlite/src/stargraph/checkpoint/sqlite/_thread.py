"""A SQLite connection on aiosqlite's thread, safe for handles that are never closed and for loops that are."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import aiosqlite
from aiosqlite import core

from stargraph.checkpoint.driver import closed_error

THREAD_NAME: Final = "stargraph-sqlite"

_EXIT_WAIT: Final = 1.0
"""How long a thread may take to close its connection when the interpreter exits, in seconds."""


class Closable(Protocol):
    def close(self) -> None: ...


class Thread(Protocol):
    """A thread with any kind of connection."""

    async def open(self) -> None: ...

    def shut(self, then: Callable[[], None] | None = None) -> None: ...


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


class _Worker(NamedTuple):
    """What a connection of aiosqlite runs its work with.

    Attributes:
        thread: not started yet.
        put: has the thread call a function, after those that were put before.
        stop: the thread ends once a function returns this.
    """

    thread: threading.Thread
    put: Callable[[Callable[[], object]], None]
    stop: object


def _worker_of(connection: aiosqlite.Connection) -> _Worker:
    """Return the worker of a connection, which aiosqlite keeps to itself.

    aiosqlite's own methods hand each result to the loop that asked; its thread dies with a traceback if that loop
    was closed, and keeps the interpreter alive. Hence this, the only use of its private names;
    tests/sqlite/test_sqlite_thread.py fails if they change.
    """
    queue = connection._tx
    return _Worker(connection._thread, lambda work: queue.put_nowait((None, work)), core._STOP_RUNNING_SENTINEL)


class _Settled(asyncio.Future[T]):
    """A result whose waiting task is cancelled only once it is there; a second cancellation does not wait for it.

    A shield does the same by a second future, which costs a turn of the loop.

    Args:
        loop: of the task that waits.
        withdraw: called at the first cancellation.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, withdraw: Callable[[], None]) -> None:
        super().__init__(loop=loop)
        self._withdraw: Callable[[], None] | None = withdraw

    def cancel(self, msg: object | None = None) -> bool:
        """Return False the first time: the task then gets its CancelledError when it goes on."""
        withdraw, self._withdraw = self._withdraw, None
        if withdraw is None or self.done():
            return super().cancel(msg)
        withdraw()
        return False


class ConnectionThread(Generic[C]):
    """A connection, and the thread that runs one piece of work after another with it.

    Any loop may ask at any time; a loop that was closed meanwhile gets no answer.

    Args:
        connect: opens the connection; called on the thread.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        def unused() -> sqlite3.Connection:
            raise NotImplementedError

        # aiosqlite would open the connection by an answer to one loop, and warn of each that nobody closed.
        self._worker = _worker_of(aiosqlite.Connection(unused, iter_chunk_size=64))
        self._worker.thread.daemon = True
        self._worker.thread.name = THREAD_NAME
        self._connect = connect
        self._connection: C | None = None
        self._gate = threading.Lock()
        self._is_open = False

    async def open(self) -> None:
        """Start the thread and connect.

        Raises:
            Exception: what `connect` raised.
        """

        def connect() -> None:
            self._connection = self._connect()

        self._is_open = True
        self._worker.thread.start()
        weakref.finalize(self._worker.thread, _await_end, weakref.ref(self._worker.thread))
        await self._submit(connect)

    async def run(self, work: Callable[[C], T]) -> T:
        """Run a function with the connection on the thread, and return its result.

        A caller that is cancelled leaves at once; work that has not begun is then skipped.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
            Exception: what `work` raised.
        """
        return await self.submit(work)

    def submit(
        self,
        work: Callable[[C], T],
        afterwards: Callable[[C], None] | None = None,
        withdraw: Callable[[], None] | None = None,
    ) -> asyncio.Future[T]:
        """Have a function run with the connection on the thread, and return the future of its result.

        Args:
            work: it is skipped if the future is cancelled before it begins.
            afterwards: what to do once the result is handed over; it must not raise.
            withdraw: called if the task that awaits the future is cancelled; that task then waits for the result all
                the same, unless it is cancelled again.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
        """
        return self._submit(
            lambda: work(self._connected()),
            None if afterwards is None else lambda: afterwards(self._connected()),
            withdraw,
        )

    def shut(self, then: Callable[[], None] | None = None) -> None:
        """Close the connection after the work that is waiting, and end the thread; idempotent.

        Args:
            then: called afterwards, on the thread.
        """
        with self._gate:
            was_open, self._is_open = self._is_open, False
            if was_open:
                self._worker.put(lambda: self._close(then))
        if not was_open and then is not None:
            then()

    def _connected(self) -> C:
        assert self._connection is not None
        return self._connection

    def _submit(
        self,
        work: Callable[[], T],
        afterwards: Callable[[], None] | None = None,
        withdraw: Callable[[], None] | None = None,
    ) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future() if withdraw is None else _Settled(loop, withdraw)

        def call() -> None:
            if future.cancelled():
                return
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # it is raised where the answer is awaited
                hand_over(loop, _fail, future, error)
            else:
                hand_over(loop, _succeed, future, result)
            if afterwards is not None:
                afterwards()

        with self._gate:
            if not self._is_open:
                raise closed_error()
            self._worker.put(call)
        return future

    def _close(self, then: Callable[[], None] | None) -> object:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        if then is not None:
            then()
        return self._worker.stop


def hand_over(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Have a callback run on a loop of another thread; nothing happens if that loop was closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)


def _await_end(thread: weakref.ref[threading.Thread]) -> None:
    """Let a thread finish closing when the interpreter exits; it was asked to by then."""
    running = thread()
    if running is not None:
        running.join(_EXIT_WAIT)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
