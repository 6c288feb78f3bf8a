"""The app: which page answers which path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from stargraph.checkpoint.protocol import Checkpointer, is_run_id
from stargraph.errors import (
    CheckpointCorruptedError,
    CheckpointNotFoundError,
    DriverNotFoundError,
    StargraphError,
    StoreUnavailableError,
    StoreVersionError,
)
from stargraph.graph import Graph
from stargraph.runtime._given import check_callable, check_checkpointer, check_flags, check_type
from stargraph.ui import _actions, _diff, _fleet, _run, _runs, _schedules, _sse, _thread
from stargraph.ui._console import Console, console_of
from stargraph.ui._security import LOOPBACK, Access, Auth, Guard, is_signed_in
from stargraph.ui._store import Store

_FAULTS = (CheckpointCorruptedError, DriverNotFoundError, StoreUnavailableError, StoreVersionError)
"""What is not the fault of who asks."""


def create_app(
    store: Checkpointer | str | os.PathLike[str],
    *,
    write: bool = False,
    graphs: Sequence[Graph | str | os.PathLike[str]] = (),
    auth: Auth | None = None,
    hosts: Sequence[str] | None = None,
) -> Starlette:
    """Return an ASGI app that shows the runs of a store; FastAPI and Starlette can mount it under any path.

    Neither tells a mounted app when the server ends. Give `app.state.lifespan` to the app that it is mounted in,
    as its `lifespan` or as a context manager around its own: it pauses the runs that execute here, and closes the
    store.

    Args:
        store: a path, a URL, or a handle that is bootstrapped. A path or URL is opened read-only unless `write` is
            true, at the first request.
        write: also offer what changes runs: answer, cancel, pause, resume, fork, delete.
        graphs: the graphs that `write` may execute here, to resume and fork their runs; as `Graph.load` takes them.
        auth: tells for each request whether it may see the pages, as behind a proxy that signs people in; may be
            async. If None, the link `app.state.link()` lets in the one browser that opens it first.
        hosts: the host names that a request may be for, which keeps out pages that rebind their name to this address;
            None for those of the loopback, and for any if there is `auth`.

    Raises:
        GraphError: a graph cannot be loaded.
        TypeError: an argument is of another type.
    """
    if not isinstance(store, (str, os.PathLike)):
        check_checkpointer(store, "store", "give a path, a URL or a checkpointer")
    check_flags(write=write)
    check_callable(auth, "auth", "a function that tells for a request whether it may see the pages")
    if isinstance(hosts, str):
        raise TypeError(f"hosts is {hosts!r}: give a list, as in [{hosts!r}]")
    if hosts is not None:
        check_type(hosts, "hosts", Iterable, "a list of host names")
        hosts = list(hosts)
        for host in hosts:
            check_type(host, "one of hosts", str, "host names, as in 'runs.example.com'")
    if hosts is None and auth is None:
        hosts = LOOPBACK
    access = Access(auth=auth, hosts=hosts)
    console = Console(Store(store, write=write), write=write, graphs=_loaded(graphs), access=access)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:  # also if the app around this one failed
            try:
                await console.executions.stop()
            finally:
                await console.store.close()

    app = Starlette(
        routes=_routes(write=write),
        middleware=[Middleware(Guard, access=access, explain_fault=_explain_fault)],
        exception_handlers={StargraphError: _explain, ValueError: _explain, 404: _not_found},
        lifespan=lifespan,
    )
    app.state.console = console
    app.state.access = access
    link: Callable[[], str] = lambda: f"/?token={access.new_token()}"  # noqa: E731
    app.state.link = link
    app.state.lifespan = lifespan
    return app


def _routes(*, write: bool) -> list[BaseRoute]:
    run, step = "/runs/{run_id}", "/runs/{run_id}/steps/{step:int}"
    routes: list[BaseRoute] = [
        Route("/", _runs.runs),
        Route("/plot", _runs.plot),
        Route("/plot.svg", _runs.plot_file),
        Route("/events", _sse.runs_events),
        Route("/queues", _fleet.queues),
        Route("/queues/runs", _fleet.queued_runs),
        Route("/schedules", _schedules.schedules),
        Route("/diff", _diff.diff_two_runs),
        Route(run, _run.run),
        Route(f"{run}/events", _sse.run_events),
        Route(f"{run}/children", _runs.children),
        Route(f"{run}/charts", _run.charts),
        Route(f"{run}/{{name}}.svg", _run.chart_file),
        Route(f"{run}/steps", _run.steps),
        Route(f"{run}/diff", _diff.diff_steps),
        Route(f"{run}/lineage", _run.lineage),
        Route(f"{run}/messages", _thread.messages),
        Route(f"{run}/verify", _run.verify),
        Route(f"{run}/export", _run.export),
        Route(step, _run.step),
        Route(f"{step}/state", _run.state),
        Route(f"{step}/value", _run.value),
        Route(f"{step}/find", _run.find),
        Mount("/static", StaticFiles(packages=[("stargraph.ui", "static")])),
    ]
    if write:
        actions = {
            "answer": _actions.answer,
            "cancel": _actions.cancel_run,
            "pause": _actions.pause_run,
            "resume": _actions.resume_run,
            "requeue": _actions.requeue_run,
            "fork": _actions.fork_run,
            "delete": _actions.delete_run,
        }
        routes += [Route(f"{run}/{name}", action, methods=["POST"]) for name, action in actions.items()]
        routes += [
            Route("/schedules/add", _schedules.add_schedule, methods=["POST"]),
            Route("/schedules/remove", _schedules.remove_schedule, methods=["POST"]),
        ]
    return routes


def _loaded(graphs: Sequence[Graph | str | os.PathLike[str]]) -> dict[str, Graph]:
    if isinstance(graphs, (str, bytes, os.PathLike)):
        raise TypeError(f"graphs is {graphs!r:.80}: give a list, as in [{graphs!r:.80}]")
    check_type(graphs, "graphs", Iterable, "a list of graphs and names of graphs")
    loaded = [each if isinstance(each, Graph) else Graph.load(each, code=(Path.cwd(),)) for each in graphs]
    return {each.id: each for each in loaded}


async def _explain(request: Request, error: Exception) -> Response:
    """Answer with a page that says what is wrong, and what to do."""
    console = console_of(request)
    status = 404 if isinstance(error, CheckpointNotFoundError) else 500 if isinstance(error, _FAULTS) else 400
    hint = getattr(error, "hint", None)
    run_id = request.path_params.get("run_id")
    return console.page(
        request,
        "error.html",
        status=status,
        title="Not found" if status == 404 else "This did not work",
        message=console.store.hide_secrets(getattr(error, "message", None) or str(error)),
        hint=console.store.hide_secrets(hint) if hint else None,
        reason=getattr(error, "reason", None),
        run_id=run_id if status == 400 and is_run_id(run_id) else None,
    )


def _explain_fault(request: Request, error: Exception) -> Response:
    """Answer with a page that says where to look; what went wrong is for whoever reads the log."""
    return console_of(request).page(
        request,
        "error.html",
        status=500,
        title="This page failed",
        message=f"{type(error).__qualname__} was raised while this page was made.",
        hint="The log of the server, logger stargraph.ui, says where. This is a fault of Stargraph: please report it.",
        reason=None,
    )


async def _not_found(request: Request, error: Exception) -> Response:
    if not is_signed_in(request):  # an asset that is not there: a page would name the store
        return PlainTextResponse("Not found\n", 404)
    return console_of(request).page(
        request,
        "error.html",
        status=404,
        title="Not found",
        message=f"There is no page {request.url.path}.",
        hint="The list of runs leads to all pages.",
        reason=None,
    )
