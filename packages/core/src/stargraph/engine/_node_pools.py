"""Where user code runs that is not async: threads of its own, a pool that the user gives, or processes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from stargraph.errors import NodeError

if TYPE_CHECKING:
    from pebble import ProcessPool

T = TypeVar("T")

Outcome: TypeAlias = tuple[Any, BaseException | None]
"""What a call returned and what it raised: as a value, since a StopIteration or a SystemExit, raised again, would end
the coroutine or the loop that it meets."""

CANCEL_SECONDS: Final = 5.0
"""How long an async node that was cancelled may take to end; it may catch the cancellation, and go on."""

_POLL_SECONDS: Final = 0.05
_GOES_ON: Final = "its thread cannot be stopped and goes on"


_ALL_THREADS: Final[weakref.WeakSet[NodeThreads]] = weakref.WeakSet()


def threads_are_busy() -> bool:
    """Return whether a sync node or call of this process runs in a thread."""
    return any(threads.is_busy for threads in list(_ALL_THREADS))


class NodeThreads(Executor):
    """Daemon threads, one for each call that runs: a call never waits for another one to end.

    How many run at once is decided by the graph: the branches of a `parallel`, `max_concurrency` of a `map`. A thread
    that hangs keeps neither the others nor the process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = self._count = 0
        self._closed = False
        _ALL_THREADS.add(self)

    @property
    def is_busy(self) -> bool:
        """Whether a call runs, or waits for a thread."""
        with self._lock:
            return self._count > self._idle

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in an idle thread, or in a new one."""
        future: Future[Any] = Future()
        work = partial(_perform, future, partial(fn, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("these threads are shut down")
            if self._idle <= 0 and self._start(work):
                return future
            # An idle thread takes it; if the system has no thread left, the next one that ends its work does.
            self._idle -= 1
            self._pending.put(work)
        return future

    def _start(self, work: Callable[[], None]) -> bool:
        thread = threading.Thread(target=self._run, args=(work,), name=f"stargraph-node-{self._count}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._count:
                raise
            return False
        self._count += 1
        return True

    def _run(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            work = None  # what it holds must not live until the next one
            with self._lock:
                self._idle += 1
            work = self._pending.get()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let idle threads end now, and busy ones when they are done; nobody waits for them."""
        with self._lock:
            self._closed = True
            for _ in range(self._count):
                self._pending.put(None)


