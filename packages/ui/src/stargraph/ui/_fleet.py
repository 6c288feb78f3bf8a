"""The queues of a store, and the processes that work on them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from stargraph.checkpoint.protocol import Presence, RunQueue
from stargraph.ui._console import console_of
from stargraph.ui._steps import process_words
from stargraph.ui._store import missing_capability


async def queues(request: Request) -> Response:
    """Answer with the queues and the workers."""
    console = console_of(request)
    store = await console.store.opened()
    if not isinstance(store, RunQueue):
        raise missing_capability(store, "RunQueue")
    processes = await store.processes() if isinstance(store, Presence) else []
    return console.page(
        request,
        "queues.html",
        queues=await store.queue_counts(),
        workers=[(each, process_words(each.process)) for each in processes],
        command=console.store.command("queues"),
        worker_command=console.store.command("worker", "GRAPH"),
    )
