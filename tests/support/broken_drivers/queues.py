"""Drivers that hand out the wrong runs, or to too many, and that do not know who lives."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import claim_order
from stargraph.checkpoint.protocol import (
    Checkpoint,
    GraphVersion,
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueEntry,
    QueueLimits,
    RunSummary,
    Schedule,
)
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from support.broken_drivers.broken_driver import broken


class Claims(ReferenceCheckpointer):
    """A base: the runs that a claim would get, for a driver to get wrong."""

    async def _claimable(self, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        """Return all that can go on, whatever was reserved before and however many were asked for."""
        given = {"silent_after": arguments.get("silent_after", 30.0), "fits": arguments.get("fits"), "reserve": 0.0}
        return await super().claimable("", queues, limit=1_000_000, **given)


@broken("queues.kinds")
class SleepersAreForgotten(Claims):
    """Runs that wait for a time are never handed out."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        return [run for run in found if run.status != "awaiting_input"]


@broken("queues.kinds")
class BeforeTheirTime(Claims):
    """A run that is queued is handed out, whether it is due or not."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        later = [run for run in self._summaries(None) if run.due_at is not None and run.due_at > datetime.now(UTC)]
        return [*found, *(run for run in later if run.queue and run.queue.name in queues and run.status == "queued")]


@broken("queues.order")
class AsksEachNameThatIsGiven(ReferenceCheckpointer):
    """Queues are asked one by one and the answers joined: a queue that is named twice gives its runs twice."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        twice = {name for name in queues if list(queues).count(name) > 1}
        return [run for run in found for _ in range(1 + bool(run.queue and run.queue.name in twice))]


@broken("queues.kinds", "queues.beside_damage")
class TimesOverflow(ReferenceCheckpointer):
    """Times are seconds in 32 bits: what is due after January 2038 seems to be due since 1901."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        there = {run.run_id: run for run in await super().claimable(process_id, queues, **arguments)}
        for run in self._summaries(None):
            entry = run.queue
            if run.status == "queued" and entry is not None and entry.name in queues and entry.not_before is not None:
                there |= {run.run_id: run} if entry.not_before.timestamp() >= 2**31 else {}
        return list(there.values())


@broken("queues.kinds")
class WorkChangesNoRow(Claims):
    """The row of a run's queue is written by steps with events of their own: a completed node leaves it as it was."""

    _rows: dict[int, dict[str, str]] = {}  # noqa: RUF012

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        if checkpoint.event not in ("completed", "called"):
            self._rows.setdefault(id(self._store), {})[checkpoint.run_id] = checkpoint.status

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        rows = self._rows.get(id(self._store), {})
        return [run for run in found if rows.get(run.run_id, run.status) == run.status]


@broken("queues.order")
class NewestFirst(Claims):
    """Of the runs that were due, the one that was due last comes first."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        return sorted(found, key=lambda run: run.due_at.timestamp() if run.due_at else 0.0, reverse=True)


@broken("queues.fits")
class FiltersThePage(Claims):
    """As many runs as were asked for are read, and then those that do not fit are left out."""

    async def claimable(
        self,
        process_id: str,
        queues: Sequence[str],
        *,
        fits: Sequence[GraphVersion] | None = None,
        **arguments: Any,
    ) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        versions = None if fits is None else set(fits)
        return [
            run
            for run in found
            if versions is None or GraphVersion(run.graph_id, run.graph_hash, run.runtime_hash) in versions
        ]


@broken(
    "queues.reservations",
    "queues.side_by_side",
    "queues.limits",
    "queues.counts",
    "queues.read_only",
    "queues.arguments",
    "queues.others_keep_theirs",
    "queues.outlive_handles",
    "queues.many",
)
class NothingIsReserved(Claims):
    """A claim is a look: everybody gets the same runs."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        return await super().claimable(process_id, queues, **(arguments | {"reserve": 0.0}))


