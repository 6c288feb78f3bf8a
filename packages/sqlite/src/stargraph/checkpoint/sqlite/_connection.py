"""aiosqlite's connection, made safe for handles that are never closed and for loops that are."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL

from stargraph.checkpoint.driver import closed_error

T = TypeVar("T")

_EXIT_WAIT: Final = 1.0
"""How long the end of a thread is awaited when the interpreter exits, in seconds."""


class Connection(aiosqlite.Connection):
    """A SQLite connection on a thread of its own, which runs one piece of work after another.

    aiosqlite hands every result to the loop that asked and dies with a traceback where that loop was
    closed; its thread keeps the interpreter alive; and a connection that was not closed prints a warning.
    So work is handed over here: any loop may ask at any time, and a loop that is gone gets no answer.

    Args:
        connector: opens the connection; runs on the thread.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._thread.daemon = True
        self._thread.name = "stargraph-sqlite"
        self._gate = threading.Lock()

    def __del__(self) -> None:
        """Say nothing; the finaliser of the handle closes."""

    @property
    def is_open(self) -> bool:
        """Whether work is taken up."""
        return self._running

    async def open(self) -> None:
        """Start the thread and connect.

        Raises:
            Exception: what the connector raised.
        """
        self._thread.start()
        weakref.finalize(self._thread, _await_end, weakref.ref(self._thread))
        await self._answer(self._open_here)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function with the connection on the thread, and return what it returns.

        A caller that is cancelled leaves at once; work that has not begun is then skipped.

        Args:
            work: what to do.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
            Exception: what `work` raised.
        """
        return await self._answer(lambda: work(self._conn))

    def post(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Have a function run on the thread, without waiting for it; it must not raise.

        Args:
            work: what to do.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
        """
        self._put(lambda: work(self._conn))

    def shut(self, then: Callable[[], None] | None = None) -> None:
        """Close the connection after the work that is waiting, and end the thread; idempotent.

        Args:
            then: what to call afterwards, on the thread.
        """
        with self._gate:
            working = self._running and self._thread.ident is not None
            self._running = False
            if working:
                self._tx.put_nowait((None, lambda: self._shut_here(then)))
        if not working and then is not None:
            then()

    async def _answer(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            if future.cancelled():
                return
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # it is raised where the answer is awaited
                hand_over(loop, _fail, future, error)
            else:
                hand_over(loop, _succeed, future, result)

        self._put(call)
        return await future

    def _put(self, work: Callable[[], None]) -> None:
        with self._gate:
            if not self._running:
                raise closed_error()
            self._tx.put_nowait((None, work))

    def _open_here(self) -> None:
        self._connection = self._connector()

    def _shut_here(self, then: Callable[[], None] | None) -> object:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        if then is not None:
            then()
        return _STOP_RUNNING_SENTINEL


def hand_over(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Have a callback run on a loop of another thread; nothing happens where that loop was closed.

    Args:
        loop: the loop.
        callback: what to call.
        args: with what.
    """
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)


def _await_end(thread: weakref.ref[threading.Thread]) -> None:
    """Let a thread finish closing when the interpreter exits; it was told to by then."""
    running = thread()
    if running is not None:
        running.join(_EXIT_WAIT)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
