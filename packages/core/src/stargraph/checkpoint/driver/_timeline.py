"""The methods of `RunTimeline` and `RunWatch`, over what a driver does for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import ClassVar

from stargraph.checkpoint.driver._arguments import check_timeline
from stargraph.checkpoint.driver._lifecycle import Lifecycle
from stargraph.checkpoint.driver._watching import QUICK, LookPolicy, watch_steps
from stargraph.checkpoint.protocol import StepSummary, is_run_id


class TimelineMethods(ABC):
    """Gives a driver's handle the methods of `RunTimeline` and `RunWatch`: derive from it.

    Attributes:
        _lifecycle: whether the handle may be used.
        _look_policy: how often a watch looks.
    """

    _lifecycle: Lifecycle
    _look_policy: ClassVar[LookPolicy] = QUICK

    @abstractmethod
    async def _timeline_page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        """Return rows for the first steps between two, both included, and whether there may be more.

        Raises:
            CheckpointCorruptedError: what tells an event is damaged, or a step is lost.
        """

    @abstractmethod
    async def _latest_step(self, run_id: str) -> int | None:
        """Return the latest step of a run, or None if absent: one small read."""

    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        self._lifecycle.ensure_open()
        first, last = check_timeline(from_step, to_step, limit)
        rows: list[StepSummary] = []
        more = is_run_id(run_id)
        while more and first <= last and len(rows) < limit:
            page, more = await self._timeline_page(run_id, first, last, limit - len(rows))
            rows += page
            if page:
                first = page[-1].step + 1
            self._lifecycle.ensure_open()
        return rows

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        self._lifecycle.ensure_open()
        look = partial(self._look, run_id)
        async with aclosing(watch_steps(look, after_step=after_step, policy=self._look_policy)) as steps:
            async for step in steps:
                yield step

    async def _look(self, run_id: str) -> int | None:
        self._lifecycle.ensure_open()
        return await self._latest_step(run_id) if is_run_id(run_id) else None
