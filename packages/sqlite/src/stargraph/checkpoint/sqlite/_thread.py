"""A SQLite connection on aiosqlite's thread, safe for handles that are never closed and for loops that are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

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


class _Inbox:
    """The work that waits for a thread, as aiosqlite's thread takes it from its queue.

    The thread sleeps in a read of a pipe. A write to a pipe gives the interpreter's lock away before it wakes the
    reader. A queue wakes its reader while the lock is held: the thread then wakes, waits for the lock and wakes again,
    on the way of every single commit.
    """

    def __init__(self) -> None:
        self._items: deque[Callable[[], object]] = deque()
        self._is_read = False
        self._reading, self._writing = os.pipe()
        if hasattr(os, "set_blocking"):  # Windows lacks it before Python 3.12: a full pipe then waits for the thread
            os.set_blocking(self._writing, False)

    def put(self, work: Callable[[], object]) -> None:
        """Add work; not to be called by two threads at once."""
        self._items.append(work)
        if self._is_read:
            self._is_read = False
            with contextlib.suppress(BlockingIOError):  # it is full, and so wakes the thread
                os.write(self._writing, b"\0")

    def get(self) -> tuple[None, Callable[[], object]]:
        """Wait for work; aiosqlite's thread calls it, and answers to no loop if the first member is None."""
        while not self._items:
            self._is_read = True
            if not self._items:  # what is added from now on writes to the pipe
                os.read(self._reading, 64)
        return None, self._items.popleft()

    def close(self) -> None:
        """Close the pipe; nothing may be put any more."""
        os.close(self._reading)
        os.close(self._writing)


class _Worker(NamedTuple):
    """What runs work in the way of a connection of aiosqlite.

    Attributes:
        thread: not started yet; it must be started, and stopped.
        put: has the thread call a function, after those that were put before; from one thread at a time.
        stop: the thread ends once a function returns this.
    """

    thread: threading.Thread
    put: Callable[[Callable[[], object]], None]
    stop: object


def _new_worker() -> _Worker:
    """Return what aiosqlite runs a connection with, which it keeps to itself, on an inbox of ours.

    aiosqlite's own methods hand each result to the loop that asked; its thread dies with a traceback if that loop
    was closed, and keeps the interpreter alive. Hence this, the only use of its private names;
    tests/sqlite/test_sqlite_thread.py fails if they change.
    """
    inbox = _Inbox()
    take_work: Callable[[Any], object] = core._connection_worker_thread

    def run() -> None:
        try:
            take_work(inbox)
        finally:
            inbox.close()

    return _Worker(threading.Thread(target=run, name=THREAD_NAME, daemon=True), inbox.put, core._STOP_RUNNING_SENTINEL)


class _Answer(asyncio.Future[T]):
    """The result of work on a thread. Who waits for it goes on in the very call that sets it.

    A future that asyncio makes schedules those calls, which takes another turn of the loop.

    Args:
        loop: of the task that waits.
        withdraw: called at the first cancellation of that task. The task still waits for the result, and
            gets its CancelledError with it; a second cancellation does not wait. If None, the first one does not wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, withdraw: Callable[[], None] | None) -> None:
        super().__init__(loop=loop)
        self._withdraw = withdraw
        self._waiting: list[tuple[Callable[[Any], object], Context]] = []

    def add_done_callback(self, callback: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        if self.done():
            super().add_done_callback(callback, context=context)
        else:
            self._waiting.append((callback, copy_context() if context is None else context))

    def remove_done_callback(self, callback: Callable[[Self], object], /) -> int:
        kept = [entry for entry in self._waiting if entry[0] != callback]
        removed = len(self._waiting) - len(kept)
        self._waiting = kept
        return removed

    def succeed(self, result: T) -> None:
        """Set the result, on the loop's own thread and outside of any task."""
        if not self.done():
            self.set_result(result)
            self._call_back()

    def fail(self, error: BaseException) -> None:
        """Set the error, likewise."""
        if not self.done():
            self.set_exception(error)
            self._call_back()

    def cancel(self, msg: object | None = None) -> bool:
        """Return False the first time, if the work can be withdrawn: the task gets its error when it goes on."""
        withdraw, self._withdraw = self._withdraw, None
        if withdraw is not None and not self.done():
            withdraw()
            return False
        if not super().cancel(msg):
            return False
        for callback, context in self._waiting:
            self.get_loop().call_soon(callback, self, context=context)
        return True

    def _call_back(self) -> None:
        for callback, context in self._waiting:
            context.run(callback, self)


