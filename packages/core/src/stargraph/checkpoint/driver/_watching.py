"""Watching a run by looking at its end again and again, quickly while it moves and slowly while it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, NamedTuple


class LookPolicy(NamedTuple):
    """How often a watch looks.

    Attributes:
        first: the seconds between a step that was seen and the next look.
        longest: the seconds between two looks at a run that does not move, at most.
        growth: by how much the time grows with each look that finds nothing.
    """

    first: float = 0.05
    longest: float = 1.0
    growth: float = 1.5

    def after(self, wait: float) -> float:
        """Return the seconds until the next look, after a wait and a look that found nothing."""
        return min(wait * self.growth, self.longest)


QUICK: Final = LookPolicy()
"""For a store to which a look is one small read."""


async def watch_steps(
    latest_step: Callable[[], Awaitable[int | None]], *, after_step: int = -1, policy: LookPolicy = QUICK
) -> AsyncGenerator[int]:
    """Yield the latest step of a run each time that it has grown, as `RunWatch` promises.

    Args:
        latest_step: looks: returns the latest step of the run, or None if there is no such run.
        after_step: only steps above it.
        policy: how often to look.

    Raises:
        ValueError: `after_step` is not an integer.
        CheckpointError: as a look raises.
    """
    if isinstance(after_step, bool) or not isinstance(after_step, int):
        raise ValueError(f"after_step is {after_step!r}: give an integer")
    known, wait = after_step, policy.first
    while True:
        step = await latest_step()
        if step is not None and step > known:
            known, wait = step, policy.first
            yield step
            continue  # whoever listens may have taken a while
        await asyncio.sleep(wait)
        wait = policy.after(wait)
