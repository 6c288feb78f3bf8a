"""How the queues of a worker stand, and how long their runs wait: looked at now and then, however busy it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from stargraph.checkpoint.protocol import RunQueue
from stargraph.errors import StargraphError
from stargraph.worker._metrics import WorkerMetrics

_LOOK_SECONDS: Final = 15.0

_NEXT: Final = 100
"""The runs of a queue of which the one that waits longest is looked for: those that are taken next."""


class QueueObserver:
    """Measures the queues of one worker.

    Args:
        store: holds them.
        queues: their names.
        metrics: takes what was found.
        now: returns the time by the clock of the store.
        seconds: between two looks at least.
    """

    def __init__(
        self,
        store: RunQueue,
        queues: Sequence[str],
        metrics: WorkerMetrics,
        *,
        now: Callable[[], datetime],
        seconds: float = 0.0,
    ) -> None:
        self._store = store
        self._queues = queues
        self._metrics = metrics
        self._now = now
        self._seconds = max(_LOOK_SECONDS, seconds)
        self._waiting_since: dict[str, datetime] = {}

    async def run(self) -> None:
        """Look again and again, until this is cancelled; a store that cannot be reached is asked again later."""
        while True:
            with suppress(StargraphError):  # those who take runs meet it too, and say so
                await self.look()
            await asyncio.sleep(self._seconds)

    async def look(self) -> None:
        """Note how the queues stand now.

        Raises:
            CheckpointError: as the store raises.
        """
        now = self._now()
        counted = [counts for counts in await self._store.queue_counts() if counts.queue in self._queues]
        since: dict[str, datetime] = {}
        for counts in counted:
            if not counts.ready:
                continue
            runs = await self._store.claimable("", [counts.queue], limit=_NEXT, reserve=0)
            # A run waits since its last step, or since its time has come. A queue at its limit hands out none.
            known = self._waiting_since.get(counts.queue, now)
            since[counts.queue] = min(
                (max(run.updated_at, run.due_at or run.updated_at) for run in runs), default=known
            )
        self._waiting_since = since
        self._metrics.queues = tuple(counted)
        self._metrics.queue_ages = {
            counts.queue: max(0.0, (now - since.get(counts.queue, now)) / timedelta(seconds=1)) for counts in counted
        }
