"""A relay to a server in a thread of its own, so that what a test does with its loop does not hold up the network."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Final

from support.tcp_proxy import TcpProxy

ROUND_TRIP_VARIABLE: Final = "STARGRAPH_CONFORMANCE_ROUND_TRIP"
"""Seconds that each message and its answer wait in the relay, together."""


class Relay:
    """Relays connections to a server until the process ends.

    Args:
        host: of the server.
        port: of the server.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, host: str, port: int) -> None:
        self._proxy = TcpProxy(host, port)
        self._proxy.delay = float(os.environ.get(ROUND_TRIP_VARIABLE, "0")) / 2
        self._loop = asyncio.new_event_loop()
        listening = threading.Event()
        threading.Thread(target=self._run, args=(listening,), name="relay", daemon=True).start()
        listening.wait()
        self.port = self._proxy.port

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Cut every connection, and refuse new ones for as long as this is open."""
        await self._in_its_thread(self._set_refusing(True))
        try:
            yield
        finally:
            await self._in_its_thread(self._set_refusing(False))

    async def _in_its_thread(self, work: Coroutine[None, None, None]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _set_refusing(self, refusing: bool) -> None:
        self._proxy.refusing = refusing
        self._proxy.cut()

    def _run(self, listening: threading.Event) -> None:
        async def serve() -> None:
            async with self._proxy:
                listening.set()
                await asyncio.Event().wait()

        self._loop.run_until_complete(serve())
