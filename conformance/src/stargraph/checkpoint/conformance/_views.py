"""All that a store says of its runs, compared with what it should hold: every read, every filter, every order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from stargraph.checkpoint.conformance._capabilities import Capability
from stargraph.checkpoint.conformance._compare import (
    absent,
    rows_of,
    same,
    same_rows,
    same_runs,
    same_steps,
    same_summary,
    show,
)
from stargraph.checkpoint.conformance._expect import Violation, expect
from stargraph.checkpoint.conformance._handle import Handle
from stargraph.checkpoint.driver import can_go_on, claim_order, counted_state, counts_of
from stargraph.checkpoint.protocol import Checkpoint, RunPage, RunSummary, Status, StepKey

_MOST_STEPS = 40
"""How many steps of a run are read one by one; of longer runs the first and last ones, and some between."""

_PAGE = 3


@dataclass
class Book:
    """What a store should hold.

    Attributes:
        runs: the steps of each run that were acknowledged, from step 0.
        floors: for a run that was pruned, the steps that must still be there; others of it may be.
        gone: the runs that were deleted, with the steps that they had.
    """

    runs: dict[str, list[Checkpoint]] = field(default_factory=dict)
    floors: dict[str, set[int]] = field(default_factory=dict)
    gone: dict[str, list[Checkpoint]] = field(default_factory=dict)

    def wrote(self, *checkpoints: Checkpoint) -> None:
        """Note that steps were acknowledged."""
        for checkpoint in checkpoints:
            self.runs.setdefault(checkpoint.run_id, []).append(checkpoint)

    def deleted(self, run_id: str) -> None:
        """Note that a run was deleted."""
        self.floors.pop(run_id, None)
        self.gone[run_id] = self.runs.pop(run_id)

    def pruned(self, run_id: str, keep: Collection[int]) -> None:
        """Note that a run was pruned, and which steps of it must still be there; none if the run is gone."""
        if keep:
            self.floors[run_id] = set(keep)
        else:
            self.deleted(run_id)

    def summaries(self) -> list[RunSummary]:
        """The summaries of all runs, in the order of `list_runs`."""
        return in_order(RunSummary.from_checkpoint(steps[-1]) for steps in self.runs.values())


def in_order(summaries: Iterable[RunSummary]) -> list[RunSummary]:
    """Summaries in the order of `list_runs`: the newest start first, ties by id."""
    by_id = sorted(summaries, key=lambda item: item.run_id)
    return sorted(by_id, key=lambda item: item.started_at, reverse=True)


async def agree(
    handle: Handle,
    book: Book,
    declared: Collection[Capability],
    when: str,
    *,
    part: int = 0,
    parts: int = 1,
    left: dict[str, set[int]] | None = None,
) -> None:
    """Expect that every read of a handle agrees with a book.

    Args:
        book: what the store should hold.
        declared: the capabilities whose methods are called.
        when: what happened before, and who reads, as violations end.
        part: which part of the filters of searches is looked at, from 0.
        parts: how many parts there are.
        left: which steps of each pruned run other readers have found, since whoever reads finds the same; what this
            one finds is added.
    """
    await runs_agree(handle, book, declared, when, left=left)
    wanted = book.summaries()
    await lists_agree(handle, wanted, when)
    if "search" in declared:
        await searches_agree(handle, wanted, when, part=part, parts=parts)
    if "trees" in declared:
        await trees_agree(handle, wanted, book.gone, when)
    if "queues" in declared:
        await queues_agree(handle, wanted, when)


async def runs_agree(
    handle: Handle,
    book: Book,
    declared: Collection[Capability],
    when: str,
    *,
    left: dict[str, set[int]] | None = None,
) -> None:
    """Expect that the reads of single runs agree with a book; as `agree`, without lists and searches."""
    for run_id, steps in book.runs.items():
        there = await _run_agrees(handle, run_id, steps, book.floors.get(run_id), declared, when)
        if left is not None and run_id in book.floors:
            same_left(left.setdefault(run_id, there), there, f"of {run_id!r}, a pruned run, {when}")
    for run_id, steps in book.gone.items():
        await _nothing_of(handle, run_id, [checkpoint.step for checkpoint in steps], declared, when)


async def _run_agrees(
    handle: Handle,
    run_id: str,
    steps: Sequence[Checkpoint],
    floor: set[int] | None,
    declared: Collection[Capability],
    when: str,
) -> set[int]:
    """Expect that the reads of a run agree with its steps; return those that are there."""
    last = steps[-1]
    same(last, await handle.read_latest(run_id), f"read_latest({run_id!r}) {when}")
    kept: list[Checkpoint] = []
    looked_at = _some(steps) if floor is None else list(steps)
    for checkpoint in looked_at:
        what = f"read_at_step({run_id!r}, {checkpoint.step}) {when}"
        found = await handle.read_at_step(run_id, checkpoint.step)
        if found is None and floor is not None and checkpoint.step not in floor:
            continue
        kept.append(same(checkpoint, found, what))
    absent(await handle.read_at_step(run_id, last.step + 1), f"read_at_step({run_id!r}, {last.step + 1}) {when}")
    there = list(steps) if floor is None else kept
    if "history" in declared:
        await histories_agree(handle, there, when)
    if "timeline" in declared:
        rows = await handle.timeline(run_id, to_step=last.step)
        same_rows(rows_of(there), rows, f"timeline({run_id!r}, to_step={last.step}) {when}")
    if "keys" in declared:
        await keys_agree(handle, there, when)
    return {checkpoint.step for checkpoint in there}


def same_left(first: set[int], found: set[int], what: str) -> None:
    """Expect that a reader finds those steps of a pruned run that another one has found before."""
    expect(
        found == first,
        f"the steps {sorted(found ^ first)} {what}, are there for one reader and not for another; what a prune has"
        " removed is gone for all",
    )


async def histories_agree(handle: Handle, whole: Sequence[Checkpoint], when: str) -> None:
    """Expect that history gives these steps of a run, in both orders, and a part of them."""
    last, run_id = whole[-1], whole[-1].run_id
    for newest_first in (False, True):
        what = f"history({run_id!r}{', newest_first=True' if newest_first else ''}) {when}"
        found_steps = [found async for found in handle.history(run_id, newest_first=newest_first)]
        same_steps(whole[::-1] if newest_first else whole, found_steps, what)
    first, end = last.step // 3, max(last.step // 3, last.step - 1)
    part = [checkpoint for checkpoint in whole if first <= checkpoint.step <= end]
    for newest_first in (False, True):
        found_steps = [
            found async for found in handle.history(run_id, from_step=first, to_step=end, newest_first=newest_first)
        ]
        what = f"history({run_id!r}, from_step={first}, to_step={end}, newest_first={newest_first}) {when}"
        same_steps(part[::-1] if newest_first else part, found_steps, what)


async def keys_agree(handle: Handle, there: Sequence[Checkpoint], when: str) -> None:
    """Expect that the keys of a run are those of the steps that are there, and lead to the highest step of each."""
    run_id = there[-1].run_id
    highest = {checkpoint.key: checkpoint for checkpoint in there if checkpoint.key is not None}
    wanted = [StepKey(key, highest[key].step) for key in sorted(highest, reverse=True)]
    found = await handle.step_keys(run_id)
    what = f"step_keys({run_id!r}) {when}"
    expect(found == wanted, f"{what} gave {show(found)}; the contract wants {show(wanted)}")
    for key, checkpoint in list(highest.items())[:2]:
        same(checkpoint, await handle.read_at_key(run_id, key), f"read_at_key({run_id!r}, {key!r}) {when}")
    absent(await handle.read_at_key(run_id, "no key"), f"read_at_key({run_id!r}, 'no key') {when}")


def _some(steps: Sequence[Checkpoint]) -> list[Checkpoint]:
    if len(steps) <= _MOST_STEPS:
        return list(steps)
    stride = len(steps) // (_MOST_STEPS // 2)
    return sorted(
        {checkpoint.step: checkpoint for checkpoint in [*steps[:10], *steps[::stride], *steps[-10:]]}.values(),
        key=lambda checkpoint: checkpoint.step,
    )


async def _nothing_of(
    handle: Handle, run_id: str, steps: Sequence[int], declared: Collection[Capability], when: str
) -> None:
    absent(await handle.read_latest(run_id), f"read_latest({run_id!r}) {when}")
    for step in steps:
        absent(await handle.read_at_step(run_id, step), f"read_at_step({run_id!r}, {step}) {when}")
    if "history" in declared:
        for newest_first in (False, True):
            found = [found.step async for found in handle.history(run_id, newest_first=newest_first)]
            what = f"history({run_id!r}, newest_first={newest_first}) {when}"
            expect(not found, f"{what} gave the steps {found}; the contract wants nothing of a deleted run")
    if "timeline" in declared:
        rows = await handle.timeline(run_id, to_step=steps[-1])
        same_rows([], rows, f"timeline({run_id!r}, to_step={steps[-1]}) {when}")
    if "keys" in declared:
        found_keys = await handle.step_keys(run_id)
        what = f"step_keys({run_id!r}) {when}"
        expect(not found_keys, f"{what} gave {show(found_keys)}; the contract wants nothing of a deleted run")


def _the_same(wanted: Sequence[RunSummary], got: Sequence[RunSummary], what: str) -> None:
    same_runs([item.run_id for item in wanted], got, what)
    for before, after in zip(wanted, got, strict=True):
        same_summary(before, after, what)


async def lists_agree(handle: Handle, wanted: Sequence[RunSummary], when: str) -> None:
    """Expect that list_runs gives these runs, whole, in part, and since some instant."""
    count = len(wanted)
    _the_same(wanted, await handle.list_runs(limit=count + 10), f"list_runs(limit={count + 10}) {when}")
    _the_same(wanted[:2], await handle.list_runs(limit=2), f"list_runs(limit=2) {when}")
    for since in _instants(wanted):
        chosen = [item for item in wanted if item.started_at >= since]
        what = f"list_runs(since={since.isoformat()}, limit={count + 10}) {when}"
        _the_same(chosen, await handle.list_runs(since=since, limit=count + 10), what)


def _instants(wanted: Sequence[RunSummary]) -> list[datetime]:
    starts = sorted({item.started_at for item in wanted})
    return [starts[len(starts) // 2], starts[-1]] if starts else []


async def searches_agree(
    handle: Handle, wanted: Sequence[RunSummary], when: str, *, part: int = 0, parts: int = 1
) -> None:
    """Expect that search gives of these runs what each filter asks for, in large and in small pages.

    Args:
        wanted: the runs, in the order of `list_runs`.
        when: what happened before, and who reads, as violations end.
        part: which part of the filters is looked at beside the search without one, from 0.
        parts: how many parts there are.
    """
    every, *others = _filters(wanted)
    for filters in (every, *others[part::parts]):
        chosen = [item for item in wanted if matches(item, filters)]
        # Fewer runs than a small page holds come in one page either way.
        for limit in (len(wanted) + 10, *([_PAGE] if len(chosen) >= _PAGE else ())):
            what = f"the pages of search({_worded({**filters, 'limit': limit})}) {when}"
            _the_same(chosen, await pages(handle, limit=limit, **filters), what)
        counted = dict(Counter(item.status for item in chosen))
        found = await handle.count_runs(**filters)
        what = f"count_runs({_worded(filters)}) {when}"
        expect(found == counted, f"{what} gave {found}; the contract wants {counted}")
    by_update = sorted(sorted(wanted, key=lambda item: item.run_id), key=lambda item: item.updated_at, reverse=True)
    for limit in (len(wanted) + 10, _PAGE):
        what = f"the pages of search(order='updated', limit={limit}) {when}"
        _the_same(by_update, await pages(handle, limit=limit, order="updated"), what)


async def trees_agree(handle: Handle, wanted: Sequence[RunSummary], gone: Collection[str], when: str) -> None:
    """Expect that each of these runs has the children that it should, and so has each of those that are gone."""
    for run_id in [*(item.run_id for item in wanted), *gone]:
        children = [item for item in wanted if item.parent_run_id == run_id and item.origin == "subgraph"]
        _the_same(children, await handle.children(run_id), f"children({run_id!r}) {when}")


async def queues_agree(handle: Handle, wanted: Sequence[RunSummary], when: str) -> None:
    """Expect that of these runs those can be claimed that can go on now, if no process lives, and all are counted."""
    queued = [(item, item.queue) for item in wanted if item.queue is not None]
    now = datetime.now(UTC)
    ready = sorted((item for item, _ in queued if can_go_on(item, now, ())), key=claim_order)
    names = sorted({queue.name for _, queue in queued} | {"default"})
    found = await handle.claimable("f" * 16, names, limit=len(wanted) + 10, silent_after=3600.0, reserve=0.0)
    _the_same(ready, found, f"claimable({names}, reserve=0) {when}")
    states = [(queue.name, counted_state(item, now, is_reserved=False)) for item, queue in queued]
    counts = counts_of([(name, state, 1) for name, state in states if state is not None], {})
    counted = await handle.queue_counts()
    expect(counted == counts, f"queue_counts() {when} gave {show(counted)}; the contract wants {show(counts)}")


def _filters(wanted: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """Each filter alone with the values that runs have, and some together."""
    found: list[dict[str, Any]] = [{}]
    found += [{"status": status} for status in STATUSES]
    found += [{"status": ["done", "running"]}, {"status": ["failed", "paused", "done", "queued"]}]
    for name in ("graph_id", "graph_hash", "runtime_hash", "parent_run_id"):
        found += [{name: value} for value in _different(getattr(item, name) for item in wanted)]
    found += [{"error_reason": reason} for reason in _different(item.error and item.error.reason for item in wanted)]
    tags = _different(tag for item in wanted for tag in item.metadata.items())
    found += [{"metadata": dict([tag])} for tag in tags]
    instants = _instants(wanted)
    found += [{"since": since} for since in instants]
    updates = sorted({item.updated_at for item in wanted})
    if updates:
        middle = updates[len(updates) // 2]
        found += [{"updated_since": middle}, {"updated_before": middle}]
    due = sorted({item.due_at for item in wanted if item.due_at is not None})
    found += [{"due_before": moment} for moment in (*due[len(due) // 2 :][:1], *due[-1:])]
    found.append({"roots_only": True})
    prefixes = _different(prefix for item in wanted for prefix in (item.run_id, item.run_id[: len(item.run_id) // 2]))
    found += [{"run_id_prefix": prefix} for prefix in [*prefixes, "no-run", "*"]]
    found += [{"status": "done", "metadata": dict([tag])} for tag in tags[:2]]
    found += [{"since": since, "status": "running"} for since in instants[:1]]
    return found


STATUSES: Final[tuple[Status, ...]] = (
    "running",
    "awaiting_input",
    "paused",
    "done",
    "failed",
    "cancelled",
    "moved",
    "queued",
)


def _different(values: Iterable[Any]) -> list[Any]:
    return [value for value in dict.fromkeys(values) if value is not None][:4]


def matches(item: RunSummary, filters: dict[str, Any]) -> bool:
    """Whether a run matches all that a search was given."""
    given = {name: value for name, value in filters.items() if value is not None}
    status = given.get("status", item.status)
    return (
        item.status in ((status,) if isinstance(status, str) else status)
        and all(
            getattr(item, name) == given.get(name, getattr(item, name))
            for name in ("graph_id", "graph_hash", "runtime_hash", "parent_run_id")
        )
        and ("error_reason" not in given or (item.error is not None and item.error.reason == given["error_reason"]))
        and given.get("metadata", {}).items() <= item.metadata.items()
        and item.started_at >= given.get("since", item.started_at)
        and item.updated_at >= given.get("updated_since", item.updated_at)
        and ("updated_before" not in given or item.updated_at < given["updated_before"])
        and ("due_before" not in given or (item.due_at is not None and item.due_at < given["due_before"]))
        and not (given.get("roots_only") and item.origin == "subgraph")
        and item.run_id.startswith(given.get("run_id_prefix", ""))
    )


async def pages(handle: Handle, **filters: Any) -> list[RunSummary]:
    """Return what all pages of a search hold."""
    return [item for page in await each_page(handle, **filters) for item in page.items]


async def each_page(handle: Handle, **filters: Any) -> list[RunPage]:
    """Return all pages of a search."""
    found: list[RunPage] = []
    cursor: str | None = None
    limit = filters.get("limit") or 100
    for _ in range(2000):
        page = await handle.search(cursor=cursor, **filters)
        expect(len(page.items) <= limit, f"search(limit={limit}) gave a page of {len(page.items)} runs")
        found.append(page)
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise Violation("search() still gave a next_cursor after 2000 pages")


def _worded(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
