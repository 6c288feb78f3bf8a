"""What is done to the fleet and to its store, by a seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from stargraph_torture.fleet import Fleet

Fault = Callable[[random.Random], Awaitable[None]]
"""Does something bad, waits, and makes it good again."""


class Nemesis:
    """Injects faults, one of its kinds after another, until the fleet has finished.

    Args:
        faults: what it can do.
        rng: decides what it does, and when.
        pause: seconds between two faults, on average.
        tally: counts what it did.

    Attributes:
        struck: it has injected a fault.
    """

    def __init__(self, faults: Mapping[str, Fault], rng: random.Random, pause: float, tally: Counter[str]) -> None:
        self._faults = faults
        self._rng = rng
        self._pause = pause
        self._tally = tally
        self.struck = asyncio.Event()

    async def rage(self) -> None:
        """Inject faults until cancelled."""
        kinds = sorted(self._faults)
        deck: list[str] = []
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._pause))
            if not deck:  # every kind has its turn
                deck = self._rng.sample(kinds, len(kinds))
            kind = deck.pop()
            # A fault is undone even if the fleet finishes under it.
            await asyncio.shield(asyncio.ensure_future(self._faults[kind](self._rng)))
            self._tally[kind] += 1
            self.struck.set()


def faults_on(fleet: Fleet) -> dict[str, Fault]:
    """Return what can be done to worker processes.

    Args:
        fleet: the workers.
    """

    def some(rng: random.Random) -> int | None:
        numbers = fleet.at_work
        return rng.choice(numbers) if numbers else None

    async def kill(rng: random.Random) -> None:
        number = some(rng)
        if number is not None:
            fleet.kill(number)

    async def stop(rng: random.Random) -> None:
        number = some(rng)
        if number is not None:
            fleet.stop(number)
            await asyncio.sleep(rng.random() * 0.5)
            fleet.go_on(number)

    async def take_over_while_stopped(rng: random.Random) -> None:
        number, other = some(rng), some(rng)
        if number is None or other is None:
            return
        fleet.stop(number)
        for run_id in fleet.open_runs(number):
            if other != number:
                fleet.command(other, "rival", run_id)
        await asyncio.sleep(0.3 + rng.random())
        fleet.go_on(number)

    async def start_rivals(rng: random.Random) -> None:
        number = some(rng)
        if number is None:
            return
        runs = fleet.open_runs(number)
        for run_id in rng.sample(runs, min(3, len(runs))):
            fleet.command(rng.choice(fleet.at_work or [number]), "rival", run_id)

    async def cancel_tasks(rng: random.Random) -> None:
        number = some(rng)
        if number is not None:
            fleet.command(number, "cancel", 0.5)

    async def cancel_a_run(rng: random.Random) -> None:
        number, other = some(rng), some(rng)
        if number is None or other is None:
            return
        runs = fleet.open_runs(number)
        if runs:
            fleet.command(other, "cancel run", rng.choice(runs))

    async def skew_a_clock(rng: random.Random) -> None:
        number = some(rng)
        if number is not None:
            fleet.command(number, "skew", rng.choice([-86_400, -3_600, -5, 0, 5, 3_600, 86_400]))

    return {
        "process killed (SIGKILL)": kill,
        "process stopped and continued": stop,
        "taken over while stopped": take_over_while_stopped,
        "rival executors": start_rivals,
        "tasks cancelled": cancel_tasks,
        "run cancelled": cancel_a_run,
        "clock skewed": skew_a_clock,
    }
