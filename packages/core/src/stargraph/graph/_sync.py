"""Coroutines run for programs that are not async: one event loop for all of them, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

from stargraph.errors import StargraphError

T = TypeVar("T")

_THREAD: Final = "stargraph-sync"


class BackgroundLoop:
    """An event loop in a daemon thread; the first use starts it.

    So it works in a notebook, whose own loop runs already, and in any thread; what is bound to an event loop, as the
    connection of a checkpointer, is bound to this one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return what it returns; Ctrl-C cancels it, and is raised when it has stopped.

        Args:
            work: the coroutine.

        Raises:
            StargraphError: this was called on the loop itself, which would wait for itself (`reason="sync-in-async"`).
            Exception: as the coroutine raises.
        """
        loop = self._started()
        if _running_loop() is loop:
            work.close()
            raise StargraphError(
                "a sync method of a graph was called in an async node or callback, whose loop it would wait for",
                reason="sync-in-async",
                hint="Await the async method there: run = await graph.start(…); await run.start().",
            )
        future: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = loop.create_task(work)
            tasks.append(task)
            task.add_done_callback(lambda done: _hand_over(done, future))

        def stop() -> None:
            tasks[0].cancel()

        loop.call_soon_threadsafe(begin, context=contextvars.copy_context())
        try:
            return future.result()
        except BaseException:
            if not future.done():
                loop.call_soon_threadsafe(stop)
                _wait(future)
            raise

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=_THREAD, daemon=True).start()
            return self._loop

    def forget(self) -> None:
        """Start a new thread at the next use: a forked process does not have it."""
        self._lock = threading.Lock()
        self._loop = None


def _hand_over(done: asyncio.Task[T], future: Future[T]) -> None:
    if done.cancelled():
        future.set_exception(CancelledError())
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())


def _wait(future: Future[Any]) -> None:
    """Wait until the work has stopped, whatever it ends with."""
    stopped = threading.Event()
    future.add_done_callback(lambda _: stopped.set())
    stopped.wait()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


BACKGROUND: Final = BackgroundLoop()
"""The loop of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=BACKGROUND.forget)
