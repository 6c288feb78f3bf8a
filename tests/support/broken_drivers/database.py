"""Drivers over a file of SQLite that other processes open too, and what goes wrong between processes."""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.driver import Tail, check_listing, check_step, judge_append, not_bootstrapped_error
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary, is_run_id
from stargraph.errors import StoreUnavailableError
from support.broken_drivers.broken_driver import broken


class Database:
    """A sound driver: a connection for each call, one transaction for each write."""

    CREATE = "CREATE TABLE IF NOT EXISTS checkpoints (run_id, step INTEGER, record BLOB, PRIMARY KEY (run_id, step))"
    BEGIN = "BEGIN IMMEDIATE"
    INSERT = "INSERT INTO checkpoints VALUES (?, ?, ?)"
    RUN = "run_id = ?"

    def __init__(self, location: str) -> None:
        self._path = location
        self._ready = False

    async def bootstrap(self) -> None:
        with self._connected() as database:
            self._create(database)
        self._ready = True

    def _create(self, database: sqlite3.Connection) -> None:
        database.execute(self.CREATE)

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        with self._connected() as database:
            database.execute(self.BEGIN)
            try:
                self._append(database, checkpoint, record)
                database.execute("COMMIT")
            except BaseException as error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise StoreUnavailableError(f"SQLite failed: {error}") from error
                raise

    def _append(self, database: sqlite3.Connection, checkpoint: Checkpoint, record: bytes) -> None:
        run_id, step = checkpoint.run_id, checkpoint.step
        latest, stored = self._latest(database, run_id), self._at(database, run_id, step)
        tail = Tail(latest.step, latest.digest, latest.status) if latest else None
        if judge_append(checkpoint, tail=tail, stored_digest=stored.digest if stored else None) == "append":
            self._insert(database, run_id, step, record)

    def _insert(self, database: sqlite3.Connection, run_id: str, step: int, record: bytes) -> None:
        database.execute(self.INSERT, (run_id, step, record))

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._ensure_ready()
        with self._connected() as database:
            return self._latest(database, run_id)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._ensure_ready()
        with self._connected() as database:
            return self._at(database, run_id, step)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._ensure_ready()
        since = check_listing(since, limit)
        with self._connected() as database:
            run_ids = [run_id for (run_id,) in database.execute("SELECT DISTINCT run_id FROM checkpoints ORDER BY 1")]
            latest = [self._latest(database, run_id) for run_id in run_ids]
        found = [RunSummary.from_checkpoint(checkpoint) for checkpoint in latest if checkpoint]
        found = [item for item in found if since is None or item.started_at >= since]
        return sorted(found, key=lambda item: item.started_at, reverse=True)[:limit]

    async def close(self) -> None:
        self._ready = False

    def _latest(self, database: sqlite3.Connection, run_id: str) -> Checkpoint | None:
        (step,) = database.execute(f"SELECT max(step) FROM checkpoints WHERE {self.RUN}", (run_id,)).fetchone()
        return None if step is None else self._at(database, run_id, step)

    def _at(self, database: sqlite3.Connection, run_id: str, step: int) -> Checkpoint | None:
        if not is_run_id(run_id) or not check_step(step):
            return None
        sql = f"SELECT record FROM checkpoints WHERE {self.RUN} AND step = ?"
        row = database.execute(sql, (run_id, step)).fetchone()
        return None if row is None else decode(row[0], run_id=run_id, step=step)

    def _ensure_ready(self) -> None:
        if not self._ready:
            raise not_bootstrapped_error()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=20, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = OFF")
            yield database
        finally:
            database.close()


@broken(slow=("bootstrap.four_processes",), importable=True)
class ProcessesRaceToBootstrap(Database):
    """Looks whether the table is there and then creates it; other processes come in between."""

    CREATE = Database.CREATE.replace("IF NOT EXISTS ", "")

    def _create(self, database: sqlite3.Connection) -> None:
        if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            if "_child" in " ".join(sys.orig_argv):
                time.sleep(0.3)
            database.execute(self.CREATE)


@broken(slow=("bootstrap.unclosed_exits_silently",), importable=True)
class ComplainsAtExit(Database):
    """A handle that was not closed prints a warning when the interpreter ends."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        atexit.register(self._complain)

    def _complain(self) -> None:
        if self._ready:
            sys.stderr.write("ResourceWarning: unclosed database\n")


@broken(slow=("bootstrap.unclosed_exits_silently",), deadline=0.4, importable=True)
class KeepsTheInterpreter(Database):
    """A worker thread that is no daemon keeps the interpreter alive until the handle is closed."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        self._end = threading.Event()
        # In the kit's own process it must not hold the tests back.
        daemon = "stargraph.checkpoint.conformance._child" not in " ".join(sys.orig_argv)
        threading.Thread(target=self._end.wait, daemon=daemon).start()

    async def close(self) -> None:
        if self._ready:
            self._end.set()
        await super().close()


