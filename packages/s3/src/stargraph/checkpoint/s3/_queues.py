"""What workers share of a store: reservations, who lives, schedules.

Runs are found by their entries among the open ones. A claim lists these and the processes, and reads the end of each
run that it does not know or that another process may have moved on; docs/s3.md says what that costs.

A reservation is an object that is created if it is absent. One that has expired, or that was made for an earlier step,
is overwritten by whoever comes next: two may do so at once, and then both hand the run out. The append decides.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from pydantic import ValidationError

from stargraph.checkpoint.driver import (
    FORGET_AFTER,
    Claim,
    DamagedRun,
    can_go_on,
    claim_order,
    counted_state,
    counts_of,
    fits_claim,
    model_from_json,
    no_limits_error,
    queue_state,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    ProcessInfo,
    ProcessPresence,
    QueueCounts,
    QueueLimits,
    RunSummary,
    Schedule,
)
from stargraph.checkpoint.s3._clock import RESOLUTION, StoreClock
from stargraph.checkpoint.s3._concurrency import map_each
from stargraph.checkpoint.s3._index import IndexEntry, RunIndex
from stargraph.checkpoint.s3._io_thread import IOThread
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.errors import CheckpointCorruptedError, StoreVersionError

_PAGE: Final = 1000

LOOK_AGAIN: Final = 10.0
"""For how many seconds what was read of a run that could not go on is believed; less if `silent_after` is shorter."""

_SPARE: Final = 3
"""Runs that are looked at beside those that are wanted, since others may have some of them."""

_KNOWN_RUNS: Final = 100_000


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read of a run, and when by the clock of this process."""

    run: RunSummary
    at: float


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What the object of a reservation says."""

    process_id: str
    step: int
    until: datetime

    @classmethod
    def parse(cls, body: bytes | None) -> _Reservation | None:
        """Return what an object says, or None if it says nothing."""
        try:
            fields = orjson.loads(body or b"")
            return cls(fields["process_id"], fields["step"], datetime.fromisoformat(fields["until"]))
        except (ValueError, TypeError, KeyError):
            return None

    def holds(self, run: RunSummary, now: datetime, left: set[str]) -> bool:
        """Return whether it keeps others from a run."""
        return self.step == run.last_step and self.until > now and self.process_id not in left


@dataclass(frozen=True, slots=True)
class _Processes:
    """The objects of processes: the silence of each, and those that have left."""

    silence: dict[str, float]
    left: set[str]


class Queues:
    """What workers share; its coroutines run in the thread of the store.

    Args:
        store: the objects.
        keys: where they are.
        index: the entries of the open runs.
        clock: the store's.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, index: RunIndex, clock: StoreClock) -> None:
        self._store = store
        self._keys = keys
        self._index = index
        self._clock = clock
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._damaged: dict[str, DamagedRun] = {}

    async def claim(self, claim: Claim) -> list[RunSummary]:
        processes = await self._processes()
        if claim.reserve and claim.process_id in processes.left:
            await self._free(claim.process_id)
            # It has come back: what is reserved for it from now on holds.
            await self._store.remove([self._keys.process(claim.process_id)])
        living = {each for each, silent in processes.silence.items() if silent < claim.silent_after}
        reserved = {info.key async for info in _listed(self._store, self._keys.reservations)}
        now, fresh = self._clock.now(), min(LOOK_AGAIN, claim.silent_after)
        open_runs = [run for run in await self._open_runs(fresh) if fits_claim(run, claim)]
        candidates = sorted((run for run in open_runs if can_go_on(run, now, living)), key=claim_order)

        async def free(known: RunSummary) -> RunSummary | None:
            # Somebody may have begun it since it was read, or have ended what it was reserved for.
            run = await self._read(known)
            if run is None or not can_go_on(run, self._clock.now(), living):
                return None
            is_reserved = self._keys.reservation(run.run_id) in reserved
            return None if is_reserved and await self._is_reserved(run, processes.left) else run

        found: list[RunSummary] = []
        while candidates and len(found) < claim.limit:
            width = claim.limit - len(found) + _SPARE
            for run in await map_each(free, candidates[:width]):
                if run is None or len(found) == claim.limit:
                    continue
                if not claim.reserve or await self._reserve(run, claim, processes.left):
                    found.append(run)
            del candidates[:width]
        return found

    async def damaged(self) -> list[DamagedRun]:
        return list(self._damaged.values())

    async def counts(self) -> list[QueueCounts]:
        processes = await self._processes()
        runs = await self._open_runs(0.0)
        keys = {info.key async for info in _listed(self._store, self._keys.reservations)}
        now = self._clock.now()

        async def state_of(run: RunSummary) -> tuple[str, str, int]:
            assert run.queue is not None
            listed = self._keys.reservation(run.run_id) in keys
            is_reserved = listed and await self._is_reserved(run, processes.left)
            return (run.queue.name, counted_state(run, now, is_reserved=is_reserved) or "", 1)

        return counts_of(await map_each(state_of, runs), {})

    async def beat(self, process_id: str, process: ProcessInfo) -> None:
        key = self._keys.process(process_id)
        known = await self._store.get(key)
        if known is None:
            await self._remove_forgotten()
        elif known == b"":
            await self._free(process_id)
        first_seen = _fields(known).get("first_seen") or self._clock.now().isoformat()
        await self._store.overwrite(
            [key], orjson.dumps({"process": process.model_dump(mode="json"), "first_seen": first_seen})
        )

    async def processes(self) -> list[ProcessPresence]:
        silence = (await self._processes()).silence
        bodies = await self._store.get_many([self._keys.process(process_id) for process_id in silence])
        found = []
        for silent, body in zip(silence.values(), bodies, strict=True):
            fields = _fields(body)
            if fields:
                with suppress(ValidationError):  # it is advice, as is what cannot be parsed
                    found.append(ProcessPresence.model_validate({**fields, "silent_seconds": silent}))
        return sorted(found, key=lambda each: (each.first_seen, each.process.id or ""))

    async def leave(self, process_id: str) -> None:
        # An empty object says that it has left, so that what is reserved for it is free.
        await self._store.overwrite([self._keys.process(process_id)], b"")

    async def put_schedule(self, schedule: Schedule) -> None:
        await self._store.overwrite([self._keys.schedule(schedule.id)], schedule.model_dump_json().encode())

    async def schedules(self) -> list[Schedule]:
        keys = [info.key async for info in _listed(self._store, self._keys.schedules)]
        bodies = zip(keys, await self._store.get_many(keys), strict=True)
        return [
            model_from_json(Schedule, body, f"schedule {key.rpartition('/')[2]!r}")
            for key, body in bodies
            if body is not None
        ]

    async def remove_schedule(self, schedule_id: str) -> bool:
        key = self._keys.schedule(schedule_id)
        there = await self._store.get(key) is not None
        await self._store.remove([key])
        return there

    async def _processes(self) -> _Processes:
        silence: dict[str, float] = {}
        left: set[str] = set()
        async for info in _listed(self._store, self._keys.processes):
            process_id, silent = info.key.rpartition("/")[2], (self._clock.now() - info.modified).total_seconds()
            if silent > FORGET_AFTER:
                continue  # a process that comes removes it
            if info.size == 0:
                left.add(process_id)
            else:
                silence[process_id] = max(0.0, silent)
        return _Processes(silence, left)

    async def _free(self, process_id: str) -> None:
        """Remove what was reserved for a process that has left, before it comes back: it would be reserved again."""
        keys = [info.key async for info in _listed(self._store, self._keys.reservations)]
        found = [_Reservation.parse(body) for body in await self._store.get_many(keys)]
        own = [
            key
            for key, reservation in zip(keys, found, strict=True)
            if reservation is not None and reservation.process_id == process_id
        ]
        for begin in range(0, len(own), _PAGE):
            await self._store.remove(own[begin : begin + _PAGE])

    async def _remove_forgotten(self) -> None:
        now = self._clock.now()
        old = [
            info.key
            async for info in _listed(self._store, self._keys.processes)
            if (now - info.modified).total_seconds() > FORGET_AFTER
        ]
        await self._store.remove(old)

    async def _open_runs(self, fresh: float) -> list[RunSummary]:
        """Return the runs of queues that have not ended, and note those that cannot be read.

        Args:
            fresh: seconds for which what was read of a run that was at work, or waited, is believed.
        """
        entries = {entry.run_id: entry async for entry in self._index.entries(folder=self._keys.open)}
        for run_id in [run_id for run_id in self._seen if run_id not in entries]:
            del self._seen[run_id]
        for run_id in [run_id for run_id in self._damaged if run_id not in entries]:
            del self._damaged[run_id]
        now = time.monotonic()

        async def look(entry: IndexEntry) -> RunSummary | None:
            seen = self._seen.get(entry.run_id)
            if seen is not None and (
                seen.run.queue is None or (queue_state(seen.run) == "ready" and fresh > 0) or now - seen.at < fresh
            ):
                return seen.run
            run = await self._summary(entry)
            if run is not None:
                self._note(run)
            return run

        runs = await map_each(look, entries.values())
        return [run for run in runs if run is not None and run.queue is not None and run.status not in ENDED]

    async def _summary(self, entry: IndexEntry) -> RunSummary | None:
        """Return the summary of a run; None if there is no such run, or if it cannot be read, which is noted."""
        try:
            run = await self._index.summary(entry)
        except (CheckpointCorruptedError, StoreVersionError) as error:  # of this record: the store was opened
            self._damaged[entry.run_id] = DamagedRun(entry.run_id, error.message)
            return None
        self._damaged.pop(entry.run_id, None)
        return run

    def _note(self, run: RunSummary) -> None:
        self._seen[run.run_id] = _Seen(run, time.monotonic())
        while len(self._seen) > _KNOWN_RUNS:
            self._seen.popitem(last=False)

    async def _read(self, known: RunSummary) -> RunSummary | None:
        """Return a run as it is now, or None if it has ended."""
        entry = IndexEntry("", known.run_id, known.started_at, known.updated_at, deleted=False)
        run = await self._summary(entry)
        if run is None or run.status in ENDED:
            self._seen.pop(known.run_id, None)
            return None
        self._note(run)
        return run

    async def _is_reserved(self, run: RunSummary, left: set[str]) -> bool:
        found = _Reservation.parse(await self._store.get(self._keys.reservation(run.run_id)))
        return found is not None and found.holds(run, self._clock.now(), left)

    async def _reserve(self, run: RunSummary, claim: Claim, left: set[str]) -> bool:
        # Another handle may be told the time more exactly, and the reservation holds for no less than was asked for.
        until = self._clock.now() + RESOLUTION + timedelta(seconds=claim.reserve)
        key = self._keys.reservation(run.run_id)
        body = orjson.dumps(
            {
                "process_id": claim.process_id,
                "step": run.last_step,
                "until": until.isoformat(),
                "claim": secrets.token_hex(16),  # no two claims write the same
            }
        )
        if await self._store.create(key, body) is not None:
            return True
        found = await self._store.get(key)
        if found == body:  # created by an attempt whose answer was lost
            return True
        reservation = _Reservation.parse(found)
        if reservation is not None and reservation.holds(run, self._clock.now(), left):
            return False
        await self._store.overwrite([key], body)
        return await self._store.get(key) == body


