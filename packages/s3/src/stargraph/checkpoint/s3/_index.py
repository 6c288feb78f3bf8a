"""The index: entries of the runs, of those that may not have ended, and of the children of a run.

An entry is a hint, checked against the log before it is believed. Each is there before its run begins, and that of an
open run goes after the run has ended, so a wrong one costs a request or two and hides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from stargraph.checkpoint.driver import RunMatcher, RunQuery, in_order
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunPage, RunSummary, is_run_id
from stargraph.checkpoint.s3._concurrency import AT_ONCE, map_each
from stargraph.checkpoint.s3._errors import raise_truncated
from stargraph.checkpoint.s3._frame import Header, PrunedFloor, Tombstone
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import LOGGER, ObjectStore, TransientStoreError
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.errors import CheckpointError

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An entry of the index: the start of a run was tried, and if it came about, the run is in the log.

    Attributes:
        key: its key.
        run_id: the run.
        started_at: when it started.
        modified: when the entry was written, by the store's clock.
        deleted: the run was deleted.
        ended_at_step: the step that ended the run, if its file was made.
        emptied: that file was emptied: steps of the run went, or its deletion has begun.
    """

    key: str
    run_id: str
    started_at: datetime
    modified: datetime
    deleted: bool
    ended_at_step: int | None = None
    emptied: bool = False