class ConnectionThread(Generic[C]):
    """A connection, and the thread that runs one piece of work after another with it.

    Any loop may ask at any time; a loop that was closed meanwhile gets no answer. The thread starts and connects with
    the first work, or before it by `open`.

    Args:
        connect: opens the connection; called on the thread. If it raises, the next work calls it again.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        self._worker: _Worker | None = None
        self._connect = connect
        self._connection: C | None = None
        self._gate = threading.Lock()
        self._using = threading.Lock()
        self._is_shut = False
        # Not with the start of the thread: when the interpreter exits, the latest finalizer runs first, and that must
        # be the one of the handle, which asks the thread to end.
        weakref.finalize(self, _await_end, weakref.ref(self))

    async def open(self) -> None:
        """Start the thread and connect.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
            Exception: what `connect` raised.
        """
        await self.submit(lambda _: None)

    async def run(self, work: Callable[[C], T]) -> T:
        """Run a function with the connection on the thread, and return its result.

        A caller that is cancelled leaves at once; work that has not begun is then skipped.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
            Exception: what `connect` or `work` raised.
        """
        return await self.submit(work)

    def run_here(self, work: Callable[[C], T]) -> T | None:
        """Run a function with the connection on the thread of the caller, if that is not in use.

        Only for what takes microseconds: a switch to the thread and back takes far longer then.

        Args:
            work: leaves nothing open in the connection, which must allow the use by several threads in turn.

        Returns:
            None if the connection is not open, or is in use.
        """
        if not self._using.acquire(blocking=False):
            return None
        try:
            return None if self._connection is None else work(self._connection)
        finally:
            self._using.release()

    def submit(
        self,
        work: Callable[[C], T],
        afterwards: Callable[[C], None] | None = None,
        withdraw: Callable[[], None] | None = None,
    ) -> asyncio.Future[T]:
        """Have a function run with the connection on the thread, and return the future of its result.

        Args:
            work: it is skipped if the future is cancelled before it begins.
            afterwards: what to do once the result is handed over, unless there is no connection; it must not raise.
            withdraw: called if the task that awaits the future is cancelled; that task then waits for the result all
                the same, unless it is cancelled again.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
        """
        loop = asyncio.get_running_loop()
        answer: _Answer[T] = _Answer(loop, withdraw)

        def call() -> None:
            if answer.cancelled():
                return
            try:
                with self._using:
                    if self._connection is None:
                        self._connection = self._connect()
                    result = work(self._connection)
            except BaseException as error:  # noqa: BLE001  # it is raised where the answer is awaited
                hand_over(loop, answer.fail, error)
            else:
                hand_over(loop, answer.succeed, result)
            if afterwards is not None:
                with self._using:
                    if self._connection is not None:
                        afterwards(self._connection)

        with self._gate:
            if self._is_shut:
                raise closed_error()
            if self._worker is None:
                worker = _new_worker()
                worker.thread.start()
                self._worker = worker
            self._worker.put(call)
        return answer

    def shut(self, then: Callable[[], None] | None = None) -> None:
        """Close the connection after the work that is waiting, and end the thread; idempotent.

        Args:
            then: called afterwards, on the thread.
        """
        with self._gate:
            worker = None if self._is_shut else self._worker
            self._is_shut = True
            if worker is not None:
                stop = worker.stop
                worker.put(lambda: self._close(then, stop))
        if worker is None and then is not None:
            then()

    def await_end(self) -> None:
        """Give the thread, which was asked to end, a moment to close its connection."""
        if self._worker is not None:
            self._worker.thread.join(_EXIT_WAIT)

    def _close(self, then: Callable[[], None] | None, stop: object) -> object:
        """Close the connection, and return what makes the thread end."""
        with self._using:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        if then is not None:
            then()
        return stop


def hand_over(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Have a callback run on a loop of another thread; nothing happens if that loop was closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)


def _await_end(thread: weakref.ref[ConnectionThread[Any]]) -> None:
    """Wait for a thread when the interpreter exits, but not when nobody holds it any more."""
    held = thread()
    if held is not None:
        held.await_end()
