"""Drivers that go wrong when they are opened, closed or cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import FORMAT, ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import check_beat
from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueCounts, RunPage, RunSummary, Schedule
from stargraph.errors import CheckpointError, StoreUnavailableError
from support.broken_drivers.broken_driver import broken


@broken(
    "bootstrap.methods",
)
class LacksListRuns(ReferenceCheckpointer):
    """list_runs was not written."""

    list_runs = None  # type: ignore[assignment]


@broken(
    "bootstrap.methods",
)
class SynchronousReads(ReferenceCheckpointer):
    """read_latest is no coroutine function."""

    def read_latest(self, run_id: str) -> Checkpoint | None:  # type: ignore[override]
        return self._latest(run_id)


@broken(
    "bootstrap.required_first",
    "bootstrap.newer_format_refused",
)
class ConnectsOnFirstUse(ReferenceCheckpointer):
    """A handle is ready without bootstrap."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._state = "ready"


@broken(
    "isolation.same_names_inside",
    "bootstrap.twice",
    "bootstrap.second_handle",
    "durability.reopen",
    "engine.resumes_elsewhere",
    "closing.refuses_after",
    "keys.damage",
    "queues.outlive_handles",
    "queues.read_only",
)
class DropsTables(ReferenceCheckpointer):
    """DROP TABLE IF EXISTS at every bootstrap."""

    async def bootstrap(self) -> None:
        self._store.runs.clear()
        await super().bootstrap()


