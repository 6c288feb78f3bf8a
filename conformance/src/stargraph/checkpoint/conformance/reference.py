"""A reference driver in memory: the contract with nothing around it, and the smallest thing to try the kit on."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance._target import Target
from stargraph.checkpoint.driver import (
    Tail,
    check_batch,
    check_instant,
    check_listing,
    judge_append,
    not_bootstrapped_error,
    run_deleted_error,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    PRUNED_BY_DEFAULT,
    Checkpoint,
    Checkpointer,
    FanOut,
    PruneReport,
    RunPage,
    RunSummary,
    Status,
    Task,
)
from stargraph.errors import CheckpointError, StoreVersionError

__all__ = ["FORMAT", "MemoryCheckpointer", "MemoryStore", "MemoryStores", "target"]

FORMAT: Final = 1
"""The format of a store; a higher one is refused."""


@dataclass(slots=True)
class MemoryStore:
    """What several handles share.

    Attributes:
        format: the format of the store; None where it was not made yet.
        runs: the stored records of each run, by step.
        deleted: the runs that are gone for good.
    """

    format: int | None = None
    runs: dict[str, dict[int, bytes]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)


class MemoryCheckpointer:
    """Keeps runs in memory.

    Every method gives the loop a turn before and after it touches the store, as one that waits for a disk
    would; between the two turns nothing else can run, so each method is atomic.

    Args:
        store: what the handles share; a new one where None.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self._store = store if store is not None else MemoryStore()
        self._state: str = "not-bootstrapped"

    async def bootstrap(self) -> None:
        """Make the store ready."""
        await self._turn()
        if self._store.format is not None and self._store.format > FORMAT:
            raise StoreVersionError(
                f"the store has format {self._store.format}, and this software reads up to {FORMAT}",
                reason="newer-format",
                hint="Upgrade this software to the version that made the store.",
            )
        self._store.format = FORMAT
        self._state = "ready"
        await self._turn()

    async def write(self, checkpoint: Checkpoint) -> None:
        """Append one checkpoint."""
        self._ensure_ready()
        record = encode(checkpoint)
        await self._turn()
        self._append(checkpoint, record)
        await self._turn()

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Append consecutive steps of one run."""
        self._ensure_ready()
        check_batch(list(checkpoints))
        records = [encode(checkpoint) for checkpoint in checkpoints]
        await self._turn()
        for checkpoint, record in zip(checkpoints, records, strict=True):
            self._append(checkpoint, record)
        await self._turn()

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint with the highest step of a run, or None."""
        self._ensure_ready()
        await self._turn()
        return self._latest(run_id)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """Return one step of a run, or None."""
        self._ensure_ready()
        await self._turn()
        return self._at(run_id, step)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        """Return runs, the newest first."""
        self._ensure_ready()
        since = check_listing(since, limit)
        await self._turn()
        return self._summaries(since)[:limit]

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints of a run by step."""
        self._ensure_ready()
        await self._turn()
        for step in sorted(self._records(run_id), reverse=newest_first):
            if (from_step is None or step >= from_step) and (to_step is None or step <= to_step):
                found = self._at(run_id, step)
                if found is not None:
                    yield found
                await self._turn()

    async def search(
        self,
        *,
        status: Status | None = None,
        graph_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        since: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> RunPage:
        """Return one page of the runs that match."""
        self._ensure_ready()
        since = check_listing(since, limit)
        await self._turn()
        found = [
            summary
            for summary in self._summaries(since)
            if (status is None or summary.status == status)
            and (graph_id is None or summary.graph_id == graph_id)
            and (metadata or {}).items() <= summary.metadata.items()
        ]
        return self._page(found, limit, cursor)

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None) -> RunPage:
        """Cut one page: a cursor is the place in the order of the last run that was given."""
        start = 0
        if cursor is not None:
            start = bisect.bisect_right([_place(summary) for summary in found], _place_of(cursor))
        items = tuple(found[start : start + limit])
        more = bool(items) and start + limit < len(found)
        return RunPage(items=items, next_cursor=_cursor_of(items[-1]) if more else None)

    async def delete_run(self, run_id: str) -> bool:
        """Remove a run for good."""
        self._ensure_ready()
        await self._turn()
        return self._delete(run_id)

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove all but the last checkpoints of runs that stand still."""
        self._ensure_ready()
        bound = check_instant(older_than, "older_than")
        if keep_last < 0:
            raise ValueError(f"keep_last is {keep_last}: give 0 or more")
        await self._turn()
        gone = []
        for run_id in list(self._store.runs):
            latest = self._latest(run_id)
            if latest is None or latest.timestamp >= bound or latest.status not in statuses:
                continue
            dropped = set(self._records(run_id)) - self._kept(latest, keep_last)
            if dropped:
                gone.append(len(dropped))
            if not dry_run:
                self._drop(run_id, dropped)
        return PruneReport(runs=len(gone), checkpoints=sum(gone), dry_run=dry_run)

    async def close(self) -> None:
        """Let go of the store."""
        await self._turn()
        if self._state == "ready":
            self._state = "closed"

    async def __aenter__(self) -> Self:
        await self.bootstrap()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _turn(self) -> None:
        await asyncio.sleep(0)

    def _ensure_ready(self) -> None:
        if self._state == "not-bootstrapped":
            raise not_bootstrapped_error()
        if self._state == "closed":
            raise CheckpointError(
                "the checkpointer is closed", reason="closed", hint="Call bootstrap() to open it again."
            )

    def _records(self, run_id: str) -> dict[int, bytes]:
        return self._store.runs.get(run_id, {})

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        record = self._records(run_id).get(step)
        return None if record is None else decode(record, run_id=run_id, step=step)

    def _latest(self, run_id: str) -> Checkpoint | None:
        records = self._records(run_id)
        return self._at(run_id, max(records)) if records else None

    def _tail(self, run_id: str) -> Tail | None:
        latest = self._latest(run_id)
        if latest is None:
            return None
        floor = latest.step
        while floor - 1 in self._records(run_id):
            floor -= 1
        return Tail(latest.step, latest.digest, latest.status, floor)

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        run_id, step = checkpoint.run_id, checkpoint.step
        if run_id in self._store.deleted:
            raise run_deleted_error(run_id, step)
        stored = self._at(run_id, step)
        digest = None if stored is None else stored.digest
        if judge_append(checkpoint, tail=self._tail(run_id), stored_digest=digest) == "append":
            self._store.runs.setdefault(run_id, {})[step] = record

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        latest = filter(None, map(self._latest, self._store.runs))
        found = [RunSummary.from_checkpoint(checkpoint) for checkpoint in latest]
        return sorted((item for item in found if since is None or item.started_at >= since), key=_place)

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        if keep_last == 0:
            return set()
        kept = set(sorted(self._records(latest.run_id))[-keep_last:])
        return kept if latest.status in ENDED else kept | needed_steps(latest)

    def _delete(self, run_id: str) -> bool:
        there = self._store.runs.pop(run_id, None) is not None
        if there:
            self._store.deleted.add(run_id)
        return there

    def _drop(self, run_id: str, steps: set[int]) -> None:
        records = self._records(run_id)
        for step in steps:
            del records[step]
        if not records:
            self._delete(run_id)


