"""Drivers whose lists, searches, histories and caches say something else than their log."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import check_listing
from stargraph.checkpoint.protocol import Checkpoint, RunPage, RunSummary
from stargraph.errors import CheckpointCorruptedError, CheckpointError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.indexed import Indexed

T = TypeVar("T")


@broken("trees.awaited_children", "views.after_delete", importable=True)
class SearchOutlivesDeletion(Indexed):
    """delete_run removes the log and leaves the index: lists check against the log, searches do not."""

    def _delete(self, database: sqlite3.Connection, run_id: str) -> bool:
        there = database.execute("DELETE FROM checkpoints WHERE run_id = ?", (run_id,)).rowcount > 0
        if there:
            database.execute("INSERT INTO deleted VALUES (?)", (run_id,))
        return there

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        found = await super().list_runs(since=since, limit=limit + 1000 if limit >= 0 else limit)
        with self._connected() as database:
            return [item for item in found if self._latest(database, item.run_id)][:limit]


@broken("views.after_delete", importable=True)
class StepsCachedForGood(Indexed):
    """Steps never change, so each handle keeps the ones that it has read; another handle's deletion is not seen."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        kept: dict[tuple[str, int], Checkpoint] = self.__dict__.setdefault("_kept", {})
        self._ensure_ready()
        if (run_id, step) not in kept:
            found = await super().read_at_step(run_id, step)
            if found is None:
                return None
            kept[run_id, step] = found
        return kept[run_id, step]

    async def delete_run(self, run_id: str) -> bool:
        self.__dict__.pop("_kept", None)
        return await super().delete_run(run_id)


@broken("views.after_prune", importable=True)
class HistoryCachedForGood(Indexed):
    """A history that was read once is kept, and only read on from its end."""

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        self._ensure_ready()
        kept: dict[str, list[Checkpoint]] = self.__dict__.setdefault("_histories", {})
        with self._connected() as database:
            latest = self._latest(database, run_id)
        if latest is None:
            return
        steps = kept.setdefault(run_id, [])
        beyond = steps[-1].step + 1 if steps else None
        steps += [found async for found in super().history(run_id, from_step=beyond)]
        low, high = (0 if from_step is None else from_step), (latest.step if to_step is None else to_step)
        wanted = [found for found in steps if low <= found.step <= high]
        for found in wanted[::-1] if newest_first else wanted:
            yield found


@broken("views.after_prune", importable=True)
class HistoryStopsAtAHole(Indexed):
    """The newest first, history goes down step by step from the latest, and stops at the first that is not there."""

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        found = [
            each async for each in super().history(run_id, from_step=from_step, to_step=to_step, newest_first=False)
        ]
        for number, checkpoint in enumerate(found):
            if not newest_first and checkpoint.step != number + (from_step or 0):
                return
            if not newest_first:
                yield checkpoint
        for checkpoint in reversed(found) if newest_first else ():
            yield checkpoint


@broken("views.after_batch", importable=True)
class BatchIndexesItsLastStep(Indexed):
    """A batch updates the index once, with its last step: the tags of a run that begins in it are never stored."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._quiet = True
        try:
            await super().write_many(checkpoints)
        finally:
            self._quiet = False
        if checkpoints:
            with self._connected() as database:
                latest = self._latest(database, checkpoints[-1].run_id)
                if latest is not None:
                    self._index(database, latest)

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        if not getattr(self, "_quiet", False):
            super()._index(database, checkpoint)


@broken("views.after_refusals", importable=True)
class IndexesBeforeItJudges(Indexed):
    """The index is updated before the step is judged, and not rolled back when the step is refused."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        encode(checkpoint)
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            latest = self._latest(database, checkpoint.run_id)
            newer = latest is not None and checkpoint.step == latest.step
            if latest is not None and (newer or checkpoint.step == latest.step + 1) and latest.status != "done":
                sql = "UPDATE runs SET status = ? WHERE run_id = ?"
                database.execute(sql, (checkpoint.status, checkpoint.run_id))
            database.execute("COMMIT")
        await super().write(checkpoint)


@broken("views.after_cancellation", importable=True)
class IndexedLater(Indexed):
    """The record and its index are two transactions; a retry that finds the record leaves out the index."""

    _fresh: Checkpoint | None = None

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        self._fresh = checkpoint

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        fresh = self.__dict__.pop("_fresh", None)
        if fresh is not None:
            await asyncio.sleep(0)
            self._transact(lambda database: Indexed._index(self, database, fresh))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().write_many(checkpoints)
        for checkpoint in checkpoints:
            self._transact(lambda database, each=checkpoint: Indexed._index(self, database, each))  # type: ignore[misc]


@broken("corruption.lost_step", "views.after_damage")
class HistorySkipsDamage(ReferenceCheckpointer):
    """history leaves out the steps that cannot be read."""

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        self._ensure_ready()
        for step in sorted(self._records(run_id), reverse=newest_first):
            if (from_step is None or step >= from_step) and (to_step is None or step <= to_step):
                try:
                    found = self._at(run_id, step)
                except CheckpointError:
                    continue
                if found is not None:
                    yield found


@broken("corruption.lost_step", "views.after_damage")
class HistoryEndsAtDamage(ReferenceCheckpointer):
    """A step that cannot be read ends the history, as if the run ended there."""

    async def history(self, run_id: str, **bounds: Any) -> AsyncIterator[Checkpoint]:
        try:
            async for found in super().history(run_id, **bounds):
                yield found
        except CheckpointCorruptedError:
            return


@broken("views.after_damage")
class NoChildrenBesideDamage(ReferenceCheckpointer):
    """A run has no children if the latest step of some run cannot be read."""

    async def children(self, run_id: str) -> list[RunSummary]:
        try:
            return await super().children(run_id)
        except CheckpointCorruptedError:
            return []


@broken("views.after_damage")
class ListsSkipDamage(ReferenceCheckpointer):
    """A run whose latest step cannot be read is in no list."""

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        kept, good = self._store.runs, {}
        for run_id, records in kept.items():
            try:
                decode(records[max(records)], run_id=run_id, step=max(records))
            except CheckpointError:
                continue
            good[run_id] = records
        self._store.runs = good
        try:
            return super()._summaries(since)
        finally:
            self._store.runs = kept


@broken("views.after_writes", importable=True)
class SearchesKeptUntilItWrites(Indexed):
    """Each handle keeps the answers to its searches until it writes itself; the writes of others do not show."""

    async def search(self, **filters: Any) -> RunPage:
        self._ensure_ready()
        answers: dict[str, RunPage] = self.__dict__.setdefault("_answers", {})
        key = repr(sorted(filters.items(), key=str))
        if key not in answers:
            answers[key] = await super().search(**filters)
        return answers[key]

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._ensure_ready()
        since = check_listing(since, limit)
        return list((await super().search(since=since, limit=limit)).items)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self.__dict__.pop("_answers", None)
        return super()._transact(work)


@broken("trees.removal")
class ChildrenCachedUntilItWrites(ReferenceCheckpointer):
    """Each handle keeps the children that it has found until it writes itself; what others remove does not show."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._children: dict[str, list[RunSummary]] = {}

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        self._children.clear()

    async def children(self, run_id: str) -> list[RunSummary]:
        found = await super().children(run_id)
        return self._children.setdefault(run_id, found)
