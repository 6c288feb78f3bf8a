"""The times that tasks of a run wait for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from stargraph.checkpoint.protocol import Checkpoint, Interrupt

_LONGEST_NAP: Final = 300.0
"""Seconds until the clock is read again: it may be set meanwhile, and the machine may sleep."""


class DueTimes:
    """Tells which waits of a run are over, each of them once.

    Args:
        waits_here: wait in this process until the next one is over, if nothing else is left to do.
        as_of: a time that has come, though the clock may not show it yet.

    Attributes:
        waits_here: likewise.
    """

    def __init__(self, *, waits_here: bool, as_of: datetime | None = None) -> None:
        self.waits_here = waits_here
        self._over: set[str] = set()
        self._loop = asyncio.get_running_loop()
        now = datetime.now(UTC)
        self._began = (now if as_of is None else max(now, as_of), self._loop.time())

    def take(self, tail: Checkpoint) -> list[Interrupt]:
        """Return the waits that are over now, and were not returned before.

        Args:
            tail: the latest checkpoint.
        """
        if not tail.interrupts:
            return []
        now = self._now()
        over = [each for each in self._open(tail) if each.due_at is not None and each.due_at <= now]
        self._over |= {each.id for each in over}
        return over

    def seconds_left(self, tail: Checkpoint) -> float | None:
        """Return how long to sleep until a wait may be over, in seconds; None if there is none.

        Args:
            tail: the latest checkpoint.
        """
        due = [each.due_at for each in self._open(tail) if each.due_at is not None] if tail.interrupts else []
        if not due:
            return None
        return min(max((min(due) - self._now()).total_seconds(), 0.0), _LONGEST_NAP)

    def _now(self) -> datetime:
        """Return the time, at least as far on as the loop's own: in a test, that may skip."""
        at, loop_time = self._began
        return max(datetime.now(UTC), at + timedelta(seconds=self._loop.time() - loop_time))

    def _open(self, tail: Checkpoint) -> list[Interrupt]:
        return [each for each in tail.interrupts if each.id not in self._over]