def needed_steps(latest: Checkpoint) -> set[int]:
    """Return the steps that a run needs to go on from its latest one."""
    needed = set()
    for item in latest.frontier:
        needed.add(item.since_step)
        ranges = item.calls if isinstance(item, Task) else item.completed_steps if isinstance(item, FanOut) else ()
        for steps in ranges:
            needed.update(range(steps.first, steps.last + 1))
    return needed


_Place = tuple[float, float, str]


def _place(summary: RunSummary) -> _Place:
    """The place in the order of list_runs; whole seconds and microseconds apart, so that nothing is rounded."""
    started = summary.started_at
    return (-started.replace(microsecond=0).timestamp(), -started.microsecond, summary.run_id)


def _cursor_of(summary: RunSummary) -> str:
    return "|".join(map(str, _place(summary)))


def _place_of(cursor: str) -> _Place:
    parts = cursor.split("|")
    if len(parts) != 3:
        raise ValueError(f"the cursor {cursor!r} is not one of this store's")
    return (float(parts[0]), float(parts[1]), parts[2])


class MemoryStores:
    """Stores by their locations, with the hooks that the kit needs.

    Args:
        driver: makes a handle on a store.
    """

    def __init__(self, driver: Callable[[MemoryStore], Checkpointer] = MemoryCheckpointer) -> None:
        self._driver = driver
        self._stores: dict[str, MemoryStore] = {}
        self._made = 0

    def target(self) -> Target:
        """Return the target; other processes cannot open it."""
        return Target(
            open=lambda location: self._driver(self._stores[location]),
            location=self._location,
            stored_bytes=self,
            newer_format=self._newer_format,
            processes=False,
        )

    @asynccontextmanager
    async def _location(self) -> AsyncIterator[str]:
        self._made += 1
        location = f"memory-{self._made}"
        self._stores[location] = MemoryStore()
        yield location
        del self._stores[location]

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        """Return the stored bytes of a step."""
        return self._stores[location].runs[run_id][step]

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        """Replace the stored bytes of a step."""
        self._stores[location].runs[run_id][step] = data

    @asynccontextmanager
    async def _newer_format(self, location: str) -> AsyncIterator[None]:
        store = self._stores[location]
        before, store.format = store.format, FORMAT + 1
        yield
        store.format = before


target: Final = MemoryStores().target()
