"""The page of one run, and the parts of it that are loaded when they are looked at."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from stargraph.audit import verify_run
from stargraph.checkpoint.protocol import Checkpoint, RunSearch, RunSummary, RunTree, StepSummary
from stargraph.errors import CheckpointNotFoundError, StargraphError
from stargraph.transfer import export_runs
from stargraph.ui._console import Console, console_of, is_fragment, step_number
from stargraph.ui._diff import differences
from stargraph.ui._forms import question_form
from stargraph.ui._graph_svg import draw_graph, progress_of
from stargraph.ui._runs import svg_file
from stargraph.ui._steps import process_words, said, seconds_of, shown
from stargraph.ui._timeline_svg import draw_timeline, timeline_of
from stargraph.ui._tree import members_of, search, value_at

_WINDOW: Final = 100
"""How many steps one request of the list returns at most."""

_MOST_VALUE: Final = 5_000_000
_ANCESTORS: Final = 50


async def run(request: Request) -> Response:
    """Answer with the page of a run."""
    console = console_of(request)
    run_id = request.path_params["run_id"]
    latest = await console.latest(run_id)
    chosen = _step(request, latest)
    return console.page(
        request,
        "run.html",
        run=latest,
        summary=RunSummary.from_checkpoint(latest),
        process=process_words(latest.process),
        duration=(latest.timestamp - latest.started_at).total_seconds(),
        questions=[await question_form(console, latest, each) for each in latest.questions],
        sleeping=[each for each in latest.open_interrupts if each.due_at is not None],
        chosen=chosen,
        is_pinned="step" in request.query_params,
        executing=console.executions.run_of(run_id) is not None,
        execution_error=console.executions.error_of(run_id),
        can_execute=latest.graph_id in console.graphs,
        has_tree=isinstance(await console.store.opened(), RunTree),
        is_thread=latest.graph_id == "langgraph" and "thread_id" in latest.metadata,
        commands=_commands(console, latest),
        **await _detail(console, latest, chosen),
    )


def _step(request: Request, latest: Checkpoint) -> int:
    number = step_number(request.query_params.get("step", ""))
    return latest.step if number is None else min(number, latest.step)


async def _detail(console: Console, latest: Checkpoint, step: int) -> dict[str, Any]:
    """Return what the template of one step needs."""
    record = latest if step == latest.step else await console.checkpoint(latest.run_id, step)
    try:
        before = await console.checkpoint(latest.run_id, step - 1) if step else None
    except CheckpointNotFoundError:  # pruned
        before = None
    summary = StepSummary.from_checkpoint(record, before)
    branches, more = members_of(record.state, "[]", top=True)
    return {
        "record": record,
        "before_step": None if before is None else before.step,
        "diff": None if before is None else await differences(before, record),
        "branches": branches,
        "more": more,
        "said": list(said(summary)),
        "update_names": tuple(record.update or ()),
        "seconds_taken": seconds_of(summary),
        "tree_url": f"steps/{step}",
        "calls": [
            (call, members_of({"result": call.result}, "[]", top=True)[0] if call.error is None else ())
            for call in record.calls
            if call.kind in ("call", "answer")
        ],
    }


async def step(request: Request) -> Response:
    """Answer with one step: what it says, what it changed, the state after it."""
    console = console_of(request)
    run_id, number = request.path_params["run_id"], request.path_params["step"]
    if not is_fragment(request):
        return RedirectResponse(f"../../{run_id}?step={number}", 303)
    latest = await console.latest(run_id)
    return console.page(request, "_step.html", run=latest, **await _detail(console, latest, number))


async def steps(request: Request) -> Response:
    """Answer with rows of the list of steps: those from `first` on, at most a window of them."""
    console = console_of(request)
    latest = await console.latest(request.path_params["run_id"])
    first = max(int(request.query_params.get("first", "0")), 0)
    last = min(int(request.query_params.get("last", str(latest.step))), first + _WINDOW - 1)
    rows = await console.logs.window(latest, first, last)
    return console.page(
        request,
        "_steps.html",
        run=latest,
        rows=[shown(row) for row in rows],
    )


async def charts(request: Request) -> Response:
    """Answer with the drawings of a run: its graph and its timeline."""
    console = console_of(request)
    latest = await console.latest(request.path_params["run_id"])
    rows = await console.logs.all(latest)
    definition = await console.store.definition(latest)
    graph = await asyncio.to_thread(_graph, latest, rows, definition)
    chart = await asyncio.to_thread(_timeline, latest, rows)
    return console.page(
        request, "_charts.html", run=latest, graph=graph, chart=chart, has_definition=definition is not None
    )


async def chart_file(request: Request) -> Response:
    """Answer with one of the drawings as a file."""
    console = console_of(request)
    latest = await console.latest(request.path_params["run_id"])
    rows = await console.logs.all(latest)
    name = request.path_params["name"]
    svg = None
    if name == "graph":
        definition = await console.store.definition(latest)
        svg = await asyncio.to_thread(_graph, latest, rows, definition, standalone=True)
    elif name == "timeline":
        svg = await asyncio.to_thread(_timeline, latest, rows, standalone=True)
    if svg is None:
        raise ValueError("there is nothing to draw")
    return svg_file(svg, f"{name}.svg")


def _graph(
    latest: Checkpoint, rows: Sequence[StepSummary], definition: Mapping[str, Any] | None, *, standalone: bool = False
) -> str | None:
    return None if definition is None else draw_graph(definition, progress_of(latest, rows), standalone=standalone)


def _timeline(latest: Checkpoint, rows: Sequence[StepSummary], *, standalone: bool = False) -> str | None:
    return draw_timeline(timeline_of(latest, rows), standalone=standalone)


async def state(request: Request) -> Response:
    """Answer with the members of one part of a state."""
    console = console_of(request)
    record = await console.checkpoint(request.path_params["run_id"], request.path_params["step"])
    path = request.query_params.get("path", "[]")
    part = value_at(record.state, path)
    if not isinstance(part, (dict, list)):
        raise ValueError("this part of the state has no members")
    branches, more = members_of(part, path, int(request.query_params.get("offset", "0")))
    return console.page(
        request, "_members.html", run=record, branches=branches, more=more, path=path, tree_url=f"steps/{record.step}"
    )


async def value(request: Request) -> Response:
    """Answer with one part of a state as JSON, for copying it or saving it."""
    console = console_of(request)
    record = await console.checkpoint(request.path_params["run_id"], request.path_params["step"])
    part = value_at(record.state, request.query_params.get("path", "[]"))
    text = await asyncio.to_thread(json.dumps, part, indent=2, ensure_ascii=False)
    headers = {}
    if "save" in request.query_params or len(text) > _MOST_VALUE:
        headers["content-disposition"] = f'attachment; filename="{record.run_id.replace(":", "_")}-{record.step}.json"'
    return Response(text, media_type="application/json", headers=headers)


async def find(request: Request) -> Response:
    """Answer with where a text stands in a state."""
    console = console_of(request)
    record = await console.checkpoint(request.path_params["run_id"], request.path_params["step"])
    words = request.query_params.get("q", "").strip()
    found, is_all = await asyncio.to_thread(search, record.state, words) if words else ([], True)
    return console.page(request, "_found.html", found=found, is_all=is_all, words=words)


async def lineage(request: Request) -> Response:
    """Answer with where a run comes from, and what came of it."""
    console = console_of(request)
    store = await console.store.opened()
    latest = await console.latest(request.path_params["run_id"])
    ancestors: list[RunSummary | str] = []
    parent = latest.parent_run_id
    while parent is not None and len(ancestors) < _ANCESTORS:
        try:
            found = await console.store.latest(parent)
        except StargraphError:
            ancestors.append(parent)  # it was deleted, or is in another store
            break
        ancestors.append(RunSummary.from_checkpoint(found))
        parent = found.parent_run_id
    descendants: tuple[RunSummary, ...] = ()
    more = False
    if isinstance(store, RunSearch):
        page = await store.search(parent_run_id=latest.run_id, limit=50)
        descendants, more = page.items, page.next_cursor is not None
    elif isinstance(store, RunTree):
        descendants = tuple(await store.children(latest.run_id))
    return console.page(
        request, "_lineage.html", run=latest, ancestors=ancestors[::-1], descendants=descendants, more=more
    )


async def verify(request: Request) -> Response:
    """Answer with whether every step of a run is what was written."""
    console = console_of(request)
    store = await console.store.opened()
    report = await verify_run(store, request.path_params["run_id"], keyring=console.store.keyring)
    return console.page(request, "_verify.html", report=report)


async def export(request: Request) -> Response:
    """Answer with the portable file of a run and its child runs, as `stargraph export` writes it."""
    console = console_of(request)
    store = await console.store.opened()
    run_id = request.path_params["run_id"]
    await console.latest(run_id)

    file = tempfile.TemporaryFile()  # noqa: SIM115  # the response closes it
    try:
        await export_runs(store, file, [run_id], keyring=console.store.keyring)
    except BaseException:
        file.close()
        raise
    file.seek(0)

    async def pieces() -> AsyncIterator[bytes]:
        with file:
            while piece := await asyncio.to_thread(file.read, 1 << 20):
                yield piece

    name = f"{run_id.replace(':', '_')}.jsonl"
    return StreamingResponse(
        pieces(),
        media_type="application/x-ndjson",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _commands(console: Console, latest: Checkpoint) -> dict[str, str]:
    """Return the commands that do in a terminal what the page does."""
    run_id, command = latest.run_id, console.store.command
    return {
        "inspect": command("inspect", run_id),
        "verify": command("verify", run_id),
        "export": command("export", f"{run_id}.jsonl", run_id),
        "resume": command("resume", run_id, "GRAPH"),
        "pause": command("pause", run_id, "--no-wait"),
        "pause_now": command("pause", run_id, "--grace", "0"),
        "cancel": command("cancel", run_id),
        "requeue": command("requeue", run_id),
        "delete": command("delete", run_id),
    }