@broken(
    "isolation.same_names_inside",
    "search.by_update",
    "trees.children_alone",
    "bootstrap.second_handle",
    "bootstrap.eight_handles",
    "steps.usable_after_refusal",
    "values.text",
    "values.numbers",
    "values.keys",
    "values.key_order",
    "values.empties",
    "values.depth",
    "durability.other_handle",
    "durability.reopen",
    "concurrency.one_winner_many_handles",
    "cancel.write",
    "cancel.bootstrap",
    "engine.runs_to_the_end",
    "engine.resumes_elsewhere",
    "engine.takeover",
    "history.during_appends",
    "deletion.delete_run",
    "deletion.stays_deleted",
    "deletion.pruned_run_goes_on",
    "batch.appends_all",
    "closing.refuses_after",
    "keys.find",
    "keys.pruned_start",
    "keys.refused_writes",
    "keys.removals",
    "presence.beats",
    "presence.outlives_handles",
    "presence.silence",
    "schedules.exact",
    "schedules.kept",
    "schedules.outlive_handles",
    "schedules.read_only",
)
class CreatesForItself(ReferenceCheckpointer):
    """What is stored lives in the handle."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(ReferenceStore())


@broken(
    "bootstrap.twice",
    "cancel.bootstrap",
    "deletion.stays_deleted",
)
class SecondBootstrapFails(ReferenceCheckpointer):
    """CREATE TABLE without IF NOT EXISTS, guarded by a flag of the store, not of the handle."""

    async def bootstrap(self) -> None:
        if self._state == "ready":
            raise StoreUnavailableError("table checkpoints already exists", reason="unavailable")
        await super().bootstrap()


@broken(
    "bootstrap.eight_handles",
)
class BootstrapRaces(ReferenceCheckpointer):
    """Looks whether the tables are there, and then creates them."""

    async def bootstrap(self) -> None:
        if self._store.format is None:
            await self._turn()
            if self._store.format is not None:
                raise StoreUnavailableError("table checkpoints already exists", reason="unavailable")
            self._store.format = FORMAT
        await super().bootstrap()


@broken(
    "bootstrap.newer_format_refused",
)
class TakesNewerStores(ReferenceCheckpointer):
    """The version of the store is overwritten by the version of this software."""

    async def bootstrap(self) -> None:
        self._store.format = FORMAT
        await super().bootstrap()


@broken(
    "cancel.write",
    "cancel.outcome_is_settled",
    "cancel.many",
)
class SwallowsCancellation(ReferenceCheckpointer):
    """except BaseException around a write, to be safe: CancelledError is swallowed."""

    async def write(self, checkpoint: Checkpoint) -> None:
        try:
            await super().write(checkpoint)
        except asyncio.CancelledError:
            return


@broken(
    "cancel.reads",
)
class SwallowsCancelledReads(ReferenceCheckpointer):
    """A read that is cancelled gives None."""

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        try:
            return await super().read_latest(run_id)
        except asyncio.CancelledError:
            return None


@broken(
    "bootstrap.beside_calls",
    "concurrency.identical_retries",
    "concurrency.one_winner_one_handle",
    "cancel.write",
    "cancel.outcome_is_settled",
    "cancel.many",
)
class TornByCancellation(ReferenceCheckpointer):
    """The record is written in two parts: a cancellation in between leaves half of it."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        known = checkpoint.step in self._records(checkpoint.run_id)
        self._append(checkpoint, record)
        if not known:
            self._records(checkpoint.run_id)[checkpoint.step] = record[: len(record) // 2]
            await self._turn()
            self._records(checkpoint.run_id)[checkpoint.step] = record
        await self._turn()


@broken(
    "cancel.many",
)
class LeaksConnections(ReferenceCheckpointer):
    """A connection of the pool is not given back when a call is cancelled, until none is left."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._free = 5

    async def _turn(self) -> None:
        for _ in range(200):
            if self._free:
                break
            await asyncio.sleep(0.001)
        else:
            raise StoreUnavailableError("no connection became free", reason="unavailable")
        self._free -= 1
        await super()._turn()
        self._free += 1


@broken(
    "cancel.bootstrap",
)
class BusyForGood(ReferenceCheckpointer):
    """A bootstrap that is cancelled leaves its flag behind, and the next one waits for it."""

    _busy = False

    async def bootstrap(self) -> None:
        for _ in range(200):
            if not self._busy:
                break
            await asyncio.sleep(0.001)
        else:
            raise StoreUnavailableError("another bootstrap is going on", reason="unavailable")
        self._busy = True
        await super().bootstrap()
        self._busy = False


@broken(
    "cancel.outcome_is_settled",
)
class LandsLater(ReferenceCheckpointer):
    """A cancelled write goes on in the background, and lands on top of what came after it."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._late: dict[str, Checkpoint] = {}

    async def write(self, checkpoint: Checkpoint) -> None:
        late = self._late.get(checkpoint.run_id)
        try:
            await super().write(checkpoint)
        except asyncio.CancelledError:
            self._late[checkpoint.run_id] = checkpoint
            raise
        # The thread of the cancelled write ends some time later: here, before the next but one write returns.
        if late is not None and late.step < checkpoint.step:
            self._records(late.run_id)[late.step] = encode(late)


@broken(
    "closing.refuses_after",
)
class StaysOpen(ReferenceCheckpointer):
    """close() does nothing."""

    async def close(self) -> None:
        await self._turn()


@broken(
    "closing.idempotent",
    "closing.refuses_after",
)
class ClosesOnce(ReferenceCheckpointer):
    """A second close() fails."""

    async def close(self) -> None:
        if self._state == "closed":
            raise ValueError("no active connection")
        await super().close()


@broken(
    "closing.before_bootstrap",
)
class ClosedBeforeItWasOpen(ReferenceCheckpointer):
    """close() before bootstrap() shuts the pool that the handle was made with, and there is no other one."""

    async def close(self) -> None:
        if self._state == "not-bootstrapped":
            self._state = "shut"
        await super().close()

    async def bootstrap(self) -> None:
        if self._state == "shut":
            raise CheckpointError("cannot schedule new futures after shutdown", reason="closed")
        await super().bootstrap()


@broken(
    "closing.before_bootstrap",
)
class OpensToClose(ReferenceCheckpointer):
    """close() opens the store if it is not open, in order to close it properly, and leaves it open."""

    async def close(self) -> None:
        if self._state == "not-bootstrapped" and self._store.format in (None, FORMAT):
            await self.bootstrap()
        else:
            await super().close()


@broken(
    "closing.others_stay_open",
    "closing.reopens",
)
class ClosedForGood(ReferenceCheckpointer):
    """bootstrap() after close() does nothing, since it was called before."""

    async def bootstrap(self) -> None:
        if self._state != "closed":
            await super().bootstrap()


@broken(
    "closing.context_manager",
)
class SwallowsTheBody(ReferenceCheckpointer):
    """__aexit__ returns True: an exception of the body is swallowed."""

    async def __aexit__(  # type: ignore[override]
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        await self.close()
        return True


@broken(
    "closing.context_manager",
)
class EntersUnready(ReferenceCheckpointer):
    """`async with` does not bootstrap."""

    async def __aenter__(self) -> Self:
        return self


@broken(
    "closing.refuses_after",
)
class LibraryErrorAfterClose(ReferenceCheckpointer):
    """After close() the library's own error comes out."""

    def _ensure_ready(self) -> None:
        if self._state == "closed":
            raise ValueError("Cannot operate on a closed database.")
        super()._ensure_ready()


@broken(
    "closing.with_calls_in_flight",
)
class AcknowledgesWhileClosing(ReferenceCheckpointer):
    """Writes go through a queue; close() drops what is in it, and its writers are told that all is well."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        record = encode(checkpoint)
        await self._turn()
        if self._state == "closed":
            return
        self._append(checkpoint, record)
        await self._turn()


@broken(
    "bootstrap.eight_handles",
    "cancel.bootstrap",
)
class HalfMadeStore(ReferenceCheckpointer):
    """A bootstrap that is cancelled leaves a store that no later one accepts."""

    async def bootstrap(self) -> None:
        if self._store.format == 0:
            raise CheckpointError("schema is incomplete", reason="unavailable")
        if self._store.format is None:
            self._store.format = 0
            try:
                await self._turn()
            finally:
                if asyncio.current_task().cancelling() == 0:  # type: ignore[union-attr]
                    self._store.format = FORMAT
        await super().bootstrap()


@broken("closing.refuses_after")
class ClaimsAfterClose(ReferenceCheckpointer):
    """claimable does not look whether the handle was closed."""

    async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
        state = self._state
        self._state = "ready" if state == "closed" else state
        try:
            return await super().claimable(process_id, queues, **arguments)
        finally:
            self._state = state


@broken("closing.refuses_after")
class BeatsAfterClose(ReferenceCheckpointer):
    """beat goes on by a connection of its own, which close forgets."""

    async def beat(self, process: ProcessInfo) -> None:
        if self._state == "closed":
            await self._store.queues.beat(check_beat(process), process)
        else:
            await super().beat(process)


@broken("closing.refuses_after")
class SchedulesAfterClose(ReferenceCheckpointer):
    """schedules does not look whether the handle was closed."""

    async def schedules(self) -> list[Schedule]:
        if self._state == "closed":
            return await self._store.queues.schedules()
        return await super().schedules()


@broken("bootstrap.required_first")
class CountsBeforeBootstrap(ReferenceCheckpointer):
    """queue_counts does not look whether the store was opened."""

    async def queue_counts(self) -> list[QueueCounts]:
        if self._state == "not-bootstrapped":
            return await self._store.queues.counts()
        return await super().queue_counts()


@broken(slow=("cancel.every_call",))
class DeletesUncancelled(ReferenceCheckpointer):
    """delete_run catches every exception of what it waits for, that of a cancellation too."""

    async def delete_run(self, run_id: str) -> bool:
        try:
            return await super().delete_run(run_id)
        except asyncio.CancelledError:
            return False


@broken(slow=("cancel.every_call",))
class SearchesUncancelled(ReferenceCheckpointer):
    """A search that is cancelled gives an empty page."""

    async def search(self, **arguments: Any) -> RunPage:
        try:
            return await super().search(**arguments)
        except asyncio.CancelledError:
            return RunPage(items=(), next_cursor=None)


@broken(slow=("cancel.every_call",))
class PutsUncancelled(ReferenceCheckpointer):
    """A schedule that is cancelled on its way counts as put."""

    async def put_schedule(self, schedule: Schedule) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await super().put_schedule(schedule)


@broken("cancel.write")
class OpenAfterCancel(ReferenceCheckpointer):
    """The transaction of a cancelled write stays open until its handle writes again: till then nobody else can."""

    _holders: dict[int, tuple[ReferenceStore, object]] = {}  # noqa: RUF012

    async def write(self, checkpoint: Checkpoint) -> None:
        store, holder = self._holders.get(id(self._store), (None, None))
        if store is self._store and holder is not self:
            raise StoreUnavailableError("the store is locked", reason="unavailable")
        try:
            await super().write(checkpoint)
        except asyncio.CancelledError:
            self._holders[id(self._store)] = (self._store, self)
            raise
        self._holders.pop(id(self._store), None)
