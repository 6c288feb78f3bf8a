"""What workers share of a store: the index of the runs of queues, limits, who lives, schedules."""

from __future__ import annotations

import heapq
import math
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from stargraph.checkpoint.driver import (
    EPOCH,
    FORGET_AFTER,
    MICROSECOND,
    Claim,
    DamagedRun,
    Slots,
    counts_of,
    model_from_json,
    presence_from_json,
    readable_summaries,
    version_key,
)
from stargraph.checkpoint.protocol import (
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueLimits,
    RunSummary,
    Schedule,
)
from stargraph.checkpoint.sqlite._queue_index import Repair, wrong_rows

if TYPE_CHECKING:
    from stargraph.checkpoint.sqlite._connection import OpenStore
    from stargraph.checkpoint.sqlite._writer import StoreChange, Writer

_SECOND: Final = 1_000_000
"""In the unit of all times here: microseconds since 1970."""

_NOW: Final = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000"

_WAKE: Final = "UPDATE queued SET state = 'ready' WHERE state = 'scheduled' AND wake_at <= ?"
_ARE_DUE: Final = "SELECT EXISTS (SELECT 1 FROM queued WHERE state = 'scheduled' AND wake_at <= ?)"

_CANDIDATE: Final = "priority, order_at, run_id, queue, concurrency_key, state = 'running'"

_READY: Final = f"""
SELECT {_CANDIDATE} FROM queued INDEXED BY queued_by_order
WHERE state = 'ready' AND queue = :queue AND version = :version
    AND (reserved_until IS NULL OR reserved_until <= :now)
ORDER BY priority DESC, order_at, run_id
"""  # noqa: S608  # made of constants; values are parameters

_DUE: Final = f"""
SELECT {_CANDIDATE} FROM queued INDEXED BY queued_by_time
WHERE state = 'scheduled' AND wake_at <= :now AND queue = :queue AND version = :version
    AND (reserved_until IS NULL OR reserved_until <= :now)
ORDER BY priority DESC, order_at, run_id
"""  # noqa: S608  # made of constants; values are parameters

_ORPHANED: Final = f"""
SELECT {_CANDIDATE} FROM queued INDEXED BY queued_by_process
WHERE state = 'running' AND process_id = :process_id AND queue = :queue AND version = :version
    AND (reserved_until IS NULL OR reserved_until <= :now)
ORDER BY priority DESC, order_at, run_id
"""  # noqa: S608  # made of constants; values are parameters

_NEXT_VERSION: Final = """
SELECT min(version) FROM queued INDEXED BY queued_by_queue WHERE queue = ? AND version > ?
"""

_NEXT_PROCESS: Final = """
SELECT min(process_id) FROM queued INDEXED BY queued_by_process WHERE state = 'running' AND process_id > ?
"""

_LIVES: Final = "SELECT EXISTS (SELECT 1 FROM processes WHERE process_id = ? AND ? - last_seen < ?)"

_ACTIVE: Final = """
SELECT queue, concurrency_key FROM queued INDEXED BY queued_by_process WHERE state = 'running' AND queue = :queue
UNION ALL
SELECT queue, concurrency_key FROM queued INDEXED BY queued_by_reservation
WHERE reserved_until > :now AND state <> 'running' AND queue = :queue
"""

_RESERVE: Final = "UPDATE queued SET reserved_by = ?, reserved_until = ? WHERE run_id = ?"
_HAND_OUT: Final = "INSERT INTO handed_out (queue, moment) VALUES (?, ?)"
_FORGET_HANDED_OUT: Final = "DELETE FROM handed_out WHERE queue = ? AND moment <= ?"
_COUNT_HANDED_OUT: Final = "SELECT count(*) FROM handed_out WHERE queue = ? AND moment > ?"

_SUMMARIES: Final = """
SELECT queued.run_id, CAST(summary AS BLOB), typeof(priority) IN ('integer', 'real')
    AND typeof(order_at) IN ('integer', 'real') AND typeof(concurrency_key) IN ('blob', 'null')
FROM queued LEFT JOIN runs USING (run_id) WHERE queued.run_id IN ({})
"""
"""The last column tells whether a row holds what was written there: no column keeps a damaged value out."""

