"""Drivers in which a clock, a time zone or a rounded time decides something."""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import PruneRule
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.indexed import Indexed, micros


class Stamped(Indexed):
    """A base: remembers when each run was stored last, by the clock of the process that stored it."""

    SCHEMA = Indexed.SCHEMA + "CREATE TABLE IF NOT EXISTS stamps (run_id TEXT PRIMARY KEY, at REAL);"

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        super()._index(database, checkpoint)
        database.execute("INSERT OR REPLACE INTO stamps VALUES (?, ?)", (checkpoint.run_id, time.time()))


@broken(slow=("clocks.wrong_clock",), importable=True)
class ExpiresAfterAYear(Stamped):
    """Runs are kept for a year: what is older reads as absent, and goes one day."""

    def _at(self, database: sqlite3.Connection, run_id: str, step: int) -> Checkpoint | None:
        sql = "SELECT at FROM stamps WHERE run_id = ?"
        row = database.execute(sql, (run_id,)).fetchone()
        if row is not None and row[0] < time.time() - 365 * 86400:
            return None
        return super()._at(database, run_id, step)


@broken(slow=("clocks.wrong_clock",), importable=True)
class ListsTheRecentAlone(Stamped):
    """Lists leave out the runs that nobody has touched for 90 days."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        found = await super().list_runs(since=since, limit=limit)
        with self._connected() as database:
            recent = {
                run_id
                for (run_id,) in database.execute("SELECT run_id FROM stamps WHERE at > ?", (time.time() - 90 * 86400,))
            }
        return [item for item in found if item.run_id in recent]


@broken(slow=("clocks.wrong_clock",), importable=True)
class TheLatestByItsStamp(Indexed):
    """The latest step is the one that was stored last, by the clocks of those who stored them."""

    SCHEMA = Indexed.SCHEMA.replace("record BLOB,", "record BLOB, at REAL,")

    def _insert(self, database: sqlite3.Connection, run_id: str, step: int, record: bytes) -> None:
        # Two in one tick of a clock keep their order.
        at = time.time() + step * 1e-6
        database.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?)", (run_id, step, record, at))

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._ensure_ready()
        sql = "SELECT step FROM checkpoints WHERE run_id = ? ORDER BY at DESC, step DESC LIMIT 1"
        with self._connected() as database:
            row = database.execute(sql, (run_id,)).fetchone()
            return None if row is None else self._at(database, run_id, row[0])


@broken(slow=("clocks.wrong_clock",), importable=True)
class RefusesTheFuture(Indexed):
    """A checkpoint that is more than a day ahead of the clock is taken for a mistake, and refused."""

    async def write(self, checkpoint: Checkpoint) -> None:
        if checkpoint.timestamp > datetime.now(UTC) + timedelta(days=1):
            raise ValueError("the timestamp is in the future")
        await super().write(checkpoint)


@broken(slow=("clocks.wrong_clock_prunes",), importable=True)
class PrunesByItsStamps(Stamped):
    """prune goes by the time at which the row was stored, beside that of the checkpoint."""

    def _prunable(self, database: sqlite3.Connection, rule: PruneRule) -> list[str]:
        found = []
        for run_id in super()._prunable(database, rule):
            (at,) = database.execute("SELECT at FROM stamps WHERE run_id = ?", (run_id,)).fetchone()
            if at <= time.time():
                found.append(run_id)
        return found

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        super()._index(database, checkpoint)
        if checkpoint.timestamp > datetime.now(UTC) + timedelta(days=100):
            database.execute("UPDATE stamps SET at = 0 WHERE run_id = ?", (checkpoint.run_id,))


@broken(slow=("clocks.wrong_clock_prunes",), importable=True)
class TombstonesExpire(Indexed):
    """A tombstone is kept for 90 days: "nobody writes to such a run any more"."""

    SCHEMA = Indexed.SCHEMA.replace("deleted (run_id TEXT PRIMARY KEY)", "deleted (run_id TEXT PRIMARY KEY, at REAL)")

    def _delete(self, database: sqlite3.Connection, run_id: str) -> bool:
        there = database.execute("DELETE FROM runs WHERE run_id = ?", (run_id,)).rowcount > 0
        if there:
            database.execute("DELETE FROM tags WHERE run_id = ?", (run_id,))
            database.execute("DELETE FROM checkpoints WHERE run_id = ?", (run_id,))
            database.execute("INSERT INTO deleted VALUES (?, ?)", (run_id, time.time()))
        return there

    def _is_deleted(self, database: sqlite3.Connection, run_id: str) -> bool:
        sql = "SELECT 1 FROM deleted WHERE run_id = ? AND at > ?"
        return database.execute(sql, (run_id, time.time() - 90 * 86400)).fetchone() is not None


@broken(slow=("clocks.other_zones",), importable=True)
class LocalTimes(Indexed):
    """Starts are stored as local time, as a text without its offset."""

    def _time(self, moment: datetime) -> Any:
        return moment.astimezone().replace(tzinfo=None).isoformat(timespec="microseconds")


@broken("list_runs.microseconds_order", "list_runs.since_is_inclusive", importable=True)
class Milliseconds(Indexed):
    """Starts are stored in milliseconds; those of one millisecond come in the order of their ids."""

    def _time(self, moment: datetime) -> Any:
        return micros(moment) // 1000


@broken(
    "clocks.microseconds_and_ids",
    "concurrency.neighbours_of_a_refusal",
    "search.by_run_id_prefix",
    "search.pages",
    importable=True,
)
class CursorsInMilliseconds(Indexed):
    """The cursor is rounded to milliseconds: the rest of that millisecond is left out or comes again."""

    def _cursor(self, started: Any, run_id: str) -> str:
        return super()._cursor(started // 1000 * 1000, run_id)


@broken("clocks.microseconds_and_ids")
class PrunesBySeconds(ReferenceCheckpointer):
    """The instant of a prune is cut to whole seconds."""

    async def prune(self, *, older_than: datetime, **options: Any) -> Any:
        return await super().prune(older_than=older_than.replace(microsecond=0), **options)
