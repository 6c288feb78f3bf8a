"""The driver in memory: the contract's methods, each a few lines over what the handles share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from types import NoneType, TracebackType
from typing import Final, Self, Unpack
from urllib.parse import parse_qsl

from stargraph.checkpoint.codec import Cipher, Codec
from stargraph.checkpoint.driver import (
    Encrypting,
    FleetMethods,
    FleetStore,
    Lifecycle,
    ReadOnly,
    TimelineMethods,
    check_batch,
    check_bounds,
    check_filters,
    check_limit,
    check_prune,
    check_pruned_start,
    check_search,
    check_step,
    check_type,
    in_order,
    no_store_error,
)
from stargraph.checkpoint.memory._store import MemoryStore
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    BatchAppend,
    Checkpoint,
    Checkpointer,
    Closing,
    KeyedSteps,
    Presence,
    PrunedStart,
    PruneReport,
    RunDeletion,
    RunFilters,
    RunHistory,
    RunOrder,
    RunPage,
    RunQueue,
    RunSearch,
    RunSummary,
    RunTimeline,
    RunTree,
    RunWatch,
    Schedules,
    Status,
    StepKey,
    StepSummary,
    is_key,
    is_run_id,
)
from stargraph.errors import CheckpointError

_SWITCH: Final = {"true": True, "1": True, "false": False, "0": False}


class MemoryCheckpointer(FleetMethods, TimelineMethods):
    """A store of runs in the memory of this process, for tests and experiments. Nothing is left once the process ends.

    Everything else is as in a store that lasts: what is stored is the record, so a value comes back as a copy, or is
    refused, and a handle that was closed and opened again finds its runs.

    Args:
        store: what several handles share; a new, empty store if None.
        read_only: never change the store; what would change it raises `reason="read-only"`.
        encryption: the keys that encrypt what is stored; None stores it readable.
    """

    def __init__(
        self, store: MemoryStore | None = None, *, read_only: bool = False, encryption: Cipher | None = None
    ) -> None:
        check_type(store, "store", (MemoryStore, NoneType), "a MemoryStore, or None")
        self._store = MemoryStore() if store is None else store
        # Each record stands alone: nothing has to be remembered, and a prune may remove any of them.
        self._codec = Codec(cipher=encryption, memory=0)
        self._lifecycle = Lifecycle(read_only=read_only)

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on a new, empty store. Its runs are in this handle alone: no other one can be opened on it.

        Args:
            url: `memory://`, or `memory://?read_only=true`. The keys of encryption come from
                `STARGRAPH_ENCRYPTION_KEY`.

        Raises:
            CheckpointError: it cannot be read (`reason="invalid-url"`).
        """
        check_type(url, "url", str, "memory://")
        place, _, query = url.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        read_only = _SWITCH.get(options.pop("read_only", "false"))
        if place.lower() != "memory://" or options or read_only is None:
            raise CheckpointError(
                f"{url!r} names something that a store in memory does not have",
                reason="invalid-url",
                hint="Write just memory://: each handle that it opens is a new, empty store."
                " MemoryCheckpointer(store) opens several on one.",
            )
        return cls(read_only=read_only, encryption=Cipher.from_environment())

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""
        return self._codec.encrypts

    @property
    def read_only(self) -> bool:
        """Whether this handle refuses to write."""
        return self._lifecycle.read_only

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'read_only=True' if self.read_only else ''})"

    async def bootstrap(self) -> None:
        self._lifecycle.ensure_own_process()
        await _turn()
        if not self.read_only:
            self._store.create()
        elif not self._store.exists:
            raise no_store_error("memory://")
        self._lifecycle.opened()

    async def close(self) -> None:
        self._lifecycle.close()

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

    async def write(self, checkpoint: Checkpoint) -> None:
        self._lifecycle.ensure_writable("write")
        await self._append([checkpoint])

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._lifecycle.ensure_writable("write_many")
        await self._append(check_batch(checkpoints))

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._lifecycle.ensure_writable("start_pruned")
        steps = check_pruned_start(checkpoints)
        records = [self._codec.encode_alone(checkpoint).data for checkpoint in steps]
        await _turn()
        self._store.start_pruned(steps, records, self._codec.fingerprint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        await _turn()
        found = self._store.latest(run_id) if is_run_id(run_id) else None
        return None if found is None else self._decode(found[1], run_id, found[0])

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        known = check_step(step) and is_run_id(run_id)
        await _turn()
        record = self._store.record(run_id, step) if known else None
        return None if record is None else self._decode(record, run_id, step)

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        self._lifecycle.ensure_open()
        first, last = check_bounds(from_step, to_step)
        steps = self._store.steps(run_id, first, last) if is_run_id(run_id) else []
        for step in sorted(steps, reverse=bool(newest_first)):
            found = await self.read_at_step(run_id, step)
            if found is not None:
                yield found

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        await _turn()
        step = self._store.keys(run_id).get(key) if is_run_id(run_id) and is_key(key) else None
        record = None if step is None else self._store.record(run_id, step)
        return None if step is None or record is None else self._decode(record, run_id, step)

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        self._lifecycle.ensure_open()
        check_limit(limit)
        await _turn()
        keys = self._store.keys(run_id) if is_run_id(run_id) else {}
        found = [StepKey(*item) for item in keys.items() if below is None or item[0] < below]
        return sorted(found, reverse=True)[:limit]

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return list((await self.search(since=since, limit=limit)).items)

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        self._lifecycle.ensure_open()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        await _turn()
        return query.page(self._store.summaries())

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        self._lifecycle.ensure_open()
        matcher = check_filters(filters)
        await _turn()
        return matcher.count(self._store.summaries())

    async def children(self, run_id: str) -> list[RunSummary]:
        self._lifecycle.ensure_open()
        await _turn()
        runs = self._store.summaries()
        return in_order(run for run in runs if (run.parent_run_id, run.origin) == (run_id, "subgraph"))

    async def delete_run(self, run_id: str) -> bool:
        self._lifecycle.ensure_writable("delete_run")
        await _turn()
        return self._store.delete(run_id) if is_run_id(run_id) else False

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Sequence[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        self._lifecycle.ensure_writable("prune", dry_run=dry_run)
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, dry_run=dry_run, run_id=run_id
        )
        runs = checkpoints = 0
        for run in self._store.summaries():
            if run_id not in (None, run.run_id) or run.updated_at >= rule.older_than or run.status not in rule.statuses:
                continue
            latest = await self.read_latest(run.run_id)
            count = 0 if latest is None or latest.step != run.last_step else self._store.prune(latest, rule)
            runs += count > 0
            checkpoints += count
        return PruneReport(runs=runs, checkpoints=checkpoints, dry_run=dry_run)

    def _fleet(self) -> FleetStore:
        return self._store.queues

    async def _timeline_page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        await _turn()
        records, steps = self._store.records(run_id, first, last, limit)
        return self._codec.summarize(records, run_id=run_id, steps=steps), False

    async def _latest_step(self, run_id: str) -> int | None:
        found = self._store.latest(run_id)
        return None if found is None else found[0]

    async def _append(self, checkpoints: Sequence[Checkpoint]) -> None:
        records = [self._codec.encode_alone(checkpoint).data for checkpoint in checkpoints]
        await _turn()
        for checkpoint, record in zip(checkpoints, records, strict=True):
            self._store.append(checkpoint, record, self._codec.fingerprint)

    def _decode(self, record: bytes, run_id: str, step: int) -> Checkpoint:
        return self._codec.decode({step: record}, run_id=run_id, step=step)


async def _turn() -> None:
    """Give the loop a turn, as a store that waits for a disk does: other tasks run between two calls."""
    await asyncio.sleep(0)


_: type[Checkpointer] = MemoryCheckpointer
_history: type[RunHistory] = MemoryCheckpointer
_timeline: type[RunTimeline] = MemoryCheckpointer
_watch: type[RunWatch] = MemoryCheckpointer
_search: type[RunSearch] = MemoryCheckpointer
_tree: type[RunTree] = MemoryCheckpointer
_deletion: type[RunDeletion] = MemoryCheckpointer
_keys: type[KeyedSteps] = MemoryCheckpointer
_batch: type[BatchAppend] = MemoryCheckpointer
_queue: type[RunQueue] = MemoryCheckpointer
_presence: type[Presence] = MemoryCheckpointer
_schedules: type[Schedules] = MemoryCheckpointer
_pruned_start: type[PrunedStart] = MemoryCheckpointer
_closing: type[Closing] = MemoryCheckpointer
_encrypting: type[Encrypting] = MemoryCheckpointer
_read_only: type[ReadOnly] = MemoryCheckpointer
