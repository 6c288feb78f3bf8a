"""Deletion and pruning: what goes leaves a tombstone, so that its slot stays taken."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from stargraph.checkpoint.driver import needed_steps
from stargraph.checkpoint.protocol import ENDED, Status
from stargraph.checkpoint.s3._frame import Head, is_tombstone, tombstone
from stargraph.checkpoint.s3._index import Entry
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._log import RunLog
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.checkpoint.s3._reader import RecordReader

GRACE: Final = timedelta(days=7)
"""How long a tombstone stays. A writer that is stopped in the middle of a write for longer than that may
be acknowledged for a step that is lost."""

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class PruneRule:
    """Which runs a prune looks at, and what it leaves.

    Attributes:
        older_than: only runs whose last step was recorded before.
        statuses: only runs with one of these.
        keep_last: how many checkpoints of each run to keep; 0 removes the run.
    """

    older_than: datetime
    statuses: Collection[Status]
    keep_last: int

    def matches(self, head: Head) -> bool:
        """Tell whether a run is one of those.

        Args:
            head: its latest record.
        """
        return head.summary.status in self.statuses and head.summary.updated_at < self.older_than


class Removal:
    """Deletes and prunes runs, and clears away what is past the grace.

    Args:
        store: the objects.
        keys: where they are.
        log: the logs.
        reader: reads whole records.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, log: RunLog, reader: RecordReader) -> None:
        self._store = store
        self._keys = keys
        self._log = log
        self._reader = reader

    async def delete(self, run_id: str) -> bool:
        """Remove a run for good. After a crash in the middle the run reads as unknown; do it again.

        Args:
            run_id: the run.

        Returns:
            Whether there was anything to remove.
        """
        while True:
            newest = await self._log.newest(run_id)
            if newest is None:
                return False
            step, _ = newest
            if await self._log.is_end_of_deleted(run_id, *newest):
                return await self._bury(run_id, step - 1) > 0
            if await self._claim(run_id, step + 1):
                await self._bury(run_id, step)
                return True

    async def prune(self, run_id: str, started_at: datetime, rule: PruneRule, *, now: datetime, dry_run: bool) -> int:
        """Remove what a rule removes of one run, and free what is past the grace.

        Args:
            run_id: the run.
            started_at: when it started.
            rule: the rule.
            now: the time.
            dry_run: only count.

        Returns:
            How many checkpoints go.
        """
        while True:
            newest = await self._log.newest(run_id)
            if newest is None:
                return 0
            latest, _ = newest
            if await self._log.is_end_of_deleted(run_id, *newest):
                return 0 if dry_run or rule.keep_last > 0 else await self._bury(run_id, latest - 1)
            head = await self._log.head(run_id, latest)
            if not isinstance(head, Head) or head.summary.started_at != started_at or not rule.matches(head):
                return 0
            if rule.keep_last > 0:
                return await self._thin(run_id, head, rule.keep_last, now=now, dry_run=dry_run)
            if dry_run:
                return len(await self._records(run_id))
            # Taking the next slot proves that the run is still as it was judged.
            if await self._claim(run_id, latest + 1):
                return await self._bury(run_id, latest)

    async def _thin(self, run_id: str, head: Head, keep_last: int, *, now: datetime, dry_run: bool) -> int:
        latest, ended = head.summary.last_step, head.summary.status in ENDED
        slots = [slot async for slot in self._log.slots(run_id)]
        records = [step for step, info in slots if not is_tombstone(info.size)]
        kept = await self._kept(run_id, latest, set(records[:keep_last]), ended=ended)
        if kept is None:
            return 0  # The run has moved on, and another prune with it, which knows what the run needs now.
        # What was added since refers to the step judged here, to later ones, or to what that step needs, and is
        # decoded from those or from what that step is decoded from.
        victims = sorted(step for step in records if step < latest and step not in kept)
        if victims and not dry_run:
            if ended:
                await self._store.overwrite([self._keys.file(run_id, head.summary.started_at, latest)], b"")
            await self._store.overwrite([self._keys.slot(run_id, step) for step in victims], tombstone("pruned"))
        if not dry_run:
            await self._free(slots, now)
        return len(victims)

    async def _kept(self, run_id: str, latest: int, last: set[int], *, ended: bool) -> set[int] | None:
        """Return what must stay beside some last steps, or None where the latest was pruned meanwhile."""
        needed = set() if ended else await self._needed_by(run_id, latest)
        if needed is None:
            return None
        kept = last | needed | {latest}
        bases = await self._bases_of(run_id, kept)
        return None if bases is None else kept | bases

    async def _needed_by(self, run_id: str, latest: int) -> set[int] | None:
        checkpoint = await self._reader.read(run_id, latest)
        if checkpoint is None:
            return None
        return {step for span in needed_steps(checkpoint) for step in range(span.first, span.last + 1)}

    async def _bases_of(self, run_id: str, steps: set[int]) -> set[int] | None:
        bases: set[int] = set()
        for step in steps:
            # A step is decoded from the step before it and from what that one is decoded from, or from some of these.
            if step - 1 not in steps:
                found = await self._reader.read_with_head(run_id, step)
                if found is None:
                    return None
                bases.update(found[1].bases)
        return bases

    async def reclaim(self, entry: Entry, now: datetime) -> None:
        """Free what a deleted run has left, once it is past the grace.

        Args:
            entry: the index entry of the run, a tombstone.
            now: the time.
        """
        if now - entry.modified <= GRACE:
            return
        slots = [slot async for slot in self._log.slots(entry.run_id)]
        await self._free(slots, now)
        files = (
            []
            if entry.ended_at_step is None
            else [self._keys.file(entry.run_id, entry.started_at, entry.ended_at_step)]
        )
        await self._store.remove([*files, entry.key])

    async def _free(self, slots: list[tuple[int, ObjectInfo]], now: datetime) -> None:
        # The first and the last slot stay taken for good: without them the run could start again, or go on.
        freed = [info.key for _, info in slots[1:-1] if is_tombstone(info.size) and now - info.modified > GRACE]
        for start in range(0, len(freed), _PAGE):
            await self._store.remove(freed[start : start + _PAGE])

    async def _claim(self, run_id: str, step: int) -> bool:
        """Take the slot that the next step would need: from here on no write of the run can succeed."""
        return await self._store.create(self._keys.slot(run_id, step), tombstone("deleted")) is not None

    async def _bury(self, run_id: str, last: int) -> int:
        """Put tombstones in the place of all that a deleted run has; its end is taken already."""
        records = sorted(await self._records(run_id), reverse=True)
        if records:
            # The newest record goes last: it says where the index entry is, should this be done again.
            head = await self._log.head(run_id, records[0])
            if isinstance(head, Head):
                started_at = head.summary.started_at
                await self._store.overwrite([self._keys.entry(run_id, started_at)], tombstone("deleted"))
                if head.summary.status in ENDED:
                    await self._store.overwrite([self._keys.file(run_id, started_at, last)], b"")
            older = [self._keys.slot(run_id, step) for step in reversed(records[1:])]
            await self._store.overwrite(older, tombstone("deleted"))
            await self._store.overwrite([self._keys.slot(run_id, records[0])], tombstone("deleted"))
        return len(records)

    async def _records(self, run_id: str) -> list[int]:
        return [step async for step, info in self._log.slots(run_id) if not is_tombstone(info.size)]
