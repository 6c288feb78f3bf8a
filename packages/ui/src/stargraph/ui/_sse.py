"""Server-sent events: a page hears that something has changed, and asks for what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from stargraph.checkpoint.protocol import Checkpointer, RunSearch
from stargraph.runtime import dispatch
from stargraph.ui._console import Console, console_of, step_number
from stargraph.ui._store import Store

_LOOK_SECONDS: Final = 1.0
"""How often the list of runs is looked at: one indexed read."""

_BEAT_SECONDS: Final = 15.0
"""How long a stream may be silent: proxies end silent connections."""


MOST_STREAMS: Final = 100
"""How many pages can be live at a time: each of them keeps a connection, and looks at the store."""


async def runs_events(request: Request) -> Response:
    """Answer with an event each time that a run of the store has started or has another step."""
    store = await console_of(request).store.opened()
    try:
        since = datetime.fromisoformat(request.query_params.get("since", "")).astimezone(UTC)
    except ValueError:
        since = datetime.now(UTC)
    return _stream(console_of(request), _changes_of(store, since))


async def run_events(request: Request) -> Response:
    """Answer with the number of each new latest step of a run."""
    console = console_of(request)
    run_id = request.path_params["run_id"]
    latest = await console.latest(run_id)
    after = step_number(request.query_params.get("after", ""))
    # The page was made some time before its script connects: what has come between is news too.
    return _stream(console, _steps_of(console.store, run_id, latest.step if after is None else after))


async def _changes_of(store: Checkpointer, since: datetime) -> AsyncGenerator[str]:
    known: object = None
    while True:
        if isinstance(store, RunSearch):
            newest = (await store.search(order="updated", limit=1)).items
        else:
            newest = tuple(await store.list_runs(limit=1))
        now = [(each.run_id, each.last_step, each.updated_at) for each in newest]
        if now != known if known is not None else any(each.updated_at > since for each in newest):
            yield newest[0].run_id if newest else "-"
        known = now
        await asyncio.sleep(_LOOK_SECONDS)


async def _steps_of(store: Store, run_id: str, step: int) -> AsyncGenerator[str]:
    async with aclosing(dispatch.watch(await store.opened(), run_id, after_step=step)) as steps:
        async for latest in steps:
            yield str(latest)


def _stream(console: Console, changes: AsyncGenerator[str]) -> Response:
    if console.streams >= MOST_STREAMS:
        return PlainTextResponse("Too many pages are live.\n", 503, headers={"retry-after": "10"})
    lines = _lines(console, changes)
    return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _lines(console: Console, changes: AsyncGenerator[str]) -> AsyncIterator[str]:
    """Write changes as events, and a comment whenever there is none for a while."""
    console.streams += 1
    pending: asyncio.Future[str] | None = None
    try:
        yield "retry: 2000\n\n"
        pending = asyncio.ensure_future(anext(changes))
        while True:
            done, _ = await asyncio.wait({pending}, timeout=_BEAT_SECONDS)
            if not done:
                yield ": nothing new\n\n"
                continue
            yield f"event: change\ndata: {pending.result()}\n\n"
            pending = asyncio.ensure_future(anext(changes))
    except StopAsyncIteration:
        return
    finally:
        console.streams -= 1
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
            pending.cancelled() or pending.exception()  # looked at, so that nobody reports it as lost
        await changes.aclose()
