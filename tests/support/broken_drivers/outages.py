"""Drivers that say in an outage that nothing is there, or that something was done."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.protocol import (
    Checkpoint,
    ProcessInfo,
    ProcessPresence,
    RunSummary,
    Schedule,
    Status,
    StepKey,
    StepSummary,
)
from stargraph.errors import StoreUnavailableError
from support.broken_drivers.broken_driver import broken


@broken("outages.every_call")
class NothingToClaimInAnOutage(ReferenceCheckpointer):
    """A worker that cannot reach the store has nothing to do."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().claimable(process_id, queues, **arguments)
        return []


@broken("outages.every_call")
class NobodyLivesInAnOutage(ReferenceCheckpointer):
    """No process is listed while the store cannot be reached."""

    async def processes(self) -> list[ProcessPresence]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().processes()
        return []


@broken("outages.every_call")
class BeatsAreLostInAnOutage(ReferenceCheckpointer):
    """A beat that does not arrive is no reason to stop a worker."""

    async def beat(self, process: ProcessInfo) -> None:
        with contextlib.suppress(StoreUnavailableError):
            await super().beat(process)


@broken("outages.every_call")
class NoChildrenInAnOutage(ReferenceCheckpointer):
    """A run has no children while the store cannot be reached."""

    async def children(self, run_id: str) -> list[RunSummary]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().children(run_id)
        return []


@broken("outages.every_call")
class NoRowsInAnOutage(ReferenceCheckpointer):
    """A timeline is empty while the store cannot be reached."""

    async def timeline(self, run_id: str, **arguments: Any) -> list[StepSummary]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().timeline(run_id, **arguments)
        return []


@broken("outages.every_call")
class NoSchedulesInAnOutage(ReferenceCheckpointer):
    """There are no schedules while the store cannot be reached."""

    async def schedules(self) -> list[Schedule]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().schedules()
        return []


@broken("outages.every_call")
class SchedulesAreLostInAnOutage(ReferenceCheckpointer):
    """A schedule that does not arrive counts as put."""

    async def put_schedule(self, schedule: Schedule) -> None:
        with contextlib.suppress(StoreUnavailableError):
            await super().put_schedule(schedule)


@broken("outages.every_call")
class NoKeysInAnOutage(ReferenceCheckpointer):
    """A run has no keys while the store cannot be reached."""

    async def step_keys(self, run_id: str, **arguments: Any) -> list[StepKey]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().step_keys(run_id, **arguments)
        return []


@broken("outages.every_call")
class CountsNothingInAnOutage(ReferenceCheckpointer):
    """count_runs finds no runs while the store cannot be reached."""

    async def count_runs(self, **filters: Any) -> dict[Status, int]:
        with contextlib.suppress(StoreUnavailableError):
            return await super().count_runs(**filters)
        return {}


@broken("outages.every_call")
class DeletesLaterInAnOutage(ReferenceCheckpointer):
    """delete_run says that there was no such run while the store cannot be reached."""

    async def delete_run(self, run_id: str) -> bool:
        with contextlib.suppress(StoreUnavailableError):
            return await super().delete_run(run_id)
        return False


@broken("outages.every_call")
class ServesWhatItReadLast(ReferenceCheckpointer):
    """While the store cannot be reached, a run reads as it was when it was read last."""

    def __init__(self, store: ReferenceStore) -> None:
        super().__init__(store)
        self._last: dict[str, Checkpoint | None] = {}

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        try:
            self._last[run_id] = await super().read_latest(run_id)
        except StoreUnavailableError:
            if run_id not in self._last:
                raise
        return self._last[run_id]


@broken("outages.every_call")
class ListsWhatItListedLast(ReferenceCheckpointer):
    """While the store cannot be reached, the last list is shown: better an old page than none."""

    def __init__(self, store: ReferenceStore) -> None:
        super().__init__(store)
        self._last: dict[str, list[RunSummary]] = {}

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        asked = f"{since} {limit}"
        try:
            self._last[asked] = await super().list_runs(since=since, limit=limit)
        except StoreUnavailableError:
            if asked not in self._last:
                raise
        return self._last[asked]
