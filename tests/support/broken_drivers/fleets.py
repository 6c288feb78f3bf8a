"""Drivers whose queues and watches go by something else than the latest step of a run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import watch_steps
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from support.broken_drivers.broken_driver import broken


class _Indexed(ReferenceCheckpointer):
    """A base: a table of a queue beside the runs, shared by all handles of a store."""

    _tables: dict[int, tuple[ReferenceStore, dict[str, RunSummary]]] = {}  # noqa: RUF012

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        # The store is kept beside its table, so that no later one has its number.
        self._table = self._tables.setdefault(id(self._store), (self._store, {}))[1]

    def _summary(self, run_id: str) -> RunSummary | None:
        latest = self._latest(run_id)
        return None if latest is None else RunSummary.from_checkpoint(latest)

    async def _beside(self, process_id: str, queues: Sequence[str], limit: int, **arguments: Any) -> list[RunSummary]:
        """Return what a claim would get, and the runs of the table that are queued there."""
        found = await super().claimable(process_id, queues, limit=limit, **arguments)
        known = {run.run_id for run in found}
        more = [run for run in self._table.values() if run.queue and run.queue.name in queues]
        return [*found, *(run for run in more if run.run_id not in known)][:limit]

    async def _without(self, process_id: str, queues: Sequence[str], limit: int, **arguments: Any) -> list[RunSummary]:
        """Return what a claim would get, without the runs of the table."""
        found = await super().claimable(process_id, queues, limit=limit, **arguments)
        return [run for run in found if run.run_id not in self._table]


@broken("queues.every_way_in")
class BatchesAreNotQueued(_Indexed):
    """write_many stores the records, and no row for the queue."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().write_many(checkpoints)
        for checkpoint in checkpoints:
            self._table[checkpoint.run_id] = RunSummary.from_checkpoint(checkpoint)

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        return await self._without(process_id, queues, limit, **arguments)


@broken("queues.every_way_in")
class BatchesLeaveTheQueueAsItWas(_Indexed):
    """A run that a batch has taken on stays in the queue."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        before = self._summary(checkpoints[0].run_id) if checkpoints else None
        await super().write_many(checkpoints)
        if before is not None and before.status == "queued":
            self._table[before.run_id] = before

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        return await self._beside(process_id, queues, limit, **arguments)


@broken("queues.every_way_in")
class PrunedStartsAreNotQueued(_Indexed):
    """start_pruned stores the records, and no row for the queue."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().start_pruned(checkpoints)
        self._table[checkpoints[-1].run_id] = RunSummary.from_checkpoint(checkpoints[-1])

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        return await self._without(process_id, queues, limit, **arguments)


@broken("queues.every_way_in")
class HandsOutTheDeleted(_Indexed):
    """The row of the queue outlives its run."""

    async def delete_run(self, run_id: str) -> bool:
        before = self._summary(run_id)
        if before is not None and before.status == "queued":
            self._table[run_id] = before
        return await super().delete_run(run_id)

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        return await self._beside(process_id, queues, limit, **arguments)


@broken("watch.pruned")
class CountsItsSteps(ReferenceCheckpointer):
    """The latest step is taken for the number of rows less one."""

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        self._ensure_ready()

        async def latest_step() -> int | None:
            self._ensure_ready()
            await self._turn()
            return len(self._records(run_id)) - 1 if self._records(run_id) else None

        async for step in watch_steps(latest_step, after_step=after_step):
            yield step
