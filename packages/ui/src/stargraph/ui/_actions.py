"""What changes runs: each is the call that the command line makes, and exists only with `write`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import Response

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.cli._inputs import parse_json
from stargraph.errors import StargraphError
from stargraph.graph import Graph, cancel, pause, requeue, respond
from stargraph.replay import Overlay
from stargraph.transfer import delete_runs
from stargraph.ui._console import Console, console_of, redirect
from stargraph.ui._forms import answer_of, question_form
from stargraph.ui._tree import show_path

CANCEL_GRACE = 3.0
"""Seconds that an executor has to stop: a person waits for the page."""


async def answer(request: Request) -> Response:
    """Answer a question, as `stargraph respond` does."""
    console, latest, fields = await _asked(request)
    store = await console.store.opened()
    name = fields.get("question", "")
    question = next((each for each in latest.questions if each.id == name), None)
    if question is None:
        raise StargraphError(
            f"run {latest.run_id!r} has no open question {name!r}",
            reason="no-such-question",
            hint="It may have been answered meanwhile: go back to the run.",
        )
    form = await question_form(console, latest, question)
    value = answer_of(form.control, form.choices, fields.get("value", ""))
    await respond(store, latest.run_id, name, value, keyring=console.store.keyring)
    if fields.get("resume") and latest.graph_id in console.graphs and _is_idle(console, latest):
        await _resume(console, latest.run_id, latest.graph_id)
    return _back(request, latest.run_id)


async def cancel_run(request: Request) -> Response:
    """Cancel a run and its child runs, as `stargraph cancel` does."""
    console, latest, _ = await _asked(request)
    await cancel(await console.store.opened(), latest.run_id, grace=CANCEL_GRACE, keyring=console.store.keyring)
    return _back(request, latest.run_id)


async def pause_run(request: Request) -> Response:
    """Ask whoever executes a run to pause it, as `stargraph pause --no-wait` does; with `now`, take it away."""
    console, latest, fields = await _asked(request)
    grace = 0 if fields.get("now") else None
    await pause(await console.store.opened(), latest.run_id, grace=grace, keyring=console.store.keyring)
    return _back(request, latest.run_id)


async def resume_run(request: Request) -> Response:
    """Resume a run in this process, as `stargraph resume` does."""
    console, latest, _ = await _asked(request)
    await _resume(console, latest.run_id, latest.graph_id)
    return _back(request, latest.run_id)


async def requeue_run(request: Request) -> Response:
    """Leave a run to the workers, as `stargraph requeue` does."""
    console, latest, fields = await _asked(request)
    await requeue(
        await console.store.opened(), latest.run_id, queue=fields.get("queue") or None, keyring=console.store.keyring
    )
    if fields.get("back") == "queues":
        return redirect(request, "/queues")
    return _back(request, latest.run_id)


async def fork_run(request: Request) -> Response:
    """Fork a run with an edited state or an edited output of a node, as `stargraph replay --set` does."""
    console, latest, fields = await _asked(request)
    graph = loaded_graph(console, latest.graph_id)
    overlay = _overlay(fields)
    text = fields.get("step", "")
    step = int(text) if text.isascii() and text.isdigit() else None
    parent = await graph.start(checkpointer=await console.store.opened(), run_id=latest.run_id)
    fork = await parent.fork(step, overlay)
    console.executions.begin(fork, fork.start)
    await console.executions.stored(fork)
    return redirect(request, f"/diff?a={quote(latest.run_id)}&b={quote(fork.run_id)}")


async def delete_run(request: Request) -> Response:
    """Remove a run and its child runs for good, as `stargraph delete` does; its id has to be typed."""
    console, latest, fields = await _asked(request)
    if fields.get("confirm", "").strip() != latest.run_id:
        raise StargraphError(
            f"run {latest.run_id!r} was not deleted: what was typed is not its id",
            reason="not-confirmed",
            hint="Type the whole id to confirm.",
        )
    await delete_runs(await console.store.opened(), [latest.run_id])
    console.forget(latest.run_id)
    return redirect(request, "/")


async def _asked(request: Request) -> tuple[Console, Checkpoint, Mapping[str, str]]:
    """Return what all pages share, the latest checkpoint of the run, and the fields of the form."""
    console, fields = console_of(request), await form_fields(request)
    return console, await console.store.latest(request.path_params["run_id"]), fields


async def form_fields(request: Request) -> Mapping[str, str]:
    """Return the fields of a form; of one that was sent several times, the last value."""
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[-1] for name, values in parse_qs(body, keep_blank_values=True).items()}


def _back(request: Request, run_id: str) -> Response:
    return redirect(request, f"/runs/{quote(run_id, safe=':')}")


def _is_idle(console: Console, latest: Checkpoint) -> bool:
    # Another process that executes the run continues with the answer on its own.
    return console.executions.run_of(latest.run_id) is None and latest.status != "running"


def loaded_graph(console: Console, graph_id: str) -> Graph:
    """Return a graph that was given when the pages were served.

    Raises:
        StargraphError: it was not (`reason="graph-not-loaded"`).
    """
    graph = console.graphs.get(graph_id)
    if graph is None:
        raise StargraphError(
            f"the graph {graph_id!r} is not loaded",
            reason="graph-not-loaded",
            hint="Give it when the pages are served: stargraph ui --write --graph GRAPH",
        )
    return graph


async def _resume(console: Console, run_id: str, graph_id: str) -> None:
    graph = loaded_graph(console, graph_id)
    if console.executions.run_of(run_id) is not None:
        return
    run = await graph.start(checkpointer=await console.store.opened(), run_id=run_id)
    await run.check()
    console.executions.begin(run, run.resume)


def _overlay(fields: Mapping[str, str]) -> Overlay:
    """Return the changes that a form asks for: a value of the state at a path, or the output of a node.

    Raises:
        StargraphError: a value is not JSON.
    """
    state: dict[str, JsonValue] = {}
    outputs: dict[str, Mapping[str, JsonValue]] = {}
    if fields.get("path"):
        path = fields["path"]
        if path.startswith("["):
            path = show_path(tuple(json.loads(path)))
        state[path] = json_field(fields.get("value", ""), "The value")
    if fields.get("node"):
        output: Any = json_field(fields.get("output", ""), "The output")
        outputs[fields["node"]] = output
    return Overlay(state=state, outputs=outputs)


def json_field(text: str, what: str) -> JsonValue:
    """Return the JSON that a field of a form holds.

    Raises:
        StargraphError: it holds none (`reason="not-json"`).
    """
    try:
        value: JsonValue = parse_json(text)
    except ValueError:
        raise StargraphError(
            f"{what} is not JSON: {text[:80]!r}", reason="not-json", hint='Text stands in quotes: "like this".'
        ) from None
    return value
