"""Deleting runs with their child runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing

from stargraph.checkpoint.protocol import Checkpointer, RunDeletion
from stargraph.errors import CheckpointError
from stargraph.runtime._given import as_run_ids, check_checkpointer, check_flags
from stargraph.runtime._reading import all_runs
from stargraph.runtime._tree import with_children


async def delete_runs(
    store: Checkpointer,
    run_ids: Iterable[str] = (),
    *,
    metadata: Mapping[str, str] | None = None,
    children: bool = True,
) -> list[str]:
    """Remove runs and their child runs for good. To finish an interrupted deletion, repeat it.

    A parent is removed before its child runs, so that its executor is refused and starts no more of them.

    Args:
        run_ids: the runs; an unknown one is passed over, but its child runs are removed.
        metadata: also each run that has these tags.
        children: remove their child runs too.

    Returns:
        The ids of the runs that were removed.

    Raises:
        CheckpointError: the store cannot remove runs (`reason="no-deletion"`), or as the store raises.
    """
    check_flags(children=children)
    check_checkpointer(store, "store")
    if not isinstance(store, RunDeletion):
        raise CheckpointError(
            f"{type(store).__name__} cannot remove runs",
            reason="no-deletion",
            hint="Its driver lacks the capability RunDeletion.",
        )
    wanted = as_run_ids(run_ids)
    if metadata:
        wanted += [
            summary.run_id
            async for summary in all_runs(store, metadata=metadata)
            if metadata.items() <= summary.metadata.items()
        ]
    async with aclosing(with_children(store, wanted, children=children, parent_first=True)) as runs:
        return [run_id async for run_id in runs if await store.delete_run(run_id)]
