"""Child runs: a subgraph is a run of its own, with its own log, whose id follows from its parent's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from stargraph.checkpoint.protocol import ENDED, Checkpoint, JsonValue, RunSummary, Task, is_run_id
from stargraph.engine._attempts import NodeFailed
from stargraph.engine._expressions import Expression
from stargraph.engine._log import RunLog
from stargraph.engine._middleware import Hooks, RunInfo, around
from stargraph.engine._migration import check_frontier, migrated, migration_for
from stargraph.engine._plan import Plan
from stargraph.engine._questions import Question, Suspended
from stargraph.engine._records import first_record, resumed_record
from stargraph.engine._transitions import tasks_of
from stargraph.errors import CheckpointConflictError, CheckpointError, NodeError


class Pause(NamedTuple):
    """How an execution is stopped gently.

    Attributes:
        grace: seconds after which what still runs is cancelled; it runs again after a resume.
        requeue: leave the run to the workers if it has a queue.
    """

    grace: float
    requeue: bool = False


class ChildEngine(Protocol):
    """What a child run is executed by."""

    async def run(self) -> None:
        """Run it until nothing of it can go on."""

    def pause(self, pause: Pause) -> None:
        """Start nothing more."""


class StoreFaultError(Exception):
    """Carries a store's error out of a task: it is not the node's failure, but the executor's.

    Args:
        cause: what the store raised.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


class ChildPausedError(Exception):
    """Ends the task of a child run that was paused; it goes on after a resume."""


def child_run_id(parent_run_id: str, task_id: str) -> str:
    """Return the id of the child run of a task; the same in every process.

    Args:
        parent_run_id: the parent.
        task_id: the task of the subgraph.
    """
    plain = f"{parent_run_id}:{task_id}"
    if is_run_id(plain):
        return plain
    return f"{parent_run_id[:150]}:{hashlib.sha256(plain.encode()).hexdigest()[:32]}"


