"""Find the run that a user means: by its id, by a unique prefix of it, or as the latest one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Unpack

from stargraph.cli._options import LATEST
from stargraph.errors import CheckpointCorruptedError, CheckpointError, CheckpointNotFoundError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpointer, RunFilters

_WHOLE: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
"""An id as the engine makes it, a UUID, which no other id begins with but those of its child runs."""
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
        CheckpointNotFoundError: no run has that id or prefix.
        CheckpointError: several have (`reason="ambiguous-run-id"`).
    """
    from stargraph.checkpoint.protocol import is_run_id
    from stargraph.runtime.dispatch import run_not_found_error

    if _WHOLE.fullmatch(text) or not is_run_id(text) or await _exists(store, text):
        return text
    if text == LATEST:
        found = await _newest(store, 1, roots_only=True, graph_id=graph_id)
    else:
        found = await _newest(store, _LISTED + 1, roots_only=":" not in text, run_id_prefix=text)
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
        is_more = len(found) > _LISTED
        raise CheckpointError(
            f"{f'More than {_LISTED}' if is_more else len(found)} runs have an id that begins with {text!r}:\n{listed}"
            + ("\n  …" if is_more else ""),
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


async def _newest(store: Checkpointer, limit: int, **filters: Unpack[RunFilters]) -> list[str]:
    """Return the ids of the runs that match, the newest first."""
    from stargraph.checkpoint.driver import check_filters
    from stargraph.checkpoint.protocol import RunSearch
    from stargraph.runtime._reading import all_runs

    if isinstance(store, RunSearch):
        return [run.run_id for run in (await store.search(limit=limit, **filters)).items]
    matcher = check_filters(filters)
    return [run.run_id async for run in all_runs(store) if matcher.matches(run)][:limit]
