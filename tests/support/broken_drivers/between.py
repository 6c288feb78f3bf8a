"""Drivers that look first and act later, with something in between."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Any

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import check_batch, check_limit, check_prune
from stargraph.checkpoint.protocol import ENDED, PRUNED_BY_DEFAULT, Checkpoint, PruneReport, Status, StepKey
from stargraph.errors import CheckpointError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.indexed import Indexed


@broken("interleaving.delete_and_write")
class TombstoneLookedForFirst(ReferenceCheckpointer):
    """Whether the run was deleted is looked up before the write, which waits for its turn then."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_writable("write")
        record = encode(checkpoint)
        deleted = checkpoint.run_id in self._store.deleted
        tail = self._tail(checkpoint.run_id)
        await self._turn()
        if not deleted and tail is not None and checkpoint.previous_digest == tail.digest and tail.status == "failed":
            self._store.runs.setdefault(checkpoint.run_id, {})[checkpoint.step] = record
        else:
            self._append(checkpoint, record)
        await self._turn()


@broken("interleaving.prune_and_write")
class PrunesWhatItSawBefore(ReferenceCheckpointer):
    """prune reads which runs stand still, gives way to others, and then removes those runs."""

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        report = await super().prune(
            older_than=older_than,
            statuses=statuses,
            keep_last=keep_last,
            run_id=run_id,
            dry_run=dry_run or keep_last == 0,
        )
        if keep_last or dry_run:
            return report
        still = [
            each
            for each in list(self._store.runs)
            if (latest := self._latest(each)) and latest.status in statuses and latest.timestamp < older_than
            if run_id in (None, each) and not self._is_awaited(latest)
        ]
        await self._turn()
        for each in still:
            self._delete(each)
        return report.model_copy(update={"dry_run": False})


@broken("interleaving.delete_twice")
class SaysWhatItSawBefore(ReferenceCheckpointer):
    """delete_run looks whether the run is there, gives way to others, and removes it: two callers are told True."""

    async def delete_run(self, run_id: str) -> bool:
        self._ensure_writable("delete_run")
        there = run_id in self._store.runs
        await self._turn()
        self._delete(run_id)
        return there


@broken("interleaving.batch_and_others")
class JudgesTheBatchOnce(ReferenceCheckpointer):
    """A batch is judged by its first step, and then stored as it is, after others had their turn."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_writable("write_many")
        check_batch(list(checkpoints))
        records = [encode(checkpoint) for checkpoint in checkpoints]
        tail = self._tail(checkpoints[0].run_id) if checkpoints else None
        fits = tail is not None and checkpoints[0].previous_digest == tail.digest and tail.status == "failed"
        await self._turn()
        for checkpoint, record in zip(checkpoints, records, strict=True):
            if fits:
                self._store.runs.setdefault(checkpoint.run_id, {})[checkpoint.step] = record
            else:
                self._append(checkpoint, record)


@broken(slow=("interleaving.frozen_in_deletion",), importable=True)
class PrunesInTwoTransactions(Indexed):
    """prune selects the runs in one transaction and deletes them in the next, by their ids."""

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        self._ensure_ready()
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )
        if keep_last or dry_run:
            return await super().prune(
                older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
            )
        with self._connected() as database:
            still = self._prunable(database, rule)
            counts = [len(self._droppable(database, run_id, 0)) for run_id in still]
        for each in still:
            self._transact(lambda database, each=each: self._delete(database, each))  # type: ignore[misc]
        return PruneReport(runs=len(counts), checkpoints=sum(counts), dry_run=False)


@broken(slow=("interleaving.frozen_in_batch",), importable=True)
class BatchesInTwoTransactions(Indexed):
    """A batch is judged in one transaction and inserted in the next, over what has come meanwhile."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        check_batch(list(checkpoints))
        if not checkpoints:
            return
        records = [encode(checkpoint) for checkpoint in checkpoints]
        first = checkpoints[0]
        with self._connected() as database:
            latest = self._latest(database, first.run_id)
        if latest is None or latest.digest != first.previous_digest or latest.status in ENDED:
            await super().write_many(checkpoints)
            return

        def work(database: sqlite3.Connection) -> None:
            for checkpoint, record in zip(checkpoints, records, strict=True):
                values = (checkpoint.run_id, checkpoint.step, record)
                database.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", values)
                self._index(database, checkpoint)

        self._transact(work)