class Children:
    """The child runs of one run.

    Args:
        plan: the graph of the parent.
        log: the log of the parent.
        executor_id: names this executor.
        spawn: makes the engine of a child; True if its open questions may be others now.
        hooks: stand around each child run.
    """

    def __init__(
        self,
        plan: Plan,
        log: RunLog,
        *,
        executor_id: str,
        spawn: Callable[[Plan, RunLog, bool], ChildEngine],
        hooks: Hooks,
    ) -> None:
        self._hooks = hooks.run
        self._plan = plan
        self._log = log
        self._executor_id = executor_id
        self._spawn = spawn
        self._running: dict[str, ChildEngine] = {}
        self._pause: Pause | None = None

    def asking(self, tail: Checkpoint) -> set[str]:
        """Return the tasks whose child runs wait for answers; those may have come while nobody looked.

        Args:
            tail: the latest checkpoint of the parent.
        """
        return {interrupt.task_id for interrupt in tail.interrupts if interrupt.child_run_id is not None}

    def pause(self, pause: Pause) -> None:
        """Let the children start nothing more.

        Args:
            pause: as for the parent; a child run is left to its parent.
        """
        self._pause = Pause(pause.grace)
        for engine in self._running.values():
            engine.pause(self._pause)

    async def run(self, tail: Checkpoint, task: Task, item: JsonValue) -> dict[str, object]:
        """Take the child run of a task to its end, from where it stands, and return the parent's update.

        Args:
            tail: the latest checkpoint of the parent.
            item: its item, in a map.

        Raises:
            Suspended: the child waits for answers.
            NodeError: the child failed or was cancelled.
            StoreFaultError: the store refused.
        """
        plan = self._plan.children[task.node]
        try:
            log, changed = await self._open(plan, tail, task, item)
            if log.tail.status not in ENDED:
                engine = self._running[task.id] = self._spawn(plan, log, changed)
                if self._pause is not None:
                    engine.pause(self._pause)
                try:
                    if self._hooks:
                        await self._observed(engine, log)
                    else:
                        await engine.run()
                finally:
                    del self._running[task.id]
        except (NodeFailed, StoreFaultError, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise StoreFaultError(error) from error
        return child_outcome(self._plan, log.tail, task)

    async def _observed(self, engine: ChildEngine, log: RunLog) -> None:
        tail = log.tail
        info = RunInfo(
            tail.run_id,
            tail.graph_id,
            "start" if tail.step == 0 else "resume",
            dict(tail.metadata),
            parent_run_id=tail.parent_run_id,
            step=tail.step,
        )
        async with around(self._hooks, info):
            await engine.run()
            info.ended(RunSummary.from_checkpoint(log.tail))

    async def _open(self, plan: Plan, tail: Checkpoint, task: Task, item: JsonValue) -> tuple[RunLog, bool]:
        """Return the log of a child run, and whether another graph or other code has made it."""
        run_id = child_run_id(tail.run_id, task.id)
        latest = await self._log.read_latest(run_id)
        if latest is None:
            # A child must not outlive the step that it was made from: nobody would find it, to resume or to cancel it.
            await self._log.flush()
            try:
                first = await self._genesis(plan, run_id, tail, task, item)
            except BaseException as error:
                raise NodeFailed(error) from error
            try:
                await self._log.write(first)
            except CheckpointError as error:
                if error.reason != "run-deleted":
                    raise
                raise CheckpointError(
                    f"child run {run_id!r} was deleted before run {tail.run_id!r} had its result",
                    reason="run-deleted",
                    hint=f"It cannot start again. Cancel run {tail.run_id!r}, or fork it at step {task.since_step}.",
                    run_id=run_id,
                ) from error
            return self._log.of_child(first), False
        if latest.parent_run_id != tail.run_id:
            raise CheckpointError(
                f"run {run_id!r} exists already, and is not a child of run {tail.run_id!r}",
                reason="run-exists",
                hint="The child run of this task needs that id: start the parent under another id.",
                run_id=run_id,
            )
        log = self._log.of_child(latest)
        if latest.status not in ENDED:
            migration = migration_for(plan, latest)
            if migration is None:
                check_frontier(plan, latest)
            else:
                now = datetime.now(UTC)
                await log.append(
                    lambda current: migrated(plan, migration, current, executor_id=self._executor_id, now=now)
                )
            await log.append(lambda current: resumed_record(plan, current, self._executor_id))
        return log, (latest.graph_hash, latest.runtime_hash) != (plan.graph_hash, plan.runtime_hash)

    async def _genesis(self, plan: Plan, run_id: str, tail: Checkpoint, task: Task, item: JsonValue) -> Checkpoint:
        start = await plan.state.initial_in_turns(child_inputs(self._plan, tail, task, item))
        return first_record(
            plan,
            start,
            run_id=run_id,
            executor_id=self._executor_id,
            metadata=tail.metadata,
            parent_run_id=tail.run_id,
            parent_step=task.since_step,
        )


def child_inputs(plan: Plan, tail: Checkpoint, task: Task, item: JsonValue) -> dict[str, JsonValue]:
    """Return what a child run is started with.

    Args:
        plan: the graph of the parent.
        tail: the checkpoint of the parent whose state is given.
        item: its item, in a map.
    """
    facts = {"id": task.node, "item": item, "index": task.index}
    return _evaluated(plan.inputs_of(task.node), tail.state, facts)


def child_outcome(plan: Plan, child: Checkpoint, task: Task) -> dict[str, object]:
    """Return the parent's update if its child run is done.

    Args:
        plan: the graph of the parent.
        child: the latest checkpoint of the child.
        task: the task of the parent.

    Raises:
        Suspended: the child waits for answers.
        ChildPausedError: it was paused.
        NodeError: it failed or was cancelled.
    """
    if child.status == "done":
        return dict(_evaluated(plan.outputs_of(task.node), child.state, {"id": task.node}))
    if child.status == "awaiting_input":
        raise Suspended(
            tuple(
                Question(
                    prompt=interrupt.prompt,
                    payload=interrupt.payload,
                    into=None,
                    child_run_id=child.run_id,
                    child_id=interrupt.id,
                    wait=interrupt.due_at,
                )
                for interrupt in child.interrupts
            )
        )
    if child.status == "paused":
        raise ChildPausedError
    error = child.error
    how = f"{error.type}: {error.message}" if error else child.status
    raise NodeError(
        f"the child run {child.run_id!r} {child.status}: {how}",
        reason=(error.reason if error else None) or f"child-{child.status}",
        node=error.node if error else None,
        run_id=child.run_id,
    )


async def cancel_children(log: RunLog, tail: Checkpoint, executor_id: str) -> None:
    """End the open child runs of a run that is cancelled, and theirs.

    Args:
        log: the log of the parent.
        tail: the latest checkpoint of the parent.
        executor_id: names this executor.

    Raises:
        CheckpointError: as the store raises.
    """
    for task in tasks_of(tail.frontier):
        while True:
            child = await log.read_latest(child_run_id(tail.run_id, task.id))
            if child is None or child.status in ENDED or child.parent_run_id != tail.run_id:
                break
            await cancel_children(log, child, executor_id)
            ended = child.next(
                event="cancelled", status="cancelled", executor_id=executor_id, timestamp=datetime.now(UTC)
            )
            try:
                await log.write(ended)
                break
            except CheckpointConflictError:
                continue


def _evaluated(
    expressions: Mapping[str, Expression], state: Mapping[str, JsonValue], facts: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    return {name: expression.evaluate(state, facts) for name, expression in expressions.items()}