@broken("queues.reservations", "queues.limits", "queues.side_by_side", "queues.arguments", "queues.others_keep_theirs")
class ReservedForGood(Claims):
    """A reservation does not end with the step that it was made for, nor by time."""

    _reserved: dict[int, set[str]] = {}  # noqa: RUF012

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        reserved = self._reserved.setdefault(id(self._store), set())
        limit = arguments.pop("limit", 1)
        found = await self._claimable(queues, **arguments) if limit else []
        chosen = [run for run in found if run.run_id not in reserved][:limit]
        if arguments.get("reserve", 30.0):
            await super().claimable(process_id, queues, limit=limit, **arguments)
            reserved.update(run.run_id for run in chosen)
        return chosen


@broken("queues.side_by_side")
class ReadsThenReserves(Claims):
    """Runs are read, and reserved after another turn of the loop."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **(arguments | {"reserve": 0.0}))
        if arguments.get("reserve", 30.0):
            await self._turn()
            await super().claimable(process_id, queues, **arguments)
        return found


@broken("queues.limits", "queues.exact_names", "queues.limits_told", "queues.outlive_handles")
class LimitsOfOneHandle(Claims):
    """Limits are kept in the handle that set them."""

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        await super().set_limits(queue, None)


@broken("queues.limits")
class LooksCountAsTaken(Claims):
    """Whatever a claim gives counts for the rate of its queue, reserved or not."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        if not arguments.get("reserve", 30.0):
            for run in found:
                assert run.queue is not None
                self._store.queues._handed_out.setdefault(run.queue.name, deque()).append(time.monotonic())
        return found


@broken("queues.counts")
class CountsTheDead(Claims):
    """Runs that have ended are counted as ready."""

    async def queue_counts(self) -> list[QueueCounts]:
        done = [run.queue.name for run in self._summaries(None) if run.queue and run.status == "done"]
        counts = await super().queue_counts()
        return [each.model_copy(update={"ready": each.ready + done.count(each.queue)}) for each in counts]


@broken("queues.living", "queues.kinds", "queues.limits", "queues.every_way_in", "queues.others_keep_theirs")
class OldStepsAreOrphans(Claims):
    """A run whose last step is some time old by its own stamp counts as orphaned, whoever lives."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        old = [
            run
            for run in self._summaries(None)
            if run.status == "running"
            and run.queue is not None
            and run.queue.name in queues
            and (datetime.now(UTC) - run.updated_at).total_seconds() > arguments.get("silent_after", 30.0)
        ]
        return sorted({run.run_id: run for run in [*found, *old]}.values(), key=claim_order)


@broken("queues.read_only")
class ReservesReadOnly(Claims):
    """A handle that only reads reserves as others do."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        read_only, self.read_only = self.read_only, False
        try:
            return await super().claimable(process_id, queues, **arguments)
        finally:
            self.read_only = read_only


