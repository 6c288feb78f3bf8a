"""The calls that a task has recorded, and which of them an execution of it has returned to its node."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from stargraph.checkpoint.protocol import RecordedCall
from stargraph.engine._failures import is_made_anew


@dataclass(frozen=True, slots=True)
class CallId:
    """What a call is known by within its task.

    Attributes:
        name: the name of the call.
        key: tells concurrent calls of one name apart.
        occurrence: counts the calls of the same name and key in one attempt, from 0.
    """

    name: str
    key: str | None
    occurrence: int

    def __str__(self) -> str:
        key = "" if self.key is None else f", key={self.key!r}"
        return f"{self.name!r}{key}" + (f" (number {self.occurrence + 1})" if self.occurrence else "")


class RecordedCalls:
    """The recorded calls of one task, in the order of the log.

    A call may have several outcomes: failed ones, each followed by another one when a later attempt made it again.

    Args:
        recorded: what the log has of the task; readings of the clock are left out.

    Attributes:
        calls: the calls; an outcome is known by its position here.
    """

    def __init__(self, recorded: Iterable[RecordedCall]) -> None:
        self.calls = [call for call in recorded if call.kind == "call"]
        self._positions: dict[CallId, list[int]] = {}
        self._returned: set[int] = set()
        self._failures: Counter[CallId] = Counter()
        self._made: Counter[tuple[str, str | None]] = Counter()
        self._turns: list[int] = []
        for position, call in enumerate(self.calls):
            self._positions.setdefault(CallId(call.name, call.key, call.occurrence), []).append(position)

    def begin_attempt(self) -> None:
        """Count the calls of another attempt of the node from 0."""
        self._made.clear()

    def next_id(self, name: str, key: str | None) -> CallId:
        """Return the id of a call that the node makes now."""
        call_id = CallId(name, key, self._made[name, key])
        self._made[name, key] += 1
        return call_id

    def position_of(self, call_id: CallId) -> int | None:
        """Return the position of the outcome that a call returns now, or None if the function is to be called."""
        positions = self._positions.get(call_id, ())
        failures = self._failures[call_id]
        if failures == len(positions):
            return None
        return self._return(call_id, positions[failures])

    def add(self, call_id: CallId, call: RecordedCall) -> int:
        """Add a call that was just made and recorded; return its position."""
        position = len(self.calls)
        self.calls.append(call)
        self._positions.setdefault(call_id, []).append(position)
        return self._return(call_id, position)

    def _return(self, call_id: CallId, position: int) -> int:
        self._returned.add(position)
        self._failures[call_id] += is_made_anew(self.calls[position])
        return position

    def unused(self) -> list[RecordedCall]:
        """Return the calls that this execution has not made."""
        return [call for position, call in enumerate(self.calls) if position not in self._returned]

    async def turn(self, position: int) -> None:
        """Wait until the recorded calls that wait at the same moment and come first in the log have returned."""
        heapq.heappush(self._turns, position)
        try:
            await asyncio.sleep(0)
            while self._turns[0] != position:  # noqa: ASYNC110  # its turn comes within a few rounds of the loop
                await asyncio.sleep(0)
        finally:
            self._turns.remove(position)
            heapq.heapify(self._turns)
