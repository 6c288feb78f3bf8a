"""Drivers whose optional capabilities are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from stargraph.checkpoint.conformance.reference import MemoryCheckpointer
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    Checkpoint,
    PruneReport,
    RunPage,
    RunSummary,
    Status,
)
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError
from support.zoo.specimens import broken


class Histories(MemoryCheckpointer):
    """A base: yields the steps that `_wanted` picks."""

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        self._ensure_ready()
        await self._turn()
        for step in self._wanted(sorted(self._records(run_id)), from_step, to_step, newest_first):
            found = self._at(run_id, step)
            if found is not None:
                yield found
            await self._turn()

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        kept = [step for step in steps if (first is None or step >= first) and (last is None or step <= last)]
        return kept[::-1] if newest_first else kept


@broken()
class HalfOpenHistory(Histories):
    """to_step is not included, as in a range of Python."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, None if last is None else last - 1, newest_first)


@broken()
class ZeroIsNoBound(Histories):
    """`if to_step:` takes step 0 for no bound at all."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, last or None, newest_first)


@broken()
class AlwaysOldestFirst(Histories):
    """newest_first is ignored."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, last, False)


@broken()
class HistoryAsText(Histories):
    """Steps are sorted as text."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return sorted(super()._wanted(steps, first, last, False), key=str, reverse=newest_first)


@broken()
class HistoryOfAHundred(Histories):
    """The first page of the store below is all that is given."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        return super()._wanted(steps, first, last, newest_first)[:100]


@broken()
class HistoryOfPrefixes(Histories):
    """A scan by prefix: the steps of run2 come with those of run."""

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        for known in sorted(self._store.runs):
            if known.startswith(run_id):
                async for found in super().history(known, **arguments):
                    yield found
        self._ensure_ready()


@broken()
class HistoryNeedsARun(Histories):
    """history of an unknown run raises."""

    def _wanted(self, steps: list[int], first: int | None, last: int | None, newest_first: bool) -> list[int]:
        if not steps:
            raise CheckpointError("no such run", reason="not-found")
        return super()._wanted(steps, first, last, newest_first)


@broken()
class SharedIteration(Histories):
    """One cursor for all iterations: the one that was begun last takes it over."""

    _cursor: list[Checkpoint] | None = None

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        self._cursor = [found async for found in super().history(run_id, **arguments)]
        while self._cursor:
            yield self._cursor.pop(0)


@broken()
class FailsWhileItGrows(Histories):
    """The iteration walks the store itself, and fails once the run grows."""

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        before = len(self._records(run_id))
        async for found in super().history(run_id, **arguments):
            if len(self._records(run_id)) != before:
                raise RuntimeError("dictionary changed size during iteration")
            yield found


@broken()
class LeaksIterations(Histories):
    """An iteration that is left early keeps its connection."""

    _free = 20

    async def history(self, run_id: str, **arguments: Any) -> AsyncIterator[Checkpoint]:
        if self._free == 0:
            raise StoreUnavailableError("no connection became free", reason="unavailable")
        self._free -= 1
        async for found in super().history(run_id, **arguments):
            yield found
        self._free += 1


class Searches(MemoryCheckpointer):
    """A base: matches summaries one by one."""

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
        from stargraph.checkpoint.protocol import check_listing

        self._ensure_ready()
        since = check_listing(since, limit)
        await self._turn()
        found = [item for item in self._summaries(since) if self._matches(item, status, graph_id, metadata or {})]
        return self._page(found, limit, cursor)

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        return (
            (status is None or item.status == status)
            and (graph_id is None or item.graph_id == graph_id)
            and metadata.items() <= item.metadata.items()
        )


@broken()
class AnyStatus(Searches):
    """Any checkpoint of the run is compared with the status."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        had = {found.status for step in self._records(item.run_id) if (found := self._at(item.run_id, step))}
        return super()._matches(item, None, graph_id, metadata) and (status is None or status in had)


@broken()
class GraphByPrefix(Searches):
    """graph_id matches whatever begins with it."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        return super()._matches(item, status, None, metadata) and item.graph_id.startswith(graph_id or "")


