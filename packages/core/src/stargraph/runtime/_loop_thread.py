"""An event loop in a thread of its own, for callers that have no event loop."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from stargraph.errors import StargraphError

T = TypeVar("T")

_END_SECONDS: Final = 5.0
"""How long `close` waits for the thread to end."""

_ALL: Final[weakref.WeakSet[LoopThread]] = weakref.WeakSet()


class LoopThread:
    """Runs coroutines for callers that have no event loop, on one loop in a daemon thread; the first use starts it.

    So it works in a notebook, whose own loop runs already, in any thread, and in a forked process. What is bound to an
    event loop, as the connection of a checkpointer, is bound to this one.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: Callable[[], None] = lambda: None
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._is_halted = False
        _ALL.add(self)

    @property
    def has_started(self) -> bool:
        """Whether a thread runs."""
        return self._loop is not None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return what it returns; Ctrl-C cancels it, and is raised when it has stopped.

        Args:
            work: the coroutine.

        Raises:
            StargraphError: this was called on the loop itself, which would wait for itself (`reason="sync-in-async"`).
            CancelledError: the thread was closed meanwhile.
            SystemExit: this is a daemon thread, and the process exits.
            Exception: as the coroutine raises.
        """
        if self.has_started and running_loop() is self._loop:
            work.close()
            raise StargraphError(
                "a sync method was called in an async node or callback, whose loop it would wait for",
                reason="sync-in-async",
                hint="Await the async method there, as in: run = await graph.start(…); await run.start().",
            )
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(work)
            tasks.append(task)
            task.add_done_callback(partial(_hand_over, future))

        def stop() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # interrupted before it was handed over
                work.close()
                future.set_exception(concurrent.futures.CancelledError())

        loop: asyncio.AbstractEventLoop | None = None
        try:
            # One lock for this and for `close`: what is handed over before the end is begun, and then cancelled.
            with self._lock:
                loop = self._started()
                self._waiting.add(future)
                try:
                    loop.call_soon_threadsafe(begin)
                except RuntimeError:
                    loop = None
                    raise
            return future.result()
        except BaseException:
            if loop is None:
                work.close()
            elif not future.done():
                # Whenever Ctrl-C comes, the loop is asked: it may have begun, and nobody else may close what runs.
                with contextlib.suppress(RuntimeError):  # closed meanwhile, which cancels it too
                    loop.call_soon_threadsafe(stop)
                concurrent.futures.wait([future])
            raise
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """Cancel what runs, and end the thread; the next `run` starts another one."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
            if loop is not None:
                loop.call_soon_threadsafe(self._end)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_END_SECONDS)

    def halt(self) -> None:
        """Let nothing run any more, as if the process had been killed; whoever waits for it gets a SystemExit."""
        with self._lock:
            self._is_halted = True
            loop, self._loop, self._thread = self._loop, None, None
            waiting = list(self._waiting)
        if loop is None or running_loop() is loop:
            return
        halted = threading.Event()

        def block() -> None:
            halted.set()
            threading.Event().wait()

        with contextlib.suppress(RuntimeError):  # closed meanwhile
            loop.call_soon_threadsafe(block)
            halted.wait(_END_SECONDS)
        for future in waiting:  # it ends its daemon thread silently; somebody may join that thread
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(SystemExit())

    def forget(self) -> None:
        """Start a new thread at the next use: a forked process does not have this one."""
        self._lock = threading.Lock()
        self._loop = self._thread = None
        self._waiting = set()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._is_halted and threading.current_thread().daemon:
            raise SystemExit
        if self._loop is None:
            loop = asyncio.new_event_loop()
            may_end = threading.Event()

            def end() -> None:
                may_end.set()
                loop.stop()

            thread = threading.Thread(target=_serve, args=(loop, may_end), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads
                loop.close()
                raise
            self._loop, self._thread, self._end = loop, thread, end
        return self._loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None if none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _serve(loop: asyncio.AbstractEventLoop, may_end: threading.Event) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        while not may_end.is_set():
            # What a task raises of these, asyncio passes on to whoever runs the loop, which then forgets that it was to
            # stop. It is for those who await the task: the other tasks go on.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                runner.get_loop().run_forever()


def _hand_over(future: concurrent.futures.Future[T], done: asyncio.Task[T]) -> None:
    if future.done():  # halted
        return
    if done.cancelled():
        future.set_exception(concurrent.futures.CancelledError())
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())


def _halt_all() -> None:
    for each in list(_ALL):
        each.halt()


def _forget_all() -> None:
    for each in list(_ALL):
        each.forget()


# Daemon threads go on while the interpreter exits: their runs would fail, with tracebacks, in stores closed under them.
# What is registered last runs first: this before the finalizers, which close stores, and whose exit handler the first
# finalizer registers.
weakref.finalize(_ALL, bool)
atexit.register(_halt_all)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
