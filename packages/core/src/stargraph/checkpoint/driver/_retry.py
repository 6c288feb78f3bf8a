"""Repeats a request that may succeed when it is made again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and for how long, a request is repeated.

    The pause before the n-th repetition is a random time up to `first_pause` * 2**(n - 1), and at most `longest_pause`:
    the "full jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015). Clients that
    failed together do not come back together.

    Attributes:
        deadline: seconds for a request with all its attempts and pauses.
        first_pause: seconds.
        longest_pause: seconds.
        attempts: at most this many; None for as many as the deadline allows.
        cut_short: end an attempt that still runs at the deadline. The first attempt is not cut short and must end by
            itself: nearly always it is the only one, and a timer for it would cost as much as a short request.
        sleep: waits that many seconds.
    """

    deadline: float
    first_pause: float = 0.05
    longest_pause: float = 2.0
    attempts: int | None = None
    cut_short: bool = True
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep

    async def run(
        self, request: Callable[[], Awaitable[Result]], *, is_transient: Callable[[Exception], bool]
    ) -> Result:
        """Return what a request returns.

        Args:
            request: what to do; must be safe to do again.
            is_transient: tells whether the same request may succeed when it is made again.

        Raises:
            Exception: what the last attempt raised, if it is not transient or no attempt is left. If the deadline cut
                the last attempt short, the error of the attempt before it, which says more.
        """
        began = time.monotonic()
        try:
            return await request()
        except Exception as error:
            if not is_transient(error):
                raise
            failure = error
        # The deadline cancels the task that it cuts short, which must not be that of a write, see InPlaceWrites.
        return await asyncio.ensure_future(self._repeat(request, is_transient, failure, began))

    async def _repeat(
        self,
        request: Callable[[], Awaitable[Result]],
        is_transient: Callable[[Exception], bool],
        failure: Exception,
        began: float,
    ) -> Result:
        """Return what a further attempt returns."""
        made = 1
        while self.attempts is None or made < self.attempts:
            left = began + self.deadline - time.monotonic()
            # No jitter of quality is needed, only different times.
            pause = random.uniform(0, min(self.longest_pause, self.first_pause * 2 ** min(made - 1, 32)))  # noqa: S311  # no secret
            if pause >= left:
                break
            await self.sleep(pause)
            made += 1
            timeout = asyncio.timeout(began + self.deadline - time.monotonic() if self.cut_short else None)
            try:
                async with timeout:
                    return await request()
            except Exception as error:
                if timeout.expired():
                    break
                if not is_transient(error):
                    raise
                failure = error
        raise failure
