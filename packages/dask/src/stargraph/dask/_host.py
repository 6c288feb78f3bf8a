"""What one process has: an event loop in a thread of its own, and one handle of each store."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from stargraph.checkpoint.protocol import Checkpointer
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.runtime._loop_thread import LoopThread

T = TypeVar("T")

_LOCK = threading.Lock()
_HOSTS: dict[int, Host] = {}


class Host:
    """The event loop of this process for all runs that Dask gives to it; they run side by side on it."""

    def __init__(self) -> None:
        self._thread = LoopThread("stargraph-dask")
        self._opening: dict[str, asyncio.Task[Checkpointer]] = {}

    @classmethod
    def current(cls) -> Host:
        """Return that of this process; a fork gets one of its own."""
        with _LOCK:
            host = _HOSTS.get(os.getpid())
            if host is None:
                _HOSTS.clear()
                host = _HOSTS[os.getpid()] = cls()
            return host

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work on the loop, and return its result; not to be called on the loop itself."""
        return self._thread.run(work)

    async def store(self, address: str) -> Checkpointer:
        """Return the handle of a store, opened once; on the loop.

        Raises:
            CheckpointError: it cannot be opened; the next call tries again.
        """
        opening = self._opening.get(address)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            opening = self._opening[address] = asyncio.ensure_future(_opened(address))
        return await asyncio.shield(opening)


async def _opened(address: str) -> Checkpointer:
    store = open_checkpointer(address)
    await store.bootstrap()
    return store