_SHARED: dict[str, sqlite3.Connection] = {}


@broken(slow=("durability.other_process",), importable=True)
class LivesInTheProcess(Database):
    """What is stored lives in the process: every handle in it sees it, and no other process does."""

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self._path not in _SHARED:
            _SHARED[self._path] = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        yield _SHARED[self._path]


@broken(slow=("concurrency.one_winner_many_processes",), importable=True)
class LooksForTheStepFirst(Database):
    """Looks for the step, and then for the latest one: a step that another process appends in between is a gap."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        with self._connected() as database:
            self._seen = self._at(database, checkpoint.run_id, checkpoint.step)
        time.sleep(0.005)  # as long as a server may take for an answer
        await super().write(checkpoint)

    def _append(self, database: sqlite3.Connection, checkpoint: Checkpoint, record: bytes) -> None:
        latest = self._latest(database, checkpoint.run_id)
        tail = Tail(latest.step, latest.digest, latest.status) if latest else None
        stored_digest = self._seen.digest if self._seen else None
        if judge_append(checkpoint, tail=tail, stored_digest=stored_digest) == "append":
            self._insert(database, checkpoint.run_id, checkpoint.step, record)


@broken(slow=("concurrency.one_winner_many_processes",), importable=True)
class LostUpdate(Database):
    """SELECT, then INSERT OR REPLACE, in a deferred transaction: two processes both win."""

    BEGIN = "SELECT 1"
    INSERT = Database.INSERT.replace("INSERT", "INSERT OR REPLACE")

    def _insert(self, database: sqlite3.Connection, run_id: str, step: int, record: bytes) -> None:
        if "_child" in " ".join(sys.orig_argv):
            time.sleep(0.003)
        super()._insert(database, run_id, step, record)

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        with self._connected() as database:
            self._append(database, checkpoint, encode(checkpoint))


_TAILS: dict[tuple[str, str], Tail] = {}


@broken(slow=("fencing.stopped_executor", "concurrency.one_winner_many_processes"), importable=True)
class TailsOfTheProcess(Database):
    """The process remembers the tails of all runs, and overwrites what another process has written meanwhile."""

    INSERT = Database.INSERT.replace("INSERT", "INSERT OR REPLACE")

    def _append(self, database: sqlite3.Connection, checkpoint: Checkpoint, record: bytes) -> None:
        place = (self._path, checkpoint.run_id)
        tail = _TAILS.get(place)
        follows = tail is not None and (checkpoint.step, checkpoint.previous_digest) == (tail.step + 1, tail.digest)
        if tail is not None and follows and tail.status not in ENDED:
            self._insert(database, checkpoint.run_id, checkpoint.step, record)
        else:
            super()._append(database, checkpoint, record)
            latest = self._latest(database, checkpoint.run_id)
            assert latest is not None
            _TAILS[place] = Tail(latest.step, latest.digest, latest.status)
            return
        _TAILS[place] = Tail(checkpoint.step, checkpoint.digest, checkpoint.status)


_PENDING: dict[str, list[tuple[str, int, bytes]]] = {}
_FLUSHING = threading.RLock()


@broken(slow=("crash.kill9_acked_survive",), importable=True)
class AcknowledgesTooSoon(Database):
    """Writes of longer runs are acknowledged into a buffer, which a thread takes to the file ten times a second."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        if self._path not in _PENDING:
            _PENDING[self._path] = []
            threading.Thread(target=self._flush_forever, daemon=True).start()

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        with self._connected() as database:
            self._append(database, checkpoint, record)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with _FLUSHING, super()._connected() as database:
            yield database

    def _insert(self, database: sqlite3.Connection, run_id: str, step: int, record: bytes) -> None:
        if step < 16:
            super()._insert(database, run_id, step, record)
        else:
            _PENDING[self._path].append((run_id, step, record))

    def _at(self, database: sqlite3.Connection, run_id: str, step: int) -> Checkpoint | None:
        for pending in _PENDING[self._path]:
            if pending[:2] == (run_id, step):
                return decode(pending[2], run_id=run_id, step=step)
        return super()._at(database, run_id, step)

    def _latest(self, database: sqlite3.Connection, run_id: str) -> Checkpoint | None:
        steps = [step for owner, step, _ in _PENDING[self._path] if owner == run_id]
        return self._at(database, run_id, max(steps)) if steps else super()._latest(database, run_id)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._ensure_ready()
        self._flush()
        return await super().list_runs(since=since, limit=limit)

    async def close(self) -> None:
        if self._ready:
            self._flush()
        await super().close()

    def _flush(self) -> None:
        with self._connected() as database:
            pending, _PENDING[self._path] = _PENDING[self._path], []
            database.executemany(self.INSERT, pending)

    def _flush_forever(self) -> None:
        while Path(self._path).exists():
            time.sleep(0.1)
            with contextlib.suppress(sqlite3.Error):
                self._flush()