class RunIndex:
    """Notes where runs begin and end, and lists them.

    Args:
        store: the objects.
        keys: where they are.
        log: reads the steps of runs.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, log: LogReader) -> None:
        self._store = store
        self._keys = keys
        self._log = log

    async def note_start(self, begun: Checkpoint) -> None:
        """Make the entries of a run that is about to begin."""
        # None is overwritten: the entry of a deleted run is a tombstone.
        await self._store.create_empty(
            [
                self._keys.entry(begun.run_id, begun.started_at),
                *self.hints(begun.run_id, begun.started_at, begun.parent_run_id),
            ]
        )

    async def note_end(self, last: Checkpoint) -> None:
        """Remove the entry of a run among the open ones, after it has ended for good. A failure is logged."""
        try:
            entry = self._keys.entry(last.run_id, last.started_at, folder=self._keys.open)
            reservation = [] if last.queue is None else [self._keys.reservation(last.run_id)]
            await self._store.remove([entry, *reservation])
        except (CheckpointError, TransientStoreError) as error:
            # The write that ended the run has succeeded, and a search looks at the run's log.
            LOGGER.warning(
                "run %r: it ended, and is still listed as open until prune() finds out: %s", last.run_id, error
            )

    def hints(self, run_id: str, started_at: datetime, parent_run_id: str | None) -> list[str]:
        """Return the keys of a run's entries beside that in the index itself."""
        folders = [self._keys.open, *([] if parent_run_id is None else [self._keys.children(parent_run_id)])]
        return [self._keys.entry(run_id, started_at, folder=folder) for folder in folders]

    async def entries(
        self, *, folder: str | None = None, after: str = "", page: int = _PAGE
    ) -> AsyncIterator[IndexEntry]:
        """Yield the entries, the newest start first, ties by run id.

        Args:
            folder: which entries; None for those of all runs.
            after: only those after the entry with this key.
            page: how many keys to list at once, up to 1000.
        """
        folder = self._keys.runs if folder is None else folder
        pending: IndexEntry | None = None
        while True:
            listed = await self._store.list(folder, after=after, limit=page)
            for info in listed:
                run = self._keys.run_of(info.key)
                if run is None:
                    continue
                if run.ended_at_step is None:
                    if pending is not None:
                        yield pending
                    pending = IndexEntry(info.key, run.run_id, run.started_at, info.modified, info.size > 0)
                elif pending is not None and (run.run_id, run.started_at) == (pending.run_id, pending.started_at):
                    pending = replace(pending, ended_at_step=run.ended_at_step, emptied=info.size == 0)
            if len(listed) < page:
                break
            after = listed[-1].key
        if pending is not None:
            yield pending

    async def summary(self, entry: IndexEntry) -> RunSummary | None:
        """Return the summary of the run that an entry names, or None if there is no such run.

        Raises:
            CheckpointCorruptedError: the run has a file that says where it ended, and that end is gone.
        """
        if entry.deleted:
            return None
        header: Header | Tombstone | PrunedFloor | None = None
        # A full file says that nothing of the run went.
        newest = await self._log.newest(entry.run_id) if entry.emptied else None
        if entry.ended_at_step is not None and (newest is None or newest[0] <= entry.ended_at_step):
            header = await self._log.header(entry.run_id, entry.ended_at_step)
            if header is None:
                await self._raise_if_truncated(entry.run_id, entry.ended_at_step)
            if isinstance(header, Header) and header.summary.status not in ENDED:
                header = None
        if not isinstance(header, Header):
            header = await self._log.newest_header(entry.run_id)
        # An entry of a start that lost to another start of the same run names another time.
        if not isinstance(header, Header) or header.summary.started_at != entry.started_at:
            return None
        return header.summary

    async def check_end(self, newest: RunSummary) -> None:
        """Check that the newest record of a run that has not ended is not older than the file of its end.

        Raises:
            CheckpointCorruptedError: the run has ended, and its last records are gone.
        """
        entry = self._keys.entry(newest.run_id, newest.started_at)
        listed = await self._store.list(self._keys.runs, after=entry, limit=1)
        run = self._keys.run_of(listed[0].key) if listed else None
        if (
            run is not None
            and run.ended_at_step is not None
            and (run.run_id, run.started_at) == (newest.run_id, newest.started_at)
            and newest.last_step < run.ended_at_step
        ):
            await self._raise_if_truncated(newest.run_id, run.ended_at_step)

    async def _raise_if_truncated(self, run_id: str, ended_at_step: int) -> None:
        newest = await self._log.newest(run_id)
        # A deletion takes the slot after the end, and later frees those below.
        if newest is None or newest[0] < ended_at_step:
            raise_truncated(run_id, ended_at_step, None if newest is None else newest[0])

    async def first_runs(self, *, since: datetime | None, limit: int) -> list[RunSummary]:
        """Return the newest runs, and read no more of the store than that takes.

        Args:
            since: only runs that started then or later.
            limit: at most this many.
        """
        found: list[RunSummary] = []
        # A run has up to two keys, and one key more shows that the last of them is the last.
        entries = self.entries(page=min(_PAGE, 2 * limit + 1))
        async for window in windows(entries, lambda: min(AT_ONCE, limit - len(found)), since=since):
            found.extend(filter(None, await map_each(self.summary, window)))
        return found

    async def search(self, query: RunQuery) -> RunPage:
        """Return one page of the runs that match; see `RunSearch.search`."""
        if query.order == "updated" or query.matcher.run_id_prefix is not None:
            # No key is in this order: all that match are looked at.
            return query.page([summary async for summary in self._matching(query.matcher)])
        wanted = query.limit + 1 if query.limit else 0
        after = None if query.cursor is None else (query.cursor.run_id, query.cursor.moment)
        return query.cut([summary async for summary in self._matching(query.matcher, after=after, limit=wanted)])

    async def matching(self, matcher: RunMatcher) -> list[RunSummary]:
        """Return all runs that match, the newest start first."""
        return [summary async for summary in self._matching(matcher)]

    async def _matching(
        self,
        matcher: RunMatcher,
        *,
        after: tuple[str, datetime] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RunSummary]:
        if matcher.statuses == () or (matcher.parent_run_id is not None and not is_run_id(matcher.parent_run_id)):
            return
        if matcher.run_id_prefix is not None:
            for run in await self._beginning_with(matcher.run_id_prefix):
                if matcher.matches(run):
                    yield run
            return
        # The folder with the fewest entries that has every run which may match.
        folder = self._keys.runs
        if matcher.parent_run_id is not None:
            folder = self._keys.children(matcher.parent_run_id)
        elif matcher.due_before is not None or (
            matcher.statuses is not None and not ENDED.intersection(matcher.statuses)
        ):
            folder = self._keys.open
        entries = self.entries(folder=folder, after="" if after is None else self._keys.entry(*after, folder=folder))
        found = 0
        # Only so many at once as may still be wanted would take many round trips if few of them match.
        async for window in windows(entries, lambda: AT_ONCE, since=matcher.since):
            for summary in await map_each(self.summary, window):
                if found == limit:
                    return
                if summary is not None and matcher.matches(summary):
                    found += 1
                    yield summary

    async def _beginning_with(self, prefix: str) -> list[RunSummary]:
        """Return the runs whose id begins with a prefix, as the folders of their logs are named."""
        if not is_run_id(prefix):
            return []
        found: list[str] = []
        after = ""
        while True:
            folders = await self._store.folders(self._keys.log(prefix)[:-1], after=after, limit=_PAGE)
            found.extend(filter(is_run_id, map(self._keys.run_of_log, folders)))
            if len(folders) < _PAGE:
                break
            after = folders[-1]
        headers = await map_each(self._log.newest_header, found)
        return in_order(header.summary for header in headers if isinstance(header, Header))


async def windows(
    entries: AsyncIterator[IndexEntry],
    width: Callable[[], int],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    deleted: bool = False,
) -> AsyncIterator[list[IndexEntry]]:
    """Yield entries some at a time.

    Args:
        entries: the entries, the newest first.
        width: how many to take next; 0 ends it.
        since: only those that started then or later.
        until: only those that started before.
        deleted: those of deleted runs too.
    """
    window: list[IndexEntry] = []
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
