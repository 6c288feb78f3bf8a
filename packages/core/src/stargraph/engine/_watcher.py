"""Looks at the end of a run's log while nodes run, for what others have appended to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from stargraph.checkpoint.driver import LookPolicy
from stargraph.engine._log import RunLog, StoppedElsewhere
from stargraph.errors import StoreUnavailableError

WATCH_SECONDS: Final = 2.0
"""The longest time between two looks of an executor, by default, in seconds."""

_FIRST_SECONDS: Final = 0.25


def look_policy(seconds: float) -> LookPolicy:
    """Return how often the end of a run is looked at that others may append to.

    Args:
        seconds: the longest time between two looks.
    """
    return LookPolicy(first=min(_FIRST_SECONDS, seconds), longest=seconds)


class LogWatcher:
    """Finds answers, cancellations and takeovers that other processes append, while this one has nothing to write.

    A write finds them too, so nothing is read within a quarter of a second of one. The time between two looks grows to
    its bound. Each is one read of one step that is usually not there.

    Args:
        log: the log; it tells the engine of what is found.
        seconds: the longest time between two looks; 0 never looks.
        failed: called with what ends the execution: another executor has the run, or a record is damaged.
    """

    def __init__(self, log: RunLog, *, seconds: float, failed: Callable[[BaseException], None]) -> None:
        self._log = log
        self._policy = look_policy(seconds)
        self._failed = failed
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on, until `stop`."""
        if self._policy.longest:
            # Most runs end before: they pay for a timer and not for a task.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._policy.first, self._begin)

    async def stop(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
            self._looking = None

    def _begin(self) -> None:
        self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        known, wait = -1, self._policy.first
        while True:
            if self._log.known_step != known:
                # Something was written since.
                known, wait = self._log.known_step, self._policy.first
            else:
                try:
                    await self._log.look()
                except StoppedElsewhere:
                    return  # the log has called the engine
                except StoreUnavailableError:
                    pass  # nothing is lost: the next write says so if it lasts
                except Exception as error:  # noqa: BLE001  # whatever it is, the engine raises it
                    self._failed(error)
                    return
                known, wait = self._log.known_step, self._policy.after(wait)
            await asyncio.sleep(wait)
