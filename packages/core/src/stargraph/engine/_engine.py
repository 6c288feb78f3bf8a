"""The engine: runs what the frontier names and appends what comes of it."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from stargraph.checkpoint.protocol import ENDED, Checkpoint, Event, ProcessInfo, RecordedCall, Task
from stargraph.engine._attempts import NodeFailed
from stargraph.engine._call_log import CallLog
from stargraph.engine._due_times import DueTimes
from stargraph.engine._events import EventType, RunEvent
from stargraph.engine._failures import error_info, name_of, node_cancelled
from stargraph.engine._fork_overrides import ForkOverrides
from stargraph.engine._log import RunLog, StoppedElsewhere
from stargraph.engine._logging import log_completed, log_failed
from stargraph.engine._middleware import Hooks
from stargraph.engine._node_pools import CANCEL_SECONDS, NodePools
from stargraph.engine._pending_tasks import PendingTasks
from stargraph.engine._plan import Plan
from stargraph.engine._questions import Suspended
from stargraph.engine._subgraph import ChildPausedError, Children, Pause, StoreFaultError, cancel_children
from stargraph.engine._task_runner import TaskRunner
from stargraph.engine._transitions import Updates, answered, asked, called, completed, failed, tasks_of
from stargraph.engine._watcher import LogWatcher
from stargraph.errors import NodeError, StargraphError
from stargraph.runtime import dispatch


def new_executor_id() -> str:
    """Return the name of an executor: the id of this process, and 16 random hex digits."""
    return f"{ProcessInfo.current().id}{secrets.token_hex(8)}"


@dataclass(slots=True)
class _RunningTask:
    """A task of the frontier that runs, when it began, and its calls."""

    task: Task
    started_at: datetime
    call_log: CallLog
    work: asyncio.Task[Updates]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How a run and its child runs are executed.

    Attributes:
        executor_id: names this executor in every checkpoint that it writes.
        pools: where sync nodes run.
        publish: called with each event, after its checkpoint was appended.
        is_heard: whether anybody listens; events are made for nobody else.
        watch: the longest time in seconds between two looks at the log while nodes run; 0 never looks.
        hooks: stand around nodes, calls and child runs.
        record_attempts: record each attempt that failed at once.
        waits_here: wait here for the times that tasks wait for, if nothing else is left to do.
        as_of: a time that has come, whatever the clock says.
    """

    executor_id: str
    pools: NodePools
    publish: Callable[[RunEvent], None]
    is_heard: Callable[[], bool]
    watch: float
    hooks: Hooks
    record_attempts: bool
    waits_here: bool
    as_of: datetime | None


