"""Schedules: runs that are enqueued at the times of a cron expression, each due time once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from stargraph.checkpoint.protocol import Checkpointer, RunSearch, Schedule, Schedules
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StargraphError, StoreUnavailableError
from stargraph.graph import EnqueuedRun, Graph
from stargraph.runtime._given import check_type

_LOGGER: Final = logging.getLogger("stargraph.worker")

SCHEDULE_SECONDS: Final = 10.0
"""How often a worker looks at the schedules."""

AHEAD: Final = timedelta(seconds=30)
"""How long before its time a run is enqueued, so that it begins on time; until then it is scheduled."""

MISSED: Final = timedelta(days=1)
"""How far back due times are enqueued that nobody was there for."""

_MANY: Final = 3
"""From so many due times on, the store is asked which of them it has."""

_FIELDS: Final = 5
_LISTED: Final = 2_000


def due_times(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the times at which runs of a schedule are due, in UTC.

    A time that a clock skips when it is put forward is due right after the gap, and one that comes twice when it is put
    back is due once, as in Debian's cron; an expression with `*` or a step for the hour goes by the time that passes.

    Args:
        after: only later ones; an aware datetime.
        until: only up to this one.

    Raises:
        StargraphError: the expression or the time zone is none (`reason="invalid-schedule"`).
    """
    zone = _zone(schedule.timezone)
    try:
        if len(schedule.cron.split()) != _FIELDS:
            raise CronSimError("it does not have five fields")
        moments = CronSim(schedule.cron, after.astimezone(zone).replace(microsecond=0))
    except CronSimError as error:
        raise StargraphError(
            f"{schedule.cron!r} is not a cron expression: {error}",
            reason="invalid-schedule",
            hint="Write minute, hour, day of the month, month and day of the week, as in '0 7 * * 1-5'.",
        ) from None
    for moment in moments:
        due = moment.astimezone(UTC)
        if due > until:
            return
        if due > after:
            yield due


def run_id_of(schedule: Schedule, due: datetime) -> str:
    """Return the id of the run of a schedule that is due at a time."""
    return f"{schedule.id}:{due.astimezone(UTC):%Y%m%dT%H%MZ}"


class Scheduler:
    """Enqueues the runs of schedules when they are due: those of the graphs that it has.

    Any number of schedulers may do so at once, since the id of a run is made of its schedule and its due time.

    Args:
        graphs: the graphs, by their ids.
    """

    def __init__(self, graphs: Mapping[str, Graph[Any]]) -> None:
        check_type(graphs, "graphs", Mapping, "a dict of graphs by their ids")
        self._graphs = dict(graphs)
        self._done: dict[str, datetime] = {}
        self._refused: set[str] = set()

    async def enqueue_due(self, store: Checkpointer, now: datetime) -> list[EnqueuedRun]:
        """Enqueue what is due by now or in the next half minute, and what was missed in the last day.

        Args:
            store: the store; nothing is done if it cannot keep schedules.
            now: the time, by the store's clock as far as the caller knows it; a wrong one costs punctuality alone.

        Raises:
            StoreUnavailableError: the store cannot be reached. What was not enqueued is enqueued with the next call.
        """
        if not isinstance(store, Schedules):
            return []
        enqueued: list[EnqueuedRun] = []
        known = [schedule for schedule in await store.schedules() if schedule.graph_id in self._graphs]
        for schedule in known:
            after = max(self._done_until(schedule), now - MISSED)
            try:
                due = list(due_times(schedule, after, now + AHEAD))
            except StargraphError as error:
                if _identity(schedule) not in self._refused:
                    _LOGGER.warning("schedule %s: %s", schedule.id, error)
                self._refused.add(_identity(schedule))
                continue
            stored = await self._stored(store, schedule, due)
            for moment in due:
                if run_id_of(schedule, moment) not in stored:
                    enqueued += await self._enqueue(store, schedule, moment)
                self._note(schedule, moment)
        self._forget_all_but(known)
        return enqueued

    def _done_until(self, schedule: Schedule) -> datetime:
        return max(schedule.since, self._done.get(_identity(schedule), schedule.since))

    def _note(self, schedule: Schedule, moment: datetime) -> None:
        self._done[_identity(schedule)] = moment

    def _forget_all_but(self, schedules: list[Schedule]) -> None:
        known = {_identity(schedule) for schedule in schedules}
        self._done = {identity: moment for identity, moment in self._done.items() if identity in known}
        self._refused &= known

    async def _stored(self, store: Checkpointer, schedule: Schedule, due: list[datetime]) -> set[str]:
        """Return runs of a schedule that the store has already: each of them need not be tried."""
        if len(due) < _MANY or not isinstance(store, RunSearch):
            return set()
        found: set[str] = set()
        for day in sorted({moment.date() for moment in due}):
            try:
                page = await store.search(run_id_prefix=f"{schedule.id}:{day:%Y%m%d}T", limit=_LISTED)
            except CheckpointCorruptedError:  # one of them is damaged: each is tried
                continue
            found.update(run.run_id for run in page.items)
        return found

    async def _enqueue(self, store: Checkpointer, schedule: Schedule, due: datetime) -> list[EnqueuedRun]:
        try:
            return [
                await self._graphs[schedule.graph_id].enqueue(
                    store,
                    schedule.inputs,
                    run_id=run_id_of(schedule, due),
                    queue=schedule.queue.name,
                    priority=schedule.queue.priority,
                    concurrency_key=schedule.queue.concurrency_key,
                    not_before=due,
                    metadata=schedule.metadata,
                )
            ]
        except StoreUnavailableError:
            raise
        except CheckpointCorruptedError as error:
            if error.reason != "corrupted-record":
                raise
            # The run is there and damaged, which is no reason to let other schedules wait; a traceback says no more.
            _LOGGER.error("schedule %s, due %s: no run was enqueued: %s", schedule.id, due.isoformat(), error)  # noqa: TRY400
        except CheckpointError as error:
            # The run is there, made by another version of the graph or with other inputs, or it was deleted.
            if error.reason not in ("run-exists", "run-deleted", "pruned"):
                raise
        except StargraphError as error:
            _LOGGER.warning("schedule %s, due %s: no run was enqueued: %s", schedule.id, due.isoformat(), error)
        return []


def _identity(schedule: Schedule) -> str:
    """Return a text that another schedule under the same id does not have."""
    return schedule.model_dump_json()


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise StargraphError(
            f"{name!r} is not a time zone that this machine knows",
            reason="invalid-schedule",
            hint="Give an IANA name, as in 'Europe/Berlin' or 'UTC'; the package tzdata has them all.",
        ) from None