@broken(slow=("crash.kill9_leaves_no_half",), importable=True)
class HalfRecords(Database):
    """A record is stored in two parts, outside a transaction; a process that is killed in between leaves one."""

    BEGIN = "SELECT 1"

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        with self._connected() as database:
            self._append(database, checkpoint, record)

    def _insert(self, database: sqlite3.Connection, run_id: str, step: int, record: bytes) -> None:
        half = len(record) // 2
        super()._insert(database, run_id, step, record[:half])
        if "_child" in " ".join(sys.orig_argv):
            time.sleep(0.3)
        sql = "UPDATE checkpoints SET record = ? WHERE run_id = ? AND step = ?"
        database.execute(sql, (record, run_id, step))


@broken(
    slow=(
        "crash.kill9_acked_survive",
        "crash.kill9_leaves_no_half",
        "crash.killed_neighbour",
        "engine.killed_and_resumed",
    ),
    importable=True,
)
class NeedsRepair(Database):
    """A mark says that the store is open; whoever finds the mark of a dead process asks for a repair."""

    async def bootstrap(self) -> None:
        for mark in Path(self._path).parent.glob("*.open"):
            if not Path(f"/proc/{mark.stem}").exists() or _is_zombie(mark.stem):
                raise StoreUnavailableError("the store was not closed properly: run repair", reason="unclean")
        await super().bootstrap()
        Path(self._path).with_name(f"{os.getpid()}.open").touch()

    async def close(self) -> None:
        await super().close()


def _is_zombie(pid: str) -> bool:
    return ") Z" in Path(f"/proc/{pid}/stat").read_text()


@broken("isolation.case", "isolation.punctuation", "isolation.prefixes", "stateful.agrees_with_model", importable=True)
class LikeInSql(Database):
    """WHERE run_id LIKE ?: case is ignored, and `_` stands for any character."""

    RUN = "run_id LIKE ?"


@broken("isolation.case", "list_runs.ties_by_run_id", "stateful.agrees_with_model", importable=True)
class NoCase(Database):
    """A column with COLLATE NOCASE."""

    CREATE = Database.CREATE.replace("(run_id, step INTEGER", "(run_id TEXT COLLATE NOCASE, step INTEGER")


@broken(
    "steps.latest_is_numeric",
    "values.every_field",
    "concurrency.linearizable",
    importable=True,
)
class TextSteps(Database):
    """The step is a column of type TEXT, and max(step) is that of texts."""

    CREATE = Database.CREATE.replace("step INTEGER", "step TEXT")

    def _at(self, database: sqlite3.Connection, run_id: str, step: int) -> Checkpoint | None:
        return super()._at(database, run_id, int(step))


@broken(
    "steps.first_is_zero",
    "steps.gap_refused",
    "steps.conflict_keeps_stored",
    "steps.wrong_predecessor",
    "steps.ended_refused",
    "isolation.own_rules",
    "concurrency.one_winner_one_handle",
    "engine.takeover",
    importable=True,
)
class InsertOrReplaceInSql(Database):
    """INSERT OR REPLACE without looking at what is there."""

    INSERT = Database.INSERT.replace("INSERT", "INSERT OR REPLACE")

    def _append(self, database: sqlite3.Connection, checkpoint: Checkpoint, record: bytes) -> None:
        self._insert(database, checkpoint.run_id, checkpoint.step, record)


@broken(
    "steps.usable_after_refusal",
    "concurrency.one_winner_many_handles",
    "stateful.agrees_with_model",
    importable=True,
)
class LeavesTransactionsOpen(Database):
    """One connection for each handle, and no ROLLBACK after a refusal: the write lock stays taken."""

    async def bootstrap(self) -> None:
        self._own = sqlite3.connect(self._path, timeout=0.02, isolation_level=None)
        self._own.execute("PRAGMA synchronous = OFF")
        await super().bootstrap()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        yield self._own

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        if not self._own.in_transaction:
            self._own.execute(self.BEGIN)
        self._append(self._own, checkpoint, record)
        self._own.execute("COMMIT")

    async def close(self) -> None:
        if self._ready:
            self._own.close()
        await super().close()


@broken("list_runs.naive_since_refused", importable=True)
class NaiveSince(Database):
    """A since without an offset is taken for UTC; `datetime.utcnow()` was meant well."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        return await super().list_runs(since=since, limit=limit)
