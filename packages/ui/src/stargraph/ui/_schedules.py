"""The schedules of a store: when their next runs are due, and, with `write`, adding and removing them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from stargraph.checkpoint.protocol import Checkpointer, Schedule, Schedules
from stargraph.cli._inputs import split_pairs
from stargraph.cli._schedule import make_schedule
from stargraph.errors import StargraphError
from stargraph.ui._actions import form_fields, json_field, loaded_graph
from stargraph.ui._console import console_of, redirect
from stargraph.ui._store import missing_capability
from stargraph.worker import due_times

_SHOWN: Final = 3
"""How many of the next times are shown."""

_YEAR: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule as the page shows it.

    Attributes:
        schedule: the schedule.
        times: its next times, in UTC.
        complaint: why it has none, or empty.
        command: removes it in a terminal.
    """

    schedule: Schedule
    times: tuple[datetime, ...]
    complaint: str
    command: str


async def schedules(request: Request) -> Response:
    """Answer with the schedules."""
    console = console_of(request)
    found = await _keeper(await console.store.opened()).schedules()
    now = datetime.now(UTC)
    return console.page(
        request,
        "schedules.html",
        rows=[_row(each, now, console.store.command("schedule", "remove", each.id)) for each in found],
        graphs=sorted(console.graphs),
        add_command=console.store.command("schedule", "add", "0 7 * * *", "GRAPH"),
        command=console.store.command("schedule", "list"),
    )


async def add_schedule(request: Request) -> Response:
    """Add or replace a schedule, as `stargraph schedule add` does."""
    console, fields = console_of(request), await form_fields(request)
    inputs = json_field(fields.get("inputs") or "{}", "The inputs")
    if not isinstance(inputs, dict):
        raise StargraphError("The inputs are not an object", reason="not-json", hint='Write them as {"name": value}.')
    priority = json_field(fields.get("priority") or "0", "The priority")
    made, _ = make_schedule(
        loaded_graph(console, fields.get("graph", "")),
        cron=fields.get("cron", "").strip(),
        timezone=fields.get("timezone", "").strip() or "UTC",
        schedule_id=fields.get("id", "").strip() or None,
        inputs=inputs,
        queue={"name": fields.get("queue", "").strip() or "default", "priority": priority},
        tags=split_pairs(fields.get("tag", "").split(), "The tag"),
    )
    await _keeper(await console.store.opened()).put_schedule(made)
    return redirect(request, "/schedules")


async def remove_schedule(request: Request) -> Response:
    """Remove a schedule, as `stargraph schedule remove` does; the runs that it has enqueued stay."""
    console, fields = console_of(request), await form_fields(request)
    schedule_id = fields.get("id", "")
    if not await _keeper(await console.store.opened()).remove_schedule(schedule_id):
        raise StargraphError(
            f"there is no schedule {schedule_id!r}",
            reason="no-such-schedule",
            hint="It may have been removed meanwhile: go back and reload the page.",
        )
    return redirect(request, "/schedules")


def _row(schedule: Schedule, now: datetime, command: str) -> ScheduleRow:
    try:
        times = tuple(islice(due_times(schedule, now, now + _YEAR), _SHOWN))
    except StargraphError as error:
        return ScheduleRow(schedule, (), error.message, command)
    return ScheduleRow(schedule, times, "" if times else "It names no time in the next year.", command)


def _keeper(store: Checkpointer) -> Schedules:
    if not isinstance(store, Schedules):
        raise missing_capability(store, "Schedules")
    return store
