"""Drivers whose queues go by something else than the latest step of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from support.broken_drivers.broken_driver import broken


class Indexed(ReferenceCheckpointer):
    """A base: a table of a queue beside the runs, shared by all handles of a store."""

    _tables: dict[int, tuple[ReferenceStore, dict[str, RunSummary]]] = {}  # noqa: RUF012

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        # The store is kept beside its table, so that no later one has its number.
        self._table = self._tables.setdefault(id(self._store), (self._store, {}))[1]

    def _summary(self, run_id: str) -> RunSummary | None:
        latest = self._latest(run_id)
        return None if latest is None else RunSummary.from_checkpoint(latest)


class _Missing(Indexed):
    """A base: the runs of the table are not handed out."""

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, limit=limit, **arguments)
        return [run for run in found if run.run_id not in self._table]


class _Outdated(Indexed):
    """A base: the runs of the table are handed out too."""

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, limit=limit, **arguments)
        known = {run.run_id for run in found}
        more = [run for run in self._table.values() if run.queue and run.queue.name in queues]
        return [*found, *(run for run in more if run.run_id not in known)][:limit]


@broken("queues.every_way_in")
class BatchesAreNotQueued(_Missing):
    """write_many stores the records, and no row for the queue."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().write_many(checkpoints)
        for checkpoint in checkpoints:
            self._table[checkpoint.run_id] = RunSummary.from_checkpoint(checkpoint)


@broken("queues.every_way_in")
class BatchesLeaveTheQueueAsItWas(_Outdated):
    """A run that a batch has taken on stays in the queue."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        before = self._summary(checkpoints[0].run_id) if checkpoints else None
        await super().write_many(checkpoints)
        if before is not None and before.status == "queued":
            self._table[before.run_id] = before


@broken("queues.every_way_in")
class PrunedStartsAreNotQueued(_Missing):
    """start_pruned stores the records, and no row for the queue."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().start_pruned(checkpoints)
        self._table[checkpoints[-1].run_id] = RunSummary.from_checkpoint(checkpoints[-1])


@broken("queues.every_way_in")
class HandsOutTheDeleted(_Outdated):
    """The row of the queue outlives its run."""

    async def delete_run(self, run_id: str) -> bool:
        before = self._summary(run_id)
        if before is not None and before.status == "queued":
            self._table[run_id] = before
        return await super().delete_run(run_id)
