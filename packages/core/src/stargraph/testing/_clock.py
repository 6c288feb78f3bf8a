"""An event loop whose time skips: if nothing but timers is awaited, the next one is due at once."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

from stargraph.engine import threads_are_busy

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_WAKES_ITSELF: Final = 1
"""How many files a loop watches that waits for nothing outside: the pipe by which threads wake it."""

_LOOK_SECONDS: Final = 0.01


class _SkippingSelector(selectors.BaseSelector):
    """Waits as the real one does if anything else than time can end the wait; else it lets the time pass."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.skipped = 0.0
        self.is_busy: Callable[[], bool] = threads_are_busy

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        found: Mapping[Any, selectors.SelectorKey] = self._real.get_map()
        return found

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return self._real.select(timeout)
        # Asked first: a thread that ends after this has yet to wake the loop, one that ended before it already has.
        busy = len(self._real.get_map()) > _WAKES_ITSELF or self.is_busy()
        found = self._real.select(0)
        if found:
            return found
        if busy:
            # What is busy may end meanwhile, and leave nothing but time to wait for.
            return self._real.select(min(timeout, _LOOK_SECONDS))
        self.skipped += timeout
        return []


class SkippingLoop(asyncio.SelectorEventLoop):
    """The event loop; sync code in threads and what is read from sockets takes the time that it takes."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)
        self._in_executors = 0
        self._skipping.is_busy = lambda: self._in_executors > 0 or threads_are_busy()

    def time(self) -> float:
        """Return the time, with what was skipped."""
        return super().time() + self._skipping.skipped

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in a thread; the time does not skip until it has ended."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executors += 1
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: object) -> None:
        self._in_executors -= 1


def run_in_skipping_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a loop of its own, in a thread of its own: an async test may call this too.

    Args:
        main: makes the coroutine.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=SkippingLoop) as runner:
                future.set_result(runner.run(main(), context=context))
        except BaseException as error:  # noqa: BLE001  # the caller meets it
            future.set_exception(error)

    threading.Thread(target=work, name="stargraph-testing", daemon=True).start()
    return future.result()
