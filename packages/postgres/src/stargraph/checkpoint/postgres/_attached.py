"""What a handle has in one event loop, and its release when that loop ends before anybody has closed the handle."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import suppress

from stargraph.checkpoint.postgres._connection import Connections
from stargraph.checkpoint.postgres._queues import PostgresFleet
from stargraph.checkpoint.postgres._writer import Writer


class Attached:
    """What belongs to one event loop, the running one: connections cannot be used from another one.

    Without `close`, the connections are closed when the loop is shut down, as `asyncio.run` and `asyncio.Runner` do it
    at their end, or when nobody holds the handle any more.

    Attributes:
        connections: those of the loop.
        writer: appends by them.
        fleet: queues and presence by them.
    """

    def __init__(self, connections: Connections, writer: Writer, fleet: PostgresFleet) -> None:
        self.connections = connections
        self.writer = writer
        self.fleet = fleet
        self._closing = _closing_with_loop(connections)
        with suppress(StopIteration):  # it runs up to its yield, and so is known to the loop
            self._closing.__anext__().send(None)

    async def close(self) -> None:
        """Close the connections after the writes that are waiting."""
        try:
            await self.writer.drain()
        finally:
            await self._closing.aclose()


async def _closing_with_loop(connections: Connections) -> AsyncGenerator[None, None]:
    """Close connections when this generator is closed, which the loop does with all that are left at its end."""
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == process:  # a forked process has the loop too, and would end the sessions of its parent
            await connections.close()
