"""An event loop in a thread of its own, where a handle does its I/O.

Whatever a program does with its own event loops and their thread pools, requests go on here: name resolution, hashing,
decoding and the parsing of answers neither wait for the program's threads nor hold up its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from stargraph.checkpoint.driver import closed_error
from stargraph.checkpoint.s3._concurrency import CANCEL_SECONDS

Result = TypeVar("Result")

_IO_WORKERS: Final = 4  # name resolution, and reading the files that are uploaded
_EXIT_SECONDS: Final = 10.0


class IOThread:
    """Runs coroutines of any event loop on one loop. The first `run` starts the thread.

    Args:
        cleanup: what to await in the thread before it ends.
    """

    def __init__(self, cleanup: Callable[[], Awaitable[None]]) -> None:
        self._cleanup = cleanup
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of a coroutine that runs in the thread.

        Cancelling the caller cancels the coroutine and waits until it has ended.

        Raises:
            CheckpointError: the thread was closed before the coroutine ended (`reason="closed"`).
        """
        here = asyncio.get_running_loop()
        outcome: asyncio.Future[Result] = here.create_future()
        outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
        context = contextvars.copy_context()
        task: asyncio.Task[Result] | None = None

        def begin() -> None:
            nonlocal task
            task = loop.create_task(work, context=context)
            self._tasks.add(task)
            task.add_done_callback(end)

        def end(done: asyncio.Task[Result]) -> None:
            self._tasks.discard(done)
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                here.call_soon_threadsafe(self._report, done, outcome)

        def cancel() -> None:
            if task is not None:
                task.cancel()

        try:
            # One lock for this and for `stop`: what is handed over before the end is begun, and then cancelled.
            with self._lock:
                loop = self._started()
                loop.call_soon_threadsafe(begin)
        except BaseException:
            work.close()
            raise
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(cancel)
            await asyncio.wait([outcome], timeout=CANCEL_SECONDS + 1)
            raise

    async def close(self) -> None:
        """Cancel what runs, clean up, and end the thread; idempotent."""
        thread = self.stop()
        # Polled: the thread reports to no loop, which may be closed by then, and ends within milliseconds.
        while thread is not None and thread.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def stop(self) -> threading.Thread | None:
        """Begin to end the thread, from any thread; return it, or None if it does not run."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            if loop is None or thread is None:
                return None
            loop.call_soon_threadsafe(loop.stop)
            return thread

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise closed_error()
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(_handle_unretrieved)
            self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="stargraph-s3", daemon=True)
            self._thread.start()
        return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.set_default_executor(ThreadPoolExecutor(_IO_WORKERS, thread_name_prefix="stargraph-s3-io"))
        try:
            loop.run_forever()
            loop.run_until_complete(self._end())
        finally:
            loop.close()

    async def _end(self) -> None:
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._cleanup()

    def _report(self, done: asyncio.Task[Result], outcome: asyncio.Future[Result]) -> None:
        if outcome.done():
            return
        if done.cancelled():
            if self._closed:
                outcome.set_exception(closed_error())
            else:
                outcome.cancel()
        elif (error := done.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(done.result())


def _handle_unretrieved(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what nobody awaits on this loop, unless a connection was lost.

    In an outage aiohttp 3.14 leaves behind the task with which it sends a request on a connection that is closing. The
    request itself fails too, and is judged and logged where it is awaited.
    """
    if "future" not in context or not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


def stop_unclosed(thread: IOThread) -> None:
    """End the thread of a handle that nobody closed; for `weakref.finalize`."""
    ending = thread.stop()
    # At the exit of the process only: the thread would be killed in the middle of closing its connections.
    if ending is not None and not threading.main_thread().is_alive():
        ending.join(_EXIT_SECONDS)