@broken()
class MetadataAsText(Searches):
    """Tags are looked for in the text of all tags."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        text = str(sorted(item.metadata.items()))
        return super()._matches(item, status, graph_id, {}) and all(
            key in text and value in text for key, value in metadata.items()
        )


@broken()
class FiltersWithOr(Searches):
    """A run is found if it matches any of the filters."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        asked = [
            super()._matches(item, status, None, {}) if status else None,
            super()._matches(item, None, graph_id, {}) if graph_id else None,
            super()._matches(item, None, None, metadata) if metadata else None,
        ]
        given = [matched for matched in asked if matched is not None]
        return any(given) if given else True


@broken()
class CursorOfTimeAlone(Searches):
    """The cursor is the start of the last run: its neighbours of the same instant are skipped."""

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None) -> RunPage:
        if cursor is not None:
            before = datetime.fromisoformat(cursor)
            found = [item for item in found if item.started_at < before]
        items = tuple(found[:limit])
        more = bool(items) and len(found) > limit
        return RunPage(items=items, next_cursor=items[-1].started_at.isoformat() if more else None)


@broken()
class CursorIsOffset(Searches):
    """The cursor is an offset: runs that start meanwhile push the others onto the next page again."""

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None) -> RunPage:
        start = int((cursor or "at 0").removeprefix("at "))
        if cursor is not None and not cursor.startswith("at "):
            raise ValueError("not a cursor")
        items = tuple(found[start : start + limit])
        more = bool(items) and start + limit < len(found)
        return RunPage(items=items, next_cursor=f"at {start + limit}" if more else None)


@broken()
class AnyCursor(Searches):
    """A cursor that cannot be read is taken for none."""

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None) -> RunPage:
        try:
            return super()._page(found, limit, cursor)
        except ValueError:
            return super()._page(found, limit, None)


@broken()
class NoTombstone(MemoryCheckpointer):
    """DELETE removes the rows, and the run can start anew."""

    def _delete(self, run_id: str) -> bool:
        return self._store.runs.pop(run_id, None) is not None


@broken()
class DeletesPrefixes(MemoryCheckpointer):
    """DELETE … LIKE 'run%': runs with the same prefix go too."""

    def _delete(self, run_id: str) -> bool:
        for known in [known for known in self._store.runs if known.startswith(run_id) and known != run_id]:
            super()._delete(known)
        return super()._delete(run_id)


@broken()
class DeletesTheLatestAlone(MemoryCheckpointer):
    """Only the latest step goes; the older ones can still be read."""

    def _delete(self, run_id: str) -> bool:
        steps = self._records(run_id)
        if steps:
            del steps[max(steps)]
        return bool(steps) or super()._delete(run_id)


@broken()
class DeletionAlwaysTrue(MemoryCheckpointer):
    """delete_run says True, whether there was such a run or not."""

    async def delete_run(self, run_id: str) -> bool:
        await super().delete_run(run_id)
        return True


class Prunes(MemoryCheckpointer):
    """A base: prunes with what a mutant makes of the arguments."""

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        dry_run: bool = False,
    ) -> PruneReport:
        return await super().prune(older_than=older_than, statuses=statuses, keep_last=keep_last, dry_run=dry_run)


