"""Deletion and pruning: what goes leaves a tombstone, so that its slot stays taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from stargraph.checkpoint.driver import PruneRule, needed_steps, repaired_entry
from stargraph.checkpoint.protocol import ENDED, PruneReport, is_run_id
from stargraph.checkpoint.s3._concurrency import AT_ONCE, map_each
from stargraph.checkpoint.s3._frame import Header, PrunedFloor, is_tombstone, tombstone
from stargraph.checkpoint.s3._index import IndexEntry, RunIndex, windows
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import LOGGER, ObjectInfo, ObjectStore, TransientStoreError
from stargraph.checkpoint.s3._read import RecordReader
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.checkpoint.s3._step_keys import StepKeys
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreUnavailableError

TOMBSTONE_LIFETIME: Final = timedelta(days=7)
"""How long a tombstone stays. A writer that is suspended in the middle of a write for longer than that may
be acknowledged for a step that is lost."""

_PAGE: Final = 1000


class _Removed(NamedTuple):
    """What a deletion has put tombstones in the place of.

    Attributes:
        records: how many records.
        start: the floor of the run, if it was only being started and that floor is not stored yet.
    """

    records: int
    start: PrunedFloor | None


class Pruner:
    """Deletes and prunes runs, and frees the tombstones that are old enough.

    Args:
        store: the objects.
        keys: where they are.
        reader: reads whole records.
        index: lists runs.
        step_keys: notes the keys of steps.
        forget: makes the handle forget a run that was deleted.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: KeyLayout,
        log: LogReader,
        reader: RecordReader,
        index: RunIndex,
        step_keys: StepKeys,
        forget: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._keys = keys
        self._log = log
        self._reader = reader
        self._index = index
        self._step_keys = step_keys
        self._forget = forget

    async def delete(self, run_id: str) -> bool:
        """Remove a run for good. After a crash in the middle the run reads as unknown; do it again.

        Returns:
            Whether there was anything to remove.
        """
        while True:
            newest = await self._log.newest(run_id)
            if newest is None:
                return False
            step, _ = newest
            end = await self._log.tombstone_at(run_id, *newest)
            if end == "deleted":
                return (await self._mark_deleted(run_id)).records > 0
            following = end.step if isinstance(end, PrunedFloor) else step + 1
            latest = await self._newest_readable(run_id, step)
            if latest is not None:
                await self._empty_file(latest, step)
            if await self._take_slot(run_id, following):
                removed = await self._mark_deleted(run_id, latest)
                start = None if removed.start is None or removed.start.step == following else removed.start
                if start is None or await self._take_slot(run_id, start.step):
                    return removed.records > 0

    async def prune_runs(self, rule: PruneRule, writing: Callable[[str], asyncio.Lock]) -> PruneReport:
        """Remove what a rule removes, free what went more than seven days ago, and correct the list of open runs.

        Args:
            writing: returns the lock that the writes of a run take.
        """
        now = datetime.now(UTC)

        async def prune(run_id: str, started_at: datetime) -> int:
            async with writing(run_id):
                return await self.prune(run_id, started_at, rule, now=now)

        async def prune_entry(entry: IndexEntry) -> int:
            if not entry.deleted:
                return await prune(entry.run_id, entry.started_at)
            if not rule.dry_run:
                await self.reclaim(entry, now)
            return 0

        counts: list[int] = []
        if rule.run_id is not None:
            newest = await self._log.newest_header(rule.run_id) if is_run_id(rule.run_id) else None
            if isinstance(newest, Header):
                counts.append(await prune(rule.run_id, newest.summary.started_at))
        else:
            async for window in windows(self._index.entries(), lambda: AT_ONCE, until=rule.older_than, deleted=True):
                counts += await map_each(prune_entry, window)
            if not rule.dry_run:
                entries = self._index.entries(folder=self._keys.open)
                async for window in windows(entries, lambda: AT_ONCE, until=rule.older_than):
                    await map_each(lambda entry: self.remove_stale(entry, now), window)
        return PruneReport(runs=sum(count > 0 for count in counts), checkpoints=sum(counts), dry_run=rule.dry_run)

    async def prune(self, run_id: str, started_at: datetime, rule: PruneRule, *, now: datetime) -> int:
        """Remove what a rule removes of one run, and free its old tombstones.

        Args:
            started_at: when it started.
            now: the time by the store's clock.

        Returns:
            How many checkpoints go.
        """
        while True:
            newest = await self._log.newest(run_id)
            if newest is None:
                return 0
            latest, _ = newest
            if await self._log.is_end_of_deleted(run_id, *newest):
                return 0 if rule.dry_run or rule.keep_last > 0 else (await self._mark_deleted(run_id)).records
            header = await self._log.header(run_id, latest)
            if not isinstance(header, Header) or header.start is not None or not _is_prunable(header, started_at, rule):
                return 0
            if rule.keep_last > 0:
                return await self._prune_steps(run_id, header, rule, now=now)
            if await self._is_awaited(header):
                return 0
            if rule.dry_run:
                return len(await self._records(run_id))
            await self._empty_file(header, latest)
            # Taking the next slot proves that the run is still as it was judged.
            if await self._take_slot(run_id, latest + 1):
                return (await self._mark_deleted(run_id, header)).records

    async def _is_awaited(self, header: Header) -> bool:
        """Return whether a run is a child whose parent has not ended: that may still have to read how it ended."""
        run = header.summary
        if run.origin != "subgraph" or run.parent_run_id is None:
            return False
        parent = await self._log.newest_header(run.parent_run_id)
        return isinstance(parent, Header) and parent.summary.status not in ENDED

    async def _prune_steps(self, run_id: str, header: Header, rule: PruneRule, *, now: datetime) -> int:
        latest, ended = header.summary.last_step, header.summary.status in ENDED
        slots = [slot async for slot in self._log.slots(run_id)]
        records = [step for step, info in slots if not is_tombstone(info.size)]
        kept = await self._kept(run_id, latest, set(records[: rule.keep_last]), ended=ended)
        if kept is None:
            return 0  # The run has moved on, and another prune with it, which knows what the run needs now.
        # What was added since refers to the step judged here, to later ones, or to what that step needs, and is
        # decoded from those or from what that step is decoded from.
        prunable = sorted(step for step in records if step < latest and step not in kept)
        if prunable and not rule.dry_run:
            await self._empty_file(header, latest)
            await self._store.overwrite([self._keys.slot(run_id, step) for step in prunable], tombstone("pruned"))
            await self._step_keys.remove(run_id, below=latest, kept=kept)
        if not rule.dry_run:
            await self._free(slots, now)
        return len(prunable)

    async def _kept(self, run_id: str, latest: int, last: set[int], *, ended: bool) -> set[int] | None:
        """Return what must stay beside some last steps, or None if the latest was pruned meanwhile."""
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
                found = await self._reader.read_with_header(run_id, step)
                if found is None:
                    return None
                bases.update(found[1].bases)
        return bases

    async def reclaim(self, entry: IndexEntry, now: datetime) -> None:
        """Free what a deleted run has left, once its tombstones are old enough.

        Args:
            entry: the index entry of the run, a tombstone.
            now: the time by the store's clock.
        """
        if now - entry.modified <= TOMBSTONE_LIFETIME:
            return
        slots = [slot async for slot in self._log.slots(entry.run_id)]
        await self._free(slots, now)
        files = (
            []
            if entry.ended_at_step is None
            else [self._keys.file(entry.run_id, entry.started_at, entry.ended_at_step)]
        )
        await self._store.remove([*files, self._keys.cache_key(entry.run_id), entry.key])

    async def repair_open_runs(self) -> list[str]:
        """Correct the list of open runs, in which queues and searches find them; say what was wrong with each."""
        now = datetime.now(UTC)
        missing: list[str] = []
        listed = {entry.key async for entry in self._index.entries(folder=self._keys.open)}

        async def add(entry: IndexEntry) -> None:
            key = self._keys.entry(entry.run_id, entry.started_at, folder=self._keys.open)
            if key in listed:
                return
            run = await self._index.summary(entry)
            # A run that began after the list was read has its entry.
            if run is None or run.status in ENDED or await self._store.get(key) is not None:
                return
            await self._store.create_empty([key])
            missing.append(repaired_entry(run.run_id, was_there=False, belongs_there=True))

        stale: list[str] = []

        async def remove(entry: IndexEntry) -> None:
            if await self.remove_stale(entry, now):
                stale.append(repaired_entry(entry.run_id, was_there=True, belongs_there=False))

        async for window in windows(self._index.entries(), lambda: AT_ONCE):
            await map_each(add, window)
        async for window in windows(self._index.entries(folder=self._keys.open), lambda: AT_ONCE):
            await map_each(remove, window)
        return sorted(missing) + sorted(stale)

    async def remove_stale(self, entry: IndexEntry, now: datetime) -> bool:
        """Remove an entry of an open run if that run has ended, was deleted, or can no longer begin.

        Args:
            entry: an entry among those of the open runs.
            now: the time by the store's clock.

        Returns:
            Whether it was removed.
        """
        newest = await self._log.newest_header(entry.run_id)
        if newest is None:
            # Its first step may be under way, for as long as any write.
            stale = now - entry.modified > TOMBSTONE_LIFETIME
        elif isinstance(newest, Header):
            stale = newest.summary.status in ENDED or newest.summary.started_at != entry.started_at
        else:
            stale = True
        if not stale:
            return False
        try:
            await self._store.remove([entry.key])
        except StoreUnavailableError as error:
            if error.reason != "access-denied":
                raise
            # Permission to overwrite, without that to remove, is enough to prune.
            LOGGER.warning("run %r: its entry in open/ was not removed: %s", entry.run_id, error)
            return False
        return True

    async def _free(self, slots: list[tuple[int, ObjectInfo]], now: datetime) -> None:
        # The first slot and the highest tombstone stay for good. Without the first one the run could start again; the
        # other one ends a deleted run, and tells in any other one below which step an empty slot is no loss.
        tombstones = [info for _, info in slots[:-1] if is_tombstone(info.size)]
        freed = [info.key for info in tombstones[1:] if now - info.modified > TOMBSTONE_LIFETIME]
        for start in range(0, len(freed), _PAGE):
            await self._store.remove(freed[start : start + _PAGE])

    async def _take_slot(self, run_id: str, step: int) -> bool:
        """Take the slot that the next step would need: from here on no write of the run can succeed."""
        return await self._store.create(self._keys.slot(run_id, step), tombstone("deleted")) is not None

    async def _newest_readable(self, run_id: str, latest: int) -> Header | None:
        """Return the header of the newest record of a run that is not damaged, or None if absent.

        Args:
            latest: the step of the newest record.
        """
        with suppress(CheckpointCorruptedError):
            header = await self._log.header(run_id, latest)
            return header if isinstance(header, Header) else None
        # Every record says when the run started, which the keys of its entries name.
        async for step, _ in self._log.slots(run_id, to_step=latest - 1):
            with suppress(CheckpointCorruptedError):
                header = await self._log.header(run_id, step)
                if isinstance(header, Header):
                    return header
        return None

    async def _empty_file(self, newest: Header, latest: int) -> None:
        """Empty the file of a run that has ended, before anything of the run goes.

        A listing believes of a run with a full file that it is as it ended, and looks at nothing else.

        Args:
            newest: the newest header that can be read.
            latest: the step of the newest record. If it is damaged, it may have been the end.
        """
        run = newest.summary
        if run.status in ENDED or run.last_step < latest:
            await self._store.overwrite([self._keys.file(run.run_id, run.started_at, latest)], b"")

    async def _mark_deleted(self, run_id: str, latest: Header | None = None) -> _Removed:
        """Put tombstones in the place of all that a deleted run has; its end is taken already.

        Args:
            latest: the newest header of it that can be read, if that was looked for.
        """
        records = sorted(await self._records(run_id), reverse=True)
        start: PrunedFloor | None = None
        if records:
            # The newest record goes last: it says where the index entry is, should this be done again.
            header = latest or await self._newest_readable(run_id, records[0])
            # First, so that copies on other machines cannot be read any more, whenever this is cut short.
            await self._store.overwrite([self._keys.cache_key(run_id)], tombstone("deleted"))
            if header is not None:
                start = header.start
                started_at = header.summary.started_at
                await self._store.overwrite([self._keys.entry(run_id, started_at)], tombstone("deleted"))
                await self._remove_hints(header)
            older = [self._keys.slot(run_id, step) for step in reversed(records[1:])]
            await self._step_keys.remove(run_id)
            await self._store.overwrite(older, tombstone("deleted"))
            await self._store.overwrite([self._keys.slot(run_id, records[0])], tombstone("deleted"))
        await self._forget(run_id)
        return _Removed(len(records), start)

    async def _remove_hints(self, newest: Header) -> None:
        run = newest.summary
        try:
            await self._store.remove(self._index.hints(run.run_id, run.started_at, run.parent_run_id))
        except (CheckpointError, TransientStoreError) as error:
            # They name the run and hold nothing of it; whoever follows them finds it deleted.
            LOGGER.warning("run %r: it was deleted, and its entry in open/ was not removed: %s", run.run_id, error)

    async def _records(self, run_id: str) -> list[int]:
        return [step async for step, info in self._log.slots(run_id) if not is_tombstone(info.size)]


def _is_prunable(newest: Header, started_at: datetime, rule: PruneRule) -> bool:
    run = newest.summary
    return run.started_at == started_at and run.status in rule.statuses and run.updated_at < rule.older_than
