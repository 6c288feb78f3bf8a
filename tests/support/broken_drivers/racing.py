"""Drivers that are right for one caller at a time, and caches that know better than the store."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import ClassVar

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import Tail, judge_append
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary
from stargraph.errors import CheckpointConflictError
from support.broken_drivers.broken_driver import broken


class CheckThenWrite(ReferenceCheckpointer):
    """A base: judges, waits, and then writes."""

    async def _checked_write(self, checkpoint: Checkpoint) -> None:
        record = encode(checkpoint)
        if checkpoint.run_id in self._store.deleted:
            self._append(checkpoint, record)
        stored = self._at(checkpoint.run_id, checkpoint.step)
        tail = self._tail(checkpoint.run_id)
        verdict = judge_append(checkpoint, tail=tail, stored_digest=stored.digest if stored else None)
        await self._turn()
        if verdict == "append":
            self._store.runs.setdefault(checkpoint.run_id, {})[checkpoint.step] = record


@broken(
    "concurrency.one_winner_one_handle",
)
class ChecksThenWrites(CheckThenWrite):
    """SELECT, then INSERT OR REPLACE, with an await in between."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        await self._checked_write(checkpoint)


@broken(
    "concurrency.one_winner_many_handles",
)
class LocksTheHandle(CheckThenWrite):
    """The lock around SELECT and INSERT belongs to the handle, not to the store."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._lock = asyncio.Lock()

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        async with self._lock:
            await self._checked_write(checkpoint)


@broken(
    "concurrency.identical_retries",
)
class ConcurrentRetryIsConflict(ReferenceCheckpointer):
    """Looks whether the step is stored before the insert alone: a retry that races with itself is a conflict."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        known = self._at(checkpoint.run_id, checkpoint.step)
        await self._turn()
        if known is None and checkpoint.step in self._records(checkpoint.run_id):
            raise CheckpointConflictError(
                "UNIQUE constraint failed", reason="step-taken", run_id=checkpoint.run_id, step=checkpoint.step
            )
        self._append(checkpoint, record)


@broken(
    "concurrency.many_tasks",
)
class OneSharedCursor(ReferenceCheckpointer):
    """One cursor for everything: a read that overlaps with another one fetches the other one's row."""

    _asked: str = ""

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._ensure_ready()
        self._asked = run_id
        await self._turn()
        return self._latest(self._asked)


@broken(
    "concurrency.linearizable",
    "fencing.stale_handle",
    "engine.takeover",
    "batch.conflict_stores_nothing",
    "batch.conflict_in_the_middle",
)
class RemembersTails(ReferenceCheckpointer):
    """The handle remembers the tail of every run that it wrote, and never looks again; it then writes blindly."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._tails: dict[str, Tail] = {}

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        run_id = checkpoint.run_id
        tail = self._tails.get(run_id)
        if tail is not None and checkpoint.step == tail.step + 1 and checkpoint.previous_digest == tail.digest:
            if tail.status in ENDED or run_id in self._store.deleted:
                super()._append(checkpoint, record)
            self._store.runs.setdefault(run_id, {})[checkpoint.step] = record
        else:
            super()._append(checkpoint, record)
        self._tails[run_id] = Tail(checkpoint.step, checkpoint.digest, checkpoint.status)


@broken(
    "fencing.stale_successor",
    "batch.conflict_stores_nothing",
)
class ComparesOwnDigestsAlone(ReferenceCheckpointer):
    """The predecessor is compared only if this handle wrote it; after another one's step the number is enough."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._written: set[str] = set()

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        tail = self._tail(checkpoint.run_id)
        follows = tail is not None and checkpoint.step == tail.step + 1 and tail.status not in ENDED
        if tail is not None and follows and tail.digest not in self._written and self._written:
            self._records(checkpoint.run_id)[checkpoint.step] = record
        else:
            super()._append(checkpoint, record)
        self._written.add(checkpoint.digest)