_COUNTS: Final = """
SELECT queue,
    CASE
        WHEN reserved_until > :now THEN 'running'
        WHEN state = 'scheduled' AND wake_at <= :now THEN 'ready'
        ELSE state
    END,
    count(*)
FROM queued GROUP BY 1, 2
"""

_BEAT: Final = """
INSERT INTO processes (process_id, process, first_seen, last_seen) VALUES (:process_id, :process, :now, :now)
ON CONFLICT (process_id) DO UPDATE SET process = excluded.process, last_seen = excluded.last_seen
"""

R = TypeVar("R")

_Candidate: TypeAlias = tuple[Any, Any, Any, str, Any, int]


class _Found(NamedTuple):
    """The runs that a claim gets, and those that it leaves out since they cannot be read."""

    runs: list[RunSummary]
    damaged: list[DamagedRun]


class SQLiteFleet:
    """What the driver does for a fleet.

    Args:
        store: the open store.
        writer: changes it; None if the handle only reads.
    """

    def __init__(self, store: OpenStore, writer: Writer | None) -> None:
        self._store = store
        self._writer = writer

    async def claim(self, claim: Claim) -> list[RunSummary]:
        # A look first, which takes no lock: most workers ask in vain most of the time.
        known = [run.run_id for run in self._store.damaged]
        found = await self._store.read(partial(_look, claim=claim, known=known))
        if claim.reserve and found.runs:
            found = await self._change(_Claimed(claim, [run.run_id for run in found.damaged]))
        self._store.damaged = tuple(found.damaged)
        return found.runs

    async def damaged(self) -> list[DamagedRun]:
        known = [run.run_id for run in self._store.damaged]
        return (await self._store.read(partial(_summaries, run_ids=known))).damaged if known else []

    async def counts(self) -> list[QueueCounts]:
        return await self._store.read(_counts)

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        if limits is None:
            await self._change(_Statement("DELETE FROM limits WHERE queue = ?", queue))
        else:
            text = limits.model_dump_json()
            await self._change(_Statement("INSERT OR REPLACE INTO limits (queue, limits) VALUES (?, ?)", queue, text))

    async def beat(self, process_id: str, process: ProcessInfo) -> None:
        await self._change(_Beat(process_id, process))

    async def processes(self) -> list[ProcessPresence]:
        return await self._store.read(_processes)

    async def leave(self, process_id: str) -> None:
        await self._change(_Left(process_id))

    async def repair(self) -> list[str]:
        # A look first, which takes no lock: there is nothing to repair nearly always.
        wrong = await self._store.read(wrong_rows)
        return await self._change(Repair(list(wrong))) if wrong else []

    async def put_schedule(self, schedule: Schedule) -> None:
        text = schedule.model_dump_json()
        await self._change(
            _Statement("INSERT OR REPLACE INTO schedules (id, schedule) VALUES (?, ?)", schedule.id, text)
        )

    async def schedules(self) -> list[Schedule]:
        return await self._store.read(_schedules)

    async def remove_schedule(self, schedule_id: str) -> bool:
        return await self._change(_Statement("DELETE FROM schedules WHERE id = ?", schedule_id)) > 0

    async def _change(self, change: StoreChange[R]) -> R:
        assert self._writer is not None
        return await self._writer.submit(change)


class _Statement:
    """One statement that returns how many rows it changed."""

    size: Final = 256

    def __init__(self, statement: str, *values: Any) -> None:
        self._statement = statement
        self._values = values

    def apply(self, connection: sqlite3.Connection, /) -> int:
        return connection.execute(self._statement, self._values).rowcount


class _Claimed:
    """Runs that are handed out and reserved."""

    def __init__(self, claim: Claim, known: Sequence[str]) -> None:
        self._claim = claim
        self._known = known
        self.size = 256 * claim.limit

    def apply(self, connection: sqlite3.Connection, /) -> _Found:
        now, limited = _now(connection), _limits(connection, self._claim.queues)
        connection.execute(_WAKE, (now,))
        found = _find(connection, self._claim, self._known, now, limited, are_due=False)
        until = now + int(self._claim.reserve * _SECOND)
        for run in found.runs:
            assert run.queue is not None
            connection.execute(_RESERVE, (self._claim.process_id, until, run.run_id))
            if run.queue.name in limited and limited[run.queue.name].rate is not None:
                connection.execute(_HAND_OUT, (run.queue.name, now))
        for queue, limits in limited.items():
            connection.execute(_FORGET_HANDED_OUT, (queue, now - int(limits.period * _SECOND)))
        return found


