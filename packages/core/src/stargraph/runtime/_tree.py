"""A run and the child runs of its subgraphs, which are one unit unless the caller says otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from stargraph.checkpoint.protocol import Checkpointer, RunSearch, RunTree
from stargraph.runtime._reading import all_runs


async def children_of(store: Checkpointer, run_id: str) -> list[str]:
    """Return the ids of the direct child runs of a run, also of one that was deleted.

    Args:
        store: the store; without `RunTree` and `RunSearch` its whole list of runs is read.
        run_id: the parent.

    Raises:
        CheckpointError: as the store raises.
    """
    if isinstance(store, RunTree):
        return [summary.run_id for summary in await store.children(run_id)]
    listed = all_runs(store, parent_run_id=run_id if isinstance(store, RunSearch) else None)
    return [
        summary.run_id async for summary in listed if summary.parent_run_id == run_id and summary.origin == "subgraph"
    ]


async def with_children(
    store: Checkpointer, run_ids: Iterable[str], *, children: bool = True, parent_first: bool = False
) -> AsyncGenerator[str]:
    """Yield runs and their child runs, and theirs, each once.

    Args:
        store: where they are.
        run_ids: the runs, in the order in which they are yielded.
        children: False yields the runs alone.
        parent_first: yield a parent before its children; else after them.

    Raises:
        CheckpointError: as the store raises.
    """
    seen: set[str] = set()
    # A tree may be as deep as runs nest, so it is walked by a stack: runs, and whether their children are yielded.
    stack = [(run_id, False) for run_id in reversed(list(run_ids))]
    while stack:
        run_id, expanded = stack.pop()
        if expanded:
            yield run_id
            continue
        if run_id in seen:
            continue
        seen.add(run_id)
        below = [(child, False) for child in reversed(await children_of(store, run_id))] if children else []
        if parent_first:
            yield run_id
            stack += below
        else:
            stack += [(run_id, True), *below]
