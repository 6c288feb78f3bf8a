"""A worker: opens a store, looks at its queues as long as it is not drained, and makes a task of each run it takes."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stargraph.checkpoint.driver import ReadOnly
from stargraph.checkpoint.protocol import (
    Checkpointer,
    Presence,
    ProcessInfo,
    ProcessPresence,
    RunQueue,
    WorkerInfo,
    is_queue_name,
)
from stargraph.engine import Durability, Middleware
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StargraphError, StoreUnavailableError
from stargraph.graph import Graph
from stargraph.graph._given import as_accepted
from stargraph.graph._options import RunOptions
from stargraph.graph._presence import BEAT_SECONDS, BEATEN_FOR
from stargraph.graph._resume_checks import Accept
from stargraph.runtime._given import check_checkpointer, check_count, check_flags, check_seconds, check_type
from stargraph.worker._claims import Claims
from stargraph.worker._endpoint import Endpoint, check_listen
from stargraph.worker._execution import LOGGER, reason_of
from stargraph.worker._heartbeat import LoopHeartbeat, ThreadHeartbeat
from stargraph.worker._metrics import WorkerMetrics
from stargraph.worker._observer import QueueObserver
from stargraph.worker._outage import note_end_of_outage, note_outage
from stargraph.worker._retries import RunRetries
from stargraph.worker._schedules import SCHEDULE_SECONDS, Scheduler
from stargraph.worker._signals import on_signals
from stargraph.worker._source import StoreSource
from stargraph.worker._taken import TakenRuns
from stargraph.worker._versions import Versions

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
        concurrency: how many runs it executes at once at most; 1 or more.
        retries: how often a failed run is tried again; not at all by default.
        silent_after: after how many seconds of silence another process counts as gone, and its runs are taken.
        isolate_after: a run that has ended this many processes, 1 or more, is executed alone, in a process of its own.
        poison_after: a run that has ended this many processes, more than `isolate_after`, fails, with the reason
            `poison`.
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
        TypeError: `store` is neither an address nor a checkpointer, or another argument is not what it should be.
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
        if not isinstance(store, StoreSource):
            check_checkpointer(store, "store", "give the address of a store, or a checkpointer")
        if isinstance(queues, str) or not queues:
            raise ValueError(f"queues is {queues!r}: give a tuple of names, as in ('default',)")
        check_type(queues, "queues", Iterable, "a tuple of names, as in ('default',)")
        check_flags(until_idle=until_idle, handle_signals=handle_signals)
        queues = tuple(queues)
        for queue in queues:
            if not is_queue_name(queue):
                raise ValueError(f"queues holds {queue!r:.80}, which cannot name a queue")
        check_count(concurrency, "concurrency", least=1)
        check_count(isolate_after, "isolate_after", least=1)
        check_count(poison_after, "poison_after", least=isolate_after + 1)
        check_seconds(silent_after, "silent_after", above_zero=True)
        check_seconds(poll, "poll", above_zero=True)
        check_seconds(grace, "grace")
        if retries is not None and not isinstance(retries, RunRetries):
            raise TypeError(f"retries is {retries!r:.80}: give RunRetries, as in RunRetries(attempts=3)")
        if listen is not None:
            check_listen(listen)
        self.process = ProcessInfo.current()
        self.metrics = WorkerMetrics(concurrency=concurrency)
        self.address: str | None = None
        self._source = store if isinstance(store, StoreSource) else None
        self._given = None if isinstance(store, StoreSource) else store
        self._accept = as_accepted(accept)
        self._versions = Versions(graphs, self._accept)
        self._queues = queues
        self._concurrency = concurrency
        self._silent_after = silent_after
        self._poll = poll
        self._grace = grace
        self._listen = listen
        self._until_idle = until_idle
        self._handle_signals = handle_signals
        self._tasks: dict[asyncio.Task[None], str] = {}
        # Those that only have to end: their runs may be taken again.
        self._ending: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._clock_offset = timedelta()
        self._scheduler = Scheduler(self._versions.by_id)
        self._look_at_schedules = 0.0
        self._damage: str | None = None
        self._is_running = False
        self._run_options = RunOptions(durability=durability, middleware=middleware)
        self._retries = retries or RunRetries()
        self._isolate_after = isolate_after
        self._poison_after = poison_after
        self._taken = self._new_taken_runs()

    def __repr__(self) -> str:
        return f"Worker({', '.join(self._queues)}; {', '.join(version.graph_id for version in self._versions.all)})"

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the runs that it executes now."""
        return tuple(run_id for task, run_id in self._tasks.items() if task not in self._ending)

    def drain(self) -> None:
        """Take no more runs, and leave those that are executed to other workers once their running nodes have ended."""
        if self._tasks and not self.metrics.is_draining:
            LOGGER.info("the worker drains: %d runs have %g s to come to rest", len(self._tasks), self._grace)
        self.metrics.is_draining = True
        self._taken.pause()
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
        # What is bound to an event loop, since a worker may run again, on another loop.
        self._wake = asyncio.Event()
        self._taken = self._new_taken_runs()
        self._look_at_schedules = 0.0
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
            self.metrics.is_draining = False
            self.address = None
        executed = ", ".join(f"{count} {status}" for status, count in sorted(self.metrics.executions.items()))
        LOGGER.info("the worker has ended: %s", executed or "no run was executed")
        return self.metrics

    def _new_taken_runs(self) -> TakenRuns:
        return TakenRuns(
            self.metrics,
            source=self._source,
            options=self._run_options,
            accept=self._accept,
            retries=self._retries,
            isolate_after=self._isolate_after,
            poison_after=self._poison_after,
            grace=self._grace,
            now=self._now,
            has_room=self._wake.set,
            gives_up=self._give_up,
        )

    async def _open(self, stack: AsyncExitStack) -> Checkpointer:
        """Return the store, once it can serve workers."""
        store = self._given
        if self._source is not None:
            store = opened = self._source.open()
            stack.push_async_callback(opened.close)
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
        """Say in the store that this worker lives, until the stack is left; learn the store's time by it."""
        assert isinstance(store, Presence)
        seconds = min(BEAT_SECONDS, self._silent_after / 3)
        is_new = self.process.id not in [each.process.id for each in await _processes(store)]
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
            seen = [each for each in await _processes(store) if each.process.id == self.process.id]
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
        """Take runs while the worker is not drained, then wait until those that are executed have come to rest."""
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
                is_idle = not self._tasks  # not after the look, during which one may end that leaves its run
                taken = await self._take(store, claims)
                if self._until_idle and is_idle and not taken and self.metrics.outage_since is None:
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
            note_outage(self.metrics, error)
        except CheckpointCorruptedError as error:  # which is no reason to let runs wait
            if str(error) != self._damage:
                LOGGER.error("no run of a schedule is enqueued: %s", error)
            self._damage = str(error)
        else:
            self._damage = None

    async def _rest(self) -> None:
        """Wait until a run ends, or for the next look at the queues."""
        is_full = len(self._tasks) >= self._concurrency or self._taken.is_crowded
        # Workers that started together do not look together. No jitter of quality is needed.
        pause = None if is_full else self._poll * random.uniform(0.5, 1.5)  # noqa: S311  # no secret
        try:
            await asyncio.wait_for(self._wake.wait(), pause)
        except TimeoutError:
            return

    async def _end_executions(self) -> None:
        """Wait until all runs have come to rest; cancel those that take longer than the grace."""
        self.drain()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._grace + _LATE_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, store: Checkpointer, claims: Claims) -> int:
        """Take as many runs as there is room for, and return how many they are."""
        room = self._concurrency - len(self._tasks)
        if room <= 0 or self._taken.is_crowded:
            return 0
        try:
            taken = await claims.take(room, self.running)
        except StoreUnavailableError as error:
            note_outage(self.metrics, error)
            return 0
        note_end_of_outage(self.metrics)
        for claim in taken:
            self.metrics.claims += 1
            task = asyncio.ensure_future(self._taken.execute(store, claims, claim))
            self._tasks[task] = claim.run.run_id
            self.metrics.running = len(self._tasks)
            task.add_done_callback(self._ended)
        return len(taken)

    def _give_up(self, run_id: str) -> None:
        """Let a run be taken again although the task that executed it has not quite ended."""
        self._ending.update(task for task, executed in self._tasks.items() if executed == run_id)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Make room for another run, and log what a task raised."""
        run_id = self._tasks.pop(task)
        self._ending.discard(task)
        self.metrics.running = len(self._tasks)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.error("run %s: the worker could not execute it: %s", run_id, reason_of(error))
            LOGGER.debug("run %s: why", run_id, exc_info=error)


async def _processes(store: Presence) -> list[ProcessPresence]:
    """Return the processes of a store; none if what it says of one is damaged, which costs punctuality alone."""
    try:
        return await store.processes()
    except CheckpointCorruptedError as error:
        LOGGER.error("the worker goes on without the list of processes: %s", error)
        return []
