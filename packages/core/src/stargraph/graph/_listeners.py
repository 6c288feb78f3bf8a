"""Who hears what happens in a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from stargraph.engine import RunEvent


class Listeners:
    """The streams of one Run object."""

    def __init__(self) -> None:
        self._queues: list[asyncio.Queue[RunEvent | None]] = []

    def __bool__(self) -> bool:
        return bool(self._queues)

    @contextmanager
    def added(self) -> Iterator[asyncio.Queue[RunEvent | None]]:
        """Return a queue of the events from now on; None in it says that an execution has stopped."""
        queue: asyncio.Queue[RunEvent | None] = asyncio.Queue()
        self._queues.append(queue)
        try:
            yield queue
        finally:
            self._queues.remove(queue)

    def publish(self, event: RunEvent | None) -> None:
        """Put an event into every queue."""
        for queue in self._queues:
            queue.put_nowait(event)