def _perform(future: Future[Any], call: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  # whoever waits for the future meets it
            future.set_exception(error)


class _Strays:
    """Threads whose call was given up and goes on, by the task that it belongs to, in this process.

    They outlive the execution that began them, and the next one must know of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, set[Future[Any]]] = {}

    def add(self, owner: str, future: Future[Any]) -> None:
        with self._lock:
            self._of.setdefault(owner, set()).add(future)
        future.add_done_callback(partial(self._ended, owner))

    def of(self, owner: str) -> set[Future[Any]]:
        if not self._of:
            return set()
        with self._lock:
            return set(self._of.get(owner, ()))

    def _ended(self, owner: str, future: Future[Any]) -> None:
        with self._lock:
            mine = self._of.get(owner, set())
            mine.discard(future)
            if not mine:
                self._of.pop(owner, None)


_STRAYS: Final = _Strays()


class NodePools:
    """Runs sync code for one execution of a run and its child runs.

    Args:
        given: the user's executor, or None for threads of its own.
        concurrency: how many nodes may run at once.
    """

    def __init__(self, given: Executor | None = None, *, concurrency: int = 1) -> None:
        self._given = given
        self._concurrency = concurrency
        self._threads: NodeThreads | None = None
        self._processes: ProcessPool | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the user's executor may run functions in another process."""
        return self._given is not None and not isinstance(self._given, (ThreadPoolExecutor, NodeThreads))

    async def run_in_thread(
        self, call: Callable[[], Any], *, owner: str, seconds: float | None = None, in_given: bool = False
    ) -> Outcome:
        """Run a function in a thread.

        A thread cannot be stopped. When its time is over, counted from when it begins, this returns at once, and the
        thread goes on; `wait_for_strays` waits for it.

        Args:
            call: the function.
            owner: what names the task that it belongs to.
            seconds: how long it may take, or None.
            in_given: whether it runs in the user's executor, if there is one.

        Returns:
            The outcome; a TimeoutError if its time is over.
        """
        loop = asyncio.get_running_loop()
        begun = None if seconds is None else loop.create_future()

        def work() -> Outcome:
            if begun is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(_set, begun)
            try:
                return call(), None
            except BaseException as error:  # noqa: BLE001  # returned as a value, see Outcome
                return None, error

        executor = self._own_threads() if self._given is None or not in_given else self._given
        future = executor.submit(contextvars.copy_context().run, work)
        done = _end_of(future)
        try:
            if begun is not None:
                await asyncio.wait({done, begun}, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait({done}, timeout=seconds)
                if not done.done():
                    return None, timed_out(seconds, _GOES_ON)
            return await done
        finally:
            if not done.done() or done.cancelled():
                future.add_done_callback(_close_unawaited)
            _give_up(future, owner)

    async def run_remotely(self, call: Callable[[], Any], *, owner: str, seconds: float | None = None) -> Any:
        """Run a function in the user's executor, which may be in another process, by value.

        Args:
            call: the function; it and what it returns can be pickled.
            owner: as for `run_in_thread`.
            seconds: how long it may take, or None; counted from when a pool of processes takes it up.

        Raises:
            Exception: the executor is broken.
            TimeoutError: its time is over.
        """
        from concurrent.futures import ProcessPoolExecutor  # imports multiprocessing, which most runs do without

        assert self._given is not None
        future = self._given.submit(call)
        done = _end_of(future)
        try:
            if seconds is not None:
                # Other executors do not say when they take a call up, so that their queue counts.
                while isinstance(self._given, ProcessPoolExecutor) and not (future.running() or future.done()):
                    await asyncio.wait({done}, timeout=_POLL_SECONDS)
                await asyncio.wait({done}, timeout=seconds)
                if not done.done():
                    raise timed_out(seconds, _GOES_ON)
            return await done
        finally:
            _give_up(future, owner)

    async def run_isolated(self, call: Callable[[], Any], *, node: str, seconds: float | None = None) -> Any:
        """Run a function in a process, which is killed when its time is over or nobody waits for it any more.

        Args:
            call: the function; it and what it returns can be pickled.
            node: the node, for errors.
            seconds: how long it may take, or None; counted from when it begins.

        Raises:
            TimeoutError: its time is over.
            NodeError: the process died (`reason="process-died"`).
        """
        from pebble import ProcessExpired

        future: Future[Any] = self._pool().schedule(call, timeout=seconds)
        try:
            return await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise NodeError(
                f"the process of node {node!r} died with exit code {error.exitcode}",
                reason="process-died",
                hint="The node's code, or a library that it uses, ended the process; a negative code names a signal.",
                node=node,
            ) from None
        except TimeoutError:
            raise timed_out(seconds, "its process was killed") from None
        finally:
            if not future.done():
                future.cancel()  # kills the process

    def give_up(self, work: asyncio.Task[Any], owner: str) -> None:
        """Remember work that goes on though nobody waits for it, if it does.

        Args:
            work: the work of an async node.
            owner: what names the task that it belongs to.
        """
        if not work.done():
            ended: Future[None] = Future()
            work.add_done_callback(partial(_ended, ended))
            _STRAYS.add(owner, ended)

    def has_strays(self, owner: str) -> bool:
        """Return whether a thread of a task was given up and goes on.

        Args:
            owner: what names the task.
        """
        return bool(_STRAYS.of(owner))

    async def wait_for_strays(self, owner: str, seconds: float) -> bool:
        """Wait for threads of a task that were given up and go on; tell whether they have all ended.

        Args:
            owner: what names the task.
            seconds: how long to wait.
        """
        strays = _STRAYS.of(owner)
        if not strays:
            return True
        _, left = await asyncio.wait({_end_of(each) for each in strays}, timeout=seconds)
        return not left

    async def close(self) -> None:
        """Let the threads end, and kill the processes."""
        processes, self._processes = self._processes, None
        if processes is not None:
            processes.stop()  # type: ignore[no-untyped-call]
            # It takes some tenths of a second, and seconds if a process ignores SIGTERM.
            await asyncio.wrap_future(self._own_threads().submit(processes.join))
        if self._threads is not None:
            self._threads.shutdown()

    def _own_threads(self) -> NodeThreads:
        if self._threads is None:
            self._threads = NodeThreads()
        return self._threads

    def _pool(self) -> ProcessPool:
        if self._processes is None:
            import multiprocessing

            from pebble import ProcessPool

            # A fork would copy locks that other threads hold.
            spawning = multiprocessing.get_context("spawn")
            self._processes = ProcessPool(max_workers=min(self._concurrency, os.cpu_count() or 1), context=spawning)
        return self._processes


def timed_out(seconds: float | None, what_now: str | None = None) -> TimeoutError:
    """Return the error of a node that took too long.

    Args:
        seconds: how long it might take.
        what_now: what becomes of it, or None if nothing is left of it.
    """
    return TimeoutError(
        f"the node took longer than its timeout of {seconds:g} s" + (f"; {what_now}" if what_now else "")
    )


def _ended(future: Future[None], work: asyncio.Task[Any]) -> None:
    if not work.cancelled():
        work.exception()  # nobody else looks at it
    future.set_result(None)


def _end_of(future: Future[T]) -> asyncio.Future[T]:
    """Return a future of this loop that ends with another one; whoever no longer waits need not look at its error."""
    end = asyncio.wrap_future(future)
    end.add_done_callback(lambda done: done.cancelled() or done.exception())
    return end


def _give_up(future: Future[Any], owner: str) -> None:
    """Let a call that has not begun never begin, and remember one that goes on though nobody waits for it."""
    if not future.cancel() and not future.done():
        _STRAYS.add(owner, future)


def _close_unawaited(future: Future[Outcome]) -> None:
    """Close what a sync wrapper of an async function returned too late: Python would warn that nobody awaited it."""
    if future.cancelled() or future.exception() is not None:
        return
    returned, _ = future.result()
    if inspect.iscoroutine(returned):
        returned.close()


def _set(begun: asyncio.Future[None]) -> None:
    if not begun.done():
        begun.set_result(None)
