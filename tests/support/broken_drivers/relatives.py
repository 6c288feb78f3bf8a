"""Drivers that take the wrong runs for relatives, and remove what somebody still needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import check_search, in_order, needed_steps
from stargraph.checkpoint.protocol import ENDED, Checkpoint, FanOut, RunPage, RunSummary
from support.broken_drivers.broken_driver import broken


@broken("trees.awaited_children", "trees.removal")
class PrunesAwaitedChildren(ReferenceCheckpointer):
    """prune(keep_last=0) removes a child run whose parent has not read yet how it ended."""

    def _is_awaited(self, latest: Checkpoint) -> bool:
        return False


@broken("trees.awaited_children", "trees.removal")
class SparesForks(ReferenceCheckpointer):
    """prune(keep_last=0) takes a fork for a child run, and keeps it as long as the other run goes on."""

    def _is_awaited(self, latest: Checkpoint) -> bool:
        parent = None if latest.parent_run_id is None else self._latest(latest.parent_run_id)
        return parent is not None and parent.status not in ENDED


class _Relatives(ReferenceCheckpointer):
    """A base: knows the runs whose parent is a run."""

    def _from(self, run_id: str) -> Iterator[str]:
        for other in list(self._store.runs):
            latest = self._latest(other)
            if latest is not None and latest.parent_run_id == run_id:
                yield other


@broken("trees.awaited_children", "trees.removal", "deletion.twins_stay")
class DeletionCascades(_Relatives):
    """ON DELETE CASCADE: with a run go those that came from it."""

    def _delete(self, run_id: str) -> bool:
        for other in self._from(run_id):
            super()._delete(other)
        return super()._delete(run_id)


@broken("trees.awaited_children", "trees.removal")
class PruneCascades(_Relatives):
    """A run that prune removes takes its child runs and forks with it, once these have ended."""

    def _drop(self, run_id: str, steps: set[int]) -> None:
        super()._drop(run_id, steps)
        if run_id not in self._store.runs:
            for other in self._from(run_id):
                latest = self._latest(other)
                if latest is not None and latest.status in ENDED:
                    self._delete(other)


@broken("trees.children_alone")
class ForksAreChildren(ReferenceCheckpointer):
    """children gives every run with that parent, forks too."""

    async def children(self, run_id: str) -> list[RunSummary]:
        self._ensure_ready()
        await self._turn()
        return [run for run in self._summaries(None) if run.parent_run_id == run_id]


@broken("trees.children_alone")
class GrandchildrenAreChildren(ReferenceCheckpointer):
    """children gives the whole tree below a run, as a recursive query does."""

    async def children(self, run_id: str) -> list[RunSummary]:
        found, parents = list[RunSummary](), {run_id}
        while parents:
            below = list[RunSummary]()
            for parent in parents:
                below += await super().children(parent)
            found, parents = [*found, *below], {run.run_id for run in below}
        return in_order(found)


@broken("trees.children_alone")
class RootsHaveNoParent(ReferenceCheckpointer):
    """roots_only leaves out forks: they have a parent."""

    async def search(self, **arguments: Any) -> RunPage:
        if not arguments.pop("roots_only", False):
            return await super().search(**arguments)
        self._ensure_ready()
        named = {name: arguments.pop(name) for name in ("limit", "cursor", "order") if name in arguments}
        query = check_search(**({"limit": 100, "cursor": None, "order": "started"} | named), filters=arguments)  # type: ignore[arg-type]
        await self._turn()
        return query.page([run for run in self._summaries(None) if run.parent_run_id is None])


class _Keeps(ReferenceCheckpointer):
    """A base: keeps a part of what a resume needs."""

    def _kept(self, latest: Checkpoint, keep_last: int) -> set[int]:
        if keep_last == 0:
            return set()
        kept = set(sorted(self._records(latest.run_id))[-keep_last:])
        return kept if latest.status in ENDED else kept | self._needed(latest)

    def _needed(self, latest: Checkpoint) -> set[int]:
        raise NotImplementedError


@broken("deletion.prune_keeps_what_is_needed")
class PrunesCalls(_Keeps):
    """The step at which a task began is kept, and those with the results of its calls are not."""

    def _needed(self, latest: Checkpoint) -> set[int]:
        return {item.since_step for item in latest.frontier}


@broken("deletion.prune_keeps_what_is_needed")
class PrunesBranches(_Keeps):
    """Of a fan-out the steps of the branches that have ended are not kept."""

    def _needed(self, latest: Checkpoint) -> set[int]:
        kept = {item.since_step for item in latest.frontier}
        for item in latest.frontier:
            for steps in () if isinstance(item, FanOut) else item.calls:
                kept.update(range(steps.first, steps.last + 1))
        return kept


@broken("deletion.prune_keeps_what_is_needed")
class PrunesInsideRanges(_Keeps):
    """Of a range of steps the first and the last one are kept."""

    def _needed(self, latest: Checkpoint) -> set[int]:
        return {step for steps in needed_steps(latest) for step in (steps.first, steps.last)}


@broken("deletion.pruned_run_goes_on", "keys.removals")
class DeletesFromStepZero(ReferenceCheckpointer):
    """delete_run looks for step 0, and lets a run be whose first steps were pruned."""

    async def delete_run(self, run_id: str) -> bool:
        if 0 in self._records(run_id) or not self._records(run_id):
            return await super().delete_run(run_id)
        self._ensure_writable("delete_run")
        return True


@broken("steps.ended_refused")
class MovedRunsGoOn(ReferenceCheckpointer):
    """A run has ended if it is done or cancelled; one that was moved to another store goes on in both."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        tail = self._tail(checkpoint.run_id)
        if tail is not None and tail.status == "moved" and checkpoint.previous_digest == tail.digest:
            self._records(checkpoint.run_id)[checkpoint.step] = encode(checkpoint)
        else:
            super()._append(checkpoint, record)


@broken("steps.latest_ignores_clocks")
class OneRowForAnInstant(ReferenceCheckpointer):
    """The key of a row is the run and the time: of two steps of one instant the later one replaces the first."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        super()._append(checkpoint, record)
        for step in list(self._records(checkpoint.run_id)):
            found = self._at(checkpoint.run_id, step)
            if found is not None and step < checkpoint.step and found.timestamp == checkpoint.timestamp:
                del self._records(checkpoint.run_id)[step]


@broken("trees.awaited_children", "trees.removal")
class SparesOrphans(ReferenceCheckpointer):
    """prune(keep_last=0) keeps a child run whose parent is gone: nothing says that it has ended."""

    def _is_awaited(self, latest: Checkpoint) -> bool:
        if latest.origin != "subgraph" or latest.parent_run_id is None:
            return False
        parent = self._latest(latest.parent_run_id)
        return parent is None or parent.status not in ENDED


@broken("trees.awaited_children")
class StoppedParentsDoNotWait(ReferenceCheckpointer):
    """prune(keep_last=0) spares a child run only if its parent runs or waits: not if that one failed or is paused."""

    def _is_awaited(self, latest: Checkpoint) -> bool:
        if latest.origin != "subgraph" or latest.parent_run_id is None:
            return False
        parent = self._latest(latest.parent_run_id)
        return parent is not None and parent.status in ("running", "awaiting_input", "queued")


@broken("sizes.many_runs")
class ThousandChildren(ReferenceCheckpointer):
    """children gives a thousand runs at most, as if it were a page."""

    async def children(self, run_id: str) -> list[RunSummary]:
        return (await super().children(run_id))[:1000]
