"""Drivers whose history is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import check_bounds
from stargraph.checkpoint.protocol import (
    Checkpoint,
)
from stargraph.errors import CheckpointError, StoreUnavailableError
from support.broken_drivers.broken_driver import broken


class Histories(ReferenceCheckpointer):
    """A base: yields the steps that `_wanted` picks."""

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        self._ensure_ready()
        await self._turn()
        for step in self._wanted(sorted(self._records(run_id)), from_step, to_step, newest_first):
            found = self._at(run_id, step)
            if found is not None:
                yield found
            await self._turn()

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        kept = [step for step in steps if (first is None or step >= first) and (last is None or step <= last)]
        return kept[::-1] if newest_first else kept


@broken(
    "history.newest_first",
    "history.range",
)
class HalfOpenHistory(Histories):
    """to_step is not included, as in a range of Python."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, None if last is None else last - 1, newest_first)


@broken(
    "history.range",
)
class ZeroIsNoBound(Histories):
    """`if to_step:` takes step 0 for no bound at all."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, last or None, newest_first)


@broken(
    "history.range",
    "history.newest_first",
    "history.interleaved",
)
class AlwaysOldestFirst(Histories):
    """newest_first is ignored."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, last, False)


@broken(
    "history.in_order",
    "history.newest_first",
)
class HistoryAsText(Histories):
    """Steps are sorted as text."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return sorted(super()._wanted(steps, first, last, False), key=str, reverse=newest_first)


@broken(
    "history.in_order",
)
class HistoryOfAHundred(Histories):
    """The first page of the store below is all that is given."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, last, newest_first)[:100]


@broken(
    "history.in_order",
    "history.unknown_is_empty",
)
class HistoryOfPrefixes(Histories):
    """A scan by prefix: the steps of run2 come with those of run."""

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        for known in sorted(self._store.runs):
            if known.startswith(run_id):
                async for found in super().history(known, **arguments):
                    yield found
        self._ensure_ready()


@broken(
    "history.unknown_is_empty",
)
class HistoryNeedsARun(Histories):
    """history of an unknown run raises."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        if not steps:
            raise CheckpointError("no such run", reason="not-found")
        return super()._wanted(steps, first, last, newest_first)


@broken(
    "history.interleaved",
)
class SharedIteration(Histories):
    """One cursor for all iterations: the one that was begun last takes it over."""

    _cursor: list[Checkpoint] | None = None

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        self._cursor = [found async for found in super().history(run_id, **arguments)]
        while self._cursor:
            yield self._cursor.pop(0)


@broken(
    "history.during_appends",
)
class FailsWhileItGrows(Histories):
    """The iteration walks the store itself, and fails once the run grows."""

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        before = len(self._records(run_id))
        async for found in super().history(run_id, **arguments):
            if len(self._records(run_id)) != before:
                raise RuntimeError("dictionary changed size during iteration")
            yield found


@broken(
    "history.abandoned",
)
class LeaksIterations(Histories):
    """An iteration that is left early keeps its connection."""

    _free = 20

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        if self._free == 0:
            raise StoreUnavailableError("no connection became free", reason="unavailable")
        self._free -= 1
        async for found in super().history(run_id, **arguments):
            yield found
        self._free += 1


@broken(slow=("history.thousands",))
class HistoryOfTwoThousand(Histories):
    """The store below answers a query with at most 2,000 rows, and nobody asks for the rest."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, last, newest_first)[:2000]


@broken("history.thousands")
class HistoryByOffset(ReferenceCheckpointer):
    """Pages of a hundred rows, each found by how many came before it: LIMIT 100 OFFSET n."""

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        self._ensure_ready()
        first, last = check_bounds(from_step, to_step)
        offset = 0
        while True:
            await self._turn()
            steps = [
                step for step in sorted(self._required_steps(run_id), reverse=newest_first) if first <= step <= last
            ]
            page = [self._at(run_id, step) for step in steps[offset : offset + 100]]
            for found in page:
                if found is not None:
                    yield found
            if not page:
                return
            offset += len(page)