@broken()
class PrunesOneTooMany(MemoryCheckpointer):
    """An off-by-one: of keep_last steps one less is kept."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        kept = super()._kept(latest, keep_last)
        return kept - {min(kept)} if len(kept) > 1 and keep_last > 1 else kept


@broken()
class PrunesNothing(Prunes):
    """The status is compared with the list of statuses, and never fits."""

    async def prune(self, **arguments: Any) -> PruneReport:
        return await super().prune(**(arguments | {"statuses": ()}))


@broken()
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


@broken()
class PrunesEveryStatus(Prunes):
    """statuses is ignored."""

    async def prune(self, **arguments: Any) -> PruneReport:
        every = ("running", "awaiting_input", "paused", "done", "failed", "cancelled")
        return await super().prune(**(arguments | {"statuses": every}))


@broken()
class PrunesWhatIsNeeded(MemoryCheckpointer):
    """The frontier is not looked at: steps that a run needs to go on are removed."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        return set(sorted(self._records(latest.run_id))[-keep_last:]) if keep_last else set()


@broken()
class PrunesOnDryRun(Prunes):
    """dry_run is ignored but for the report."""

    async def prune(self, **arguments: Any) -> PruneReport:
        report = await super().prune(**(arguments | {"dry_run": False}))
        return report.model_copy(update={"dry_run": arguments.get("dry_run", False)})


@broken()
class MiscountsPrunes(Prunes):
    """The report counts the runs as checkpoints."""

    async def prune(self, **arguments: Any) -> PruneReport:
        report = await super().prune(**arguments)
        return report.model_copy(update={"checkpoints": report.runs})


@broken()
class KeepsAllForZero(MemoryCheckpointer):
    """steps[-0:] is everything: keep_last=0 removes nothing."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        return set(self._records(latest.run_id)) if keep_last == 0 else super()._kept(latest, keep_last)


@broken()
class ForgetsTheFloor(MemoryCheckpointer):
    """A pruned step is refused as a gap, since nothing remembers that it was there."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        try:
            super()._append(checkpoint, record)
        except CheckpointError as error:
            if error.reason != "pruned":
                raise
            raise CheckpointError(error.message, reason="step-gap", run_id=error.run_id, step=error.step) from None


@broken()
class PruneTakesAnything(Prunes):
    """A naive older_than counts as UTC, and a negative keep_last as 0."""

    async def prune(self, **arguments: Any) -> PruneReport:
        bound = arguments["older_than"]
        bound = bound if bound.tzinfo else bound.replace(tzinfo=UTC)
        keep_last = max(0, arguments.get("keep_last", 1))
        return await super().prune(**(arguments | {"older_than": bound, "keep_last": keep_last}))


class Batches(MemoryCheckpointer):
    """A base: appends the steps of a batch one after the other."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            await self.write(checkpoint)


@broken()
class UncheckedBatches(Batches):
    """check_batch is not called: a batch of two runs is stored."""


@broken()
class BatchBackwards(MemoryCheckpointer):
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


@broken()
class BatchByTheOldTail(MemoryCheckpointer):
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
        from stargraph.checkpoint.protocol import check_batch

        self._ensure_ready()
        check_batch(list(checkpoints))
        for checkpoint in checkpoints:
            encode(checkpoint)
        await self._turn()
        self._append_all(checkpoints)


@broken()
class BatchIgnoresConflicts(MemoryCheckpointer):
    """ON CONFLICT DO NOTHING for the rows of a batch: those that lost are skipped without a word."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        try:
            await super().write_many(checkpoints)
        except CheckpointConflictError:
            return


@broken()
class BatchOfOne(MemoryCheckpointer):
    """A batch that is stored in part fails on the part that is there."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_ready()
        for checkpoint in checkpoints:
            if checkpoint.step in self._records(checkpoint.run_id):
                raise CheckpointConflictError("UNIQUE constraint failed", reason="step-taken")
        await super().write_many(checkpoints)


@broken()
class BatchSwallowsCancellation(Batches):
    """A batch that is cancelled returns as if it were stored."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        from stargraph.checkpoint.protocol import check_batch

        self._ensure_ready()
        check_batch(list(checkpoints))
        for checkpoint in checkpoints:
            checkpoint.ensure_valid()
        try:
            await super().write_many(checkpoints)
        except asyncio.CancelledError:
            return
