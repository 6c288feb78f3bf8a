"""`stargraph queues`, `stargraph workers` and `stargraph requeue`: what a fleet does, and what it left."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    JsonOption,
    KeysOption,
    RunIdsArgument,
    StatusName,
)
from stargraph.cli._output import one_line, plural, print_json, print_lines, show_age, table
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.checkpoint.driver import DamagedRun
    from stargraph.checkpoint.protocol import (
        Checkpoint,
        Checkpointer,
        ProcessInfo,
        ProcessPresence,
        QueueCounts,
        QueueLimits,
        RunQueue,
    )
    from stargraph.cli._store import StoreRef

_REQUEUED = (StatusName.FAILED, StatusName.PAUSED)


def queues(
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    limit: Annotated[str | None, typer.Option(metavar="QUEUE", help="Set the limits of this queue.")] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="With --limit: at most this many of its runs at once; 0 stops it."),
    ] = None,
    per_key: Annotated[
        int | None,
        typer.Option(
            "--per-key", metavar="N", min=1, help="With --limit: at most this many at once per concurrency key."
        ),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --limit: at most this many begin in each --period.")
    ] = None,
    period: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="With --rate: its length.")] = 1.0,
    unlimited: Annotated[
        str | None, typer.Option("--unlimited", metavar="QUEUE", help="Remove the limits of this queue.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the queues of a store and how their runs stand, or set the limits of one.

    Limits hold for all workers together, from now on. New limits replace the old ones: one that you do not give is
    removed.
    """
    from stargraph.checkpoint.protocol import QueueLimits
    from stargraph.cli._errors import print_error
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    given = concurrency is not None or per_key is not None or rate is not None
    if given != (limit is not None) or (limit is not None and unlimited is not None):
        raise StargraphError(
            "--limit QUEUE goes with --concurrency, --per-key or --rate, and not with --unlimited",
            reason="invalid-arguments",
            hint="Write for example: stargraph queues --limit default --concurrency 10",
        )
    ref = StoreRef(checkpoint, encryption_keys)
    done: list[str] = []
    if limit is not None:
        limits = QueueLimits(concurrency=concurrency, per_key=per_key, rate=rate, period=period)
        run_async(_set_limits(ref, limit, limits))
        done = [f"queue {limit} is limited: {_limits(limits)}"]
    elif unlimited is not None:
        run_async(_set_limits(ref, unlimited, None))
        done = [f"queue {unlimited} has no limits"]
    found, damaged = run_async(_counts(ref))
    for run in damaged:
        print_error(f"workers leave run {run.run_id} aside: {run.error}")
    if json:
        print_json([counts.model_dump(mode="json") for counts in found])
        return
    header = ("QUEUE", "READY", "SCHEDULED", "RUNNING", "WAITING", "PAUSED", "FAILED", "LIMITS")
    print_lines([*done, *(table(header, map(_row, found)) if found or done else ["no queues"])])


def _row(counts: QueueCounts) -> tuple[str, ...]:
    numbers = (counts.ready, counts.scheduled, counts.running, counts.awaiting_input, counts.paused, counts.failed)
    return (counts.queue, *(f"{number:,}" for number in numbers), _limits(counts.limits))


def _limits(limits: QueueLimits | None) -> str:
    if limits is None:
        return ""
    parts = []
    if limits.concurrency is not None:
        parts.append(f"{limits.concurrency} at once" if limits.concurrency else "stopped")
    if limits.per_key is not None:
        parts.append(f"{limits.per_key} per key")
    if limits.rate is not None:
        parts.append(f"{limits.rate} in {limits.period:g} s")
    return ", ".join(parts)


async def _counts(ref: StoreRef) -> tuple[list[QueueCounts], list[DamagedRun]]:
    from stargraph.worker import damaged_runs

    async with ref.opened("read") as store:
        counts = await _as_queue(store).queue_counts()
        return counts, await damaged_runs(store)


async def _set_limits(ref: StoreRef, queue: str, limits: Any) -> None:
    async with ref.opened("write") as store:
        try:
            await _as_queue(store).set_limits(queue, limits)
        except ValueError as error:
            raise StargraphError(str(error), reason="invalid-arguments") from None


def _as_queue(store: Checkpointer) -> RunQueue:
    from stargraph.checkpoint.protocol import RunQueue

    if isinstance(store, RunQueue):
        return store
    from stargraph.worker._fleet import no_queues_error

    raise no_queues_error(store)


