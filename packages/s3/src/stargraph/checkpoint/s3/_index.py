"""The index of runs: one entry for each, the newest first, checked against the log before it is believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime

from stargraph.checkpoint.protocol import ENDED, RunSummary
from stargraph.checkpoint.s3._frame import Head, Tombstone
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._log import RunLog
from stargraph.checkpoint.s3._objects import ObjectStore


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the index: the start of a run was tried, and if it came about, the run is in the log.

    Attributes:
        key: its key.
        run_id: the run.
        started_at: when it started.
        modified: when the entry was written, by the store's clock.
        deleted: the run was deleted.
        ended_at_step: the step that ended the run, if its file was made; no more than a hint.
    """

    key: str
    run_id: str
    started_at: datetime
    modified: datetime
    deleted: bool
    ended_at_step: int | None = None


class RunIndex:
    """Lists runs.

    Args:
        store: the objects.
        keys: where they are.
        log: the logs.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, log: RunLog) -> None:
        self._store = store
        self._keys = keys
        self._log = log

    async def entries(self, *, after: str = "", page: int = 1000) -> AsyncIterator[Entry]:
        """Yield the entries, the newest start first, ties by run id.

        Args:
            after: only those after the entry with this key.
            page: how many keys to list at once, up to 1000.
        """
        pending: Entry | None = None
        while True:
            listed = await self._store.list(self._keys.runs, after=after, limit=page)
            for info in listed:
                run = self._keys.run_of(info.key)
                if run is None:
                    continue
                if run.ended_at_step is None:
                    if pending is not None:
                        yield pending
                    pending = Entry(info.key, run.run_id, run.started_at, info.modified, info.size > 0)
                elif pending is not None and (run.run_id, run.started_at) == (pending.run_id, pending.started_at):
                    pending = replace(pending, ended_at_step=run.ended_at_step)
            if len(listed) < page:
                break
            after = listed[-1].key
        if pending is not None:
            yield pending

    async def summary(self, entry: Entry) -> RunSummary | None:
        """Return the summary of the run that an entry names, or None where there is no such run.

        Args:
            entry: the entry.
        """
        if entry.deleted:
            return None
        head: Head | Tombstone | None = None
        if entry.ended_at_step is not None:
            head = await self._log.head(entry.run_id, entry.ended_at_step)
            if isinstance(head, Head) and head.summary.status not in ENDED:
                head = None
        if not isinstance(head, Head):
            head = await self._log.newest_head(entry.run_id)
        # An entry of a start that lost to another start of the same run names another time.
        if not isinstance(head, Head) or head.summary.started_at != entry.started_at:
            return None
        return head.summary
