"""The task of a run, on a Dask worker: start it, or go on with it where the store says that it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from tempfile import TemporaryFile
from typing import Any, Final

from stargraph.checkpoint.protocol import ENDED, Checkpoint, Checkpointer, RunSummary
from stargraph.dask._host import Host
from stargraph.dask._ticket import Ticket
from stargraph.engine import new_executor_id
from stargraph.errors import CheckpointConflictError, NodeError, StargraphError
from stargraph.graph import Graph
from stargraph.graph._records import poison_record
from stargraph.runtime import dispatch

_REST: Final = ENDED | {"awaiting_input", "paused", "failed"}
"""With one of these a run rests: a task that Dask repeats has nothing to do."""

_MANY_RESUMES: Final = 10**9
"""Deaths are counted by Dask and by whoever tries a run alone."""


def execute(fields: dict[str, Any]) -> dict[str, Any]:
    """Execute a run until it rests, and return its summary: what Dask calls on a worker.

    It may be called any number of times, one after the other or at once: what is done is done once.

    Args:
        fields: a `Ticket`, as plain values.

    Returns:
        `summary`, as JSON; or `error` and `reason`, if the run cannot be executed here.
    """
    ticket = Ticket.from_dict(fields)
    try:
        graph = ticket.graph.load()
        address = ticket.store.address()
        if ticket.alone and (answer := _execute_alone(ticket, address)) is not None:
            return answer
        summary = Host.current().run(_carry(graph, address, ticket))
    except StargraphError as error:
        # By value: an exception of ours might not be there where it is unpickled.
        return {"error": error.message, "reason": error.reason, "hint": error.hint}
    return {"summary": summary.model_dump_json()}


async def _carry(graph: Graph[Any], address: str, ticket: Ticket) -> RunSummary:
    store = await Host.current().store(address)
    latest = await dispatch.read_run(store, ticket.run_id, keyring=graph._keyring)
    if ticket.alone and latest.status not in _REST:
        latest = await _fail_poison(store, latest, graph)
    while latest.status not in _REST:
        run = await graph.start(checkpointer=store)
        try:
            await run.resume(ticket.run_id, max_resumes=_MANY_RESUMES)
        except CheckpointConflictError:
            # A task that Dask has given to another worker meanwhile: that one goes on with the run.
            return RunSummary.from_checkpoint(latest)
        except NodeError:
            pass  # it failed, and the store says so
        latest = await dispatch.read_run(store, ticket.run_id, keyring=graph._keyring)
    return RunSummary.from_checkpoint(latest)


async def _fail_poison(store: Checkpointer, tail: Checkpoint, graph: Graph[Any]) -> Checkpoint:
    what = f"run {tail.run_id!r} ended each process that executed it, the last one without any other run in it"
    record = poison_record(tail, new_executor_id(), what)
    try:
        await dispatch.write(store, record, keyring=graph._keyring)
    except CheckpointConflictError:
        return await dispatch.read_run(store, tail.run_id, keyring=graph._keyring)
    return record


def _execute_alone(ticket: Ticket, address: str) -> dict[str, Any] | None:
    """Return what came of a run in a process of its own; None if it has ended that process too."""
    path = [each for each in sys.path if each]
    job = {"ticket": replace(ticket, alone=False).as_dict(), "address": address, "path": path}
    # By a file without a name, which leaves nothing behind if this worker is killed. A pipe would be read to its end,
    # for which all that the run has forked must end, too.
    with TemporaryFile() as answer:
        subprocess.run(  # our own module
            [sys.executable, "-m", "stargraph.dask._alone"],
            input=json.dumps(job).encode(),
            stdout=answer,
            check=False,
        )
        answer.seek(0)
        text = answer.read()
    if not text.endswith(b"\n"):
        return None
    found: dict[str, Any] = json.loads(text)
    return found
