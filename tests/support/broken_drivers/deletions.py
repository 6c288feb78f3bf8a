"""Drivers whose delete_run or prune is wrong."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import PruneRule
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    Checkpoint,
    PruneReport,
    Status,
)
from stargraph.errors import CheckpointError
from support.broken_drivers.broken_driver import broken


@broken(
    "deletion.stays_deleted",
    "deletion.pruned_run_goes_on",
)
class NoTombstone(ReferenceCheckpointer):
    """DELETE removes the rows, and the run can start again."""

    def _delete(self, run_id: str) -> bool:
        return self._store.runs.pop(run_id, None) is not None


@broken("deletion.delete_run", "keys.removals")
class DeletesPrefixes(ReferenceCheckpointer):
    """DELETE … LIKE 'run%': runs with the same prefix go too."""

    def _delete(self, run_id: str) -> bool:
        for known in [known for known in self._store.runs if known.startswith(run_id) and known != run_id]:
            super()._delete(known)
        return super()._delete(run_id)


@broken("deletion.delete_run", "deletion.stays_deleted", "deletion.pruned_run_goes_on", "keys.removals")
class DeletesTheLatestAlone(ReferenceCheckpointer):
    """Only the latest step goes; the older ones can still be read."""

    def _delete(self, run_id: str) -> bool:
        steps = self._records(run_id)
        if steps:
            del steps[max(steps)]
        return bool(steps) or super()._delete(run_id)


@broken(
    "deletion.delete_run",
)
class DeletionAlwaysTrue(ReferenceCheckpointer):
    """delete_run says True, whether there was such a run or not."""

    async def delete_run(self, run_id: str) -> bool:
        await super().delete_run(run_id)
        return True


class Prunes(ReferenceCheckpointer):
    """A base: prunes with what a mutant makes of the arguments."""

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        return await super().prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )


@broken(
    "deletion.prune_keeps_last",
)
class PrunesOneTooMany(ReferenceCheckpointer):
    """An off-by-one: of keep_last steps one less is kept."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        kept = super()._kept(latest, keep_last)
        return kept - {min(kept)} if len(kept) > 1 and keep_last > 1 else kept


@broken("deletion.prune_frees", "queues.counts", "watch.pruned")
class PrunesNothing(Prunes):
    """The status is compared with the list of statuses, and never fits."""

    async def prune(self, **arguments: Any) -> PruneReport:
        return await super().prune(**(arguments | {"statuses": ()}))


@broken(
    "deletion.prune_matches",
)
class PrunesByStart(Prunes):
    """The start of the run is compared with older_than, not its last step."""

    async def prune(self, **arguments: Any) -> PruneReport:
        bound = arguments["older_than"]
        young = {item.run_id for item in self._summaries(None) if item.started_at >= bound.astimezone(UTC)}
        hidden = {run_id: self._store.runs.pop(run_id) for run_id in young}
        try:
            return await super().prune(**(arguments | {"older_than": bound + timedelta(days=3650)}))
        finally:
            self._store.runs.update(hidden)


@broken("deletion.prune_matches")
class PrunesByTheWallClock(Prunes):
    """older_than goes into a column without its time zone."""

    async def prune(self, **arguments: Any) -> PruneReport:
        bound = arguments["older_than"]
        wall_clock = bound if bound.tzinfo is None else bound.replace(tzinfo=UTC)
        return await super().prune(**(arguments | {"older_than": wall_clock}))


