"""Drivers that make the best of what is lost or cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import PruneRule
from stargraph.checkpoint.protocol import Checkpoint, PruneReport, RunSummary
from stargraph.errors import CheckpointCorruptedError
from support.broken_drivers.broken_driver import broken


@broken("corruption.lost_step")
class LatestIsTheHighestRow(ReferenceCheckpointer):
    """The row of a run says where it ends, and read_latest takes the highest step that is there."""

    _ends: ClassVar[dict[tuple[int, str], int]] = {}

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        super()._append(checkpoint, record)
        key = (id(self._store), checkpoint.run_id)
        self._ends[key] = max(self._ends.get(key, -1), checkpoint.step)

    def _required_steps(self, run_id: str) -> set[int]:
        required = super()._required_steps(run_id)
        end = self._ends.get((id(self._store), run_id), -1)
        return required | set(range(self._floor(run_id), end + 1)) if required else required


@broken("corruption.lost_step")
class TakesWhatIsLost(ReferenceCheckpointer):
    """A step whose record is gone is free, for whoever comes with it."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        records = self._records(checkpoint.run_id)
        if checkpoint.step not in records and self._floor(checkpoint.run_id) <= checkpoint.step < max(
            records, default=0
        ):
            records[checkpoint.step] = encode(checkpoint)
            return
        super()._append(checkpoint, record)


@broken("deletion.prune_keeps_what_is_needed")
class FloorOfTheLastPrune(ReferenceCheckpointer):
    """The floor of a run is what its last prune says, be it lower than the one before."""

    def _drop(self, run_id: str, steps: set[int]) -> None:
        if steps:
            self._store.floors[run_id] = 0
        super()._drop(run_id, steps)


@broken("deletion.prune_keeps_what_is_needed")
class PrunesWhatItCannotRead(ReferenceCheckpointer):
    """A run whose latest step cannot be read needs nothing but that."""

    def _prune(self, rule: PruneRule) -> PruneReport:
        try:
            return super()._prune(rule)
        except CheckpointCorruptedError:
            for run_id in list(self._store.runs):
                self._drop(run_id, set(sorted(self._records(run_id))[: -rule.keep_last]))
            raise


@broken("queues.beside_damage")
class OneDamagedRunStopsTheQueue(ReferenceCheckpointer):
    """A claim decodes all candidates, and raises what the first of them raises."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        found = await super().claimable(process_id, queues, **arguments)
        for run in self._store.queues._summaries()[1]:
            raise CheckpointCorruptedError(run.error, reason="corrupted-record", run_id=run.run_id)
        return found


@broken("queues.beside_damage")
class TheDamagedTakesAPlace(ReferenceCheckpointer):
    """What cannot be read is dropped from the runs that a claim has chosen."""

    async def claimable(
        self, process_id: str, queues: Sequence[str], *, limit: int = 1, **arguments: Any
    ) -> list[RunSummary]:
        if limit > 0:
            limit = max(0, limit - len(self._store.queues._summaries()[1]))
        return await super().claimable(process_id, queues, limit=limit, **arguments)
