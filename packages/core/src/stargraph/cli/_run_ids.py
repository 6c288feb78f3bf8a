"""Find the run that a user means: by its id, by a unique prefix of it, or as the latest one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from stargraph.cli._options import LATEST
from stargraph.errors import CheckpointCorruptedError, CheckpointError, CheckpointNotFoundError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpointer, RunSummary

_WHOLE: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
"""An id as the engine makes it, a UUID, which no other id begins with but those of its child runs."""
_LOOKED_AT: Final = 10_000
_PAGE: Final = 1000
_LISTED: Final = 8


async def find_run_id(store: Checkpointer, text: str, *, graph_id: str | None = None) -> str:
    """Return the id of the run that a text names.

    A run of exactly that id comes first, then the run that started last for `latest`, then the only run whose id
    begins with the text. Child runs count only if the text has a colon: their ids begin with that of their parent.

    Args:
        store: holds the runs.
        text: as the user wrote it.
        graph_id: the graph whose run `latest` is; None: of any graph.

    Raises:
        CheckpointNotFoundError: no run has that id or prefix; only the newest 10,000 runs are searched for it.
        CheckpointError: several have (`reason="ambiguous-run-id"`).
    """
    from stargraph.checkpoint.protocol import is_run_id
    from stargraph.runtime.dispatch import run_not_found_error

    if _WHOLE.fullmatch(text) or not is_run_id(text) or await _exists(store, text):
        return text
    found: list[str] = []
    async for run in _newest(store, roots_only=":" not in text):
        if text == LATEST:
            if graph_id in (None, run.graph_id):
                return run.run_id
            continue
        if run.run_id.startswith(text):
            found.append(run.run_id)
    if not found and text == LATEST:
        raise CheckpointNotFoundError(
            "the store holds no run" + (f" of the graph {graph_id!r}" if graph_id else ""),
            reason="run-not-found",
            hint="stargraph run GRAPH starts one; --checkpoint names another store.",
        )
    if not found:
        raise run_not_found_error(text)
    if len(found) > 1:
        listed = "\n".join(f"  {run_id}" for run_id in found[:_LISTED])
        more = f"\n  and {len(found) - _LISTED:,} more" if len(found) > _LISTED else ""
        raise CheckpointError(
            f"{len(found):,} runs have an id that begins with {text!r}:\n{listed}{more}",
            reason="ambiguous-run-id",
            hint="Give more characters of the id.",
        )
    return found[0]


async def find_run_ids(store: Checkpointer, texts: list[str] | None) -> list[str] | None:
    """Return the ids of the runs that texts name; None stays None.

    Args:
        store: holds the runs.
        texts: as the user wrote them.

    Raises:
        CheckpointNotFoundError: one names no run.
        CheckpointError: one names several.
    """
    return None if texts is None else [await find_run_id(store, text) for text in texts]


async def _exists(store: Checkpointer, run_id: str) -> bool:
    try:
        return await store.read_latest(run_id) is not None
    except CheckpointCorruptedError:
        return True


async def _newest(store: Checkpointer, *, roots_only: bool) -> AsyncIterator[RunSummary]:
    from stargraph.checkpoint.protocol import RunSearch

    if not isinstance(store, RunSearch):
        for run in await store.list_runs(limit=_LOOKED_AT):
            if not (roots_only and run.origin == "subgraph"):
                yield run
        return
    cursor: str | None = None
    for _ in range(_LOOKED_AT // _PAGE):
        page = await store.search(limit=_PAGE, cursor=cursor, roots_only=roots_only)
        for run in page.items:
            yield run
        cursor = page.next_cursor
        if cursor is None:
            return
