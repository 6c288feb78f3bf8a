"""A clock for what waits on the event loop."""

from __future__ import annotations

import asyncio


class LoopClock:
    """Moves the clock of the running loop: each timeout and sleep has then waited that much longer.

    What a test does in the meantime may so take as long as it takes.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._ahead = 0.0
        loop.time = self._now  # type: ignore[method-assign]

    def pass_(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        self._ahead += seconds

    def _now(self) -> float:
        return self._time() + self._ahead
