"""Drivers whose write_many is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import (
    Checkpoint,
)
from stargraph.errors import CheckpointConflictError
from support.broken_drivers.broken_driver import broken


class Batches(ReferenceCheckpointer):
    """A base: appends the steps of a batch one after the other."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        for checkpoint in checkpoints:
            await self.write(checkpoint)


@broken(
    "batch.invalid_batch_refused",
)
class UncheckedBatches(Batches):
    """check_batch is not called: a batch of two runs is stored."""


@broken(
    "batch.cancelled",
    "batch.readers_see_prefixes",
)
class BatchBackwards(ReferenceCheckpointer):
    """The steps are stored from the last to the first, as they come back from a pool."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        before = {checkpoint.run_id: dict(self._records(checkpoint.run_id)) for checkpoint in checkpoints}
        await super().write_many(checkpoints)
        new = [
            (checkpoint.run_id, checkpoint.step)
            for checkpoint in checkpoints
            if checkpoint.step not in before[checkpoint.run_id]
        ]
        held = [(run_id, step, self._store.runs[run_id].pop(step)) for run_id, step in new]
        for run_id, step, record in reversed(held):
            self._store.runs[run_id][step] = record
            await self._turn()


@broken(
    "batch.conflict_in_the_middle",
)
class BatchByTheOldTail(ReferenceCheckpointer):
    """Only the first step of a batch is judged; the others are stored after it."""

    def _append_all(self, checkpoints: Sequence[Checkpoint]) -> None:
        from stargraph.checkpoint.codec import encode

        for number, checkpoint in enumerate(checkpoints):
            if number == 0:
                self._append(checkpoint, encode(checkpoint))
            else:
                self._records(checkpoint.run_id).setdefault(checkpoint.step, encode(checkpoint))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        from stargraph.checkpoint.codec import encode
        from stargraph.checkpoint.driver import check_batch

        self._ensure_ready()
        check_batch(list(checkpoints))
        for checkpoint in checkpoints:
            encode(checkpoint)
        await self._turn()
        self._append_all(checkpoints)


@broken(
    "batch.conflict_stores_nothing",
    "batch.conflict_in_the_middle",
)
class BatchIgnoresConflicts(ReferenceCheckpointer):
    """ON CONFLICT DO NOTHING for the rows of a batch: those that lost are skipped silently."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        try:
            await super().write_many(checkpoints)
        except CheckpointConflictError:
            return


@broken("batch.again_is_noop", "keys.batches")
class BatchOfOne(ReferenceCheckpointer):
    """A batch that is stored in part fails on the part that is there."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        for checkpoint in checkpoints:
            if checkpoint.step in self._records(checkpoint.run_id):
                raise CheckpointConflictError("UNIQUE constraint failed", reason="step-taken")
        await super().write_many(checkpoints)


@broken(
    "batch.cancelled",
)
class BatchSwallowsCancellation(Batches):
    """A batch that is cancelled returns as if it were stored."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        from stargraph.checkpoint.driver import check_batch

        self._ensure_ready()
        check_batch(list(checkpoints))
        for checkpoint in checkpoints:
            checkpoint.ensure_valid()
        try:
            await super().write_many(checkpoints)
        except asyncio.CancelledError:
            return
