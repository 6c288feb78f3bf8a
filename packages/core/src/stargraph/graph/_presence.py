"""Says in the store that this process lives, while it executes runs of queues: workers leave those alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
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
        describe: returns this process, as it describes itself now.
        seconds: the period.
    """

    def __init__(self, store: Presence, describe: Callable[[], ProcessInfo], seconds: float = BEAT_SECONDS) -> None:
        self._store = store
        self._describe = describe
        self._seconds = seconds
        self._keeping: asyncio.Task[None] | None = None
        self._process_id: str | None = None

    async def start(self) -> None:
        """Say it for the first time, and in each period from then on, also if the store then does not answer.

        Raises:
            CheckpointError: as the store raises.
        """
        self._process_id = self._describe().id  # that of a fork, which has a copy of this, differs
        _KEPT.add(self)
        try:
            await self.beat()
        except BaseException:
            _KEPT.discard(self)
            raise
        self._keeping = asyncio.ensure_future(self._keep())
        self._keeping.add_done_callback(lambda _: _KEPT.discard(self))

    async def beat(self) -> None:
        """Say it once.

        Raises:
            CheckpointError: as the store raises.
        """
        await self._store.beat(self._describe())

    async def _keep(self) -> None:
        is_silent = False
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.beat()
            except StargraphError as error:
                # Said once; those who write steps meet it too, and say so.
                if not is_silent:
                    _LOGGER.warning("this process cannot say that it lives: %s", error.reason or type(error).__name__)
                is_silent = True
            else:
                is_silent = False

    async def stop(self) -> None:
        """Say that this process executes nothing more, so that what it has left is free at once, if that is so."""
        if self._keeping is None or self._process_id is None:
            return
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        if self._is_kept_elsewhere():
            return
        try:
            await self._store.leave(self._process_id)
            if self._is_kept_elsewhere():  # what began meanwhile may have said so before the store took the leave
                await self.beat()
        except StargraphError as error:
            _LOGGER.warning("this process cannot say that it ends: %s", error.reason or type(error).__name__)

    def _is_kept_elsewhere(self) -> bool:
        """Whether another heartbeat of this process goes on; its handle may be one of the same store."""
        return any(each._process_id == self._process_id for each in list(_KEPT))


_KEPT: Final[set[Heartbeat]] = set()
"""The heartbeats that go on, of all stores and event loops: a store that a process leaves forgets all of it."""


@dataclass
class _Shared:
    """The heartbeat of all runs of one store on one event loop."""

    heartbeat: Heartbeat
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
        heartbeat = Heartbeat(store, ProcessInfo.current)
        await heartbeat.start()
        shared = stores.setdefault(id(store), _Shared(heartbeat))
    else:
        heartbeat = shared.heartbeat
    shared.runs += 1
    try:
        if shared.heartbeat is not heartbeat:  # another run began one meanwhile
            await heartbeat.stop()
        yield
    finally:
        shared.runs -= 1
        if not shared.runs:
            del stores[id(store)]
            await shared.heartbeat.stop()