class S3Fleet:
    """What the driver does for a fleet: `Queues`, called from any loop.

    Args:
        io: the thread of the store.
        queues: what runs in it.
        repair: corrects the list of open runs, in it.
    """

    def __init__(self, io: IOThread, queues: Queues, repair: Callable[[], Coroutine[Any, Any, list[str]]]) -> None:
        self._io = io
        self._queues = queues
        self._repair = repair

    async def claim(self, claim: Claim) -> list[RunSummary]:
        return await self._io.run(self._queues.claim(claim))

    async def damaged(self) -> list[DamagedRun]:
        return await self._io.run(self._queues.damaged())

    async def counts(self) -> list[QueueCounts]:
        return await self._io.run(self._queues.counts())

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        if limits is not None:
            raise no_limits_error("an S3 store", queue)

    async def beat(self, process_id: str, process: ProcessInfo) -> None:
        await self._io.run(self._queues.beat(process_id, process))

    async def processes(self) -> list[ProcessPresence]:
        return await self._io.run(self._queues.processes())

    async def leave(self, process_id: str) -> None:
        await self._io.run(self._queues.leave(process_id))

    async def repair(self) -> list[str]:
        return await self._io.run(self._repair())

    async def put_schedule(self, schedule: Schedule) -> None:
        await self._io.run(self._queues.put_schedule(schedule))

    async def schedules(self) -> list[Schedule]:
        return await self._io.run(self._queues.schedules())

    async def remove_schedule(self, schedule_id: str) -> bool:
        return await self._io.run(self._queues.remove_schedule(schedule_id))


async def _listed(store: ObjectStore, folder: str) -> AsyncIterator[ObjectInfo]:
    after = ""
    while True:
        page = await store.list(folder, after=after, limit=_PAGE)
        for info in page:
            yield info
        if len(page) < _PAGE:
            return
        after = page[-1].key


def _fields(body: bytes | None) -> dict[str, Any]:
    try:
        fields = orjson.loads(body or b"{}")
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
