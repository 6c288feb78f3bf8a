"""What becomes of a run that a worker has taken: executed beside others or alone, retried, or failed as poison."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, QueueEntry, RunSummary
from stargraph.engine import facts, new_executor_id
from stargraph.errors import CheckpointConflictError, StargraphError, StoreUnavailableError
from stargraph.graph._options import RunOptions
from stargraph.graph._queue import queued_again
from stargraph.graph._records import poison_record
from stargraph.graph._resume_checks import Accept
from stargraph.runtime import dispatch
from stargraph.worker._claims import Claim, Claims
from stargraph.worker._execution import LOGGER, LostRunError, RefusedRunError, RunExecution, reason_of
from stargraph.worker._isolation import IsolatedExecution
from stargraph.worker._metrics import WorkerMetrics
from stargraph.worker._outage import note_outage
from stargraph.worker._retries import RunRetries, setbacks
from stargraph.worker._source import StoreSource
from stargraph.worker._versions import LoadedGraph


class TakenRuns:
    """The runs that one worker has taken and executes.

    Args:
        metrics: counts what comes of them; a run that begins while they say that the worker drains is paused at once.
        source: the address of the store, for processes of their own; None if the worker was given a handle.
        options: how runs are executed.
        accept: the changes that are accepted.
        retries: how often a failed run is tried again.
        isolate_after: a run that has ended this many processes is executed alone.
        poison_after: a run that has ended this many processes fails.
        grace: seconds that running nodes have to end when the runs are paused.
        now: returns the time by the clock of the store.
        has_room: called when other runs may be taken again.
        gives_up: called with the id of a run that this worker may take again from then on, before the store is told.
    """

    def __init__(
        self,
        metrics: WorkerMetrics,
        *,
        source: StoreSource | None,
        options: RunOptions,
        accept: Sequence[Accept],
        retries: RunRetries,
        isolate_after: int,
        poison_after: int,
        grace: float,
        now: Callable[[], datetime],
        has_room: Callable[[], None],
        gives_up: Callable[[str], None],
    ) -> None:
        self._metrics = metrics
        self._source = source
        self._options = options
        self._accept = accept
        self._retries = retries
        self._isolate_after = isolate_after
        self._poison_after = poison_after
        self._grace = grace
        self._now = now
        self._has_room = has_room
        self._gives_up = gives_up
        self._executions: set[RunExecution | IsolatedExecution] = set()
        self._room = asyncio.Condition()
        self._waiting_alone = 0
        # Runs that ended a process of their own: a node that completes before that clears them in the log alone.
        self._suspects: set[str] = set()

    @property
    def is_crowded(self) -> bool:
        """Whether a run waits to be the only one here: no others are to be taken until it has rested."""
        return self._waiting_alone > 0

    def pause(self) -> None:
        """Leave the runs to other workers, once their running nodes have ended or the grace is over."""
        for execution in self._executions:
            execution.pause(self._grace)

    async def execute(self, store: Checkpointer, claims: Claims, claim: Claim) -> None:
        """Execute a run until it rests, fails for good, or is lost; what it cannot be executed for is logged.

        Args:
            store: holds the run.
            claims: hears of a run that cannot be executed, and leaves it alone for a while.
            claim: the run, and its graph.
        """
        claimed, loaded = claim
        run_id, keyring = claimed.run_id, loaded.graph._keyring

        async def read_step(step: int) -> Checkpoint | None:
            return await dispatch.read_at_step(store, run_id, step, keyring=keyring)

        try:
            deaths = 0
            if claimed.status == "running" and claimed.process is not None:
                tail = await dispatch.read_run(store, run_id, keyring=keyring)
                if tail.step != claimed.last_step:
                    raise LostRunError("another executor has continued it")
                self._metrics.takeovers += 1
                deaths = (await setbacks(tail, read_step)).deaths
                if deaths >= self._poison_after:
                    await self._fail_poison(store, tail, deaths, loaded)
                    return
            if deaths >= self._isolate_after or run_id in self._suspects:
                latest = await self._isolated(store, claimed, loaded, deaths)
            else:
                execution = RunExecution(loaded.graph, store, claimed, options=self._options, accept=self._accept)
                async with self._at_work(execution):
                    latest = await execution.carry()
            if latest is None:
                return
            self._metrics.executions[latest.status] += 1
            if latest.status == "failed":
                await self._retry(store, latest, read_step, loaded)
        except (LostRunError, CheckpointConflictError) as lost:
            self._metrics.executions["lost"] += 1
            LOGGER.info("run %s: %s", run_id, lost, extra=facts(run_id, claimed.last_step))
        except StoreUnavailableError as error:
            note_outage(self._metrics, error)
        except (RefusedRunError, StargraphError) as refusal:
            why = reason_of(refusal.error if isinstance(refusal, RefusedRunError) else refusal)
            if why in ("run-deleted", "run-not-found"):
                self._metrics.executions["lost"] += 1
                LOGGER.info("run %s: it was deleted meanwhile", run_id, extra=facts(run_id, claimed.last_step))
                return
            self._metrics.executions["refused"] += 1
            claims.refuse(run_id, claimed.last_step)
            LOGGER.error("run %s: it cannot be executed: %s", run_id, why, extra=facts(run_id, claimed.last_step))

    @asynccontextmanager
    async def _at_work(self, execution: RunExecution | IsolatedExecution) -> AsyncIterator[None]:
        """Keep an execution among those that a drain pauses; it begins when no run has to be alone here."""
        async with self._room:
            self._executions.add(execution)
        if self._metrics.is_draining:
            execution.pause(self._grace)
        try:
            yield
        finally:
            self._executions.discard(execution)
            async with self._room:
                self._room.notify_all()

    async def _isolated(
        self, store: Checkpointer, claimed: RunSummary, loaded: LoadedGraph, deaths: int
    ) -> Checkpoint | None:
        """Execute a suspicious run alone; None if it has ended its process once more."""
        self._metrics.isolated += 1
        LOGGER.warning(
            "run %s: %d process%s ended while executing it; it is executed alone",
            claimed.run_id,
            deaths,
            "" if deaths == 1 else "es",
            extra=facts(claimed.run_id, claimed.last_step),
        )
        if self._source is None or loaded.target is None:
            # The program has made the graph or the handle itself: no other process can do so.
            return await self._alone_here(
                RunExecution(loaded.graph, store, claimed, options=self._options, accept=self._accept)
            )
        execution = IsolatedExecution(
            loaded.target,
            self._source,
            store,
            claimed,
            durability=self._options.durability,
            accept=self._accept,
        )
        async with self._at_work(execution):
            pid = await execution.carry()
        latest = await dispatch.read_run(store, claimed.run_id, keyring=loaded.graph._keyring)
        if latest.status == "running":
            self._suspects.add(claimed.run_id)
            if pid is not None:
                self._gives_up(claimed.run_id)
                await execution.bury(pid)
            return None
        self._suspects.discard(claimed.run_id)
        return latest

    async def _alone_here(self, execution: RunExecution) -> Checkpoint:
        """Execute a run while no other run is executed in this process."""
        self._waiting_alone += 1
        try:
            async with self._room:  # which nothing else enters meanwhile
                await self._room.wait_for(lambda: not self._executions or self._metrics.is_draining)
                if self._metrics.is_draining:
                    raise LostRunError("the worker stops")
                self._executions.add(execution)
                try:
                    return await execution.carry()
                finally:
                    self._executions.discard(execution)
        finally:
            self._waiting_alone -= 1
            self._has_room()

    async def _fail_poison(self, store: Checkpointer, tail: Checkpoint, deaths: int, loaded: LoadedGraph) -> None:
        """Record that a run failed that has ended too many processes."""
        what = (
            f"{deaths} processes in a row ended while they executed run {tail.run_id!r}, the last ones without any"
            " other run in them"
        )
        record = poison_record(tail, new_executor_id(), what)
        await dispatch.write(store, record, keyring=loaded.graph._keyring)
        self._suspects.discard(tail.run_id)
        self._metrics.poisoned += 1
        self._metrics.executions["failed"] += 1
        assert record.error is not None
        LOGGER.error("run %s: %s", tail.run_id, record.error.message, extra=facts(tail.run_id, record.step))

    async def _retry(
        self,
        store: Checkpointer,
        failed: Checkpoint,
        read_step: Callable[[int], Any],
        loaded: LoadedGraph,
    ) -> None:
        """Queue a failed run for another attempt, if it is to have one."""
        delay = await self._retries.delay(failed, read_step)
        if delay is None or failed.queue is None:
            return
        due = self._now() + timedelta(seconds=delay)
        entry = QueueEntry.model_validate({**failed.queue.model_dump(), "not_before": due})
        record = queued_again(failed, entry, executor_id=new_executor_id())
        await dispatch.write(store, record, keyring=loaded.graph._keyring)
        self._metrics.retries += 1
        LOGGER.info(
            "run %s: it is tried again in %.1f s", failed.run_id, delay, extra=facts(failed.run_id, record.step)
        )