@broken("deletion.prune_matches")
class PrunesByTheMillisecond(Prunes):
    """older_than goes into a column of milliseconds, which cuts off the rest."""

    async def prune(self, **arguments: Any) -> PruneReport:
        bound = arguments["older_than"]
        cut = bound.replace(microsecond=bound.microsecond // 1000 * 1000)
        return await super().prune(**(arguments | {"older_than": cut}))


@broken(
    "deletion.prune_matches",
    "deletion.prune_one_run",
    "deletion.keep_last_zero_removes",
    "access.read_only",
)
class PrunesEveryStatus(Prunes):
    """statuses is ignored."""

    async def prune(self, **arguments: Any) -> PruneReport:
        every = ("running", "awaiting_input", "paused", "done", "failed", "cancelled")
        return await super().prune(**(arguments | {"statuses": every}))


@broken(
    "deletion.prune_keeps_what_is_needed",
)
class PrunesWhatIsNeeded(ReferenceCheckpointer):
    """The frontier is not looked at: steps that a run needs to go on are removed."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        return set(sorted(self._records(latest.run_id))[-keep_last:]) if keep_last else set()


@broken(
    "deletion.prune_dry_run",
)
class PrunesOnDryRun(Prunes):
    """dry_run is ignored but for the report."""

    async def prune(self, **arguments: Any) -> PruneReport:
        report = await super().prune(**(arguments | {"dry_run": False}))
        return report.model_copy(update={"dry_run": arguments.get("dry_run", False)})


@broken(
    "deletion.prune_keeps_last",
    "deletion.keep_last_zero_removes",
)
class MiscountsPrunes(Prunes):
    """The report counts the runs as checkpoints."""

    async def prune(self, **arguments: Any) -> PruneReport:
        report = await super().prune(**arguments)
        return report.model_copy(update={"checkpoints": report.runs})


@broken("deletion.prune_matches", "deletion.keep_last_zero_removes", "queues.counts")
class KeepsAllForZero(ReferenceCheckpointer):
    """steps[-0:] is everything: keep_last=0 removes nothing."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        return set(self._records(latest.run_id)) if keep_last == 0 else super()._kept(latest, keep_last)


@broken(
    "deletion.pruned_run_goes_on",
)
class ForgetsTheFloor(ReferenceCheckpointer):
    """A pruned step is refused as a gap, since nothing remembers that it was there."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        try:
            super()._append(checkpoint, record)
        except CheckpointError as error:
            if error.reason != "pruned":
                raise
            raise CheckpointError(error.message, reason="step-gap", run_id=error.run_id, step=error.step) from None


@broken(
    "deletion.bad_arguments_refused",
)
class PruneTakesAnything(Prunes):
    """A naive older_than counts as UTC, and a negative keep_last as 0."""

    async def prune(self, **arguments: Any) -> PruneReport:
        bound = arguments["older_than"]
        bound = bound if bound.tzinfo else bound.replace(tzinfo=UTC)
        keep_last = max(0, arguments.get("keep_last", 1))
        return await super().prune(**(arguments | {"older_than": bound, "keep_last": keep_last}))


@broken(slow=("sizes.many_deleted",))
class RemembersSomeDeletions(ReferenceCheckpointer):
    """What remembers the deleted runs has room for 1,024 of them, and forgets one to make room for another."""

    def _delete(self, run_id: str) -> bool:
        there = super()._delete(run_id)
        if len(self._store.deleted) > 1024:
            self._store.deleted.pop()
        return there


@broken("deletion.kept_steps_read_back", "keys.removals", "timeline.removals")
class KeepsOldParts(ReferenceCheckpointer):
    """What is not among the last steps of a run is kept in memory, until this handle prunes, or the run is gone."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._old: dict[str, dict[int, bytes]] = {}

    def _records(self, run_id: str) -> dict[int, bytes]:
        there = super()._records(run_id)
        if not there:
            return there
        old = self._old.setdefault(run_id, {})
        old.update({step: record for step, record in there.items() if step < max(there) - 8})
        return there if old.keys() <= there.keys() else old | there

    def _prune(self, rule: PruneRule) -> PruneReport:
        self._old.clear()
        try:
            return super()._prune(rule)
        finally:
            self._old.clear()


@broken("deletion.prune_keeps_what_is_needed")
class CompactsForgetsFloor(ReferenceCheckpointer):
    """A prune rewrites what is left, and where the unbroken tail begins is not among it: it is the lowest step then."""

    def _prune(self, rule: PruneRule) -> PruneReport:
        report = super()._prune(rule)
        for run_id, records in self._store.runs.items():
            if run_id in self._store.floors and not rule.dry_run:
                self._store.floors[run_id] = min(records)
        return report


@broken("corruption.lost_step", "keys.damage", "timeline.lost_step")
class FindsTheFloorWhenOpened(ReferenceCheckpointer):
    """bootstrap rewrites the store, and takes the beginning of the unbroken tail of each run for its floor."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        for run_id, records in self._store.runs.items():
            floor = max(records)
            while floor - 1 in records:
                floor -= 1
            self._store.floors[run_id] = floor
