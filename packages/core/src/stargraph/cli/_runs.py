"""`stargraph runs`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    JsonOption,
    KeysOption,
    StatusName,
    TagOption,
)
from stargraph.cli._output import emit, one_line, print_json, print_lines, show_time, table
from stargraph.errors import CheckpointError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.checkpoint.protocol import Checkpointer, RunPage, RunSummary


def runs(
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    status: Annotated[StatusName | None, typer.Option(help="Only runs that stand there.")] = None,
    graph: Annotated[str | None, typer.Option(metavar="ID", help="Only runs of the graph with this id.")] = None,
    tag: TagOption = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only runs started then or later: 2026-01-31T12:00:00Z, or 30m, 12h, 7d."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="How many at the most.")] = 100,
    json: JsonOption = False,
) -> None:
    """List the runs of a store, the newest first."""
    from stargraph.cli._execution import run_async
    from stargraph.cli._inputs import parse_since, split_pairs

    page = run_async(
        _find(
            checkpoint,
            status=status,
            graph=graph,
            tags=split_pairs(tag or (), "--tag"),
            since=parse_since(since) if since is not None else None,
            limit=limit,
        )
    )
    if json:
        print_json([summary.model_dump(mode="json") for summary in page.items])
    else:
        print_lines(_listed(page.items))
    if page.next_cursor is not None:
        emit(f"There are more runs; these are the newest {limit}. --limit shows more.", sys.stderr)


async def _find(
    checkpoint: str,
    *,
    status: StatusName | None,
    graph: str | None,
    tags: dict[str, str],
    since: datetime | None,
    limit: int,
) -> RunPage:
    from stargraph.checkpoint.protocol import RunPage, RunSearch
    from stargraph.cli._store import opened

    async with opened(checkpoint, must_exist=True) as store:
        if isinstance(store, RunSearch):
            return await store.search(
                status=status.value if status else None, graph_id=graph, metadata=tags, since=since, limit=limit
            )
        _refuse_filters(store, {"--status": status, "--graph": graph, "--tag": tags})
        found = await store.list_runs(since=since, limit=limit + 1)
        return RunPage(items=tuple(found[:limit]), next_cursor="more" if len(found) > limit > 0 else None)


def _refuse_filters(store: Checkpointer, filters: dict[str, object]) -> None:
    given = [option for option, value in filters.items() if value]
    if given:
        raise CheckpointError(
            f"{', '.join(given)}: the driver {type(store).__name__} cannot search",
            reason="not-supported",
            hint="Use --since and --limit, or filter what --json prints.",
        )


def _listed(items: tuple[RunSummary, ...]) -> list[str]:
    if not items:
        return ["no runs"]
    rows = [
        (
            run.run_id,
            one_line(run.graph_id),
            run.status,
            str(run.last_step),
            show_time(run.started_at),
            show_time(run.updated_at),
            " ".join(one_line(f"{name}={value}") for name, value in run.metadata.items()),
        )
        for run in items
    ]
    return table(("RUN", "GRAPH", "STATUS", "STEP", "STARTED", "UPDATED", "TAGS"), rows)
