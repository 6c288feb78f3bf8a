"""A worker: takes runs from the queues of a store, and executes them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stargraph.checkpoint.driver import ReadOnly
from stargraph.checkpoint.protocol import (
    Checkpoint,
    Checkpointer,
    Closing,
    Presence,
    ProcessInfo,
    QueueEntry,
    RunQueue,
    RunSummary,
    WorkerInfo,
)
from stargraph.engine import Durability, Middleware, facts, new_executor_id
from stargraph.errors import CheckpointConflictError, CheckpointError, StargraphError, StoreUnavailableError
from stargraph.graph import Graph
from stargraph.graph._options import RunOptions
from stargraph.graph._presence import BEAT_SECONDS, BEATEN_FOR
from stargraph.graph._queue import queued_again
from stargraph.graph._records import poison_record
from stargraph.graph._run import Accept
from stargraph.runtime import dispatch
from stargraph.worker._claims import Claim, Claims
from stargraph.worker._endpoint import Endpoint
from stargraph.worker._execution import LOGGER, LostRunError, RefusedRunError, RunExecution, reason_of
from stargraph.worker._heartbeat import LoopHeartbeat, ThreadHeartbeat
from stargraph.worker._isolation import IsolatedExecution
from stargraph.worker._metrics import WorkerMetrics
from stargraph.worker._observer import QueueObserver
from stargraph.worker._retries import RunRetries, setbacks
from stargraph.worker._schedules import SCHEDULE_SECONDS, Scheduler
from stargraph.worker._signals import on_signals
from stargraph.worker._source import StoreSource
from stargraph.worker._versions import LoadedGraph, Versions

_LATE_SECONDS: Final = 10.0
"""How long after the grace a drain may take: the store still has to take what was done."""


class Worker:
    """Takes runs from the queues of a store and executes them, until it is drained.

    It takes queued runs that are due, runs that wait for a time that has come, runs whose answer has come, and those
    whose process is gone. Two workers never execute a step of a run twice: the append of the one that lost a run is
    refused.

    Args:
        store: the store: its address, or a handle. With an address, the worker says from a thread of its own that it
            lives, and gives a suspicious run a process of its own; a handle serves the event loop alone.
        graphs: graphs, or their names as `Graph.load` takes them; several versions of one graph may be among them.
        queues: the queues to serve.
        concurrency: how many runs it executes at once at most.
        retries: how often a failed run is tried again; not at all by default.
        silent_after: after how many seconds of silence another process counts as gone, and its runs are taken.
        isolate_after: a run that has ended this many processes is executed alone, in a process of its own.
        poison_after: a run that has ended this many processes fails, with the reason `poison`.
        poll: seconds between two looks at idle queues, on average.
        grace: seconds that running nodes have to end when the worker is drained.
        accept: execute runs although `runtime` (the code of the nodes) or `graph` has changed.
        durability: when a step is durable, as for `Graph.start`.
        middleware: wraps each run, as for `Graph.start`; not one in a process of its own.
        listen: host and port of the endpoint that answers `/health`, `/ready` and `/metrics`; None for no endpoint.
        until_idle: end when nothing is left that can go on now.
        handle_signals: drain at the first SIGTERM or SIGINT, and end the process at the second.

    Attributes:
        metrics: what it has done.
        process: how it names itself in the store.
        address: where the endpoint listens, as `host:port`; None without one.

    Raises:
        GraphError: a graph cannot be loaded.
        TypeError: `store` is neither an address nor a checkpointer.
        ValueError: a number is out of bounds, or there is no graph or no queue.
    """

    def __init__(
        self,
        store: Checkpointer | StoreSource | str | os.PathLike[str],
        graphs: Graph[Any] | str | Sequence[Graph[Any] | str],
        queues: Sequence[str] = ("default",),
        *,
        concurrency: int = 8,
        retries: RunRetries | None = None,
        silent_after: float = 30.0,
        isolate_after: int = 2,
        poison_after: int = 4,
        poll: float = 1.0,
        grace: float = 30.0,
        accept: Sequence[Accept] = (),
        durability: Durability = "sync",
        middleware: Sequence[Middleware] = (),
        listen: tuple[str, int] | None = None,
        until_idle: bool = False,
        handle_signals: bool = True,
    ) -> None:
        if isinstance(store, (str, os.PathLike)):
            store = StoreSource(os.fspath(store))
        if not isinstance(store, (StoreSource, Checkpointer)):
            raise TypeError(f"store is {store!r:.80}: give the address of a store, or a checkpointer")
        if isinstance(queues, str) or not queues:
            raise ValueError(f"queues is {queues!r}: give a tuple of names, as in ('default',)")
        for name, number, least in (
            ("concurrency", concurrency, 1),
            ("isolate_after", isolate_after, 1),
            ("poison_after", poison_after, isolate_after + 1),
        ):
            if number < least:
                raise ValueError(f"{name} is {number!r}: give {least} or more")
        for what, seconds in (("silent_after", silent_after), ("poll", poll)):
            if not seconds > 0:
                raise ValueError(f"{what} is {seconds!r}: give seconds, more than 0")
        if not grace >= 0:
            raise ValueError(f"grace is {grace!r}: give seconds, 0 or more")
        self.process = ProcessInfo.current()
        self.metrics = WorkerMetrics(concurrency=concurrency)
        self.address: str | None = None
        self._source = store if isinstance(store, StoreSource) else None
        self._given = None if isinstance(store, StoreSource) else store
        self._versions = Versions(graphs, accept)
        self._queues = tuple(queues)
        self._concurrency = concurrency
        self._retries = retries or RunRetries()
        self._silent_after = silent_after
        self._isolate_after = isolate_after
        self._poison_after = poison_after
        self._poll = poll
        self._grace = grace
        self._accept = tuple(accept)
        self._options = RunOptions(durability=durability, middleware=middleware)
        self._listen = listen
        self._until_idle = until_idle
        self._handle_signals = handle_signals
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._executions: set[RunExecution | IsolatedExecution] = set()
        self._wake = asyncio.Event()
        self._room = asyncio.Condition()
        self._waiting_alone = 0
        # Runs that ended a process of their own: a node that completes before that clears them in the log alone.
        self._suspects: set[str] = set()
        self._clock_offset = timedelta()
        self._scheduler = Scheduler(self._versions.by_id)
        self._look_at_schedules = 0.0
        self._is_running = False

    def __repr__(self) -> str:
        return f"Worker({', '.join(self._queues)}; {', '.join(version.graph_id for version in self._versions.all)})"

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the runs that it executes now."""
        return tuple(self._tasks.values())

    def drain(self) -> None:
        """Take no more runs, and leave those that are executed to other workers once their running nodes have ended."""
        if self._tasks and not self.metrics.is_draining:
            LOGGER.info("the worker drains: %d runs have %g s to come to rest", len(self._tasks), self._grace)
        self.metrics.is_draining = True
        for execution in self._executions:
            execution.pause(self._grace)
        self._wake.set()

    async def run(self) -> WorkerMetrics:
        """Take runs and execute them, until the worker is drained; then leave the store.

        Returns:
            What it has done.

        Raises:
            CheckpointError: the store cannot be opened, or cannot serve workers (`reason="not-supported"`).
            StargraphError: the endpoint cannot listen, or the worker runs already (`reason="already-running"`).
        """
        if self._is_running:
            raise StargraphError("this worker runs already", reason="already-running", hint="Make another Worker.")
        self._is_running = True
        try:
            async with AsyncExitStack() as stack:
                store = await self._open(stack)
                if self._listen is not None:
                    endpoint = Endpoint(*self._listen, self.metrics, self._silent_after)
                    stack.callback(endpoint.close)
                    self.address = endpoint.address
                    LOGGER.info("the endpoint listens on http://%s", self.address)
                await self._begin_heartbeat(store, stack)
                if self._handle_signals:
                    stack.enter_context(on_signals(self.drain))
                LOGGER.info(
                    "worker %s (process %s) serves %s",
                    self.process.worker or self.process.host,
                    self.process.id,
                    ", ".join(self._queues),
                )
                await self._serve(store)
        finally:
            self._is_running = False
        LOGGER.info("the worker has ended: %s", dict(self.metrics.executions) or "no run was executed")
        return self.metrics

    async def _open(self, stack: AsyncExitStack) -> Checkpointer:
        store = self._given
        if self._source is not None:
            store = self._source.open()
            if isinstance(store, Closing):
                stack.push_async_callback(store.close)
        assert store is not None
        await store.bootstrap()
        if not (isinstance(store, RunQueue) and isinstance(store, Presence)):
            raise CheckpointError(
                f"the driver {type(store).__name__} has no queues: it lacks the capabilities RunQueue and Presence",
                reason="not-supported",
                hint="SQLite, PostgreSQL and S3 stores have them.",
            )
        if isinstance(store, ReadOnly) and store.read_only:
            raise CheckpointError(
                "a worker cannot use a store that was opened read-only",
                reason="read-only",
                hint="Open it without read_only.",
            )
        return store

    async def _begin_heartbeat(self, store: Checkpointer, stack: AsyncExitStack) -> None:
        assert isinstance(store, Presence)
        seconds = min(BEAT_SECONDS, self._silent_after / 3)
        is_new = all(each.process.id != self.process.id for each in await store.processes())
        began = datetime.now(UTC)
        beat = (
            LoopHeartbeat(store, self._describe, seconds, self.metrics)
            if self._source is None
            else ThreadHeartbeat(self._source.open, self._describe, seconds, self.metrics)
        )
        stack.push_async_callback(beat.stop)
        await beat.start()
        if is_new:
            # The first beat tells the store's time: what is due later is due by that.
            seen = [each for each in await store.processes() if each.process.id == self.process.id]
            self._clock_offset = seen[0].first_seen - began if seen else timedelta()

    def _describe(self) -> WorkerInfo:
        """Return what this worker says of itself in the store."""
        return WorkerInfo(
            **dict(self.process),
            queues=self._queues,
            serves=self._versions.all,
            refuses=self.metrics.refused,
        )

    async def _serve(self, store: Checkpointer) -> None:
        assert isinstance(store, RunQueue)
        observer = QueueObserver(store, self._queues, self.metrics, now=self._now, seconds=15 * self._poll)
        observing = asyncio.ensure_future(observer.run())
        token = BEATEN_FOR.set(store)
        claims = Claims(
            store,
            self.process.id or "",
            self._queues,
            self._versions,
            silent_after=self._silent_after,
            metrics=self.metrics,
        )
        try:
            while not self.metrics.is_draining:
                self._wake.clear()
                await self._enqueue_due(store)
                taken = await self._take(store, claims)
                if self._until_idle and not taken and not self._tasks and self.metrics.outage_since is None:
                    break
                if taken and len(self._tasks) < self._concurrency:
                    continue
                await self._rest()
        finally:
            observing.cancel()
            await asyncio.gather(observing, return_exceptions=True)
            BEATEN_FOR.reset(token)
            await self._end_executions()

    def _now(self) -> datetime:
        """Return the time by the clock of the store."""
        return datetime.now(UTC) + self._clock_offset

    async def _enqueue_due(self, store: Checkpointer) -> None:
        """Enqueue the runs of schedules that are due, now and then."""
        now = time.monotonic()
        if now < self._look_at_schedules:
            return
        self._look_at_schedules = now + SCHEDULE_SECONDS
        try:
            await self._scheduler.enqueue_due(store, self._now())
        except StoreUnavailableError as error:
            self._note_outage(error)

    async def _rest(self) -> None:
        """Wait until a run ends, or for the next look at the queues."""
        is_full = len(self._tasks) >= self._concurrency or self._waiting_alone
        # Workers that started together do not look together. No jitter of quality is needed.
        pause = None if is_full else self._poll * random.uniform(0.5, 1.5)  # noqa: S311  # no secret
        try:
            await asyncio.wait_for(self._wake.wait(), pause)
        except TimeoutError:
            return

    async def _end_executions(self) -> None:
        self.drain()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace + _LATE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, store: Checkpointer, claims: Claims) -> int:
        """Take as many runs as there is room for, and return how many they are."""
        room = self._concurrency - len(self._tasks)
        if room <= 0 or self._waiting_alone:
            return 0
        try:
            taken = await claims.take(room, self._tasks.values())
        except StoreUnavailableError as error:
            self._note_outage(error)
            return 0
        self._note_end_of_outage()
        for claim in taken:
            self.metrics.claims += 1
            task = asyncio.ensure_future(self._execute(store, claims, claim))
            self._tasks[task] = claim.run.run_id
            self.metrics.running = len(self._tasks)
            task.add_done_callback(self._ended)
        return len(taken)

    def _note_outage(self, error: StoreUnavailableError) -> None:
        self.metrics.store_errors += 1
        if self.metrics.outage_since is None:
            self.metrics.outage_since = time.monotonic()
            LOGGER.warning("the store cannot be reached (%s); the worker waits for it", error.reason)

    def _note_end_of_outage(self) -> None:
        if self.metrics.outage_since is not None:
            seconds = time.monotonic() - self.metrics.outage_since
            self.metrics.outage_since = None
            LOGGER.warning("the store can be reached again, after %.1f s", seconds)

    def _ended(self, task: asyncio.Task[None]) -> None:
        run_id = self._tasks.pop(task)
        self.metrics.running = len(self._tasks)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.error("run %s: the worker could not execute it: %s", run_id, reason_of(error))
            LOGGER.debug("run %s: why", run_id, exc_info=error)

    async def _execute(self, store: Checkpointer, claims: Claims, claim: Claim) -> None:
        claimed, loaded = claim
        run_id, keyring = claimed.run_id, loaded.graph._keyring

        async def read_step(step: int) -> Checkpoint | None:
            return await dispatch.read_at_step(store, run_id, step, keyring=keyring)

        try:
            deaths = 0
            if claimed.status == "running" and claimed.process is not None:
                tail = await dispatch.read_run(store, run_id, keyring=keyring)
                if tail.step != claimed.last_step:
                    raise LostRunError("somebody has gone on with it")
                self.metrics.takeovers += 1
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
            self.metrics.executions[latest.status] += 1
            if latest.status == "failed":
                await self._retry(store, latest, read_step, loaded)
        except (LostRunError, CheckpointConflictError) as lost:
            self.metrics.executions["lost"] += 1
            LOGGER.info("run %s: %s", run_id, lost, extra=facts(run_id, claimed.last_step))
        except StoreUnavailableError as error:
            self._note_outage(error)
        except RefusedRunError as refusal:
            self.metrics.executions["refused"] += 1
            claims.refuse(run_id, claimed.last_step)
            LOGGER.error("run %s: it cannot be executed: %s", run_id, refusal, extra=facts(run_id, claimed.last_step))
        except StargraphError as error:
            self.metrics.executions["refused"] += 1
            claims.refuse(run_id, claimed.last_step)
            LOGGER.error(
                "run %s: it cannot be executed: %s", run_id, reason_of(error), extra=facts(run_id, claimed.last_step)
            )

    @asynccontextmanager
    async def _at_work(self, execution: RunExecution | IsolatedExecution) -> AsyncIterator[None]:
        """Keep an execution among those that a drain pauses; it begins when no run has to be alone here."""
        async with self._room:
            self._executions.add(execution)
        if self.metrics.is_draining:
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
        self.metrics.isolated += 1
        LOGGER.warning(
            "run %s: %d processes ended while they executed it; it is executed alone",
            claimed.run_id,
            deaths,
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
            await execution.carry()
        latest = await dispatch.read_run(store, claimed.run_id, keyring=loaded.graph._keyring)
        if latest.status == "running":
            self._suspects.add(claimed.run_id)
            return None
        self._suspects.discard(claimed.run_id)
        return latest

    async def _alone_here(self, execution: RunExecution) -> Checkpoint:
        """Execute a run while no other run is executed in this process."""
        self._waiting_alone += 1
        try:
            async with self._room:  # which nothing else enters meanwhile
                await self._room.wait_for(lambda: not self._executions or self.metrics.is_draining)
                if self.metrics.is_draining:
                    raise LostRunError("the worker stops")
                self._executions.add(execution)
                try:
                    return await execution.carry()
                finally:
                    self._executions.discard(execution)
        finally:
            self._waiting_alone -= 1
            self._wake.set()

    async def _fail_poison(self, store: Checkpointer, tail: Checkpoint, deaths: int, loaded: LoadedGraph) -> None:
        what = (
            f"{deaths} processes in a row ended while they executed run {tail.run_id!r}, the last ones without any"
            " other run in them"
        )
        record = poison_record(tail, new_executor_id(), what)
        await dispatch.write(store, record, keyring=loaded.graph._keyring)
        self._suspects.discard(tail.run_id)
        self.metrics.poisoned += 1
        self.metrics.executions["failed"] += 1
        assert record.error is not None
        LOGGER.error("run %s: %s", tail.run_id, record.error.message, extra=facts(tail.run_id, record.step))

    async def _retry(
        self,
        store: Checkpointer,
        failed: Checkpoint,
        read_step: Callable[[int], Any],
        loaded: LoadedGraph,
    ) -> None:
        """Queue a failed run for another try, if it is to have one."""
        delay = await self._retries.delay(failed, read_step)
        if delay is None or failed.queue is None:
            return
        due = self._now() + timedelta(seconds=delay)
        entry = QueueEntry.model_validate({**failed.queue.model_dump(), "not_before": due})
        record = queued_again(failed, entry, executor_id=new_executor_id())
        await dispatch.write(store, record, keyring=loaded.graph._keyring)
        self.metrics.retries += 1
        LOGGER.info(
            "run %s: it is tried again in %.1f s", failed.run_id, delay, extra=facts(failed.run_id, record.step)
        )