class _Beat:
    """A process lives."""

    size: Final = 256

    def __init__(self, process_id: str, process: ProcessInfo) -> None:
        self._process_id = process_id
        self._process = process

    def apply(self, connection: sqlite3.Connection, /) -> None:
        now = _now(connection)
        values = {"process_id": self._process_id, "process": self._process.model_dump_json(), "now": now}
        connection.execute(_BEAT, values)
        connection.execute("DELETE FROM processes WHERE last_seen < ?", (now - int(FORGET_AFTER * _SECOND),))


class _Left:
    """A process has ended."""

    size: Final = 256

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id

    def apply(self, connection: sqlite3.Connection, /) -> None:
        connection.execute("DELETE FROM processes WHERE process_id = ?", (self._process_id,))
        connection.execute(
            "UPDATE queued SET reserved_by = NULL, reserved_until = NULL"
            " WHERE reserved_until IS NOT NULL AND reserved_by = ?",
            (self._process_id,),
        )


def _look(connection: sqlite3.Connection, claim: Claim, known: Sequence[str]) -> _Found:
    """Return the runs that a claim gets, and change nothing."""
    now = _now(connection)
    (are_due,) = connection.execute(_ARE_DUE, (now,)).fetchone()
    return _find(connection, claim, known, now, _limits(connection, claim.queues), are_due=bool(are_due))


def _find(
    connection: sqlite3.Connection,
    claim: Claim,
    known: Sequence[str],
    now: int,
    limits: Mapping[str, QueueLimits],
    *,
    are_due: bool,
) -> _Found:
    """Return the runs that a claim gets.

    Args:
        connection: within a transaction if it is to reserve them.
        known: runs that could not be read before.
        now: the store's time.
        limits: the limits of each queue that has some.
        are_due: there may be runs whose time has come and that are not noted as ready.
    """
    damaged = _summaries(connection, known).damaged
    choose = partial(_choose, connection, now=now, are_due=are_due)
    ahead = claim.limit
    while True:
        # Chosen again without those that cannot be read: each had the place and the slot of another run.
        found = _summaries(connection, choose(claim, _ids(damaged), limits=limits))
        damaged += found.damaged
        if not found.damaged:
            return _Found(found.runs, damaged)
        # Looked further ahead each time, so that many of them do not take as many rounds.
        ahead *= 4
        damaged += _summaries(connection, choose(replace(claim, limit=ahead), _ids(damaged), limits={})).damaged


def _ids(damaged: Iterable[DamagedRun]) -> set[str]:
    return {run.run_id for run in damaged}


def _choose(
    connection: sqlite3.Connection,
    claim: Claim,
    left_out: Collection[str],
    *,
    now: int,
    limits: Mapping[str, QueueLimits],
    are_due: bool,
) -> list[str]:
    """Return the ids of the runs that a claim gets, if all of them can be read."""
    gone = _gone(connection, now, claim.silent_after)
    sources: list[Iterator[_Candidate]] = []
    for queue in claim.queues:
        for version in _versions(connection, queue, claim):
            values = {"queue": queue, "version": version, "now": now}
            statements = [(_READY, values), *([(_DUE, values)] if are_due else [])]
            statements += [(_ORPHANED, {**values, "process_id": process_id}) for process_id in gone]
            sources += [connection.execute(statement, parameters) for statement, parameters in statements]
    slots = _slots(connection, {queue: limits[queue] for queue in claim.queues if queue in limits}, now)
    found: list[str] = []
    for _, _, run_id, queue, key, is_active in heapq.merge(*sources, key=_order):
        if run_id in left_out:
            continue
        if slots.take(queue, _text(key), is_active=bool(is_active)):
            found.append(run_id)
            if len(found) == claim.limit:
                break
    return found


def _order(candidate: _Candidate) -> tuple[float, float, str]:
    priority, order_at, run_id, *_ = candidate
    if not (isinstance(priority, (int, float)) and isinstance(order_at, (int, float)) and isinstance(run_id, str)):
        return (-math.inf, 0, "")  # a damaged row; its summary is looked at, and it is left out
    return (-priority, order_at, run_id)


