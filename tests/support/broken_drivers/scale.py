"""Drivers that are right for three steps and wrong for a thousand, or for a text that is longer than expected."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import Tail, judge_append
from stargraph.checkpoint.protocol import Checkpoint, RunPage, RunSummary
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.indexed import Indexed


@broken(slow=("sizes.long_run",), importable=True)
class HistoryOfAThousand(Indexed):
    """history reads one page of a thousand rows."""

    async def history(self, run_id: str, **bounds: Any) -> AsyncIterator[Checkpoint]:
        count = 0
        async for found in super().history(run_id, **bounds):
            count += 1
            if count > 1000:
                return
            yield found


@broken(slow=("sizes.long_run",), importable=True)
class RetriesOfTheLastHundreds(Indexed):
    """Whether a step is stored is looked for among the latest 512 steps."""

    def _judge(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> str:
        latest = self._latest(database, checkpoint.run_id)
        if latest is not None and checkpoint.step < latest.step - 512:
            tail = Tail(latest.step, latest.digest, latest.status)
            return judge_append(checkpoint, tail=tail, stored_digest=None)
        return super()._judge(database, checkpoint)


@broken(slow=("sizes.long_run",), importable=True)
class OldStepsAreTaken(Indexed):
    """A step below the latest thousand counts as stored already, without a look at it."""

    def _judge(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> str:
        latest = self._latest(database, checkpoint.run_id)
        if latest is not None and checkpoint.step < latest.step - 1000:
            return "stored"
        return super()._judge(database, checkpoint)


@broken(slow=("sizes.long_run",), importable=True)
class SmallSteps(Indexed):
    """Ten bits of a key hold the step."""

    def _insert(self, database: sqlite3.Connection, run_id: str, step: int, record: bytes) -> None:
        sql = "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)"
        database.execute(sql, (run_id, step % 1024 if step < 1100 and step >= 1024 else step, record))

    def _latest(self, database: sqlite3.Connection, run_id: str) -> Checkpoint | None:
        row = database.execute("SELECT summary FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None else self._at(database, run_id, RunSummary.model_validate_json(row[0]).last_step)

    def _at(self, database: sqlite3.Connection, run_id: str, step: int) -> Checkpoint | None:
        place = step % 1024 if 1024 <= step < 1100 else step
        sql = "SELECT record FROM checkpoints WHERE run_id = ? AND step = ?"
        row = database.execute(sql, (run_id, place)).fetchone()
        return None if row is None else decode(row[0], run_id=run_id, step=step)


@broken(slow=("sizes.many_runs",), importable=True)
class ListsAThousand(Indexed):
    """A list never has more than a thousand runs."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return await super().list_runs(since=since, limit=min(limit, 1000))


@broken(slow=("sizes.many_runs",), importable=True)
class TagsFilteredAfterThePage(Indexed):
    """Tags are compared in Python, with the newest 500 runs that the query gave."""

    async def search(self, *, metadata: Mapping[str, str] | None = None, limit: int = 100, **rest: Any) -> RunPage:
        if not metadata or limit < 1:
            return await super().search(limit=limit, **rest)
        page = await super().search(limit=500, **rest)
        found = (item for item in page.items if metadata.items() <= item.metadata.items())
        items = tuple(islice(found, limit + 1))
        if len(items) <= limit:
            return RunPage(items=items)
        last = items[limit - 1]
        return RunPage(items=items[:limit], next_cursor=self._cursor(self._time(last.started_at), last.run_id))


@broken(slow=("sizes.many_runs",), importable=True)
class AnEmptyPageIsTheEnd(Indexed):
    """Pages of a search are cut first and filtered then; one without a match ends the search."""

    async def search(self, *, metadata: Mapping[str, str] | None = None, limit: int = 100, **rest: Any) -> RunPage:
        if not metadata or limit < 1:
            return await super().search(limit=limit, **rest)
        cursor = rest.pop("cursor", None)
        while True:
            page = await super().search(limit=max(limit, 40), cursor=cursor, **rest)
            items = tuple(item for item in page.items if metadata.items() <= item.metadata.items())
            if not items or page.next_cursor is None:
                return RunPage(items=items[:limit])
            if len(items) > limit:
                last = items[limit - 1]
                return RunPage(items=items[:limit], next_cursor=self._cursor(self._time(last.started_at), last.run_id))
            return RunPage(items=items, next_cursor=page.next_cursor)


class RemembersTails(Indexed):
    """A base: remembers the tails of runs, and how many at most."""

    MOST = 1024

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._tails: OrderedDict[str, Tail] = OrderedDict()

    def _append(self, database: sqlite3.Connection, checkpoint: Checkpoint, record: bytes) -> None:
        super()._append(database, checkpoint, record)
        self._tails[checkpoint.run_id] = Tail(checkpoint.step, checkpoint.digest, checkpoint.status)
        self._tails.move_to_end(checkpoint.run_id)


