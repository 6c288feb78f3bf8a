"""Run a log again: each node gets what it was given then, and each step is compared with its record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import (
    Checkpoint,
    Checkpointer,
    FanOut,
    JsonValue,
    RecordedCall,
    Task,
)
from stargraph.checkpoint.values import EncodedValue
from stargraph.engine import (
    CANCEL_SECONDS,
    CallId,
    CallLog,
    ForkOverrides,
    NodeFailed,
    NodePools,
    PendingTasks,
    Plan,
    StoreFaultError,
    Suspended,
    TaskRunner,
    UnrecordedCallError,
    child_inputs,
    child_outcome,
    child_run_id,
    completed,
    fan_out_of,
    node_cancelled,
    runtime_changes,
    tasks_of,
)
from stargraph.errors import CheckpointError, CheckpointNotFoundError, StargraphError
from stargraph.graph._resume_checks import check_hashes
from stargraph.replay._diff import Change
from stargraph.replay._expected import asked_by, beside, failed_with, following, forgotten, started, transition
from stargraph.replay._findings import Findings, in_words
from stargraph.replay._report import ReplayReport
from stargraph.runtime import dispatch
from stargraph.runtime._given import check_checkpointer, check_count, check_keyring


async def replay(
    plan: Plan,
    store: Checkpointer,
    run_id: str,
    *,
    keyring: Keyring | None = None,
    threads: Executor | None = None,
    from_step: int = 0,
    accept_graph: bool = False,
) -> ReplayReport:
    """Replay a run from its log, and compare; nothing is written.

    Args:
        plan: the graph.
        keyring: checks the seals.
        threads: where sync nodes run; None for threads of its own.
        from_step: the step to begin after; 0 compares everything.
        accept_graph: replay steps that another version of the graph made, too.

    Raises:
        CheckpointNotFoundError: the store holds no such run, or the run has no such step.
        HashMismatchError: another version of the graph made all of the steps.
        CheckpointError: as the store raises.
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    check_count(from_step, "from_step", least=0)
    tail = await dispatch.read_run(store, run_id, keyring=keyring)
    if not 0 <= from_step <= tail.step:
        raise CheckpointNotFoundError(
            f"run {run_id!r} has no step {from_step}",
            reason="step-not-found",
            hint=f"Its latest step is {tail.step}.",
            run_id=run_id,
            step=from_step,
        )
    pools = NodePools(threads)
    again = _Replay(plan, store, tail, keyring=keyring, pools=pools, accept_graph=accept_graph)
    try:
        await again.run(from_step)
    finally:
        await pools.close()
    if not again.findings.compared and again.findings.foreign:
        await check_hashes(plan, tail, again.read_step, accept=())
    return again.findings.report(tail)