@broken("queues.arguments")
class AnyArgument(Claims):
    """What cannot be meant is taken for nothing."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        try:
            return await super().claimable(process_id, queues, **arguments)
        except ValueError:
            return []


@broken("presence.beats")
class FirstWords(Claims):
    """What a process said first stays."""

    async def beat(self, process: ProcessInfo) -> None:
        known = {each.process.id: each.process for each in await self.processes()}
        await super().beat(known.get(process.id, process))


@broken("presence.beats")
class ProcessWithoutItsWork(Claims):
    """Of a worker only what every process has is kept."""

    async def beat(self, process: ProcessInfo) -> None:
        await super().beat(ProcessInfo(**{name: getattr(process, name) for name in ProcessInfo.model_fields}))


@broken("presence.beats")
class NobodyLeaves(Claims):
    """A process that has left is listed until it has been silent for long."""

    async def leave(self, process_id: str) -> None:
        known = [each.process for each in await self.processes() if each.process.id == process_id]
        await super().leave(process_id)
        for process in known:
            await super().beat(process)


@broken("presence.silence")
class SilentSinceTheFirstBeat(Claims):
    """silent_seconds is the time since the first beat."""

    async def processes(self) -> list[ProcessPresence]:
        now = datetime.now(UTC)
        return [
            each.model_copy(update={"silent_seconds": max(0.0, (now - each.first_seen).total_seconds())})
            for each in await super().processes()
        ]


@broken("schedules.kept", "schedules.read_only")
class FirstSchedule(Claims):
    """A schedule that is there is left as it is."""

    async def put_schedule(self, schedule: Schedule) -> None:
        if schedule.id not in {each.id for each in await self.schedules()}:
            await super().put_schedule(schedule)


@broken(slow=("queues.wrong_clocks",), importable=True)
class ClockOfWhoAsks(SQLiteCheckpointer):
    """What is due is decided by the clock of the process that asks."""

    def __init__(self, location: str) -> None:
        super().__init__(Path(f"{location}.sqlite"))

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        queued = (await self.search(status="queued", limit=1000)).items
        now, limit = datetime.now(UTC), arguments.get("limit", 1)
        due = [run for run in queued if run.due_at and run.due_at <= now and run.queue and run.queue.name in queues]
        return sorted({run.run_id: run for run in [*found, *due]}.values(), key=claim_order)[:limit]


@broken(slow=("queues.limits",))
class RateByTheCalendar(Claims):
    """The rate counts from the last full hour or second of the clock, not over the period that ends now."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        shared = self._store.queues
        for name, taken in shared._handed_out.items():
            limits = shared._limits.get(name)
            if limits is not None and limits.rate is not None:
                began = time.time() // limits.period * limits.period
                while taken and time.time() - (time.monotonic() - taken[0]) < began:
                    taken.popleft()
        return await super().claimable(process_id, queues, **arguments)


@broken("queues.limits")
class KeysOfAllQueues(Claims):
    """A concurrency key is counted without its queue: whoever has it in one holds it in all."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        reserved = self._store.queues._reservations
        entries = [run.queue for run in self._summaries(None) if run.run_id in reserved]
        taken = [(entry.name, entry.concurrency_key) for entry in entries if entry is not None]
        found = await super().claimable(process_id, queues, **arguments)
        return [run for run in found if run.queue is None or not self._is_taken(run.queue, taken)]

    def _is_taken(self, entry: QueueEntry, taken: Sequence[tuple[str, str | None]]) -> bool:
        limits = self._store.queues._limits.get(entry.name)
        elsewhere = {key for name, key in taken if name != entry.name and key is not None}
        return limits is not None and limits.per_key is not None and entry.concurrency_key in elsewhere


class _LocalTimes(SQLiteCheckpointer):
    """A base: a column holds local times without their offset, and each process reads its own zone into it."""

    COLUMN: str

    def __init__(self, location: str) -> None:
        super().__init__(Path(f"{location}.sqlite"))
        self._file = f"{location}.sqlite"

    @contextmanager
    def _in_utc(self) -> Iterator[None]:
        self._shift(-1)
        try:
            yield
        finally:
            self._shift(1)

    def _shift(self, sign: int) -> None:
        offset = datetime.now().astimezone().utcoffset() or timedelta()
        table, column = self.COLUMN.split(".")
        with closing(sqlite3.connect(self._file, timeout=20)) as database, database:
            database.execute(
                f"UPDATE {table} SET {column} = {column} + ?", (sign * (offset // timedelta(microseconds=1)),)
            )


@broken(slow=("queues.outlive_handles",), importable=True)
class ReservedUntilLocalTime(_LocalTimes):
    """The end of a reservation is stored as local time: in a zone to the east it is over."""

    COLUMN = "queued.reserved_until"

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        with self._in_utc():
            return await super().claimable(process_id, queues, **arguments)


@broken(slow=("presence.outlives_handles",), importable=True)
class SeenAtLocalTime(_LocalTimes):
    """The time of a beat is stored as local time: in a zone to the east every process has been silent for hours."""

    COLUMN = "processes.last_seen"

    async def beat(self, process: ProcessInfo) -> None:
        with self._in_utc():
            await super().beat(process)

    async def processes(self) -> list[ProcessPresence]:
        with self._in_utc():
            return await super().processes()