@broken(slow=("sizes.many_runs",), importable=True)
class ForgottenTailsAreTrusted(RemembersTails):
    """Beyond 1,024 runs a tail is forgotten; a run without one is taken to stand where the checkpoint says."""

    def _judge(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> str:
        full = len(self._tails) >= self.MOST
        if full and checkpoint.run_id not in list(self._tails)[-self.MOST :] and checkpoint.previous_digest:
            stored = self._at(database, checkpoint.run_id, checkpoint.step)
            tail = Tail(checkpoint.step - 1, checkpoint.previous_digest, "running")
            return judge_append(checkpoint, tail=tail, stored_digest=stored.digest if stored else None)
        return super()._judge(database, checkpoint)


@broken("sizes.wide_summaries", importable=True)
class TagsOf255(Indexed):
    """Tags are VARCHAR(255): what is longer is cut off in the index."""

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        super()._index(database, checkpoint)
        database.execute("UPDATE OR REPLACE tags SET name = substr(name, 1, 255), value = substr(value, 1, 255)")

    async def search(self, *, metadata: Mapping[str, str] | None = None, **rest: Any) -> RunPage:
        short = {name[:255]: value[:255] for name, value in (metadata or {}).items()}
        return await super().search(metadata=short, **rest)


@broken("sizes.wide_summaries", importable=True)
class AnswersOfOneMebibyte(Indexed):
    """A list ends before its answer would be longer than 1 MiB."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        kept: list[RunSummary] = []
        size = 0
        for item in await super().list_runs(since=since, limit=limit):
            size += len(item.model_dump_json())
            if size > 1 << 20:
                break
            kept.append(item)
        return kept


@broken("sizes.large_fields", importable=True)
class ErrorsOf64KiB(Indexed):
    """The row of a run holds its error in a column of 64 KiB; a longer traceback is cut off in lists."""

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        super()._index(database, checkpoint)
        if checkpoint.error is not None and checkpoint.error.traceback:
            short = checkpoint.error.model_copy(update={"traceback": checkpoint.error.traceback[:65535]})
            summary = RunSummary.from_checkpoint(checkpoint).model_copy(update={"error": short})
            sql = "UPDATE runs SET summary = ? WHERE run_id = ?"
            database.execute(sql, (summary.model_dump_json(), checkpoint.run_id))


@broken("sizes.large_fields", importable=True)
class GraphsOf64KiB(Indexed):
    """The column that graphs are found by keeps 32 KiB of their ids."""

    def _index(self, database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
        super()._index(database, checkpoint)
        database.execute("UPDATE runs SET graph_id = substr(graph_id, 1, 32768)")


@broken("sizes.long_batches", importable=True)
class JudgesTheFirstChunk(Indexed):
    """A batch is inserted in chunks of 256; only the first chunk is judged, and in the others what is there stays."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().write_many(checkpoints[:256])

        def work(database: sqlite3.Connection) -> None:
            for checkpoint in checkpoints[256:]:
                values = (checkpoint.run_id, checkpoint.step, encode(checkpoint))
                if database.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?)", values).rowcount:
                    self._index(database, checkpoint)

        self._transact(work)


@broken("sizes.long_batches", importable=True)
class ComparesTheEnds(Indexed):
    """Of the stored part of a long batch only the first and the last step are compared."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        if len(checkpoints) <= 100:
            await super().write_many(checkpoints)
            return
        self._ensure_ready()
        with self._connected() as database:
            latest = self._latest(database, checkpoints[0].run_id)
        stored = 0 if latest is None else max(0, latest.step + 1 - checkpoints[0].step)
        rest = list(checkpoints[stored:])
        if not rest or latest is None or rest[0].previous_digest == latest.digest or stored < 200:
            await super().write_many(checkpoints)
            return
        forged = rest[0].previous_digest
        assert forged is not None
        await super().write_many(checkpoints[:1])


@broken(slow=("sizes.large_states_contended",), importable=True)
class LargeStatesInAFile(Indexed):
    """A record of more than 1 MiB goes into a file beside the store, named by its run and step, before it is judged."""

    def _file(self, run_id: str, step: int) -> str:
        return f"{self._path}-{run_id}-{step}"

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        if len(record) > 1 << 20:
            with open(self._file(checkpoint.run_id, checkpoint.step), "wb") as file:
                file.write(record)
        await super().write(checkpoint)

    def _at(self, database: sqlite3.Connection, run_id: str, step: int) -> Checkpoint | None:
        sql = "SELECT record FROM checkpoints WHERE run_id = ? AND step = ?"
        row = database.execute(sql, (run_id, step)).fetchone()
        if row is None:
            return None
        record = row[0]
        if len(record) > 1 << 20:
            with open(self._file(run_id, step), "rb") as file:
                record = file.read()
        return decode(record, run_id=run_id, step=step)


@broken(slow=("sizes.long_run",))
class DeletesAThousandSteps(ReferenceCheckpointer):
    """A request deletes a thousand steps at most; those above can still be read at their step."""

    _everywhere: dict[int, tuple[ReferenceStore, dict[str, dict[int, bytes]]]] = {}  # noqa: RUF012

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._left = self._everywhere.setdefault(id(self._store), (self._store, {}))[1]

    def _delete(self, run_id: str) -> bool:
        records = self._records(run_id)
        self._left[run_id] = {step: record for step, record in records.items() if step >= 1000}
        return super()._delete(run_id)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        found = await super().read_at_step(run_id, step)
        record = self._left.get(run_id, {}).get(step) if found is None else None
        return decode(record, run_id=run_id, step=step) if record is not None else found


@broken(slow=("sizes.long_run",))
class KeysOfTheLastThousand(ReferenceCheckpointer):
    """read_at_key looks at the last thousand steps."""

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        found = await super().read_at_key(run_id, key)
        return None if found is None or found.step < max(self._records(run_id)) - 999 else found