def _text(key: Any) -> str | None:
    """Return a concurrency key, or something else that is none of the others if it is damaged."""
    return key.decode(errors="replace") if isinstance(key, bytes) else None if key is None else repr(key)


def _versions(connection: sqlite3.Connection, queue: str, claim: Claim) -> Iterable[bytes]:
    """Return the versions to look at: those of a claim, or all that the runs of a queue have."""
    if claim.fits is not None:
        return [version_key(version) for version in claim.fits]
    return list(_steps(connection, _NEXT_VERSION, b"", queue))


def _gone(connection: sqlite3.Connection, now: int, silent_after: float) -> list[str]:
    """Return the processes that have running runs and do not live."""
    silence = int(silent_after * _SECOND)
    return [
        process_id
        for process_id in _steps(connection, _NEXT_PROCESS, "")
        if not connection.execute(_LIVES, (process_id, now, silence)).fetchone()[0]
    ]


def _steps(connection: sqlite3.Connection, statement: str, after: Any, *values: Any) -> Iterator[Any]:
    """Yield the different values of a column from its index, each found by one descent."""
    while True:
        (after,) = connection.execute(statement, (*values, after)).fetchone()
        if after is None:
            return
        yield after


def _slots(connection: sqlite3.Connection, limits: Mapping[str, QueueLimits], now: int) -> Slots:
    active: list[tuple[str, str | None]] = []
    recent: dict[str, int] = {}
    for queue, each in limits.items():
        for name, key in connection.execute(_ACTIVE, {"queue": queue, "now": now}):
            active.append((name, _text(key)))
        since = now - int(each.period * _SECOND)
        (recent[queue],) = connection.execute(_COUNT_HANDED_OUT, (queue, since)).fetchone()
    return Slots(limits, active, recent)


def _limits(connection: sqlite3.Connection, queues: Collection[str] | None = None) -> dict[str, QueueLimits]:
    """Return the limits of the queues that have some: of all queues, or of these, whatever the others have."""
    rows = connection.execute("SELECT queue, limits FROM limits").fetchall()
    return {
        queue: model_from_json(QueueLimits, text, f"the limits of queue {queue!r}")
        for queue, text in rows
        if queues is None or queue in queues
    }


def _summaries(connection: sqlite3.Connection, run_ids: Sequence[str]) -> _Found:
    """Return the summaries of runs, in this order; one that is in the index no more is left out."""
    texts: dict[str, bytes] = {}
    damaged: list[DamagedRun] = []
    for start in range(0, len(run_ids), 500):
        some = run_ids[start : start + 500]
        for run_id, text, is_sound in connection.execute(_SUMMARIES.format(", ".join("?" * len(some))), some):
            if is_sound:
                texts[run_id] = text or b"null"  # a row whose run is gone says nothing that could be read
            else:
                why = f"run {run_id!r}: its entry in the index of queues is damaged; stargraph doctor repairs it"
                damaged.append(DamagedRun(run_id, why))
    runs, unreadable = readable_summaries([(run_id, texts[run_id]) for run_id in run_ids if run_id in texts])
    return _Found(runs, damaged + unreadable)


def _counts(connection: sqlite3.Connection) -> list[QueueCounts]:
    rows = connection.execute(_COUNTS, {"now": _now(connection)}).fetchall()
    return counts_of(rows, _limits(connection))


def _processes(connection: sqlite3.Connection) -> list[ProcessPresence]:
    now = _now(connection)
    rows = connection.execute(
        "SELECT process, first_seen, last_seen FROM processes WHERE last_seen >= ? ORDER BY first_seen, process_id",
        (now - int(FORGET_AFTER * _SECOND),),
    ).fetchall()
    return [
        presence_from_json(
            text, first_seen=EPOCH + first_seen * MICROSECOND, silent_seconds=(now - last_seen) / _SECOND
        )
        for text, first_seen, last_seen in rows
    ]


def _schedules(connection: sqlite3.Connection) -> list[Schedule]:
    rows = connection.execute("SELECT id, schedule FROM schedules ORDER BY id").fetchall()
    return [model_from_json(Schedule, text, f"schedule {schedule_id!r}") for schedule_id, text in rows]


def _now(connection: sqlite3.Connection) -> int:
    """Return the time by the clock of the machine, which is the store's, whatever a process takes for the time."""
    (now,) = connection.execute(_NOW).fetchone()
    return int(now)
