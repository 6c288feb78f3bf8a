"""Awaitables that a cancellation does not tear: who awaits one gets the CancelledError once the work has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Self, TypeVar

T = TypeVar("T")


class InPlace(Awaitable[T]):
    """Runs work within the task that awaits it; that task gets its CancelledError once the work has ended.

    Args:
        work: a coroutine that awaits futures and does not cancel its own task, see `InPlaceWrites`.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, None, T]:
        cancelled: asyncio.CancelledError | None = None
        task = asyncio.current_task()
        assert task is not None
        requests = task.cancelling()
        try:
            while True:
                waited: asyncio.Future[Any] | None = self._work.send(None)
                try:
                    yield None if waited is None else Held(waited).as_yielded()
                except asyncio.CancelledError as error:
                    # One error stands for both if the task and what it waits for are cancelled in the same turn.
                    if waited is None or not waited.cancelled() or task.cancelling() > requests:
                        cancelled = error
                except Exception:  # noqa: BLE001, S110  # of what was waited for: the work meets it when it goes on
                    pass
        except StopIteration as end:
            if cancelled is None:
                result: T = end.value
                return result
        except Exception:
            if cancelled is None:
                raise
        finally:
            self._work.close()
        raise cancelled


class Held(Awaitable[T]):
    """Awaits a task; whoever is cancelled meanwhile gets the CancelledError once that task has ended.

    It is a future-like object, as `asyncio.isfuture` describes it. A shield costs a second future and another turn of
    the loop, with each step of a run.
    """

    def __init__(self, task: asyncio.Future[T]) -> None:
        self._task = task
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, None, T]:
        if not self._task.done():
            self._asyncio_future_blocking = True
            try:
                yield self
            except asyncio.CancelledError:
                if not self._task.cancelled():
                    self._task.exception()  # looked at, so that nobody reports it as lost
                raise
        return self._task.result()

    def as_yielded(self) -> Self:
        """Return this object, ready to be yielded in place of a future that a coroutine has yielded."""
        self._task._asyncio_future_blocking = False
        self._asyncio_future_blocking = True
        return self

    def add_done_callback(
        self, callback: Callable[[asyncio.Future[T]], object], *, context: Context | None = None
    ) -> None:
        """Have the waiting task called back when the inner one ends, with that one, as asyncio expects."""
        self._task.add_done_callback(callback, context=context)

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._task.get_loop()

    def cancel(self, msg: object | None = None) -> bool:
        """Refuse: the waiting task gets the error when it continues."""
        return False
