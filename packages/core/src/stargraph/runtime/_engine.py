"""The engine: runs what the frontier names and appends what comes of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, Fork, Fragment, JsonValue, RecordedCall, Task
from stargraph.errors import CheckpointCorruptedError, NodeError, StargraphError
from stargraph.runtime._context import NodeContext, Suspended
from stargraph.runtime._events import EventType, RunEvent
from stargraph.runtime._log import RunLog
from stargraph.runtime._plan import Completion, Plan
from stargraph.runtime._prompts import fill_prompt
from stargraph.runtime._transitions import Updates, asked, completed, error_info, fork_of, tasks_of

ReadStep = Callable[[int], Any]


def new_executor_id() -> str:
    """Return the name of an executor: 32 random hex digits."""
    return secrets.token_hex(16)


@dataclass(slots=True)
class _Flight:
    """A task that runs, and when it began."""

    task: Task
    started_at: datetime
    work: asyncio.Task[Updates]


class Engine:
    """Runs one run until nothing of it can go on.

    Args:
        plan: the graph.
        log: the log of the run.
        executor_id: names this executor in every checkpoint that it writes.
        threads: where sync nodes run; the loop's own threads where None.
        publish: told of each event, after its checkpoint was appended.
        read_step: reads one step of the run from the store.
    """

    def __init__(
        self,
        plan: Plan,
        log: RunLog,
        *,
        executor_id: str,
        threads: Executor | None,
        publish: Callable[[RunEvent], None],
        read_step: Callable[[int], Any],
    ) -> None:
        self._plan = plan
        self._log = log
        self._executor_id = executor_id
        self._threads = threads
        self._publish = publish
        self._read_step = read_step
        self._flights: dict[str, _Flight] = {}
        self._branches: dict[int, Updates] = {}
        self._recorded: dict[str, list[RecordedCall]] = {}
        self._items: list[JsonValue] | None = None
        self._failure: tuple[Task, BaseException] | None = None

    async def run(self) -> None:
        """Run the nodes of the frontier, and those that follow, until none is left that can run.

        Raises:
            CheckpointConflictError: another executor has taken the run over.
            CheckpointError: as the store raises.
        """
        try:
            await self._load_open_work()
            while True:
                await self._start_ready_tasks()
                if not self._flights:
                    break
                work = {flight.work for flight in self._flights.values()}
                await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for flight in [flight for flight in self._flights.values() if flight.work.done()]:
                    del self._flights[flight.task.id]
                    await self._settle(flight)
            if self._failure is not None:
                await self._record_failure(*self._failure)
            await self._log.flush()
        finally:
            await self._stop_flights()

    async def _stop_flights(self) -> None:
        work = [flight.work for flight in self._flights.values()]
        self._flights.clear()
        for task in work:
            task.cancel()
        if work:
            await asyncio.gather(*work, return_exceptions=True)

    async def _load_open_work(self) -> None:
        """Read what the log knows of the tasks and branches that are open."""
        tail = self._log.tail
        for task in tasks_of(tail.frontier):
            for steps in task.calls:
                for step in range(steps.first, steps.last + 1):
                    record = await self._read(step)
                    self._recorded.setdefault(task.id, []).extend(record.calls)
        fork = fork_of(tail.frontier)
        if fork is None:
            return
        for steps in fork.completed_steps:
            for step in range(steps.first, steps.last + 1):
                record = await self._read(step)
                if record.event == "completed" and record.task_id is not None:
                    index = int(record.task_id.rpartition(".")[2])
                    self._branches[index] = record.update_fragments() or {}
        if fork.mode == "map":
            await self._load_items(fork)

    async def _load_items(self, fork: Fork) -> None:
        origin = await self._read(fork.since_step)
        completion = Completion(
            node=self._plan.rules[fork.rule].spec.when.node,
            task_id=fork.task_id,
            state=origin.state,
            update=origin.update or {},
        )
        self._items = self._plan.items(self._plan.rules[fork.rule], completion)

    async def _read(self, step: int) -> Checkpoint:
        if step == self._log.tail.step:
            return self._log.tail
        record: Checkpoint | None = await self._read_step(step)
        if record is None:
            raise CheckpointCorruptedError(
                f"run {self._log.tail.run_id!r}: step {step} is missing, and the run needs it to go on",
                reason="missing-step",
                hint="Restore the store from a backup.",
                run_id=self._log.tail.run_id,
                step=step,
            )
        return record

    async def _start_ready_tasks(self) -> None:
        if self._failure is not None:
            return
        tail = self._log.tail
        blocked = {interrupt.task_id for interrupt in tail.interrupts}
        for task in tasks_of(tail.frontier):
            if task.id in self._flights or task.id in blocked:
                continue
            if tail.step >= self._plan.document.max_steps:
                limit = self._plan.document.max_steps
                error = NodeError(
                    f"the run has {tail.step} steps, and the graph allows {limit}",
                    reason="max-steps",
                    hint="Mend the loop, or raise max_steps in the graph and resume the run.",
                    node=task.node,
                )
                self._failure = (task, error)
                return
            if task.index is not None and self._items is None:
                fork = fork_of(tail.frontier)
                if fork is not None and fork.mode == "map":
                    await self._load_items(fork)
            self._start(task, tail)

    def _start(self, task: Task, tail: Checkpoint) -> None:
        item: JsonValue = None
        if task.index is not None and self._items is not None:
            item = Fragment.of_owned(self._items[task.index]).fresh()
        context = NodeContext(tail, task, item=item, recorded=self._recorded.get(task.id, ()))
        started_at = datetime.now(UTC)
        work = asyncio.ensure_future(self._work(task, tail, context))
        self._flights[task.id] = _Flight(task, started_at, work)
        self._tell("node_started", task, tail.step, started_at, durable=False)

    async def _work(self, task: Task, tail: Checkpoint, context: NodeContext) -> Updates:
        state = self._plan.state
        if task.rule is not None:
            question = self._plan.rules[task.rule].spec.then[0]
            assert question.kind == "interrupt"
            prompt = fill_prompt(question.prompt, state.read(tail))
            returned: object = {question.into: context.ask(prompt, None, into=question.into)}
        else:
            returned = await self._plan.nodes[task.node].run(lambda: state.read(tail), context, executor=self._threads)
        return state.record(state.update_of(returned, task.node))

    async def _settle(self, flight: _Flight) -> None:
        """Append what came of a task."""
        task = flight.task
        try:
            update = flight.work.result()
        except Suspended as suspended:
            await self._record_question(task, suspended)
            return
        except Exception as error:  # noqa: BLE001  # whatever a node raises is recorded
            self._fail(task, error)
            return
        try:
            checkpoint, durable = await self._log.append(lambda tail: self._completed(tail, flight, update))
        except _BuildError as error:
            self._fail(task, error.cause)
            return
        self._recorded.pop(task.id, None)
        if task.index is not None:
            self._branches[task.index] = update
        if fork_of(checkpoint.frontier) is None:
            self._branches.clear()
        if task.index is None or fork_of(checkpoint.frontier) is None:
            self._items = None
        self._tell("completed", task, checkpoint.step, checkpoint.timestamp, durable=durable)

    def _completed(self, tail: Checkpoint, flight: _Flight, update: Updates) -> Checkpoint:
        task = flight.task
        current = next((item for item in tasks_of(tail.frontier) if item.id == task.id), task)
        try:
            changed = completed(self._plan, tail, current, update, self._branches)
            return tail.next(
                event="completed",
                executor=self._executor_id,
                timestamp=datetime.now(UTC),
                last_node=task.node,
                task_id=task.id,
                task_started_at=flight.started_at,
                update=update,
                **changed,
            )
        except StargraphError as error:
            raise _BuildError(error) from error

    async def _record_question(self, task: Task, suspended: Suspended) -> None:
        now = datetime.now(UTC)

        def build(tail: Checkpoint) -> Checkpoint:
            return tail.next(
                event="asked",
                executor=self._executor_id,
                timestamp=now,
                last_node=task.node,
                task_id=task.id,
                **asked(tail, task, suspended.question, now),
            )

        checkpoint, durable = await self._log.append(build)
        self._tell("asked", task, checkpoint.step, now, durable=durable)

    def _fail(self, task: Task, error: BaseException) -> None:
        if self._failure is None:
            self._failure = (task, error)

    async def _record_failure(self, task: Task, error: BaseException) -> None:
        info = error_info(error, node=task.node)
        now = datetime.now(UTC)
        checkpoint, durable = await self._log.append(
            lambda tail: tail.next(
                event="failed",
                status="failed",
                executor=self._executor_id,
                timestamp=now,
                last_node=task.node,
                task_id=task.id,
                error=info,
            )
        )
        self._tell("failed", task, checkpoint.step, now, durable=durable)

    def _tell(self, what: EventType, task: Task, step: int, when: datetime, *, durable: bool) -> None:
        self._publish(
            RunEvent.model_construct(
                type=what,
                run_id=self._log.tail.run_id,
                step=step,
                task_id=task.id,
                node=task.node,
                timestamp=when,
                durable=durable,
            )
        )


class _BuildError(Exception):
    """Carries what is wrong with a node's update out of the building of its checkpoint."""

    def __init__(self, cause: StargraphError) -> None:
        super().__init__(str(cause))
        self.cause = cause
