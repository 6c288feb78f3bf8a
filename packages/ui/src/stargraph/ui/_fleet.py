"""The queues of a store, the runs in them that somebody may have to look after, and the processes that work on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from stargraph.checkpoint.driver import DamagedRun
from stargraph.checkpoint.protocol import Checkpointer, Presence, RunQueue, RunSearch, RunSummary, Status
from stargraph.errors import StargraphError
from stargraph.ui._console import Console, console_of
from stargraph.ui._steps import process_words
from stargraph.ui._store import missing_capability
from stargraph.worker import damaged_runs, orphaned_runs, stranded_runs

_SHOWN: Final = 20
"""How many runs of each kind are shown."""

_LOOKED_AT: Final = 500
"""How many of the newest runs of a status are looked at for those of queues."""


@dataclass(frozen=True, slots=True)
class QueuedRuns:
    """Runs of queues that are in the same case.

    Attributes:
        title: what they are.
        meaning: what that means, and what to do.
        runs: the runs, each with why it is here.
        is_cut: whether there may be more.
        command: lists them in a terminal.
        can_requeue: whether a requeue changes anything.
    """

    title: str
    meaning: str
    runs: tuple[tuple[RunSummary, str], ...]
    is_cut: bool
    command: str
    can_requeue: bool = False


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


async def queued_runs(request: Request) -> Response:
    """Answer with the runs of queues that wait, were lost, are taken by nobody, or failed."""
    console = console_of(request)
    store = await console.store.opened()
    complaint = ""
    groups: list[QueuedRuns] = []
    damaged: list[DamagedRun] = []
    try:
        damaged = await damaged_runs(store)
    except StargraphError as error:
        complaint = console.store.hide_secrets(str(error))
    for make in (_dead_letters, _orphaned, _stranded, _waiting):
        try:
            groups.append(await make(console, store))
        except StargraphError as error:
            complaint = console.store.hide_secrets(str(error))
    return console.page(
        request,
        "_queued.html",
        groups=[each for each in groups if each.runs],
        complaint=complaint,
        damaged=damaged,
    )


async def _dead_letters(console: Console, store: Checkpointer) -> QueuedRuns:
    found, is_cut = await _of_queues(store, "failed", "paused")
    words = [(run, "" if run.error is None else f"{run.error.type}: {run.error.message}") for run in found]
    return QueuedRuns(
        "Failed and paused",
        "No worker goes on with them until they are requeued.",
        tuple(words),
        is_cut,
        console.store.command("requeue", "--status", "failed"),
        can_requeue=True,
    )


async def _orphaned(console: Console, store: Checkpointer) -> QueuedRuns:
    words = [(run, f"was executed by {process_words(run.process)}") for run in await orphaned_runs(store)]
    return QueuedRuns(
        "Without their process",
        "The process that had them is gone. Living workers take them over soon.",
        *_cut(words),
        console.store.command("runs", "--orphaned"),
        can_requeue=True,
    )


async def _stranded(console: Console, store: Checkpointer) -> QueuedRuns:
    words = [(each.run, each.reason) for each in await stranded_runs(store)]
    return QueuedRuns(
        "Taken by nobody",
        "They have been ready for a minute or longer, and no living worker takes them.",
        *_cut(words),
        console.store.command("runs", "--stranded"),
    )


async def _waiting(console: Console, store: Checkpointer) -> QueuedRuns:
    found, is_cut = await _of_queues(store, "queued")
    words = [(run, "") for run in found]
    return QueuedRuns(
        "Waiting for a worker",
        "A worker takes them in the order of their priority, once they are due.",
        tuple(words),
        is_cut,
        console.store.command("runs", "--status", "queued"),
    )


def _cut(words: list[tuple[RunSummary, str]]) -> tuple[tuple[tuple[RunSummary, str], ...], bool]:
    return tuple(words[:_SHOWN]), len(words) > _SHOWN


async def _of_queues(store: Checkpointer, *statuses: Status) -> tuple[list[RunSummary], bool]:
    """Return the newest runs of queues with one of these statuses, and whether there may be more."""
    if not isinstance(store, RunSearch):
        raise missing_capability(store, "RunSearch")
    page = await store.search(limit=_LOOKED_AT, status=statuses)
    found = [run for run in page.items if run.queue is not None]
    return found[:_SHOWN], len(found) > _SHOWN or page.next_cursor is not None
