"""Reading any store from end to end by its contract alone, past what cannot be read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunSearch, RunSummary, Status
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreUnavailableError, StoreVersionError
from stargraph.runtime.dispatch import check_record, stored_steps

Progress: TypeAlias = Callable[[int, int], object]
"""Called now and then with how many runs and how many steps are done."""

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE: Final = 8
"""How many runs are worked on at once: a store far away answers each request late."""

_PAGE: Final = 1_000
_TOLD_EACH: Final = 50
_LONGEST_LIST: Final = 2**31 - 1
_SOUGHT: Final = 10_000
"""How many runs are looked through for the summary of one."""

_TAGS: Final = 8
"""How many tags a search is given; each may cost a store a join."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A step that is stored, and is not what was written.

    Attributes:
        step: the step.
        message: what the store said.
        reason: the reason that it gave.
    """

    step: int
    message: str
    reason: str | None = None

    @property
    def is_missing(self) -> bool:
        """Whether the step is not stored, although the store knows that it was."""
        return self.reason == "missing-step"


class Tally:
    """Counts runs and steps, and reports the counts now and then.

    Args:
        progress: gets the counts.

    Attributes:
        runs: how many runs are done.
        steps: how many steps are.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.runs = 0
        self.steps = 0
        self._progress = progress

    def run(self) -> None:
        """Count a run."""
        self.runs += 1
        self._tell()

    def step(self) -> None:
        """Count a step."""
        self.steps += 1
        if self.steps % _TOLD_EACH == 0:
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.runs, self.steps)


async def all_runs(
    store: Checkpointer,
    *,
    since: datetime | None = None,
    parent_run_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    status: Status | Sequence[Status] | None = None,
) -> AsyncGenerator[RunSummary]:
    """Yield the summary of every run, the newest first.

    Args:
        since: only runs that started then or later.
        parent_run_id: only runs that came from this one; needs `RunSearch`.
        metadata: only runs with these tags; needs `RunSearch`.
        status: only runs with this status, or with one of these; needs `RunSearch`.

    Raises:
        CheckpointCorruptedError: a summary cannot be read, nor those after it.
    """
    try:
        if not isinstance(store, RunSearch):
            for summary in await store.list_runs(since=since, limit=_LONGEST_LIST):
                yield summary
            return
        cursor: str | None = None
        while True:
            page = await store.search(
                since=since,
                parent_run_id=parent_run_id,
                metadata=metadata,
                status=status,
                limit=_PAGE,
                cursor=cursor,
            )
            for summary in page.items:
                yield summary
            if page.next_cursor is None:
                return
            cursor = page.next_cursor
    except ValueError as error:  # a row that no summary can be made of
        raise CheckpointCorruptedError(
            f"the list of runs cannot be read: {str(error).partition(chr(10))[0]}",
            reason="corrupted-record",
            hint="Checkpoints are not affected: name runs by their ids. A backup of the store restores the list.",
        ) from None


async def find_summary(
    store: Checkpointer, run: Checkpoint | RunSummary, *, status: Status | None = None
) -> RunSummary | None:
    """Return the summary that a store lists for a run, searched by what never changes in it.

    Args:
        run: any checkpoint of the run, or what the list said before.
        status: only if a search for this status shows it.

    Returns:
        The summary, or None if the list has none of that graph, start and tags.

    Raises:
        LookupError: so many runs started since that the list was not read to its end.
        CheckpointCorruptedError: the list cannot be read.
    """
    seen = 0
    try:
        if not isinstance(store, RunSearch):
            listed = await store.list_runs(since=run.started_at, limit=_SOUGHT + 1)
            found = next((summary for summary in listed if summary.run_id == run.run_id), None)
            seen = len(listed)
        else:
            found, cursor = None, None
            tags = dict(list(run.metadata.items())[:_TAGS])
            while found is None and seen <= _SOUGHT:
                page = await store.search(
                    status=status,
                    graph_id=run.graph_id,
                    metadata=tags,
                    since=run.started_at,
                    limit=_PAGE,
                    cursor=cursor,
                )
                found = next((summary for summary in page.items if summary.run_id == run.run_id), None)
                seen += len(page.items)
                cursor = page.next_cursor
                if cursor is None:
                    return found
    except ValueError as error:
        raise CheckpointCorruptedError(
            f"the list of runs cannot be read: {str(error).partition(chr(10))[0]}", reason="corrupted-record"
        ) from None
    if found is None and seen > _SOUGHT:
        raise LookupError(run.run_id)
    return found


async def read_latest(store: Checkpointer, run_id: str) -> Checkpoint | Unreadable | None:
    """Return the latest checkpoint of a run, why it cannot be read, or None if absent."""
    try:
        found = await store.read_latest(run_id)
        if found is not None:
            check_record(found, run_id, None)
    except CheckpointError as error:
        damage = _damage(error)
        return Unreadable(0 if damage.step is None else damage.step, damage.message, damage.reason)
    return found


async def steps(
    store: Checkpointer, run_id: str, *, from_step: int = 0, to_step: int | None = None
) -> AsyncGenerator[Checkpoint | Unreadable]:
    """Yield the stored steps of a run in order, and in the place of one that cannot be read why.

    Args:
        from_step: the lowest step.
        to_step: the highest step; None for all there are.
    """
    following = from_step
    while to_step is None or following <= to_step:
        try:
            async with aclosing(stored_steps(store, run_id, from_step=following, to_step=to_step)) as history:
                async for checkpoint in history:
                    check_record(checkpoint, run_id, max(following, checkpoint.step))
                    yield checkpoint
                    following = checkpoint.step + 1
        except CheckpointError as error:
            damage = _damage(error)
        else:
            return
        # A driver may read some steps ahead of the one that it stumbles over: they are read one by one.
        named = damage.step is not None and damage.step >= following
        last = damage.step if named and damage.step is not None else following
        for step in range(following, last + 1):
            try:
                found = await store.read_at_step(run_id, step)
                if found is not None:
                    check_record(found, run_id, step)
                    yield found
                elif not named and to_step is None:
                    return
            except CheckpointError as error:
                damage = _damage(error)
                yield Unreadable(step, damage.message, damage.reason)
        following = last + 1


async def each(
    items: AsyncGenerator[Item], work: Callable[[Item], Awaitable[Result]], *, at_once: int = AT_ONCE
) -> AsyncGenerator[Result]:
    """Yield what `work` returns for each item, in their order, some of them at work at once.

    Args:
        items: they are closed with this.
        work: what to do with one.
        at_once: how many at once.
    """
    pending: deque[asyncio.Task[Result]] = deque()

    async def done(item: Item) -> Result:
        return await work(item)

    try:
        async for item in items:
            pending.append(asyncio.create_task(done(item)))
            if len(pending) == at_once:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await items.aclose()


def _damage(error: CheckpointError) -> CheckpointError:
    """Return the error if it is about one damaged record, and raise it if the store itself fails."""
    damaged = isinstance(error, CheckpointCorruptedError | StoreVersionError) or error.reason == "invalid-checkpoint"
    if not damaged or isinstance(error, StoreUnavailableError):
        raise error
    return error
