"""The parent's side of a stage: find the moments of a call, and play it again to be killed or frozen at one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stargraph.checkpoint.conformance._expect import HarnessError, NotEvaluated, Violation
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._moments import Moment
from stargraph.checkpoint.conformance._processes import Child
from stargraph.checkpoint.conformance._stage import WAKE

_PATIENCE: Final = 0.5
"""Seconds without anything to do after which this process counts as one that waits for the frozen one."""

_EFFORT: Final = 1.0
"""Seconds of a processor after which it counts as one that waits in a loop."""

_MOST_CHANGES: Final = 20
_MOST_OTHERS: Final = 4
_MOST_OWN: Final = 14
_MOST_BEFORE: Final = 4


@dataclass
class Played:
    """What a process reported of its call before it ended.

    Attributes:
        digests: of the checkpoints that it was about to write.
        acked: the call returned.
        kind: the class of the error that it raised.
        error: that error as one line.
        killed: it did not end by itself.
        found: the digest of the checkpoint that it read; empty if it read that there is none.
    """

    digests: tuple[str, ...] = ()
    acked: bool = False
    kind: str = ""
    error: str = ""
    killed: bool = False
    found: str = ""


class Stage:
    """Processes that call the driver, and can be killed or frozen in the middle of a call."""

    def __init__(self, child: Child, kit: Kit) -> None:
        self._child = child
        self._seed = kit.random.randrange(2**31)
        self._location = kit.location
        self._frozen = Played()

    @classmethod
    async def open(cls, kit: Kit) -> Stage:
        """Start the process that the others are forked from."""
        if not hasattr(os, "fork"):
            raise NotEvaluated("this platform cannot fork a process")
        child = await kit.child("stage")
        await child.expect("ready")
        return cls(child, kit)

    def elsewhere(self, location: str) -> None:
        """Play what follows in another store."""
        self._location = location

    async def moments(self, call: str, *, run_id: str = "", size: int = 0, changing: bool = True) -> list[Moment]:
        """Play a call to its end, and return moments of it: some that change the store, by chance, then some others.

        Args:
            call: which one.
            run_id: of the run that it is about.
            size: of what it writes, in characters.
            changing: whether those that change the store are among them.
        """
        return await self._recorded(call, ("changed", "others") if changing else ("others",), run_id, size)

    async def moments_before_changes(self, call: str, *, run_id: str, size: int) -> list[Moment]:
        """Play a call to its end, and return the moments right before it changes the store, but for the first change.

        What it does first is often to take a lock. If no file tells what changes the store, they are some of the
        driver's own code.
        """
        return await self._recorded(call, ("before",), run_id, size)

    async def _recorded(self, call: str, kinds: Sequence[str], run_id: str, size: int) -> list[Moment]:
        await self._order(call, None, 0, run_id, size)
        found: list[Moment] = []
        async for event in self._events():
            if event["event"] == "recorded":
                found = [Moment(*moment) for kind in kinds for moment in event[kind]]
            elif event["event"] == "refused":
                raise Violation(f"{call} in another process raised {event['error']}")
        return found

    async def kill_at(self, moment: Moment, call: str, *, run_id: str = "", size: int = 0) -> Played:
        """Play a call, and kill its process at a moment (SIGKILL)."""
        await self._order(call, moment, signal.SIGKILL, run_id, size)
        return await self.rest()

    async def freeze_at(
        self,
        moment: Moment,
        call: str,
        *,
        run_id: str,
        size: int = 0,
        rivals: Sequence[int] = (),
        patience: float = _PATIENCE,
    ) -> Played | None:
        """Play a call, and freeze its process at a moment (SIGSTOP).

        It goes on once `wake` is called; or before, where this process waits for what the frozen one holds.

        Args:
            moment: when.
            call: which one.
            run_id: of the run that it is about.
            size: of what it writes, in characters.
            rivals: other processes that may wait for the frozen one, beside this one.
            patience: seconds without anything to do after which they count as waiting.

        Returns:
            Its report if it ended before it reached that moment; None if it is frozen: `wake` it then.
        """
        await self._order(call, moment, signal.SIGSTOP, run_id, size, rivals=rivals, patience=patience)
        self._frozen = Played()
        async for event in self._events():
            if event["event"] == "frozen":
                return None
            _note(self._frozen, event)
        return self._frozen

    async def wake(self) -> Played:
        """Let the frozen process go on, and return its report."""
        await self._child.tell(WAKE)
        return await self.rest(self._frozen)

    async def rest(self, played: Played | None = None) -> Played:
        """Listen until the process has ended."""
        played = played or Played()
        async for event in self._events():
            _note(played, event)
        return played

    async def _order(
        self,
        call: str,
        moment: Moment | None,
        number: int,
        run_id: str,
        size: int,
        *,
        rivals: Sequence[int] = (),
        patience: float = _PATIENCE,
    ) -> None:
        order = {
            "call": call,
            "location": self._location,
            "moment": moment,
            "signal": number,
            "run_id": run_id,
            "size": size,
            "seed": self._seed,
            "most": _MOST_CHANGES,
            "others": _MOST_OTHERS,
            "own": _MOST_OWN,
            "before": _MOST_BEFORE,
            "patience": patience,
            "effort": _EFFORT,
            "rivals": [os.getpid(), *rivals],
        }
        await self._child.tell(json.dumps(order))

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what is reported, until the process of the call has ended."""
        while True:
            event = await self._child.next_event()
            if event is None:
                raise HarnessError(f"{self._child.name} ended by itself")
            yield event
            if event["event"] == "ended":
                return


def _note(played: Played, event: dict[str, Any]) -> None:
    match event["event"]:
        case "begins":
            played.digests = tuple(event["digests"])
        case "acked":
            played.acked = True
        case "found":
            played.found = event["digest"]
        case "refused":
            played.kind, played.error = event["kind"], event["error"]
        case "ended":
            played.killed = event["killed"]
