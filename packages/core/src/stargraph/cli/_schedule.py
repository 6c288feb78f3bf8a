"""`stargraph schedule add|list|remove`: runs that are enqueued at the times of a cron expression."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    ConcurrencyKeyOption,
    GraphArgument,
    InputOption,
    InputsOption,
    JsonOption,
    KeysOption,
    PriorityOption,
    TagOption,
)
from stargraph.errors import CheckpointError, StargraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stargraph.checkpoint.protocol import Checkpointer, JsonValue, Schedule, Schedules
    from stargraph.cli._store import StoreRef
    from stargraph.graph import Graph

_YEAR: Final = timedelta(days=366)


def schedule_add(
    cron: Annotated[
        str, typer.Argument(metavar="CRON", help="Minute, hour, day of the month, month, day of the week: '0 7 * * *'.")
    ],
    graph: GraphArgument,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    schedule_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Names the schedule; the graph's id if not given.")
    ] = None,
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="ZONE", help="The zone of CRON, as in Europe/Berlin.")
    ] = "UTC",
    input_: InputOption = None,
    inputs: InputsOption = None,
    queue: Annotated[str, typer.Option(metavar="NAME", help="The queue of the runs.")] = "default",
    priority: PriorityOption = 0,
    key: ConcurrencyKeyOption = None,
    tag: TagOption = None,
    json: JsonOption = False,
) -> None:
    """Have the workers of GRAPH enqueue a run of it at each time of CRON, from now on.

    Each due time is enqueued once, however many workers there are. A schedule with the same id is replaced.
    """
    from stargraph.cli._execution import load, run_async
    from stargraph.cli._inputs import read_inputs, split_pairs
    from stargraph.cli._output import print_json, print_lines, show_time
    from stargraph.cli._store import StoreRef

    loaded = load(graph)
    made, following = make_schedule(
        loaded,
        cron=cron,
        timezone=timezone,
        schedule_id=schedule_id,
        inputs=read_inputs(loaded, input_ or (), inputs),
        queue={"name": queue, "priority": priority, "concurrency_key": key},
        tags=split_pairs(tag or (), "--tag"),
    )
    run_async(_put(StoreRef(checkpoint, encryption_keys), made))
    if json:
        print_json({**made.model_dump(mode="json"), "next": following})
    else:
        print_lines([f"schedule {made.id}: the next run is due {show_time(following)}"])


def make_schedule(
    graph: Graph,
    *,
    cron: str,
    timezone: str,
    schedule_id: str | None,
    inputs: Mapping[str, JsonValue],
    queue: Mapping[str, Any],
    tags: Mapping[str, str],
) -> tuple[Schedule, datetime]:
    """Return a schedule of a graph that begins now, checked, and the time of its first run.

    Args:
        cron: five fields.
        timezone: the zone that they are read in.
        schedule_id: names the schedule; None for the id of the graph.
        inputs: what each run is started with.
        queue: the fields of a `QueueEntry`.
        tags: of each run.

    Raises:
        StargraphError: it cannot be a schedule (`reason="invalid-schedule"`), or the inputs start no run.
    """
    from pydantic import ValidationError

    from stargraph.checkpoint.protocol import QueueEntry, Schedule
    from stargraph.worker import due_times

    graph._plan.state.initial(inputs)  # refuses what no run could be started with
    now = datetime.now(UTC)
    try:
        made = Schedule(
            id=schedule_id or graph.id,
            cron=cron,
            timezone=timezone,
            graph_id=graph.id,
            inputs=dict(inputs),
            queue=QueueEntry(**queue),
            metadata=dict(tags),
            since=now,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name, given = ".".join(map(str, first["loc"])), repr(first["input"])[:80]
        is_id = name == "id"
        raise StargraphError(
            f"this cannot be a schedule: its {name} is {given}" + ("" if is_id else f": {first['msg']}"),
            reason="invalid-schedule",
            hint="An id is 1-100 of A-Z a-z 0-9 . _ - and begins with a letter or digit." if is_id else None,
        ) from None
    following = next(due_times(made, now, now + _YEAR), None)
    if following is None:
        raise StargraphError(
            f"{cron!r} names no time in the next year",
            reason="invalid-schedule",
            hint="Check the day and the month.",
        )
    return made, following


def schedule_list(
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT, encryption_keys: KeysOption = None, json: JsonOption = False
) -> None:
    """List the schedules of a store, and when each is due next."""
    from stargraph.cli._execution import run_async
    from stargraph.cli._output import one_line, print_json, print_lines, show_time, table
    from stargraph.cli._store import StoreRef
    from stargraph.worker import due_times

    found = run_async(_list(StoreRef(checkpoint, encryption_keys)))
    now = datetime.now(UTC)
    due = {each.id: next(due_times(each, now, now + _YEAR), None) for each in found}
    if json:
        print_json([{**each.model_dump(mode="json"), "next": due[each.id]} for each in found])
        return
    header = ("SCHEDULE", "CRON", "ZONE", "GRAPH", "QUEUE", "NEXT")
    rows = [
        (
            each.id,
            one_line(each.cron),
            one_line(each.timezone),
            one_line(each.graph_id),
            each.queue.name,
            "never" if (moment := due[each.id]) is None else show_time(moment),
        )
        for each in found
    ]
    print_lines(table(header, rows) if rows else ["no schedules"])


def schedule_remove(
    schedule_id: Annotated[str, typer.Argument(metavar="ID", help="The schedule.")],
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a schedule; the runs that it has enqueued stay."""
    from stargraph.cli._execution import run_async
    from stargraph.cli._output import print_json, print_lines
    from stargraph.cli._store import StoreRef

    ref = StoreRef(checkpoint, encryption_keys)
    if not run_async(_remove(ref, schedule_id)):
        raise StargraphError(
            f"there is no schedule {schedule_id!r} in {ref}",
            reason="no-such-schedule",
            hint="`stargraph schedule list` shows them.",
        )
    if json:
        print_json({"id": schedule_id, "removed": True})
    else:
        print_lines([f"schedule {schedule_id} removed"])


async def _put(ref: StoreRef, schedule: Schedule) -> None:
    async with ref.opened("create") as store:
        await _keeper(store).put_schedule(schedule)


async def _list(ref: StoreRef) -> list[Schedule]:
    async with ref.opened("read") as store:
        return await _keeper(store).schedules()


async def _remove(ref: StoreRef, schedule_id: str) -> bool:
    async with ref.opened("write") as store:
        return await _keeper(store).remove_schedule(schedule_id)


def _keeper(store: Checkpointer) -> Schedules:
    from stargraph.checkpoint.protocol import Schedules

    if not isinstance(store, Schedules):
        raise CheckpointError(
            f"the driver {type(store).__name__} keeps no schedules",
            reason="not-supported",
            hint="SQLite, PostgreSQL and S3 stores do.",
        )
    return store