class _Replay:
    """The replay of one run, and of its child runs."""

    def __init__(
        self,
        plan: Plan,
        store: Checkpointer,
        tail: Checkpoint,
        *,
        keyring: Keyring | None,
        pools: NodePools,
        accept_graph: bool,
        inputs: Mapping[str, JsonValue] | None = None,
    ) -> None:
        self.findings = Findings()
        self._plan = plan
        self._store = store
        self._tail = tail
        self._keyring = keyring
        self._pools = pools
        self._accept_graph = accept_graph
        self._inputs = inputs
        self._pending = PendingTasks(plan, self._read_for_task, self._read_for_tasks)
        self._unknown: set[str] = set()
        self._overrides = ForkOverrides()
        self._defined: Checkpoint | None = None
        self._runner = self._new_runner()
        self._children: dict[str, tuple[str, Mapping[str, JsonValue]]] = {}

    async def run(self, from_step: int) -> None:
        """Read the log, and do each step again."""
        previous: Checkpoint | None = None
        first = await self.read_step(0)
        if first is not None:
            self._defined = first
            if first.origin == "fork":
                self._overrides = ForkOverrides.of(first, effects=True)
                self._runner = self._new_runner()
        history = dispatch.history(
            self._store, self._tail.run_id, from_step=from_step, to_step=self._tail.step, keyring=self._keyring
        )
        async with aclosing(history) as records:
            async for record in records:
                if previous is None or record.step != previous.step + 1:
                    await self._begin_at(record, previous)
                else:
                    if self._is_ours(record):
                        await self._step(previous, record)
                    self._note(previous, record)
                previous = record
        await self._replay_children()

    async def read_step(self, step: int) -> Checkpoint | None:
        """Return one step of the run."""
        return await dispatch.read_at_step(self._store, self._tail.run_id, step, keyring=self._keyring)

    async def _read_for_task(self, step: int) -> Checkpoint:
        """Return a step that a task needs; an error here is not the node's."""
        try:
            record = await self.read_step(step)
        except CheckpointError as error:
            raise StoreFaultError(error) from error
        if record is None:
            raise StoreFaultError(CheckpointNotFoundError(f"step {step} was pruned", reason="step-not-found"))
        return record

    async def _read_for_tasks(self, steps: Sequence[int]) -> AsyncIterator[Checkpoint]:
        """Yield the steps that tasks need, those that are there."""
        try:
            async for record in dispatch.read_steps(self._store, self._tail.run_id, steps, keyring=self._keyring):
                yield record
        except CheckpointError as error:
            raise StoreFaultError(error) from error

    def _new_runner(self) -> TaskRunner:
        return TaskRunner(
            self._plan,
            self._pending,
            pools=self._pools,
            run_child=self._child,
            overrides=self._overrides,
            backs_off=False,
        )

    def _is_ours(self, record: Checkpoint) -> bool:
        """Whether this graph made a step, with no other version taking part; the other steps are noted."""
        if "fork" in (record.definition or {}):
            self.findings.given.append(record.step)
            return False
        if record.graph_hash != self._plan.graph_hash and not self._accept_graph:
            self.findings.foreign.append(record.step)
            return False
        if record.runtime_hash != self._plan.runtime_hash:
            self._note_code(record)
        return True

    def _note_code(self, record: Checkpoint) -> None:
        """Say how the code differs from that which made a step."""
        if self._defined is None or self._defined.runtime_hash != record.runtime_hash:
            return
        stored = (self._defined.definition or {}).get("runtime") or {}
        for change in runtime_changes(stored, self._plan.runtime_definition):
            self.findings.note(f"{change} since step {self._defined.step}")

    async def _begin_at(self, record: Checkpoint, previous: Checkpoint | None) -> None:
        """Take up the log at a step whose predecessor is not there."""
        if record.step == 0:
            if self._is_ours(record):
                self.findings.compare_with(record, lambda: started(self._plan, record, self._inputs))
            return
        # A replay that begins here finds the step before.
        if previous is not None or await self.read_step(record.step - 1) is None:
            first = 0 if previous is None else previous.step + 1
            self.findings.note(
                f"{in_words(range(first, record.step))}: pruned, so step {record.step} is taken as recorded"
            )
        self._pending = PendingTasks(self._plan, self._read_for_task, self._read_for_tasks)
        self._runner = self._new_runner()
        try:
            await self._pending.load(record)
            self._unknown = set()
        except StoreFaultError as fault:
            if not isinstance(fault.cause, CheckpointNotFoundError):
                raise fault.cause from fault
            self._unknown = {item.task_id if isinstance(item, FanOut) else item.id for item in record.frontier}

    async def _step(self, previous: Checkpoint, record: Checkpoint) -> None:
        task = next((task for task in tasks_of(previous.frontier) if task.id == record.task_id), None)
        if task is not None and self._plan.nodes.get(task.node) is None:
            self.findings.foreign.append(record.step)
            return
        if record.event in ("completed", "asked", "failed"):
            if task is None or self._is_beyond_us(previous, record, task):
                self.findings.given.append(record.step)
                return
            await self._execute(previous, record, task)
            return
        self.findings.compare_with(record, lambda: transition(self._plan, previous, record))

    def _is_beyond_us(self, previous: Checkpoint, record: Checkpoint, task: Task) -> bool:
        """Whether a step came of what the log does not say: pruned steps, a limit, or where a child run stood then."""
        fork = fan_out_of(previous.frontier)
        if task.id in self._unknown or (task.index is not None and fork is not None and fork.task_id in self._unknown):
            return True
        if record.event == "failed" and record.error is not None and record.error.reason == "max-steps":
            return True
        return task.rule is None and task.node in self._plan.children and record.event != "completed"

    async def _execute(self, previous: Checkpoint, record: Checkpoint, task: Task) -> None:
        """Run a task, and compare what comes of it with what is recorded."""
        calls = self._pending.calls(task)
        moment = next((call.started_at for call in record.calls if call.kind == "now"), None)
        call_log = CallLog(task, calls, pools=self._pools, moment=moment)
        try:
            update = await self._run(previous, task, call_log)
            changes = completed(self._plan, previous, task, update, self._pending.branches)
            changes["frontier"] = self._overrides.kept(changes["frontier"])
            replayed = following(
                previous, record, event="completed", update=update, calls=beside(record, call_log), **changes
            )
        except StoreFaultError as fault:
            if not isinstance(fault.cause, CheckpointNotFoundError):
                raise fault.cause from fault
            self.findings.given.append(record.step)
            return
        except Suspended as suspended:
            replayed = asked_by(previous, record, task, suspended, call_log)
        except (NodeFailed, StargraphError, UnrecordedCallError) as raised:
            if call_log.missing is None:
                error = raised.error if isinstance(raised, NodeFailed) else raised
                self.findings.compare(record, failed_with(previous, record, error, call_log))
                await self._compare_calls(record, task, call_log, calls)
                return
            lost = record.error is not None and record.error.reason == "question-lost"
            if (record.event == "asked" or lost) and not call_log.unused:
                # The function of that call may have asked: it is not run again, and was not recorded then.
                self.findings.given.append(record.step)
                return
            replayed = record
        if call_log.missing is None:
            self.findings.compare(record, replayed)
        await self._compare_calls(record, task, call_log, calls)

    async def _compare_calls(
        self, record: Checkpoint, task: Task, call_log: CallLog, calls: Sequence[RecordedCall]
    ) -> None:
        """Compare the calls that a task has made with those that are recorded."""
        steps = self._pending.call_steps(task)
        left = {id(call) for call in call_log.unused}
        unused = [(step, call) for step, call in zip(steps, calls, strict=True) if id(call) in left]
        if call_log.missing is None:
            for step, call in unused:
                self.findings.differ(
                    await self.read_step(step) or record, Change("calls", "removed", before=_call_id(call))
                )
            return
        made = _call_id(call_log.missing)
        if not unused:
            self.findings.differ(record, Change("calls", "added", after=made))
            return
        # The node was ended by the call that the log does not have: what it would have called then is not known.
        step, call = unused[0]
        self.findings.differ(await self.read_step(step) or record, Change("calls", "changed", _call_id(call), made))

    async def _run(self, previous: Checkpoint, task: Task, call_log: CallLog) -> Mapping[str, EncodedValue]:
        """Run a task as an engine does: a node that cancels itself must not cancel the replay."""
        work = asyncio.ensure_future(self._runner.run(previous, task, call_log))
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work}, timeout=CANCEL_SECONDS)
            raise
        finally:
            self._pools.give_up(work, f"{previous.run_id}/{task.id}")
        if work.cancelled():
            raise node_cancelled(task)
        return work.result()

    def _note(self, previous: Checkpoint, record: Checkpoint) -> None:
        """Take over what a step recorded, for the tasks that come after it."""
        if record.definition is not None:
            self._defined = record
        if record.event in ("called", "answered", "asked"):
            self._pending.note_calls(record)
        elif record.event == "failed":
            self._pending.forget_calls(forgotten(previous, record))
        elif record.event == "completed":
            for task in tasks_of(previous.frontier):
                if task.id == record.task_id:
                    self._pending.note_completed(task, record.encoded_update() or {}, record)

    async def _child(self, tail: Checkpoint, task: Task, item: JsonValue) -> dict[str, object]:
        """Return what the log of a child run says that it gave its parent."""
        run_id = child_run_id(tail.run_id, task.id)
        self._children[run_id] = (task.node, child_inputs(self._plan, tail, task, item))
        try:
            child = await dispatch.read_run(self._store, run_id, keyring=self._keyring)
        except CheckpointError as error:
            if isinstance(error, CheckpointNotFoundError):
                self.findings.note(f"the child run {run_id!r} is not in the store")
            raise StoreFaultError(error) from error
        return child_outcome(self._plan, child, task)

    async def _replay_children(self) -> None:
        for task in tasks_of(self._tail.frontier):
            if task.node in self._plan.children and task.rule is None:
                self._children.setdefault(child_run_id(self._tail.run_id, task.id), (task.node, {}))
        for run_id, (node, inputs) in self._children.items():
            tail = await dispatch.read_latest(self._store, run_id, keyring=self._keyring)
            if tail is None:
                continue
            child = _Replay(
                self._plan.children[node],
                self._store,
                tail,
                keyring=self._keyring,
                pools=self._pools,
                accept_graph=self._accept_graph,
                inputs=inputs or None,
            )
            await child.run(0)
            self.findings.add_child(child.findings.report(tail))


def _call_id(call: CallId | RecordedCall) -> dict[str, JsonValue]:
    return {"name": call.name, "key": call.key, "occurrence": call.occurrence}