@broken(
    "isolation.punctuation",
    "steps.usable_after_refusal",
    "durability.other_handle",
    "concurrency.one_winner_many_handles",
    "engine.takeover",
    "deletion.delete_run",
    "deletion.pruned_run_goes_on",
)
class CachesTheLatest(ReferenceCheckpointer):
    """The handle remembers the latest checkpoint that it read or wrote."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._known: dict[str, tuple[int, bytes]] = {}

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        latest = self._latest(checkpoint.run_id)
        if latest is not None:
            self._known[checkpoint.run_id] = (latest.step, encode(latest))

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._ensure_ready()
        await self._turn()
        if run_id not in self._known:
            latest = self._latest(run_id)
            if latest is None:
                return None
            self._known[run_id] = (latest.step, encode(latest))
        step, record = self._known[run_id]
        return decode(record, run_id=run_id, step=step)


@broken(
    "bootstrap.second_handle",
    "bootstrap.eight_handles",
    "steps.usable_after_refusal",
    "values.text",
    "values.numbers",
    "values.keys",
    "values.key_order",
    "values.empties",
    "values.depth",
    "durability.other_handle",
    "concurrency.one_winner_many_handles",
    "cancel.write",
    "cancel.bootstrap",
    "engine.runs_to_the_end",
    "engine.takeover",
    "history.during_appends",
    "deletion.delete_run",
    "deletion.stays_deleted",
    "deletion.pruned_run_goes_on",
    "batch.appends_all",
    "keys.find",
    "keys.pruned_start",
    "keys.refused_writes",
    "keys.removals",
    "presence.beats",
    "presence.outlives_handles",
    "presence.silence",
    "schedules.exact",
    "schedules.kept",
    "schedules.outlive_handles",
    "schedules.read_only",
)
class WritesAtClose(ReferenceCheckpointer):
    """Writes are acknowledged into a buffer of the handle, which goes to the store when it is closed."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._shared = self._store
        self._store = ReferenceStore()

    async def bootstrap(self) -> None:
        self._store.format = self._shared.format
        await super().bootstrap()
        self._shared.format = self._store.format
        for run_id, steps in self._shared.runs.items():
            self._store.runs.setdefault(run_id, {}).update(steps)

    async def close(self) -> None:
        await super().close()
        for run_id, steps in self._store.runs.items():
            self._shared.runs.setdefault(run_id, {}).update(steps)


@broken(
    "bootstrap.newer_format_refused",
    "durability.reopen",
    "engine.resumes_elsewhere",
    "closing.refuses_after",
)
class LosesAtClose(ReferenceCheckpointer):
    """The last step of every run waits for the next one, and is lost when the handle is closed."""

    async def close(self) -> None:
        was_ready = self._state == "ready"
        await super().close()
        for steps in self._store.runs.values():
            if was_ready and len(steps) > 1:
                del steps[max(steps)]


@broken(
    "list_runs.summaries",
    "durability.other_handle",
)
class OldSnapshots(ReferenceCheckpointer):
    """A read transaction stays open for five calls, and shows what was there when it began."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._snapshot: dict[str, dict[int, bytes]] = {}
        self._age = 5

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._age += 1
        if self._age >= 3:
            self._age = 0
            self._snapshot = {run_id: dict(steps) for run_id, steps in self._store.runs.items()}
        live, self._store.runs = self._store.runs, self._snapshot
        try:
            self._ensure_ready()
            from stargraph.checkpoint.driver import check_listing

            return self._summaries(check_listing(since, limit))[:limit]
        finally:
            self._store.runs = live
            await self._turn()


@broken("concurrency.one_winner_each_of_many_runs")
class LocksOfTheLastRuns(CheckThenWrite):
    """A lock for each of the last 128 runs: functools.lru_cache, with what it keeps by default."""

    _shared: ClassVar[dict[int, tuple[ReferenceStore, Callable[[str], asyncio.Lock]]]] = {}

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_writable("write")
        async with self._lock_of(checkpoint.run_id):
            await self._checked_write(checkpoint)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        async with self._lock_of(checkpoints[0].run_id) if checkpoints else contextlib.nullcontext():
            await super().start_pruned(checkpoints)

    def _lock_of(self, run_id: str) -> asyncio.Lock:
        # All handles on a store share its locks; who keeps the store keeps its id from being that of another one.
        _, lock_of = self._shared.setdefault(
            id(self._store), (self._store, functools.lru_cache(lambda _: asyncio.Lock()))
        )
        return lock_of(run_id)