def workers(
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    silent_after: Annotated[
        float,
        typer.Option(
            "--silent-after",
            metavar="SECONDS",
            min=0,
            help="How long a process may be silent before it counts as gone.",
        ),
    ] = 30.0,
    json: JsonOption = False,
) -> None:
    """List the processes that execute runs of queues, by the clock of the store."""
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    found, runs = run_async(_processes(StoreRef(checkpoint, encryption_keys)))
    if json:
        print_json(
            [
                {
                    **each.model_dump(mode="json"),
                    "alive": each.silent_seconds <= silent_after,
                    "runs": runs.get(each.process.id, 0),
                }
                for each in found
            ]
        )
        return
    rows = [
        (
            each.process.id or "",
            one_line(each.process.worker or ""),
            one_line(each.process.host),
            str(each.process.pid),
            each.process.version,
            *_work(each.process),
            str(runs.get(each.process.id, 0)),
            f"{show_age(timedelta(seconds=each.silent_seconds))} ago",
            "alive" if each.silent_seconds <= silent_after else "silent",
        )
        for each in found
    ]
    header = ("PROCESS", "WORKER", "HOST", "PID", "VERSION", "QUEUES", "GRAPHS", "RUNS", "SEEN", "STATE")
    print_lines(table(header, rows) if rows else ["no workers"])


def _work(process: ProcessInfo) -> tuple[str, str]:
    """Return the queues and the graphs that a process serves, for a table; both are empty if it is no worker."""
    from stargraph.checkpoint.protocol import WorkerInfo

    if not isinstance(process, WorkerInfo):
        return ("", "")
    versions = Counter(version.graph_id for version in process.serves)
    graphs = [one_line(graph_id) + (f" ×{number}" if number > 1 else "") for graph_id, number in versions.items()]
    return (", ".join(process.queues), ", ".join(graphs))


async def _processes(ref: StoreRef) -> tuple[list[ProcessPresence], dict[str | None, int]]:
    from stargraph.runtime._reading import all_runs
    from stargraph.worker import living_processes

    async with ref.opened("read") as store:
        found = await living_processes(store, silent_after=float("inf"))
        runs = Counter(
            [
                run.process.id
                async for run in all_runs(store, status="running")
                if run.status == "running" and run.process is not None and run.origin != "subgraph"
            ]
        )
    return found, runs


def requeue(
    run_ids: RunIdsArgument = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    status: Annotated[
        list[StatusName] | None,
        typer.Option(help="Instead of ids: every run of a queue with this status, failed or paused; repeatable."),
    ] = None,
    error_reason: Annotated[
        str | None,
        typer.Option("--error-reason", metavar="REASON", help="With --status: only runs whose error has this reason."),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="The queue; that of the run if not given, or default.")
    ] = None,
    priority: Annotated[int | None, typer.Option(metavar="N", help="Runs with a higher priority begin first.")] = None,
    not_before: Annotated[
        str | None,
        typer.Option(
            "--not-before", metavar="TIME", help="The earliest time to continue: 2026-01-31T12:00:00Z, or 30m."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Put runs back into a queue, so that a worker continues them: failed, paused or lost runs, or any that you name.

    A process that still executes a run is refused at its next write. A run that was not enqueued gets a queue.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._inputs import parse_delay
    from stargraph.cli._store import StoreRef

    if bool(run_ids) == bool(status):
        raise StargraphError(
            "name the runs to requeue, or their status, not both",
            reason="invalid-arguments",
            hint="Write stargraph requeue RUN_ID, or stargraph requeue --status failed.",
        )
    if not set(status or ()) <= set(_REQUEUED) or (error_reason is not None and not status):
        raise StargraphError(
            "--status takes failed or paused, and --error-reason goes with it",
            reason="invalid-arguments",
            hint="Name runs of another status by their ids.",
        )
    due = None if not_before is None else parse_delay(not_before, "--not-before")
    statuses = [each.value for each in status or ()]
    ref = StoreRef(checkpoint, encryption_keys)
    found = run_async(_requeue(ref, run_ids, statuses, error_reason, queue=queue, priority=priority, not_before=due))
    if json:
        print_json(
            [
                {"run_id": each.run_id, "step": each.step, "status": each.status, "queue": each.queue.name}
                for each in found
                if each.queue is not None
            ]
        )
    elif run_ids:
        print_lines(f"run {each.run_id} is {each.status} at step {each.step}" for each in found)
    else:
        print_lines([f"{plural(len(found), 'run')} requeued"])


async def _requeue(
    ref: StoreRef,
    texts: list[str] | None,
    statuses: list[Any],
    error_reason: str | None,
    *,
    queue: str | None,
    priority: int | None,
    not_before: datetime | None,
) -> list[Checkpoint]:
    from stargraph.cli._run_ids import find_run_ids
    from stargraph.cli._store import keyring
    from stargraph.graph import requeue as put_back
    from stargraph.runtime._reading import all_runs

    async with ref.opened("write") as store:
        if texts:
            run_ids = await find_run_ids(store, texts) or []
        else:
            run_ids = [
                run.run_id
                async for run in all_runs(store, status=statuses)
                if run.queue is not None
                and run.status in statuses
                and (queue is None or run.queue.name == queue)
                and (error_reason is None or (run.error is not None and run.error.reason == error_reason))
            ]
        seal = keyring()
        return [
            await put_back(store, run_id, queue=queue, priority=priority, not_before=not_before, keyring=seal)
            for run_id in run_ids
        ]
