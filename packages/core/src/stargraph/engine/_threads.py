"""Sync functions beside the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor


async def run_in_executor(call: Callable[[], object], executor: Executor | None, seconds: float | None) -> object:
    """Run a sync function in an executor.

    A thread cannot be stopped: when its time is over, its end is awaited and its outcome dropped, so that a
    second try never runs beside the first.

    Args:
        call: the function.
        executor: where it runs; a thread of the loop's own where None.
        seconds: how long it may take; None: as long as it likes.

    Raises:
        TimeoutError: it took longer.
        Exception: what it raised.
    """
    loop = asyncio.get_running_loop()
    call = functools.partial(_without_stop_iteration, call)
    if executor is None or isinstance(executor, ThreadPoolExecutor):
        call = functools.partial(contextvars.copy_context().run, call)
    working = loop.run_in_executor(executor, call)
    try:
        done, _ = await asyncio.wait({working}, timeout=seconds)
        if not done:
            await asyncio.wait({working})
            raise timed_out(seconds)
        return working.result()
    finally:
        # What has not begun must not begin when nobody waits for it; what has begun ends unheard.
        if not working.cancel() and not working.cancelled():
            working.exception()


def _without_stop_iteration(call: Callable[[], object]) -> object:
    # A future cannot carry a StopIteration: whoever waits would wait for ever.
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def timed_out(seconds: float | None) -> TimeoutError:
    """Return the error of a node that took too long.

    Args:
        seconds: how long it might take.
    """
    return TimeoutError(f"the node took longer than its timeout of {seconds:g} s")
