"""Goes through the index, a window of runs at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final

from stargraph.checkpoint.protocol import RunSummary
from stargraph.checkpoint.s3._concurrency import AT_ONCE, map_each
from stargraph.checkpoint.s3._index import Entry, RunIndex

_PAGE: Final = 1000


async def first_runs(index: RunIndex, *, since: datetime | None, limit: int) -> list[RunSummary]:
    """Return the newest runs, and read no more of the store than that takes.

    Args:
        index: the index.
        since: only runs that started then or later.
        limit: how many.
    """
    found: list[RunSummary] = []
    # A run has up to two keys, and one key more shows that the last of them is the last.
    entries = index.entries(page=min(_PAGE, 2 * limit + 1))
    async for window in windows(entries, lambda: min(AT_ONCE, limit - len(found)), since=since):
        found.extend(filter(None, await map_each(index.summary, window)))
    return found


async def all_runs(index: RunIndex) -> list[RunSummary]:
    """Return the summaries of all runs; one or two requests for each.

    Args:
        index: the index.
    """
    found: list[RunSummary] = []
    async for window in windows(index.entries(), lambda: AT_ONCE):
        found.extend(filter(None, await map_each(index.summary, window)))
    return found


async def matching_runs(
    index: RunIndex,
    wanted: Callable[[RunSummary], bool],
    *,
    since: datetime | None,
    limit: int,
    after: str = "",
) -> list[tuple[Entry, RunSummary]]:
    """Return the newest runs that match, with their entries.

    Args:
        index: the index.
        wanted: tells whether a run matches.
        since: only runs that started then or later.
        limit: how many.
        after: only runs after the entry with this key.
    """
    found: list[tuple[Entry, RunSummary]] = []
    async for window in windows(index.entries(after=after), lambda: AT_ONCE * (len(found) < limit), since=since):
        for entry, summary in zip(window, await map_each(index.summary, window), strict=True):
            if summary is not None and wanted(summary):
                found.append((entry, summary))
    return found[:limit]


async def windows(
    entries: AsyncIterator[Entry],
    width: Callable[[], int],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    deleted: bool = False,
) -> AsyncIterator[list[Entry]]:
    """Yield entries some at a time.

    Args:
        entries: the entries, the newest first.
        width: how many to take next; 0 ends it.
        since: only those that started then or later.
        until: only those that started before.
        deleted: those of deleted runs too.
    """
    window: list[Entry] = []
    wanted = width()
    if not wanted:
        return
    async for entry in entries:
        if since is not None and entry.started_at < since:
            break
        if (entry.deleted and not deleted) or (until is not None and entry.started_at >= until):
            continue
        window.append(entry)
        if len(window) == wanted:
            yield window
            window, wanted = [], width()
            if not wanted:
                return
    if window:
        yield window
