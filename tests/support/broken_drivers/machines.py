"""Drivers that trust the machine they run on: its clock, its encoding, its processes, and a store that answers."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import Tail
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.errors import StoreUnavailableError
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.database import Database


@broken(slow=("clocks.wrong_clock",), importable=True)
class Leases(Database):
    """Whoever holds the lease of a run writes without a look at the log; the lease ends by the wall clock."""

    SECONDS = 60.0
    INSERT = Database.INSERT.replace("INSERT", "INSERT OR REPLACE")

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._leases: dict[str, tuple[float, Tail]] = {}
        self._me = f"{os.getpid()}-{id(self)}"

    def _create(self, database: sqlite3.Connection) -> None:
        super()._create(database)
        database.execute("CREATE TABLE IF NOT EXISTS leases (run_id TEXT PRIMARY KEY, owner TEXT, until REAL)")

    def _append(self, database: sqlite3.Connection, checkpoint: Checkpoint, record: bytes) -> None:
        run_id, now = checkpoint.run_id, time.time()
        until, tail = self._leases.get(run_id, (0.0, None))
        if tail and until > now and (checkpoint.step, checkpoint.previous_digest) == (tail.step + 1, tail.digest):
            self._insert(database, run_id, checkpoint.step, record)
        else:
            row = database.execute("SELECT owner, until FROM leases WHERE run_id = ?", (run_id,)).fetchone()
            super()._append(database, checkpoint, record)
            if row is not None and row[0] != self._me and row[1] > now:
                # Somebody else has the lease: it is asked for again at the next write.
                database.execute("DELETE FROM leases WHERE run_id = ?", (run_id,))
                return
        if checkpoint.status not in ENDED:
            database.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (run_id, self._me, now + self.SECONDS))
            self._leases[run_id] = (now + self.SECONDS, Tail(checkpoint.step, checkpoint.digest, checkpoint.status))


@broken(slow=("clocks.other_zones",), importable=True)
class TextFilesOfTheLocale(Database):
    """What the database is too slow for goes to a text file beside it, in the encoding of the locale."""

    def _insert(self, database: sqlite3.Connection, run_id: str, step: int, record: bytes) -> None:
        text = decode(record, run_id=run_id, step=step).model_dump_json()
        with Path(f"{self._path}.notes").open("a") as notes:
            notes.write(text + "\n")
        super()._insert(database, run_id, step, record)


@broken(slow=("crash.killed_in_large_write",), importable=True)
class ChunksOfOneMegabyte(Database):
    """A record of more than a megabyte is stored in chunks, each in a transaction of its own."""

    CHUNK = 1 << 20

    async def write(self, checkpoint: Checkpoint) -> None:
        record = encode(checkpoint)
        if len(record) <= self.CHUNK:
            await super().write(checkpoint)
            return
        self._ensure_ready()
        with self._connected() as database:
            database.execute(self.BEGIN)
            try:
                self._append(database, checkpoint, record[: self.CHUNK])
            finally:
                database.execute("COMMIT")
            at = (checkpoint.run_id, checkpoint.step)
            sql = "SELECT record FROM checkpoints WHERE run_id = ? AND step = ?"
            (stored,) = database.execute(sql, at).fetchone()
            for end in range(2 * self.CHUNK, len(record) + self.CHUNK, self.CHUNK):
                if len(stored) < min(end, len(record)):
                    sql = "UPDATE checkpoints SET record = ? WHERE run_id = ? AND step = ?"
                    database.execute(sql, (record[:end], *at))


@broken(slow=("fencing.forked_process",), importable=True)
class WaitsForItsThread(Database):
    """Writes are done by a thread of the handle, which a forked process does not have."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def work() -> None:
            # The write itself never waits, so it needs no loop that runs.
            try:
                super(WaitsForItsThread, self).write(checkpoint).send(None)
            except StopIteration:
                loop.call_soon_threadsafe(_settle, done, None)
            except BaseException as error:  # raised where the write was asked for
                loop.call_soon_threadsafe(_settle, done, error)

        self._work.put(work)
        await done

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    async def close(self) -> None:
        if self._ready:
            self._work.put(None)
        await super().close()


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


@broken("access.outage")
class FailureGoesToTheFirst(ReferenceCheckpointer):
    """Writes that come at once share a commit; if it fails, the first of them is told so, and the others nothing."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._waiting: list[tuple[Checkpoint, bytes, asyncio.Future[None]]] = []

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_writable("write")
        record = encode(checkpoint)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((checkpoint, record, done))
        if len(self._waiting) > 1:
            await done
            return
        await asyncio.sleep(0)
        batch, self._waiting = self._waiting, []
        try:
            await self._turn()
        finally:
            reached = self._store.reachable
            for each, data, future in batch:
                try:
                    if reached:
                        self._append(each, data)
                    _settle(future, None)
                except BaseException as error:  # raised where the write was asked for
                    _settle(future, error)
        await batch[0][2]


@broken("access.outage")
class BelievesLostWrites(ReferenceCheckpointer):
    """The tail that a handle remembers is that of its last write, even if the store never answered."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._lost: dict[str, Checkpoint] = {}

    async def write(self, checkpoint: Checkpoint) -> None:
        before = self._lost.pop(checkpoint.run_id, None)
        if before is not None and checkpoint.previous_digest == before.digest:
            self._ensure_writable("write")
            self._store.runs.setdefault(before.run_id, {})[before.step] = encode(before)
        try:
            await super().write(checkpoint)
        except StoreUnavailableError:
            self._lost[checkpoint.run_id] = checkpoint
            raise
