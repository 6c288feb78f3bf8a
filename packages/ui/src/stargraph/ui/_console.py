"""What all pages share: the store, the graphs, the sessions, the templates."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from stargraph.checkpoint.protocol import Checkpoint, RunQueue, RunTimeline, Schedules
from stargraph.graph import Graph
from stargraph.ui._executions import Executions
from stargraph.ui._security import Access, csrf_of
from stargraph.ui._steps import StepLogs
from stargraph.ui._store import Store
from stargraph.ui._text import shorten, show_age, show_bytes, show_number, show_seconds, visible

STATUSES: Final = {
    "queued": ("◷", "queued"),
    "running": ("●", "running"),
    "awaiting_input": ("?", "waiting"),
    "paused": ("‖", "paused"),
    "done": ("✓", "done"),
    "failed": ("✕", "failed"),
    "cancelled": ("⊘", "cancelled"),
    "moved": ("→", "moved"),
}
"""A sign and a word for each status: a colour alone says nothing to some."""


_KEPT_CHECKPOINTS: Final = 4
"""A large state takes about five times its JSON in memory."""


class Console:
    """One app: what it shows, and to whom.

    Args:
        write: whether the pages offer actions.
        graphs: the graphs that this process can run, by their ids.
        access: the sessions.

    Attributes:
        streams: how many pages are live.
    """

    def __init__(self, store: Store, *, write: bool, graphs: Mapping[str, Graph], access: Access) -> None:
        self.store = store
        self.write = write
        self.graphs = dict(graphs)
        self.access = access
        self.logs = StepLogs(store)
        self.streams = 0
        self.executions = Executions(store)
        self._checkpoints: OrderedDict[tuple[str, int], Checkpoint] = OrderedDict()
        self._environment = template_environment()
        self._environment.globals |= {"query": query, "version": asset_version(), "rendered_at": _now}

    @property
    def has_queues(self) -> bool:
        """Whether the store, once it is open, has queues."""
        return isinstance(self.store.handle, RunQueue)

    @property
    def has_schedules(self) -> bool:
        """Whether the store, once it is open, keeps schedules."""
        return isinstance(self.store.handle, Schedules)

    async def checkpoint(self, run_id: str, step: int) -> Checkpoint:
        """Return one step of a run; the last few are kept, since a reader opens one part of a state after the other.

        Raises:
            CheckpointNotFoundError: there is no such step, or it was pruned.
        """
        found = self._checkpoints.get((run_id, step)) or await self.store.at_step(run_id, step)
        self.keep(found)
        return found

    async def latest(self, run_id: str) -> Checkpoint:
        """Return the latest checkpoint of a run; a large one that is kept is not decoded again for each part of a page.

        Raises:
            CheckpointNotFoundError: there is no such run.
        """
        store = await self.store.opened()
        kept = max((key[1] for key in self._checkpoints if key[0] == run_id), default=None)
        if kept is not None and isinstance(store, RunTimeline):
            rows = await store.timeline(run_id, from_step=kept, limit=2)
            known = self._checkpoints.get((run_id, kept))
            if known is not None and len(rows) == 1 and rows[0].digest == known.digest:
                return known
        found = await self.store.latest(run_id)
        self.keep(found)
        return found

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint that was read, for the next request."""
        self._checkpoints.pop((checkpoint.run_id, checkpoint.step), None)
        self._checkpoints[checkpoint.run_id, checkpoint.step] = checkpoint
        while len(self._checkpoints) > _KEPT_CHECKPOINTS:
            self._checkpoints.popitem(last=False)

    def forget(self, run_id: str) -> None:
        """Drop what is kept of a run that was deleted."""
        for key in [key for key in self._checkpoints if key[0] == run_id]:
            del self._checkpoints[key]
        self.logs.forget(run_id)

    def text(self, request: Request, template: str, **values: Any) -> Markup:
        """Return a template as HTML.

        Args:
            request: the request that it answers.
            template: the name of the file.
            values: what stands in it.
        """
        return Markup(  # noqa: S704  # what a template makes is escaped
            self._environment.get_template(template).render(
                base=request.scope.get("root_path", ""),
                here=request.url.path,
                console=self,
                csrf=csrf_of(request),
                is_fragment=is_fragment(request),
                **values,
            )
        )

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """Return a template as a response."""
        return HTMLResponse(self.text(request, template, **values), status)


def template_environment() -> Environment:
    """Return what templates are made with, of pages and of a page in a file."""
    environment = Environment(
        loader=PackageLoader("stargraph.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["STATUSES"] = STATUSES
    environment.filters |= {
        "age": show_age,
        "bytes": show_bytes,
        "number": show_number,
        "seconds": show_seconds,
        "shorten": shorten,
        "visible": visible,
        "quoted": lambda text: quote(str(text), safe=":"),
    }
    return environment


def console_of(request: Request) -> Console:
    """Return the console of the app that answers a request."""
    return cast("Console", request.app.state.console)


def is_fragment(request: Request) -> bool:
    """Return whether a script asks for a part of a page, and not a person for the page."""
    return request.headers.get("x-fragment") == "1"


def redirect(request: Request, path: str) -> Response:
    """Return the answer to a form that leads to a page.

    Args:
        path: the page, below the path under which the pages are mounted; quoted.
    """
    return RedirectResponse(f"{request.scope.get('root_path', '')}{path}", 303)


def step_number(text: str) -> int | None:
    """Return the number of a step that an address holds, or None if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def query(pairs: Sequence[tuple[str, str]], **changes: str | None) -> str:
    """Return a query with some of its parameters replaced; None removes one.

    Args:
        pairs: the parameters as they are.
        changes: the new ones.
    """
    kept = [(name, value) for name, value in pairs if name not in changes and value]
    kept += [(name, value) for name, value in changes.items() if value is not None]
    return f"?{urlencode(kept)}" if kept else "?"


def _now() -> str:
    return datetime.now(UTC).isoformat()


@cache
def asset_version() -> str:
    """Return a word that changes with the scripts and styles, for the caches of browsers."""
    digest = hashlib.sha256()
    folder = files("stargraph.ui") / "static"
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
