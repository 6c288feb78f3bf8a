"""The list of runs: what it finds, its pages, its counts, the plot of the last days."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from stargraph.checkpoint.protocol import Checkpointer, RunFilters, RunOrder, RunSearch, RunSummary, RunTree, Status
from stargraph.cli._inputs import parse_since, split_pairs
from stargraph.errors import StargraphError
from stargraph.ui._console import STATUSES, Console, console_of
from stargraph.ui._plot_svg import Plot, draw_plot
from stargraph.ui._store import missing_capability
from stargraph.ui._text_search import TextPage, search_text

_PAGE: Final = 50
_BUCKETS: Final = 24
_FEW_BUCKETS: Final = 6
_QUICK_SECONDS: Final = 0.2
"""How long the first count may take, for as many parts as look well; a store that takes longer is asked less often."""

RANGES: Final = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
"""How far back the plot can look."""

_MOST_TAGS: Final = 16
"""How many tags a search may name: a store compares its runs with each of them."""

_FIELDS: Final = ("q", "graph", "tag", "id", "since", "idle", "reason", "order", "roots", "parent")


async def runs(request: Request) -> Response:
    """Answer with a page of runs; everything that it shows is in its URL."""
    console = console_of(request)
    store = await console.store.opened()
    filters, order, complaint = _asked(request)
    params = request.query_params
    found = _Found(())
    if complaint is None:
        try:
            found = await _find(store, filters, order, params.get("cursor") or None, params.get("q", "").strip())
        except (StargraphError, ValueError) as error:
            complaint = console.store.hide_secrets(str(error))
    pairs = _pairs(request)
    return console.page(
        request,
        "runs.html",
        found=found,
        total=None if found.counts is None else sum(found.counts.values()),
        chosen=params.getlist("status"),
        values={name: params.get(name, "") for name in _FIELDS} | {"order": _order_of(params)},
        is_filtered=any(params.get(name) for name in (*_FIELDS, "status") if name != "order"),
        pairs=pairs,
        is_first="cursor" not in params,
        complaint=complaint,
        can_search=isinstance(store, RunSearch),
        has_tree=isinstance(store, RunTree),
        plot_range=params.get("range") or _fitting_range(found.items),
        command=_command(console, request),
    )


async def plot(request: Request) -> Response:
    """Answer with the plot of the runs that started lately, for the page that asks for it."""
    drawn, spans = await _plotted(request)
    return console_of(request).page(
        request,
        "plot.html",
        plot=draw_plot(drawn),
        drawn=drawn,
        ranges=RANGES,
        chosen=spans,
        request_pairs=_pairs(request),
    )


async def plot_file(request: Request) -> Response:
    """Answer with the plot as a file."""
    drawn, _ = await _plotted(request)
    return svg_file(draw_plot(drawn, standalone=True), "runs.svg")


def svg_file(svg: str, name: str) -> Response:
    """Return a drawing as a download."""
    return Response(svg, media_type="image/svg+xml", headers={"content-disposition": f'attachment; filename="{name}"'})


async def children(request: Request) -> Response:
    """Answer with the rows of the direct child runs of a run."""
    console = console_of(request)
    store = await console.store.opened()
    if not isinstance(store, RunTree):
        raise missing_capability(store, "RunTree")
    items = await store.children(request.path_params["run_id"])
    depth = min(int(request.query_params.get("depth", "1")), 20)
    html = console.text(request, "_children.html", items=items, depth=depth, has_tree=True)
    return HTMLResponse(html)


def _pairs(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]


def _asked(request: Request) -> tuple[RunFilters, RunOrder, str | None]:
    """Return the filters that the URL names, the order, and what is wrong with them if anything is."""
    params = request.query_params
    # Runs that have been idle are looked at by their latest step, by which a store finds them too.
    order: RunOrder = "updated" if _order_of(params) == "updated" else "started"
    try:
        filters: RunFilters = {
            "status": [_status(name) for name in params.getlist("status") if name] or None,
            "graph_id": params.get("graph") or None,
            "error_reason": params.get("reason") or None,
            "metadata": _tags(params.get("tag", "")) or None,
            "since": parse_since(params["since"], "Started since") if params.get("since") else None,
            "updated_before": parse_since(params["idle"], "Idle for") if params.get("idle") else None,
            "roots_only": params.get("roots") == "1",
            "parent_run_id": params.get("parent") or None,
            "run_id_prefix": params.get("id") or None,
        }
    except (StargraphError, ValueError) as error:
        return {}, order, str(error)
    return filters, order, None


def _tags(text: str) -> dict[str, str]:
    pairs = text.split()
    if len(pairs) > _MOST_TAGS:
        raise ValueError(f"{len(pairs)} tags were given; at most {_MOST_TAGS} are looked for together")
    return split_pairs(pairs, "The tag")


def _order_of(params: QueryParams) -> str:
    return params.get("order") or ("updated" if params.get("idle") else "started")


def _status(name: str) -> Any:
    if name not in STATUSES:
        raise ValueError(f"{name!r} is not a status; there are {', '.join(STATUSES)}")
    return name


@dataclass(frozen=True, slots=True)
class _Found:
    """What the list shows.

    Attributes:
        items: the runs.
        following: the cursor of the next page, or None.
        counts: how many runs fit by status; None if the store cannot tell, or a text is searched, which no count knows.
        searched: how far a text was searched, or None.
    """

    items: tuple[RunSummary, ...]
    following: str | None = None
    counts: dict[Status, int] | None = None
    searched: TextPage | None = None


async def _find(store: Checkpointer, filters: RunFilters, order: RunOrder, cursor: str | None, text: str) -> _Found:
    if not isinstance(store, RunSearch):
        if text or any(value for name, value in filters.items() if name != "since"):
            raise missing_capability(store, "RunSearch")
        return _Found(tuple(await store.list_runs(since=filters.get("since"), limit=_PAGE)))
    if text:
        searched = await search_text(store, text, filters, order, cursor, _PAGE)
        return _Found(searched.items, searched.next_cursor, searched=searched)
    page = await store.search(limit=_PAGE, cursor=cursor, order=order, **filters)
    every_status: RunFilters = {**filters, "status": None}
    return _Found(page.items, page.next_cursor, await store.count_runs(**every_status))


def _fitting_range(items: tuple[RunSummary, ...]) -> str:
    """Return the shortest range that has the runs of the page in it."""
    oldest = min((each.started_at for each in items), default=None)
    age = timedelta() if oldest is None else datetime.now(UTC) - oldest
    return next((name for name, span in RANGES.items() if age <= span), "30d")


async def _plotted(request: Request) -> tuple[Plot, str]:
    """Count the runs that started in each part of a range: the differences of what started since its beginning."""
    store = await console_of(request).store.opened()
    if not isinstance(store, RunSearch):
        raise missing_capability(store, "RunSearch")
    name = request.query_params.get("range", "24h")
    span = RANGES.get(name, RANGES["24h"])
    filters, _, _ = _asked(request)
    filters["status"] = None
    end = datetime.now(UTC)
    own = filters.get("since")

    async def count_since(edge: datetime) -> dict[Status, int]:
        filters["since"] = max(edge, own) if own else edge
        return await store.count_runs(**filters)

    began = time.monotonic()
    since = [await count_since(end - span)]
    parts = _BUCKETS if time.monotonic() - began < _QUICK_SECONDS else _FEW_BUCKETS
    edges = [end - span + span * part / parts for part in range(parts)]
    since += [await count_since(edge) for edge in edges[1:]]
    buckets = [
        {status: number - later.get(status, 0) for status, number in counted.items()}
        for counted, later in zip(since, [*since[1:], {}], strict=True)
    ]
    return Plot(edges=tuple(edges), end=end, buckets=tuple(buckets)), name if name in RANGES else "24h"


def _command(console: Console, request: Request) -> str:
    """Return the command that lists the same runs in a terminal."""
    params = request.query_params
    words = ["runs"]
    for status in params.getlist("status"):
        words += ["--status", status]
    options = {
        "graph": "--graph",
        "since": "--since",
        "idle": "--idle-for",
        "reason": "--error-reason",
        "order": "--order",
    }
    for name, option in options.items():
        if params.get(name):
            words += [option, params[name]]
    for tag in params.get("tag", "").split():
        words += ["--tag", tag]
    if params.get("roots") == "1":
        words.append("--roots")
    return console.store.command(*words)
