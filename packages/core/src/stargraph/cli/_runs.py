"""`stargraph runs`."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    JsonOption,
    KeysOption,
    OrderName,
    StatusName,
    WithTagOption,
)
from stargraph.cli._output import emit, one_line, print_json, print_lines, show_age, table
from stargraph.errors import CheckpointError, StargraphError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpointer, RunFilters, RunPage, RunSummary, Status
    from stargraph.cli._fleet_runs import FleetRun
    from stargraph.cli._store import StoreRef

_WIDTH_OF_A_PIPE: Final = 80
_NARROWEST: Final = 8
_TIME: Final = "2026-01-31T12:00:00Z, or 30m, 12h, 7d"


def runs(
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    status: Annotated[list[StatusName] | None, typer.Option(help="Only runs with this status; repeatable.")] = None,
    graph: Annotated[str | None, typer.Option(metavar="ID", help="Only runs of the graph with this id.")] = None,
    graph_hash: Annotated[
        str | None, typer.Option("--graph-hash", metavar="HASH", help="Only runs of this version of their graph.")
    ] = None,
    runtime_hash: Annotated[
        str | None, typer.Option("--runtime-hash", metavar="HASH", help="Only runs of this version of the nodes' code.")
    ] = None,
    error_reason: Annotated[
        str | None, typer.Option("--error-reason", metavar="REASON", help="Only runs whose error has this reason.")
    ] = None,
    tag: WithTagOption = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Only runs started or enqueued at TIME or later: {_TIME}.")
    ] = None,
    updated_since: Annotated[
        str | None, typer.Option("--updated-since", metavar="TIME", help="Only runs with a step at TIME or later.")
    ] = None,
    updated_before: Annotated[
        str | None, typer.Option("--updated-before", metavar="TIME", help="Only runs without a step at TIME or later.")
    ] = None,
    idle_for: Annotated[
        str | None, typer.Option("--idle-for", metavar="AGE", help="Only runs without a step for this long: 30m, 12h.")
    ] = None,
    due: Annotated[
        bool, typer.Option("--due", help="Only runs whose wait is over, so that `resume` can continue them.")
    ] = False,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this queue.")] = None,
    orphaned: Annotated[
        bool, typer.Option("--orphaned", help="Only runs of queues whose process is gone; a worker will take them.")
    ] = False,
    stranded: Annotated[
        bool,
        typer.Option(
            "--stranded", help="Only runs of queues that have been ready for a minute and that no worker fits."
        ),
    ] = False,
    roots: Annotated[bool, typer.Option("--roots", help="Leave out child runs, those of subgraphs.")] = False,
    order: Annotated[OrderName, typer.Option(help="Newest first, by start or by last step.")] = OrderName.STARTED,
    counts: Annotated[bool, typer.Option("--counts", help="Print how many runs have each status.")] = False,
    cursor: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Continue after the page that printed this cursor.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most this many runs.")] = 100,
    json: JsonOption = False,
) -> None:
    """List the runs of a store, the newest first."""
    from stargraph.cli._execution import run_async
    from stargraph.cli._fleet_runs import find_fleet_runs
    from stargraph.cli._inputs import parse_since, split_pairs
    from stargraph.cli._store import StoreRef

    if updated_before is not None and idle_for is not None:
        raise StargraphError(
            "--updated-before and --idle-for mean the same", reason="invalid-arguments", hint="Give one of them."
        )
    before = (updated_before, "--updated-before") if idle_for is None else (idle_for, "--idle-for")
    filters: RunFilters = {
        "status": [each.value for each in status] if status else None,
        "graph_id": graph,
        "graph_hash": graph_hash,
        "runtime_hash": runtime_hash,
        "error_reason": error_reason,
        "metadata": split_pairs(tag or (), "--tag") or None,
        "since": None if since is None else parse_since(since),
        "updated_since": None if updated_since is None else parse_since(updated_since, "--updated-since"),
        "updated_before": None if before[0] is None else parse_since(before[0], before[1]),
        "due_before": datetime.now(UTC) if due else None,
        "roots_only": roots,
    }
    ref = StoreRef(checkpoint, encryption_keys)
    if queue is not None or orphaned or stranded:
        if (orphaned and stranded) or counts or cursor is not None or order is not OrderName.STARTED:
            raise StargraphError(
                "--queue, --orphaned and --stranded cannot be combined with --counts, --cursor or --order; --orphaned"
                " and --stranded exclude each other",
                reason="invalid-arguments",
                hint="`stargraph queues` counts the runs of queues.",
            )
        found = run_async(find_fleet_runs(ref, filters, queue, is_orphaned=orphaned, is_stranded=stranded))
        _print_fleet_runs(found, limit, as_json=json)
        return
    if counts:
        _print_counts(run_async(_count(ref, filters)), as_json=json)
        return
    page = run_async(_find(ref, filters, order=order, cursor=cursor, limit=limit))
    if json:
        print_json([summary.model_dump(mode="json") for summary in page.items])
    else:
        print_lines(_listed(page.items, _width()))
    if page.next_cursor is not None:
        where = f"; the next page: --cursor {page.next_cursor}" if page.next_cursor != _UNKNOWN_CURSOR else ""
        emit(f"There are more runs; these are the newest {limit}. --limit shows more{where}", sys.stderr)


def _print_fleet_runs(found: list[FleetRun], limit: int, *, as_json: bool) -> None:
    shown = found[:limit]
    if as_json:
        print_json(
            [{**run.model_dump(mode="json"), **({} if why is None else {"stranded": why})} for run, why in shown]
        )
    else:
        print_lines(_listed(tuple(run for run, _ in shown), _width()))
        for why in dict.fromkeys(why for _, why in shown if why is not None):
            emit(f"stranded: {one_line(why)}")
    if len(found) > limit:
        emit(f"There are {len(found) - limit} more; --limit shows more", sys.stderr)


_UNKNOWN_CURSOR: Final = "-"
"""Stands for the rest of the runs of a store that cannot search."""


async def _find(ref: StoreRef, filters: RunFilters, *, order: OrderName, cursor: str | None, limit: int) -> RunPage:
    from stargraph.checkpoint.protocol import RunPage, RunSearch

    async with ref.opened("read") as store:
        if isinstance(store, RunSearch):
            try:
                return await store.search(order=order.value, cursor=cursor, limit=limit, **filters)
            except ValueError as error:
                raise StargraphError(str(error), reason="invalid-arguments") from None
        _refuse_filters(store, filters, {"--order": order is not OrderName.STARTED, "--cursor": cursor})
        found = await store.list_runs(since=filters.get("since"), limit=limit + 1)
        return RunPage(items=tuple(found[:limit]), next_cursor=_UNKNOWN_CURSOR if len(found) > limit > 0 else None)


async def _count(ref: StoreRef, filters: RunFilters) -> dict[Status, int]:
    from stargraph.checkpoint.protocol import RunSearch

    async with ref.opened("read") as store:
        if not isinstance(store, RunSearch):
            _refuse_filters(store, filters, {"--counts": True})
            return {}
        try:
            return await store.count_runs(**filters)
        except ValueError as error:
            raise StargraphError(str(error), reason="invalid-arguments") from None


def _print_counts(counts: dict[Status, int], *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
        return
    rows = [(name, f"{number:,}") for name, number in sorted(counts.items())]
    print_lines(table(("STATUS", "RUNS"), [*rows, ("total", f"{sum(counts.values()):,}")]))


_OPTIONS: Final = {
    "status": "--status",
    "graph_id": "--graph",
    "graph_hash": "--graph-hash",
    "runtime_hash": "--runtime-hash",
    "error_reason": "--error-reason",
    "metadata": "--tag",
    "updated_since": "--updated-since",
    "updated_before": "--updated-before",
    "due_before": "--due",
    "roots_only": "--roots",
}


def _refuse_filters(store: Checkpointer, filters: RunFilters, others: dict[str, object]) -> None:
    values: dict[str, Any] = dict(filters)
    given = [option for name, option in _OPTIONS.items() if values.get(name)]
    given += [option for option, value in others.items() if value]
    if given:
        raise CheckpointError(
            f"{', '.join(given)}: the driver {type(store).__name__} cannot search",
            reason="not-supported",
            hint="Use --since and --limit, or filter what --json prints.",
        )


def _width() -> int:
    if "COLUMNS" in os.environ or sys.stdout.isatty():
        return shutil.get_terminal_size((_WIDTH_OF_A_PIPE, 24)).columns
    return _WIDTH_OF_A_PIPE


def _listed(items: tuple[RunSummary, ...], width: int) -> list[str]:
    if not items:
        return ["no runs"]
    now = datetime.now(items[0].started_at.tzinfo)
    columns: dict[str, list[str]] = {
        "RUN": [run.run_id for run in items],
        "GRAPH": [one_line(run.graph_id) for run in items],
        "STATUS": [str(run.status) for run in items],
        "STEP": [str(run.last_step) for run in items],
        "STARTED": [f"{show_age(now - run.started_at)} ago" for run in items],
        "UPDATED": [f"{show_age(now - run.updated_at)} ago" for run in items],
        "TAGS": [" ".join(one_line(f"{name}={value}") for name, value in run.metadata.items()) for run in items],
    }
    # The ids stay whole, since they are what the reader needs next.
    if not any(columns["TAGS"]) or _excess(columns, width) > _width_of(columns, "TAGS") - _NARROWEST:
        del columns["TAGS"]
    if _excess(columns, width) > 0:
        del columns["STARTED"]
    for name in ("TAGS", "GRAPH"):
        if name in columns and (excess := _excess(columns, width)) > 0:
            room = max(_width_of(columns, name) - excess, _NARROWEST)
            columns[name] = [cell if len(cell) <= room else f"{cell[: room - 1]}…" for cell in columns[name]]
    return table(list(columns), zip(*columns.values(), strict=True))


def _width_of(columns: dict[str, list[str]], name: str) -> int:
    return max(map(len, (name, *columns[name])))


def _excess(columns: dict[str, list[str]], width: int) -> int:
    return sum(_width_of(columns, name) + 2 for name in columns) - 2 - width
