"""Mistakes that a design invites: a prefix of keys, a cache, a shared commit, a file that is replaced."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import check_step, missing_step_error
from stargraph.checkpoint.protocol import Checkpoint, is_run_id
from stargraph.errors import CheckpointError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.database import Database
from support.broken_drivers.indexed import Indexed


@broken("isolation.prefixes", importable=True)
class PlansByPrefix(Indexed):
    """The steps of a run are the keys that begin with its id, so a prune counts those of longer ids too."""

    def _droppable(self, database: sqlite3.Connection, run_id: str, keep_last: int) -> list[int]:
        if keep_last == 0:
            return super()._droppable(database, run_id, keep_last)
        sql = "SELECT step FROM checkpoints WHERE substr(run_id, 1, length(?)) = ? ORDER BY step"
        alike = [step for (step,) in database.execute(sql, (run_id, run_id))]
        return [step for step in super()._droppable(database, run_id, 0) if step in alike[:-keep_last]]


@broken("values.seal")
class KeepsWhatARetryBrought(ReferenceCheckpointer):
    """A write that finds its digest stored puts its record there once more; the seal is not covered by the digest."""

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        steps = self._store.runs.get(checkpoint.run_id)
        if steps and checkpoint.step in steps:
            steps[checkpoint.step] = encode(checkpoint)


@broken("list_runs.microseconds_order", importable=True)
class StartsAsFloats(Indexed):
    """Starts are kept as microseconds in a float, which is exact only for some centuries."""

    def _time(self, moment: datetime) -> Any:
        return moment.timestamp() * 1e6


@broken("durability.other_handle")
class RemembersThatThereIsNone(ReferenceCheckpointer):
    """What a read did not find is not looked for again, until this handle writes it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._absent: set[str] = set()

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        if run_id in self._absent:
            return None
        found = await super().read_latest(run_id)
        if found is None:
            self._absent.add(run_id)
        return found

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        self._absent.discard(checkpoint.run_id)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().write_many(checkpoints)
        self._absent.clear()

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().start_pruned(checkpoints)
        self._absent.clear()


@broken("deletion.prune_keeps_what_is_needed", importable=True)
class LowersItsFloor(Indexed):
    """A prune sets the floor above what it removes, also if an earlier one has set it higher."""

    def _drop(self, database: sqlite3.Connection, run_id: str, steps: list[int], keep_last: int) -> None:
        super()._drop(database, run_id, steps, keep_last)
        if keep_last and steps:
            database.execute("UPDATE runs SET floor = ? WHERE run_id = ?", (steps[-1] + 1, run_id))


@broken("concurrency.neighbours_of_a_refusal")
class TakesBackTheCommit(ReferenceCheckpointer):
    """A batch that is refused takes back what it shares a commit with, which was acknowledged."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        before = {run_id: dict(steps) for run_id, steps in self._store.runs.items()}
        await self._turn()
        try:
            await super().write_many(checkpoints)
        except CheckpointError:
            self._store.runs.update(before)
            raise


@broken(slow=("deletion.killed",), importable=True)
class ReadsWhatIsMarked(Indexed):
    """The tombstone in one transaction, the rows in the next; a read does not look for the tombstone."""

    async def delete_run(self, run_id: str) -> bool:
        def mark(database: sqlite3.Connection) -> bool:
            there = self._latest(database, run_id) is not None
            if there:
                database.execute("INSERT OR IGNORE INTO deleted VALUES (?)", (run_id,))
            return there

        there = self._transact(mark)
        if there:
            self._transact(lambda database: self._remove(database, run_id))
        return there

    def _remove(self, database: sqlite3.Connection, run_id: str) -> None:
        for table in ("runs", "tags", "checkpoints"):
            database.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))


@broken(slow=("interleaving.frozen_in_deletion",), importable=True)
class CompactsWithoutALock(Indexed):
    """After a deletion a smaller copy takes the place of the file, without what others have appended meanwhile."""

    async def delete_run(self, run_id: str) -> bool:
        there = await super().delete_run(run_id)
        smaller = f"{self._path}-{os.getpid()}-{id(self)}"
        with self._connected() as database:
            database.execute("VACUUM INTO ?", (smaller,))
        os.replace(smaller, self._path)
        return there


@broken(slow=("interleaving.frozen_in_read",), importable=True)
class LooksForTheEndFirst(Indexed):
    """A read looks for the floor and the end of a run, and then, in another transaction, for the record."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._ensure_ready()
        if not is_run_id(run_id) or not check_step(step):
            return None
        with self._connected() as database:
            latest = self._latest(database, run_id)
            floor = self._floor(database, run_id)
        with self._connected() as database:
            sql = "SELECT record FROM checkpoints WHERE run_id = ? AND step = ?"
            row = database.execute(sql, (run_id, step)).fetchone()
        if row is None and latest is not None and floor <= step <= latest.step:
            raise missing_step_error(run_id, step)
        return None if row is None else decode(row[0], run_id=run_id, step=step)


@broken(slow=("interleaving.frozen_in_bootstrap",), importable=True)
class MovesItsStoreIntoPlace(Database):
    """The first one to open a store makes it beside its place and moves it there, over what others have made."""

    async def bootstrap(self) -> None:
        if not os.path.exists(self._path):
            unfinished = f"{self._path}-{os.getpid()}-{id(self)}"
            with closing(sqlite3.connect(unfinished)) as database:
                self._create(database)
                database.commit()
            os.replace(unfinished, self._path)
        await super().bootstrap()
