"""The reference driver: the contract with nothing around it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Final, Self, Unpack

from stargraph.checkpoint.codec import Codec, decode, encode
from stargraph.checkpoint.conformance._reference_queues import ReferenceQueues
from stargraph.checkpoint.conformance._reference_store import FORMAT
from stargraph.checkpoint.driver import (
    PruneRule,
    Tail,
    check_batch,
    check_filters,
    check_limit,
    check_listing,
    check_prune,
    check_pruned_start,
    check_search,
    check_timeline,
    in_order,
    judge_append,
    judge_pruned_start,
    missing_step_error,
    needed_steps,
    no_store_error,
    run_deleted_error,
    watch_steps,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    PRUNED_BY_DEFAULT,
    Checkpoint,
    PruneReport,
    RunFilters,
    RunOrder,
    RunPage,
    RunSummary,
    Status,
    StepKey,
    StepSummary,
)
from stargraph.errors import StoreVersionError

_CODEC: Final = Codec(memory=0)


class ReferenceCheckpointer(ReferenceQueues):
    """Keeps runs in memory.

    Every method gives the loop a turn before and after it touches the store, as one that waits for a disk
    would; between the two turns nothing else can run, so each method is atomic.

    Args:
        store: what the handles share; a new one if None.
        read_only: never change the store.
    """

    async def bootstrap(self) -> None:
        """Make the store ready."""
        await self._turn()
        if self._store.format is not None and self._store.format > FORMAT:
            raise StoreVersionError(
                f"the store has format {self._store.format}, and this software reads up to {FORMAT}",
                reason="newer-format",
                hint="Upgrade this software to the version that made the store.",
            )
        if self._store.format is not None and self._store.format < FORMAT:
            raise StoreVersionError(
                f"the store has format {self._store.format}, and this software reads {FORMAT}", reason="older-format"
            )
        if self.read_only and self._store.format is None:
            raise no_store_error("memory")
        self._store.format = FORMAT
        self._state = "ready"
        await self._turn()

    async def write(self, checkpoint: Checkpoint) -> None:
        """Append one checkpoint."""
        self._ensure_writable("write")
        record = encode(checkpoint)
        await self._turn()
        self._append(checkpoint, record)
        await self._turn()

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Append consecutive steps of one run."""
        self._ensure_writable("write_many")
        steps = check_batch(checkpoints)
        records = [encode(checkpoint) for checkpoint in steps]
        await self._turn()
        for checkpoint, record in zip(steps, records, strict=True):
            self._append(checkpoint, record)
        await self._turn()

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Begin a run with what a prune has left of it."""
        self._ensure_writable("start_pruned")
        steps = check_pruned_start(checkpoints)
        records = {checkpoint.step: encode(checkpoint) for checkpoint in steps}
        await self._turn()
        self._start_pruned(steps, records)
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

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        """Return the highest step of a run that has a key, or None."""
        self._ensure_ready()
        await self._turn()
        return self._keyed(run_id).get(key)

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        """Return the keys of a run, the highest first, each with its highest step."""
        self._ensure_ready()
        check_limit(limit)
        await self._turn()
        found = [StepKey(key, keyed.step) for key, keyed in self._keyed(run_id).items() if below is None or key < below]
        return sorted(found, reverse=True)[:limit]

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
        for step in sorted(self._required_steps(run_id), reverse=newest_first):
            if (from_step is None or step >= from_step) and (to_step is None or step <= to_step):
                found = self._at(run_id, step)
                if found is not None:
                    yield found
                await self._turn()

    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        """Return rows for the steps of a run."""
        self._ensure_ready()
        first, last = check_timeline(from_step, to_step, limit)
        await self._turn()
        records = self._records(run_id)
        steps = [step for step in sorted(self._required_steps(run_id)) if first <= step <= last][:limit]
        for step in steps:
            if step not in records:
                raise missing_step_error(run_id, step)
        return _CODEC.summarize(records, run_id=run_id, steps=steps)

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        """Yield the latest step of a run each time that it has grown."""
        self._ensure_ready()

        async def latest_step() -> int | None:
            self._ensure_ready()
            await self._turn()
            return max(self._records(run_id), default=None)

        async with aclosing(watch_steps(latest_step, after_step=after_step)) as steps:
            async for step in steps:
                yield step

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """Return one page of the runs that match."""
        self._ensure_ready()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        await self._turn()
        return query.page(self._summaries(None))

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        """Return how many runs match, by their status."""
        self._ensure_ready()
        matcher = check_filters(filters)
        await self._turn()
        return matcher.count(self._summaries(None))

    async def children(self, run_id: str) -> list[RunSummary]:
        """Return the direct child runs of a run."""
        self._ensure_ready()
        await self._turn()
        return [run for run in self._summaries(None) if (run.parent_run_id, run.origin) == (run_id, "subgraph")]

    async def delete_run(self, run_id: str) -> bool:
        """Remove a run for good."""
        self._ensure_writable("delete_run")
        await self._turn()
        return self._delete(run_id)

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove all but the last checkpoints of runs that stand still."""
        if dry_run:
            self._ensure_ready()
        else:
            self._ensure_writable("prune")
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, dry_run=dry_run, run_id=run_id
        )
        await self._turn()
        return self._prune(rule)

    def _prune(self, rule: PruneRule) -> PruneReport:
        gone = []
        for run_id in [each for each in self._store.runs if rule.run_id in (None, each)]:
            latest = self._latest(run_id)
            if latest is None or not rule.selects(latest) or (rule.keep_last == 0 and self._is_awaited(latest)):
                continue
            dropped = set(self._records(run_id)) - self._kept(latest, rule.keep_last)
            if dropped:
                gone.append(len(dropped))
            if not rule.dry_run:
                self._drop(run_id, dropped)
        return PruneReport(runs=len(gone), checkpoints=sum(gone), dry_run=rule.dry_run)

    def _is_awaited(self, latest: Checkpoint) -> bool:
        """Return whether a run is a child whose parent has not ended: that may still have to read how it ended."""
        if latest.origin != "subgraph" or latest.parent_run_id is None:
            return False
        parent = self._latest(latest.parent_run_id)
        return parent is not None and parent.status not in ENDED

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

    def _records(self, run_id: str) -> dict[int, bytes]:
        return self._store.runs.get(run_id, {})

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        record = self._records(run_id).get(step)
        if record is None and step in self._required_steps(run_id):
            raise missing_step_error(run_id, step)
        return None if record is None else decode(record, run_id=run_id, step=step)

    def _required_steps(self, run_id: str) -> set[int]:
        """Return the steps that must be stored: what a prune has left, and all from the floor on."""
        records = self._records(run_id)
        return set(records) | set(range(self._floor(run_id), max(records, default=-1)))

    def _floor(self, run_id: str) -> int:
        return self._store.floors.get(run_id, 0)

    def _latest(self, run_id: str) -> Checkpoint | None:
        records = self._records(run_id)
        return self._at(run_id, max(records)) if records else None

    def _keyed(self, run_id: str) -> dict[str, Checkpoint]:
        """Return the keys of a run, each with the highest step that has it.

        Only its record knows the key of a step: if one is lost, no key is sure.
        """
        steps = [self._at(run_id, step) for step in sorted(self._required_steps(run_id))]
        return {step.key: step for step in steps if step is not None and step.key is not None}

    def _tail(self, run_id: str) -> Tail | None:
        latest = self._latest(run_id)
        if latest is None:
            return None
        return Tail(latest.step, latest.digest, latest.status, self._floor(run_id))

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        run_id, step = checkpoint.run_id, checkpoint.step
        if run_id in self._store.deleted:
            raise run_deleted_error(run_id, step)
        stored = self._at(run_id, step)
        digest = None if stored is None else stored.digest
        if judge_append(checkpoint, tail=self._tail(run_id), stored_digest=digest) == "append":
            self._store.runs.setdefault(run_id, {})[step] = record

    def _start_pruned(self, steps: Sequence[Checkpoint], records: dict[int, bytes]) -> None:
        run_id = steps[0].run_id
        deleted = run_id in self._store.deleted
        if deleted or self._records(run_id):
            found = [self._at(run_id, step.step) for step in steps]
            judge_pruned_start(steps, stored_digests={one.step: one.digest for one in found if one}, deleted=deleted)
        else:
            self._store.runs[run_id] = records
            floor = max(records)
            while floor - 1 in records:
                floor -= 1
            self._store.floors[run_id] = floor

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        found = [RunSummary.from_checkpoint(latest) for latest in map(self._latest, self._store.runs) if latest]
        return in_order(run for run in found if since is None or run.started_at >= since)

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        if keep_last == 0:
            return set()
        kept = set(sorted(self._records(latest.run_id))[-keep_last:])
        if latest.status not in ENDED:
            kept.update(step for steps in needed_steps(latest) for step in range(steps.first, steps.last + 1))
        return kept

    def _delete(self, run_id: str) -> bool:
        there = self._store.runs.pop(run_id, None) is not None
        if there:
            self._store.deleted.add(run_id)
        return there

    def _drop(self, run_id: str, steps: set[int]) -> None:
        records = self._records(run_id)
        for step in steps:
            del records[step]
            self._store.floors[run_id] = max(self._floor(run_id), step + 1)
        if not records:
            self._delete(run_id)