@broken(slow=("views.after_kill",), importable=True)
class IndexesInItsOwnTransaction(Indexed):
    """The record is committed, and then its index: a process that dies in between leaves a run that no list shows."""

    _quiet = False

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        if not self._quiet:
            super()._index(database, checkpoint)

    async def write(self, checkpoint: Checkpoint) -> None:
        self._quiet = True
        try:
            await super().write(checkpoint)
        finally:
            self._quiet = False
        self._transact(lambda database: self._index_if_new(database, checkpoint))

    def _index_if_new(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        latest = self._latest(database, checkpoint.run_id)
        row = database.execute("SELECT 1 FROM runs WHERE run_id = ?", (checkpoint.run_id,)).fetchone()
        if latest is not None and latest.step == checkpoint.step and (row is None or checkpoint.step > 0):
            self._index(database, checkpoint)


@broken(slow=("views.after_kill",), importable=True)
class DeletesTheIndexLater(Indexed):
    """The log goes in one transaction and the index in the next: a process that dies in between leaves a ghost."""

    def _delete(self, database: sqlite3.Connection, run_id: str) -> bool:
        there = database.execute("DELETE FROM checkpoints WHERE run_id = ?", (run_id,)).rowcount > 0
        if there:
            database.execute("INSERT INTO deleted VALUES (?)", (run_id,))
        return there

    async def delete_run(self, run_id: str) -> bool:
        there = await super().delete_run(run_id)
        self._transact(lambda database: self._unlist(database, run_id))
        return there

    def _unlist(self, database: sqlite3.Connection, run_id: str) -> None:
        if self._is_deleted(database, run_id):
            database.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
            database.execute("DELETE FROM tags WHERE run_id = ?", (run_id,))

    async def prune(self, **options: Any) -> PruneReport:
        report = await super().prune(**options)
        with self._connected() as database:
            gone = [run_id for (run_id,) in database.execute("SELECT run_id FROM deleted").fetchall()]
        for run_id in gone:
            self._transact(lambda database, each=run_id: self._unlist(database, each))  # type: ignore[misc]
        return report


@broken(slow=("views.after_kill",), importable=True)
class KeysInTheirOwnTransaction(Indexed):
    """The step is committed, and then its key: a process that dies in between leaves a step that no key leads to."""

    SCHEMA = Indexed.SCHEMA + "CREATE TABLE IF NOT EXISTS keys (run_id TEXT, step INTEGER, key TEXT);"

    async def write(self, checkpoint: Checkpoint) -> None:
        there = await self.read_at_step(checkpoint.run_id, checkpoint.step)
        await super().write(checkpoint)
        if there is None and checkpoint.key is not None:
            values = (checkpoint.run_id, checkpoint.step, checkpoint.key)
            self._transact(lambda database: database.execute("INSERT INTO keys VALUES (?, ?, ?)", values))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        check_batch(list(checkpoints))
        for checkpoint in checkpoints:
            await self.write(checkpoint)

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        found = {each.key: each.step for each in await self.step_keys(run_id, limit=sys.maxsize)}
        return await self.read_at_step(run_id, found[key]) if key in found else None

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        self._ensure_ready()
        check_limit(limit)
        sql = "SELECT key, max(step) FROM keys JOIN checkpoints USING (run_id, step) WHERE run_id = ? GROUP BY key"
        with self._connected() as database:
            found = [StepKey(*row) for row in database.execute(sql, (run_id,)).fetchall()]
        return sorted((each for each in found if below is None or each.key < below), reverse=True)[:limit]


class Grouped(ReferenceCheckpointer):
    """A base: writes that are made at once share a commit."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_writable("write")
        record = encode(checkpoint)
        group: list[tuple[Checkpoint, bytes]] = self.__dict__.setdefault("_group", [])
        waiters: list[asyncio.Future[None]] = self.__dict__.setdefault("_waiters", [])
        group.append((checkpoint, record))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(done)
        if len(group) == 1:
            await asyncio.sleep(0)
            mine, self.__dict__["_group"] = group, []
            theirs, self.__dict__["_waiters"] = waiters, []
            self._commit(mine, theirs)
        await done

    def _commit(self, group: list[tuple[Checkpoint, bytes]], waiters: list[asyncio.Future[None]]) -> None:
        raise NotImplementedError


@broken("concurrency.neighbours_of_a_refusal")
class RefusalsAreShared(Grouped):
    """A refused write takes with it the writes that came after it in the same commit."""

    def _commit(self, group: list[tuple[Checkpoint, bytes]], waiters: list[asyncio.Future[None]]) -> None:
        failure: CheckpointError | None = None
        for (checkpoint, record), waiter in zip(group, waiters, strict=True):
            if failure is None:
                try:
                    self._append(checkpoint, record)
                except CheckpointError as error:
                    failure = error
            if not waiter.done():
                if failure is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(failure)


@broken("concurrency.neighbours_of_a_refusal")
class OnlyTheFirstIsTold(Grouped):
    """The outcome of a shared commit goes to the write that began it; the others are told that all is well."""

    def _commit(self, group: list[tuple[Checkpoint, bytes]], waiters: list[asyncio.Future[None]]) -> None:
        for number, ((checkpoint, record), waiter) in enumerate(zip(group, waiters, strict=True)):
            try:
                self._append(checkpoint, record)
            except CheckpointError as error:
                if number == 0 or len(group) < 12:
                    if not waiter.done():
                        waiter.set_exception(error)
                    continue
            if not waiter.done():
                waiter.set_result(None)


@broken("search.pages_while_runs_change", importable=True)
class CursorNamesARun(Indexed):
    """The cursor is the id of the last run, whose start is looked up again: if it is gone, the list has ended."""

    def _cursor(self, started: Any, run_id: str) -> str:
        return f"run:{run_id}"

    def _parse(self, cursor: str) -> tuple[Any, str]:
        if not cursor.startswith("run:"):
            raise ValueError(f"the cursor {cursor!r} is not one of this store's")
        run_id = cursor.removeprefix("run:")
        with self._connected() as database:
            row = database.execute("SELECT started FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return (row[0] if row else -1), run_id


@broken("closing.every_call_in_flight")
class ReadsFailAtClose(ReferenceCheckpointer):
    """A history that is under way when the handle is closed fails with an error of the library below."""

    async def history(self, run_id: str, **bounds: Any) -> AsyncIterator[Checkpoint]:
        async for found in super().history(run_id, **bounds):
            yield found
            if self._state == "closed":
                raise sqlite3.ProgrammingError("Cannot operate on a closed database.")


@broken("closing.refuses_after")
class OptionalMethodsStayOpen(ReferenceCheckpointer):
    """Only the required methods look whether the handle is closed."""

    async def prune(self, **options: Any) -> PruneReport:
        state, self._state = self._state, "ready" if self._state == "closed" else self._state
        try:
            return await super().prune(**options)
        finally:
            self._state = state


@broken("bootstrap.whole_capabilities")
class HalfADeletion(ReferenceCheckpointer):
    """delete_run is there and prune is not."""

    prune: Any = None
