"""A sound driver with every capability over a file of SQLite, as an author would write it, for others to break.

It keeps the log, a row for each run that lists and searches are made from, a table of tags, and tombstones.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar, Unpack

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.driver import (
    PruneRule,
    Tail,
    check_batch,
    check_bounds,
    check_filters,
    check_limit,
    check_listing,
    check_prune,
    check_search,
    closed_error,
    in_order,
    judge_append,
    needed_steps,
    run_deleted_error,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    PRUNED_BY_DEFAULT,
    Checkpoint,
    PruneReport,
    RunFilters,
    RunOrder,
    RunPage,
    RunSummary,
    Status,
)
from stargraph.errors import StoreUnavailableError
from support.broken_drivers.database import Database

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoints (run_id, step INTEGER, record BLOB, PRIMARY KEY (run_id, step));
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, started INTEGER, status TEXT, graph_id TEXT, floor INTEGER DEFAULT 0, summary TEXT
);
CREATE TABLE IF NOT EXISTS tags (run_id TEXT, name TEXT, value TEXT, PRIMARY KEY (run_id, name));
CREATE TABLE IF NOT EXISTS deleted (run_id TEXT PRIMARY KEY);
"""


def micros(moment: datetime) -> int:
    """An instant as whole microseconds."""
    return round(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


class Indexed(Database):
    """Sound."""

    SCHEMA = SCHEMA
    _closed = False

    async def bootstrap(self) -> None:
        await super().bootstrap()
        self._closed = False

    async def close(self) -> None:
        self._closed = self._closed or self._ready
        await super().close()

    async def __aenter__(self) -> Self:
        await self.bootstrap()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _ensure_ready(self) -> None:
        if self._closed:
            raise closed_error()
        super()._ensure_ready()

    def _create(self, database: sqlite3.Connection) -> None:
        database.executescript(f"BEGIN IMMEDIATE; {self.SCHEMA} COMMIT;")

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._ensure_ready()
        with self._connected() as database:
            try:
                database.execute(self.BEGIN)
                result = work(database)
                database.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise StoreUnavailableError(f"SQLite failed: {error}") from error
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        return result

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        self._transact(lambda database: self._append(database, checkpoint, record))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        check_batch(list(checkpoints))
        records = [encode(checkpoint) for checkpoint in checkpoints]

        def work(database: sqlite3.Connection) -> None:
            for checkpoint, record in zip(checkpoints, records, strict=True):
                self._append(database, checkpoint, record)

        self._transact(work)

    def _append(self, database: sqlite3.Connection, checkpoint: Checkpoint, record: bytes) -> None:
        if self._is_deleted(database, checkpoint.run_id):
            raise run_deleted_error(checkpoint.run_id, checkpoint.step)
        if self._judge(database, checkpoint) == "append":
            self._insert(database, checkpoint.run_id, checkpoint.step, record)
            self._index(database, checkpoint)

    def _judge(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> str:
        latest = self._latest(database, checkpoint.run_id)
        stored = self._at(database, checkpoint.run_id, checkpoint.step)
        tail = latest and Tail(latest.step, latest.digest, latest.status, self._floor(database, checkpoint.run_id))
        return judge_append(checkpoint, tail=tail or None, stored_digest=stored.digest if stored else None)

    def _is_deleted(self, database: sqlite3.Connection, run_id: str) -> bool:
        return database.execute("SELECT 1 FROM deleted WHERE run_id = ?", (run_id,)).fetchone() is not None

    def _floor(self, database: sqlite3.Connection, run_id: str) -> int:
        row = database.execute("SELECT floor FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return row[0] if row else 0

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        summary = RunSummary.from_checkpoint(checkpoint)
        text = summary.model_dump_json()
        sql = (
            "INSERT INTO runs (run_id, started, status, graph_id, summary) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, summary = excluded.summary"
        )
        values = (summary.run_id, self._time(summary.started_at), summary.status, summary.graph_id, text)
        database.execute(sql, values)
        if checkpoint.step == 0:
            rows = [(summary.run_id, name, value) for name, value in summary.metadata.items()]
            database.executemany("INSERT INTO tags VALUES (?, ?, ?)", rows)

    def _time(self, moment: datetime) -> Any:
        return micros(moment)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._ensure_ready()
        since = check_listing(since, limit)
        return list((await self.search(limit=limit, since=since)).items)

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        self._ensure_ready()
        matcher = check_filters(filters)
        if order != "started":
            return check_search(limit=limit, cursor=cursor, order=order, filters=filters).page(self._all())
        check_limit(limit)
        where: list[str] = ["1"]
        values: list[Any] = []
        if matcher.statuses is not None:
            where.append(f"status IN ({', '.join('?' * len(matcher.statuses))})")
            values += matcher.statuses
        if matcher.graph_id is not None:
            where.append("graph_id = ?")
            values.append(matcher.graph_id)
        for name, value in matcher.metadata.items():
            where.append("run_id IN (SELECT run_id FROM tags WHERE name = ? AND value = ?)")
            values += [name, value]
        if matcher.since is not None:
            where.append("started >= ?")
            values.append(self._time(matcher.since))
        if cursor is not None:
            started, run_id = self._parse(cursor)
            where.append("(started < ? OR (started = ? AND run_id > ?))")
            values += [started, started, run_id]
        sql = f"SELECT started, run_id, summary FROM runs WHERE {' AND '.join(where)} ORDER BY started DESC, run_id"
        rest = {
            "graph_hash",
            "runtime_hash",
            "error_reason",
            "updated_since",
            "updated_before",
            "due_before",
            "parent_run_id",
            "run_id_prefix",
        }
        with self._connected() as database:
            if not (rest | {"roots_only"}) & filters.keys():
                rows = database.execute(f"{sql} LIMIT ?", (*values, min(limit, 1 << 40) + 1)).fetchall()
            else:
                # The rest is looked for in Python, among all rows.
                loose = dataclasses.replace(matcher, statuses=None, graph_id=None, metadata={}, since=None)
                rows = [
                    row
                    for row in database.execute(sql, values).fetchall()
                    if loose.matches(RunSummary.model_validate_json(row[2]))
                ]
        return self._page(rows, limit)

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        self._ensure_ready()
        return check_filters(filters).count(self._all())

    async def children(self, run_id: str) -> list[RunSummary]:
        self._ensure_ready()
        return in_order(item for item in self._all() if item.parent_run_id == run_id and item.origin == "subgraph")

    def _all(self) -> list[RunSummary]:
        with self._connected() as database:
            rows = database.execute("SELECT summary FROM runs").fetchall()
        return [RunSummary.model_validate_json(text) for (text,) in rows]

    def _page(self, rows: list[tuple[Any, str, str]], limit: int) -> RunPage:
        items = tuple(RunSummary.model_validate_json(text) for _, _, text in rows[:limit])
        more = len(rows) > limit and bool(items)
        return RunPage(items=items, next_cursor=self._cursor(*rows[limit - 1][:2]) if more else None)

    def _cursor(self, started: Any, run_id: str) -> str:
        return base64.urlsafe_b64encode(json.dumps([started, run_id]).encode()).decode()

    def _parse(self, cursor: str) -> tuple[Any, str]:
        try:
            started, run_id = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"the cursor {cursor!r} is not one of this store's") from error
        return started, str(run_id)

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        self._ensure_ready()
        sql = "SELECT step, record FROM checkpoints WHERE run_id = ? AND step >= ? AND step <= ? ORDER BY step"
        bounds = (run_id, *check_bounds(from_step, to_step))
        with self._connected() as database:
            rows = database.execute(sql + (" DESC" if newest_first else ""), bounds).fetchall()
        for step, record in rows:
            yield decode(record, run_id=run_id, step=step)

    async def delete_run(self, run_id: str) -> bool:
        return self._transact(lambda database: self._delete(database, run_id))

    def _delete(self, database: sqlite3.Connection, run_id: str) -> bool:
        there = database.execute("DELETE FROM runs WHERE run_id = ?", (run_id,)).rowcount > 0
        if there:
            database.execute("DELETE FROM tags WHERE run_id = ?", (run_id,))
            database.execute("DELETE FROM checkpoints WHERE run_id = ?", (run_id,))
            database.execute("INSERT INTO deleted VALUES (?)", (run_id,))
        return there

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

        def work(database: sqlite3.Connection) -> list[int]:
            gone = []
            for run_id in self._prunable(database, rule):
                steps = self._droppable(database, run_id, rule.keep_last)
                gone.append(len(steps))
                if not rule.dry_run:
                    self._drop(database, run_id, steps, rule.keep_last)
            return [number for number in gone if number]

        gone = self._transact(work)
        return PruneReport(runs=len(gone), checkpoints=sum(gone), dry_run=dry_run)

    def _prunable(self, database: sqlite3.Connection, rule: PruneRule) -> list[str]:
        rows = database.execute("SELECT summary FROM runs").fetchall()
        runs = {run.run_id: run for run in (RunSummary.model_validate_json(text) for (text,) in rows)}
        found = []
        for run in runs.values():
            parent = runs.get(run.parent_run_id or "") if run.origin == "subgraph" else None
            if rule.keep_last == 0 and parent is not None and parent.status not in ENDED:
                continue
            if run.status in rule.statuses and run.updated_at < rule.older_than and rule.run_id in (None, run.run_id):
                found.append(run.run_id)
        return found

    def _droppable(self, database: sqlite3.Connection, run_id: str, keep_last: int) -> list[int]:
        sql = "SELECT step FROM checkpoints WHERE run_id = ? ORDER BY step"
        steps = [step for (step,) in database.execute(sql, (run_id,)).fetchall()]
        if keep_last == 0:
            return steps
        latest = self._latest(database, run_id)
        assert latest is not None
        kept = set(steps[-keep_last:])
        if latest.status not in ENDED:
            for part in needed_steps(latest):
                kept |= set(range(part.first, part.last + 1))
        return [step for step in steps if step not in kept]

    def _drop(self, database: sqlite3.Connection, run_id: str, steps: list[int], keep_last: int) -> None:
        if keep_last == 0:
            self._delete(database, run_id)
            return
        sql = "DELETE FROM checkpoints WHERE run_id = ? AND step = ?"
        database.executemany(sql, [(run_id, step) for step in steps])
        latest = self._latest(database, run_id)
        assert latest is not None
        floor = latest.step
        while self._at(database, run_id, floor - 1) is not None:
            floor -= 1
        database.execute("UPDATE runs SET floor = ? WHERE run_id = ?", (floor, run_id))
