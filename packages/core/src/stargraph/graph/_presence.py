"""Says in the store that this process lives, while it executes runs of queues: workers leave those alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from stargraph.checkpoint.protocol import Checkpointer, Presence, ProcessInfo
from stargraph.errors import StargraphError

BEAT_SECONDS: Final = 10.0
"""How often a process says that it lives."""

_LOGGER: Final = logging.getLogger("stargraph.worker")


class Heartbeat:
    """Says that this process lives: one small write in each period, however many runs it executes.

    Args:
        store: takes it.
        process: this process.
        seconds: the period.

    Attributes:
        last: when the store took it last, by `time.monotonic()`.
    """

    def __init__(self, store: Presence, process: ProcessInfo, seconds: float = BEAT_SECONDS) -> None:
        self.last = time.monotonic()
        self._store = store
        self._process = process
        self._seconds = seconds

    async def begin(self) -> None:
        """Say it for the first time.

        Raises:
            CheckpointError: as the store raises.
        """
        await self._store.beat(self._process)
        self.last = time.monotonic()

    async def keep(self) -> None:
        """Say it again and again, until cancelled; a store that does not answer is asked again in the next period."""
        is_silent = False
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.begin()
            except StargraphError as error:
                # Said once; those who write steps meet it too, and say so.
                if not is_silent:
                    _LOGGER.warning("this process cannot say that it lives: %s", error.reason or type(error).__name__)
                is_silent = True
            else:
                is_silent = False

    async def end(self) -> None:
        """Say that this process executes nothing more: what it has left is free at once."""
        assert self._process.id is not None
        try:
            await self._store.leave(self._process.id)
        except StargraphError as error:
            _LOGGER.warning("this process cannot say that it ends: %s", error.reason or type(error).__name__)


@dataclass
class _Shared:
    """The heartbeat of all runs of one store on one event loop."""

    heartbeat: Heartbeat
    keeping: asyncio.Task[None]
    runs: int = 0


_SHARED: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Shared]]] = WeakKeyDictionary()

BEATEN_FOR: Final[ContextVar[object]] = ContextVar("stargraph_beaten_for", default=None)
"""The handle of the store in which somebody else says that this process lives, as a worker does."""


@asynccontextmanager
async def presence(store: Checkpointer) -> AsyncIterator[None]:
    """Say that this process lives while a run of a queue is executed in it, if the store can know.

    Args:
        store: holds the run.

    Raises:
        CheckpointError: as the store raises, at the first time.
    """
    if BEATEN_FOR.get() is store or not isinstance(store, Presence):
        yield
        return
    stores = _SHARED.setdefault(asyncio.get_running_loop(), {})
    shared = stores.get(id(store))
    if shared is None:
        heartbeat = Heartbeat(store, ProcessInfo.current())
        await heartbeat.begin()
        # Another run may have done the same meanwhile.
        shared = stores.get(id(store)) or _Shared(heartbeat, asyncio.ensure_future(heartbeat.keep()))
        stores[id(store)] = shared
    shared.runs += 1
    try:
        yield
    finally:
        shared.runs -= 1
        if not shared.runs:
            del stores[id(store)]
            shared.keeping.cancel()
            await asyncio.gather(shared.keeping, return_exceptions=True)
            await shared.heartbeat.end()