class Engine:
    """Runs one run until nothing is left to do, or until it is asked to stop.

    Args:
        plan: the graph.
        log: the log of the run.
        options: how it is executed.
        overrides: what this run does differently from its graph.
        asks_again: run tasks with open questions once, since another graph or other code may ask something else.
    """

    def __init__(
        self, plan: Plan, log: RunLog, options: EngineOptions, *, overrides: ForkOverrides, asks_again: bool
    ) -> None:
        hooks, pools = options.hooks, options.pools
        self._due_times = DueTimes(waits_here=options.waits_here, as_of=options.as_of)
        self._plan = plan
        self._record_attempts = options.record_attempts
        self._log = log
        self._executor_id = options.executor_id
        self._publish = options.publish
        self._is_heard = options.is_heard
        self._overrides = overrides
        self._pools = pools
        self._children = Children(
            plan,
            log,
            executor_id=options.executor_id,
            spawn=lambda child_plan, child_log, changed: Engine(
                child_plan,
                child_log,
                options,
                overrides=ForkOverrides(effects=overrides.effects),
                asks_again=changed,
            ),
            hooks=hooks,
        )
        self._hooks = hooks
        self._pending_tasks = PendingTasks(plan, log.read_step, log.read_steps)
        self._runner = TaskRunner(
            plan, self._pending_tasks, pools=pools, run_child=self._children.run, overrides=overrides, hooks=hooks
        )
        self._running: dict[str, _RunningTask] = {}
        self._failure: tuple[Task, BaseException, tuple[RecordedCall, ...], int | None] | None = None
        self._failed: set[str] = set()
        self._recording: set[asyncio.Task[Any]] = set()
        self._fault: BaseException | None = None
        self._stop: Literal["pause", "cancel"] | None = None
        self._requeues = False
        self._is_pause_requested = False
        self._deadline: float | None = None
        self._answered: set[str] = set()
        self._asks_again = asks_again
        self._nodes_done: int | None = None
        # Set by the end of a task too, so that the tasks that go on need not be asked.
        self._signal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watcher = LogWatcher(log, seconds=options.watch, failed=self._fail_execution)
        log.on_foreign_event = self.observe
        log.on_fault = self._wake

    async def run(self) -> None:
        """Run the nodes of the frontier, and those that follow, until none is left that can run.

        Raises:
            CheckpointConflictError: another executor has taken the run over.
            CheckpointError: as the store raises.
        """
        try:
            self._watcher.start()
            await self._pending_tasks.load(self._log.tail)
            self._answered |= self._children.asking(self._log.tail)
            if self._asks_again:
                self._answered |= {interrupt.task_id for interrupt in self._log.tail.interrupts}
            while True:
                if self._log.tail.interrupts:
                    await self._end_waits()
                if self._nodes_done is None and self._log.tail.step >= self._plan.document.max_steps:
                    await self._count_nodes()
                self._start_ready_tasks()
                busy = self._is_busy() and await self._wait()
                self._raise_fault()
                if busy:
                    if self._log.has_fault:
                        await self._log.flush()
                    await self._settle([running for running in self._running.values() if running.work.done()])
                    continue
                await self._record_end()
                await self._log.flush()
                # An answer or a cancellation may have met the last write.
                if not self._can_go_on():
                    break
        except StoppedElsewhere:
            pass  # Somebody has cancelled or paused the run meanwhile; the log's tail says so.
        finally:
            try:
                # A second cancellation must not leave anything of this execution behind.
                await dispatch.run_uncancelled(self._wind_down())
                if self._recording:
                    # Those of threads, which nobody can cancel.
                    await asyncio.wait(self._recording)
            finally:
                await self._log.wind_down()

    def pause(self, pause: Pause) -> None:
        """Start nothing more, and let what runs end.

        Args:
            pause: how long that may take, and who goes on with the run.
        """
        self._stop = self._stop or "pause"
        self._requeues = pause.requeue
        self._deadline = asyncio.get_running_loop().time() + pause.grace
        self._children.pause(pause)
        self._wake()

    def cancel(self) -> None:
        """Cancel what runs, and end the run as cancelled."""
        self._stop = "cancel"
        self._wake()

    def observe(self, record: Checkpoint) -> None:
        """Take note of what others have recorded: an answer, a request to cancel or to pause, or that it was done.

        Args:
            record: its checkpoint, which is in the log.
        """
        self._pending_tasks.note_calls(record)
        self._answered |= {call.task_id for call in record.calls if call.kind == "answer"}
        if record.event in ("cancel_requested", "cancelled"):
            self._stop = "cancel"
        elif record.event == "pause_requested":
            self._is_pause_requested = True
            if self._stop is None:
                self.pause(Pause(math.inf))  # whoever asked takes the run when it has waited long enough
        elif record.event == "paused":
            self.pause(Pause(0))
        self._publish(RunEvent.of(record))
        self._wake()

    def _is_busy(self) -> bool:
        """Whether to wait for tasks that run, or, if this process is to wait for it, for a time that one waits for."""
        if self._stop == "cancel":
            return False
        return bool(self._running) or (self._due_times.waits_here and self._seconds_until_due() is not None)

    async def _wait(self) -> bool:
        """Wait until a task ends, a time has come or somebody calls; False if the time to pause is over."""
        loop = asyncio.get_running_loop()
        left = None if self._deadline is None else max(self._deadline - loop.time(), 0)
        due = self._seconds_until_due()
        if left is None and due is None:
            await self._signal
        else:
            await asyncio.wait([self._signal], timeout=min(each for each in (left, due) if each is not None))
        is_called = self._signal.done()
        if is_called:
            self._signal = loop.create_future()
        return is_called or self._deadline is None or loop.time() < self._deadline

    def _seconds_until_due(self) -> float | None:
        """Return the seconds until the next time that a task waits for; None if none does, or nothing may start."""
        if self._stop is not None or self._failure is not None:
            return None
        return self._due_times.seconds_left(self._log.tail)

    async def _end_waits(self) -> None:
        """Record the waits that are over; the tasks then run again."""
        if self._stop is not None or self._failure is not None:
            return
        for wait in self._due_times.take(self._log.tail):
            if wait.child_run_id is None:
                over = partial(answered, interrupt=wait, value=None)
                record = await self._append("answered", self._task(wait.task_id), over)
                self._pending_tasks.note_calls(record)
            # Of a child run, its own engine records it.
            self._answered.add(wait.task_id)

    def _task(self, task_id: str) -> Task | None:
        """Return a task of the frontier by its id, or None if absent."""
        return next((task for task in tasks_of(self._log.tail.frontier) if task.id == task_id), None)

    def _fail_execution(self, fault: BaseException) -> None:
        """End this execution, and not the run."""
        self._fault = self._fault or fault
        self._wake()

    async def _run_task(self, tail: Checkpoint, task: Task, call_log: CallLog) -> Updates:
        """Run a task to its end, and wake the loop that records what came of it."""
        try:
            return await self._runner.run(tail, task, call_log)
        finally:
            self._wake()  # a turn of the loop earlier than `_on_task_done` would

    def _on_task_done(self, task_id: str, _work: object) -> None:
        """Wake the loop for a task that has ended, also for one that was cancelled before it began."""
        if task_id in self._running:
            self._wake()

    def _wake(self) -> None:
        """Let `_wait` go on."""
        if not self._signal.done():
            self._signal.set_result(None)

    async def _wind_down(self) -> None:
        """Stop what runs beside the loop: the look at the log, and the tasks."""
        await self._watcher.stop()
        await self._stop_tasks()

    async def _stop_tasks(self) -> None:
        """Cancel all tasks, and wait until they have ended; give up those that do not end in time."""
        tasks = list(self._running.values())
        self._running.clear()
        for running in tasks:
            running.work.cancel()
        of_nodes = {running.work for running in tasks if running.task.node not in self._plan.children}
        if of_nodes:
            await asyncio.wait(of_nodes, timeout=2 * CANCEL_SECONDS)
        # Those of child runs stop their own nodes, and end.
        await asyncio.gather(*({running.work for running in tasks} - of_nodes), return_exceptions=True)
        for running in tasks:
            if running.work.done():
                running.work.cancelled() or running.work.exception()
            else:
                # It has caught its cancellation. What it does from now on is not recorded.
                running.call_log.close()
                self._pools.give_up(running.work, f"{self._log.tail.run_id}/{running.task.id}")

    def _ready_tasks(self) -> list[Task]:
        """Return the tasks of the frontier that neither run nor wait for an answer; none once the run has to stop."""
        if self._failure is not None or self._stop is not None:
            return []
        tail = self._log.tail
        blocked = {interrupt.task_id for interrupt in tail.interrupts} - self._answered
        return [task for task in tasks_of(tail.frontier) if task.id not in self._running and task.id not in blocked]

    def _can_go_on(self) -> bool:
        """Whether the loop has more to do after it has recorded an end."""
        if self._log.tail.status in ENDED:
            return False
        return self._stop == "cancel" or bool(self._ready_tasks()) or self._seconds_until_due() == 0

    def _start_ready_tasks(self) -> None:
        """Start each task that is ready; fail the run if more nodes have completed than the graph allows."""
        tail = self._log.tail
        for task in self._ready_tasks():
            if self._nodes_done is not None and self._nodes_done >= self._plan.document.max_steps:
                self._failure = (task, self._too_many_nodes(task), (), None)
                return
            self._answered.discard(task.id)
            started_at = datetime.now(UTC)
            call_log = CallLog(
                task,
                self._pending_tasks.calls(task),
                record=self._record_call,
                pools=self._pools,
                owner=f"{tail.run_id}/{task.id}",
                effects=self._overrides.effects,
                moment=self._pending_tasks.moment(task),
                run_id=tail.run_id,
                hooks=self._hooks.call,
                tell=self._tell,
                record_attempts=self._record_attempts,
            )
            work = asyncio.ensure_future(self._run_task(tail, task, call_log))
            work.add_done_callback(partial(self._on_task_done, task.id))
            self._running[task.id] = _RunningTask(task, started_at, call_log, work)
            self._tell("node_started", task, started_at, attempt=1)

    async def _count_nodes(self) -> None:
        """Count the nodes that have completed: the run has so many steps that they may be too many."""
        await self._log.flush()
        others = 0
        async for record in self._log.read_steps(range(1, self._log.tail.step + 1)):
            others += record.event != "completed"
        # A step that was pruned counts.
        self._nodes_done = self._log.tail.step - others

    def _too_many_nodes(self, task: Task) -> NodeError:
        most = self._plan.document.max_steps
        remedy = "End the loop of the graph, or raise max_steps" if self._plan.has_loop else "Raise max_steps"
        return NodeError(
            f"{self._nodes_done} nodes of the run have completed, but the graph allows {most} (max_steps)",
            reason="max-steps",
            hint=f"{remedy} in the graph, then resume the run.",
            node=task.node,
        )

    async def _settle(self, tasks: Sequence[_RunningTask]) -> None:
        """Append what came of tasks that have ended; completions that follow each other in one go."""
        completions: list[tuple[_RunningTask, Updates]] = []
        fault: StoreFaultError | None = None
        for running in tasks:
            del self._running[running.task.id]
            try:
                update = self._update_of(running)
            except StoreFaultError as error:
                fault = fault or error
                continue
            if isinstance(update, Suspended):
                await self._record_completions(completions)
                completions = []
                await self._record_questions(running, update)
            elif update is not None:
                completions.append((running, update))
        await self._record_completions(completions)
        if fault is not None:  # of a child run: the others have ended nevertheless, and need not run again
            raise fault.cause from fault

    def _update_of(self, running: _RunningTask) -> Updates | Suspended | None:
        """Return the update of an ended task, or its questions; None if it failed, which is noted, or was paused.

        Raises:
            StoreFaultError: the store of its child run failed.
        """
        try:
            return running.work.result()
        except Suspended as suspended:
            return suspended
        except ChildPausedError:
            return None
        except asyncio.CancelledError:
            # Nothing here cancels a task and then settles it: the node did so itself.
            self._fail(running, node_cancelled(running.task))
        except NodeFailed as failure:
            self._fail(running, failure.error)
        return None

    async def _record_completions(self, completions: Sequence[tuple[_RunningTask, Updates]]) -> None:
        """Append the completions of tasks in one go; one whose update does not fit fails, and the others stay."""
        if not completions:
            return
        branches = self._pending_tasks.branches
        recorded: dict[str, _RunningTask] = {}

        def build(tail: Checkpoint, running: _RunningTask, update: Updates) -> Checkpoint | None:
            try:
                checkpoint = self._completed(tail, running, update, branches)
            except _BuildError as error:
                self._fail(running, error.cause)
                return None
            # The next one of these may be the last branch, which needs the updates of all.
            self._pending_tasks.note_completed(running.task, update, checkpoint)
            recorded[running.task.id] = running
            return checkpoint

        builds = [partial(build, running=running, update=update) for running, update in completions]
        for checkpoint, durable in await self._log.append_all(builds):
            if self._nodes_done is not None:
                self._nodes_done += 1
            running = recorded[checkpoint.task_id or ""]
            task = running.task
            log_completed(checkpoint, task, running.started_at)
            self._report(checkpoint, task, running.call_log.attempt, durable=durable)

    def _raise_fault(self) -> None:
        """Raise why a call could not be recorded; nothing must be appended then, since what is stored is not known."""
        if self._fault is not None:
            raise self._fault

    def _completed(
        self, tail: Checkpoint, running: _RunningTask, update: Updates, branches: Mapping[int, Updates]
    ) -> Checkpoint:
        """Return the checkpoint of a task that has completed, with what follows from its update."""
        self._raise_fault()
        task = running.task
        try:
            # Reducers are user code too.
            changes = completed(self._plan, tail, task, update, branches)
            changes["frontier"] = self._overrides.kept(changes["frontier"])
            return tail.next(
                event="completed",
                executor_id=self._executor_id,
                timestamp=datetime.now(UTC),
                last_node=task.node,
                task_id=task.id,
                task_started_at=running.started_at,
                update=update,
                calls=running.call_log.moments(),
                **changes,
            )
        except BaseException as error:
            raise _BuildError(error) from error

    async def _record_call(self, task: Task, call: RecordedCall) -> bool:
        """Append the outcome of a call; False if that fails, which ends this execution."""
        recording = asyncio.current_task()
        assert recording is not None
        self._recording.add(recording)
        try:
            running = self._running.get(task.id)
            attempt = None if running is None else running.call_log.attempt
            checkpoint = await self._append("called", task, lambda tail: called(tail, call), attempt)
        except asyncio.CancelledError:
            raise
        except BaseException as fault:  # noqa: BLE001  # the node must not meet it: the engine raises it
            self._fail_execution(fault.cause if isinstance(fault, _BuildError) else fault)
            return False
        finally:
            self._recording.discard(recording)
        self._pending_tasks.note_calls(checkpoint)
        return True

    async def _record_questions(self, running: _RunningTask, suspended: Suspended) -> None:
        """Append the questions of a task, unless all of them are open already."""
        task = running.task
        now = datetime.now(UTC)
        moments = running.call_log.moments()
        if asked(self._log.tail, task, suspended.questions, now, ())["interrupts"] == self._log.tail.interrupts:
            return
        try:
            checkpoint = await self._append(
                "asked",
                task,
                lambda tail: asked(tail, task, suspended.questions, now, moments),
                running.call_log.attempt,
            )
        except _BuildError as error:
            self._fail(running, error.cause)
            return
        self._pending_tasks.note_calls(checkpoint)

    async def _record_end(self) -> None:
        """Append why the run stops here: cancelled, failed, paused or queued; nothing if it waits or has ended."""
        if self._log.tail.status in ENDED:
            return
        if self._stop == "cancel":
            await dispatch.run_uncancelled(self._stop_tasks())
            # The run first: one that goes on without having been cancelled must not find its child cancelled.
            await self._append("cancelled", None, lambda tail: {"status": "cancelled"})
            await cancel_children(self._log, self._log.tail, self._executor_id)
        elif self._failure is not None:
            task, error, moments, attempt = self._failure
            info = error_info(error, node=task.node)
            forgotten = self._pending_tasks.failed_calls(self._failed)
            changed = {"calls": moments}
            record = await self._append("failed", task, lambda tail: failed(tail, info, forgotten) | changed, attempt)
            log_failed(record, task)
        elif self._stop == "pause" and self._log.tail.status == "running":
            await dispatch.run_uncancelled(self._stop_tasks())
            if self._requeues and not self._is_pause_requested and self._log.tail.queue is not None:
                await self._append("queued", None, _left_to_workers)
            else:
                await self._append("paused", None, lambda tail: {"status": "paused"})

    async def _append(
        self,
        event: Event,
        task: Task | None,
        changed: Callable[[Checkpoint], dict[str, Any]],
        attempt: int | None = None,
    ) -> Checkpoint:
        """Append an event that changes these fields of the latest checkpoint, and tell who listens."""
        now = datetime.now(UTC)

        def build(tail: Checkpoint) -> Checkpoint:
            self._raise_fault()
            try:
                return tail.next(
                    event=event,
                    executor_id=self._executor_id,
                    timestamp=now,
                    last_node=None if task is None else task.node,
                    task_id=None if task is None else task.id,
                    **changed(tail),
                )
            except StargraphError as error:
                raise _BuildError(error) from error

        checkpoint, durable = await self._log.append(build)
        self._report(checkpoint, task, attempt, durable=durable)
        return checkpoint

    def _fail(self, running: _RunningTask, error: BaseException) -> None:
        """Note that a task failed; the first failure is that of the run."""
        self._failed.add(running.task.id)
        if self._failure is None:
            self._failure = (running.task, error, running.call_log.moments(), running.call_log.attempt)

    def _report(self, record: Checkpoint, task: Task | None, attempt: int | None = None, *, durable: bool) -> None:
        """Publish the event of a checkpoint, if anybody listens."""
        if self._is_heard():
            self._publish(RunEvent.of(record, durable=durable, task=task, attempt=attempt))

    def _tell(self, what: EventType, task: Task, when: datetime, **content: Any) -> None:
        """Publish what is not recorded, in the order in which it happened."""
        if self._is_heard():
            tail = self._log.tail
            self._publish(
                RunEvent.model_construct(
                    type=what,
                    run_id=tail.run_id,
                    step=tail.step,
                    task_id=task.id,
                    node=task.node,
                    index=task.index,
                    timestamp=when,
                    durable=False,
                    **content,
                )
            )


def _left_to_workers(tail: Checkpoint) -> dict[str, Any]:
    """Return the changes by which any worker may take the run at once."""
    assert tail.queue is not None
    return {"status": "queued", "process": None, "queue": tail.queue.model_copy(update={"not_before": None})}


class _BuildError(Exception):
    """Carries what is wrong with what a node gave out of the building of its checkpoint."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(name_of(type(cause)))
        self.cause = cause
