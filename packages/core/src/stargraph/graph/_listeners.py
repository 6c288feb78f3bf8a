"""Who hears what happens in a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from stargraph.checkpoint.protocol import Checkpoint
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

    def publish_step(self, record: Checkpoint) -> None:
        """Put the event of a step into every queue; without a queue it is not even made."""
        if self._queues:
            self.publish(RunEvent.of(record))

    def publish(self, event: RunEvent | None) -> None:
        """Put an event into every queue."""
        for queue in self._queues:
            queue.put_nowait(event)
