"""Runs that may be what kills their process go on one at a time, so that the others are not blamed for it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Final
from weakref import WeakKeyDictionary

_LOCKS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()
"""One for each event loop: a process dies as a whole, whoever holds what."""

_OUTER: Final[ContextVar[Suspect | None]] = ContextVar("stargraph_suspect", default=None)
"""The suspect that had its turn last in this task or in the one that made it, as a node of it is."""


class Suspect:
    """The turn of one run that was resumed again and again without a new record.

    Of the suspects of a process only one runs until it has recorded something. The one that kills the process is then
    the only one that was resumed once more.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._lock = _LOCKS.setdefault(loop, asyncio.Lock())
        self._is_held = False

    async def wait(self) -> None:
        """Wait for the turn; a run that a node of a suspect starts does not wait for it."""
        outer = _OUTER.get()
        if outer is None or not outer._is_held:
            await self._lock.acquire()
            self._is_held = True
            _OUTER.set(self)

    def cleared(self) -> None:
        """Let the next one go on: this run has recorded something, or has stopped."""
        if self._is_held:
            self._is_held = False
            self._lock.release()
