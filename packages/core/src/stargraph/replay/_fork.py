"""Begin a new run at any step of another one, with what its open work needs, so that it never reads the other again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import (
    Checkpoint,
    Checkpointer,
    Event,
    FanOut,
    JsonValue,
    ProcessInfo,
    RecordedCall,
    Task,
    add_step,
)
from stargraph.checkpoint.values import EncodedValue
from stargraph.engine import (
    ForkOverrides,
    Plan,
    called,
    fan_out_of,
    new_executor_id,
    status_of,
    steps_of,
    tasks_of,
)
from stargraph.engine._migration import check_frontier, migrated, migration_for
from stargraph.errors import CheckpointError, CheckpointNotFoundError, GraphError, StateError
from stargraph.graph._given import as_metadata
from stargraph.graph._resume_checks import check_hashes
from stargraph.replay._overlay import Overlay, bad_overlay, changed_state
from stargraph.runtime import dispatch
from stargraph.runtime._given import check_checkpointer, check_keyring, check_type

_EVENTS: Final[dict[str, Event]] = {"call": "called", "answer": "answered", "now": "asked"}
"""The events that record what a task learned before it completed."""


async def open_fork(
    plan: Plan,
    store: Checkpointer,
    parent_run_id: str,
    step: int | None,
    overlay: Overlay,
    *,
    run_id: str,
    metadata: Mapping[str, str] | None = None,
    accept_graph: bool = False,
    keyring: Keyring | None = None,
) -> list[Checkpoint]:
    """Return the first steps of a fork: its step 0, and what it copies from its parent. Nothing is written.

    Args:
        plan: the graph that the fork runs.
        parent_run_id: the run that it comes from.
        step: the step of that run; None for the last one before the overlay matters.
        overlay: what the fork changes.
        run_id: the fork.
        metadata: its tags; None for those of the parent.
        accept_graph: whether the graph may differ from that of the parent.
        keyring: checks the seals.

    Raises:
        CheckpointNotFoundError: the store holds no such run, or no such step.
        HashMismatchError: the graph is another one.
        StateError: the changed state, or an output, does not fit the graph.
        StargraphError: the overlay names something that the run does not have (`reason="bad-overlay"`).
    """
    check_checkpointer(store, "store")
    check_keyring(keyring)
    check_type(overlay, "overlay", Overlay, "an Overlay of stargraph.replay")
    as_metadata(metadata)
    if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
        raise ValueError(f"step is {step!r:.80}: give the number of a step, or None")
    source = _Source(store, await dispatch.read_run(store, parent_run_id, keyring=keyring), keyring)
    _check_nodes(plan, overlay)
    must_drop = True
    if step is None:
        step = await _last_before(source, overlay)
        must_drop = False
    record = await source.read(step)
    remaining = (record.definition or {}).get("fork", {}).get("remaining", 0)
    if remaining:
        raise CheckpointError(
            f"run {parent_run_id!r} is a fork, and step {step} is one of those that it copied from its parent",
            reason="unfinished-fork",
            hint=f"Fork it from step {step + remaining} or a later one.",
            run_id=parent_run_id,
            step=step,
        )
    base = await _carried_over(plan, source, record, accept_graph=accept_graph)
    if not base.frontier:
        raise CheckpointError(
            f"step {step} of run {parent_run_id!r} is its end: nothing would run",
            reason="nothing-to-run",
            hint="Fork it from an earlier step.",
            run_id=parent_run_id,
            step=step,
        )
    opening = _Opening(plan, base, overlay, run_id=run_id, parent_step=step)
    return await opening.records(source, metadata=metadata, must_drop=must_drop)


@dataclass(frozen=True, slots=True)
class _Source:
    """The log of the parent."""

    store: Checkpointer
    tail: Checkpoint
    keyring: Keyring | None

    async def read(self, step: int) -> Checkpoint:
        found = None
        if step >= 0:
            found = await dispatch.read_at_step(self.store, self.tail.run_id, step, keyring=self.keyring)
        if found is None:
            raise CheckpointNotFoundError(
                f"run {self.tail.run_id!r} has no step {step}",
                reason="step-not-found",
                hint=f"Its latest step is {self.tail.step}"
                + ("." if not 0 <= step <= self.tail.step else "; the step that is needed was pruned."),
                run_id=self.tail.run_id,
                step=step,
            )
        return found

    async def read_step(self, step: int) -> Checkpoint | None:
        return await dispatch.read_at_step(self.store, self.tail.run_id, step, keyring=self.keyring)

    def history(self) -> AsyncGenerator[Checkpoint]:
        return dispatch.history(self.store, self.tail.run_id, to_step=self.tail.step, keyring=self.keyring)


def _check_nodes(plan: Plan, overlay: Overlay) -> None:
    """Refuse outputs and answers of nodes that the graph does not have, and outputs that do not fit the state."""
    for name in (*overlay.outputs, *overlay.answers):
        if _node_of(plan, name) is None:
            raise bad_overlay(f"the graph has no node {name!r}, and no task or question of that id comes of it")
    for name, update in overlay.outputs.items():
        plan.state.record(plan.state.update_of(dict(update), _node_of(plan, name) or name), from_json=True)


def _node_of(plan: Plan, name: str) -> str | None:
    """Return the node that a name stands for: a node, `node-hash` of a task, `node-hash/0` of a question."""
    if name in plan.nodes:
        return name
    node = name.partition("/")[0].rpartition("-")[0]
    return node if node in plan.nodes else None


async def _last_before(source: _Source, overlay: Overlay) -> int:
    """Return the last step before an overlay matters."""
    if overlay.state or overlay.graph is not None:
        return 0
    wanted = [("output", name) for name in overlay.outputs]
    wanted += [("answer", name) for name in overlay.answers]
    wanted += [("call", name) for name in overlay.drop_calls]
    if not wanted:
        raise bad_overlay("it changes nothing: say from which step the fork begins")
    first: int | None = None
    async with aclosing(source.history()) as records:
        async for record in records:
            found = [entry for entry in wanted if _is_where(record, *entry)]
            if found and first is None:
                first = record.step
            wanted = [entry for entry in wanted if entry not in found]
            if not wanted:
                break
    if wanted:
        kind, name = wanted[0]
        raise bad_overlay(f"run {source.tail.run_id!r} has no {kind} {name!r} that could be replaced")
    assert first is not None
    return first - 1


def _is_where(record: Checkpoint, kind: str, name: str) -> bool:
    """Return whether a step records an output, an answer or a call of a name."""
    if kind == "call":
        return any(is_call(call, name) for call in record.calls)
    event = "completed" if kind == "output" else "answered"
    return record.event == event and name in (record.last_node, record.task_id, *(call.name for call in record.calls))


def is_call(call: RecordedCall, name: str) -> bool:
    return call.kind == "call" and name in (call.name, f"{call.task_id}/{call.name}")


async def _carried_over(plan: Plan, source: _Source, base: Checkpoint, *, accept_graph: bool) -> Checkpoint:
    """Return the step to begin at, migrated if a migrate block says how."""
    migration = migration_for(plan, base)
    if migration is not None:
        return migrated(plan, migration, base, executor_id=new_executor_id(), now=datetime.now(UTC))
    # Other code of the nodes is what many forks are made for; another graph is not meant by chance.
    await check_hashes(plan, base, source.read_step, accept=("runtime", "graph") if accept_graph else ("runtime",))
    check_frontier(plan, base)
    if base.graph_hash != plan.graph_hash and fan_out_of(base.frontier) is not None:
        raise GraphError(
            f"run {base.run_id!r} cannot be continued in another graph from step {base.step}: it has open branches",
            reason="migration-in-fork",
            hint="Fork it from a step before the branches began, or after they joined.",
        )
    return base


class _Opening:
    """Builds the first steps of a fork."""

    def __init__(self, plan: Plan, base: Checkpoint, overlay: Overlay, *, run_id: str, parent_step: int) -> None:
        self._plan = plan
        self._base = base
        self._overlay = overlay
        self._run_id = run_id
        self._parent_step = parent_step
        self._terms = ForkOverrides(overlay.outputs, overlay.answers)
        self._executor = new_executor_id()
        self._now = datetime.now(UTC)
        self._interrupts = tuple(each for each in base.interrupts if each.child_run_id is None)

    async def records(
        self, source: _Source, *, metadata: Mapping[str, str] | None, must_drop: bool
    ) -> list[Checkpoint]:
        """Return the steps.

        Args:
            source: the log of the parent.
            metadata: the tags; None for those of the parent.
            must_drop: whether each call that is dropped must be there.
        """
        fork = fan_out_of(self._base.frontier)
        events = [] if fork is None else await self._branch_events(source, fork)
        calls = await self._calls(source, must_drop=must_drop)
        count = len(events) + len(calls)
        records = [self._first(fork, events, count, self._base.metadata if metadata is None else metadata)]
        for event in events:
            records.append(self._completed_again(records[-1], event, fork, count - len(records)))
        for call in calls:
            records.append(self._called_again(records[-1], call, count - len(records)))
        return records

    async def _branch_events(self, source: _Source, fan_out: FanOut) -> list[Checkpoint]:
        """Return the completion that forked, and those of the branches since."""
        records = [await source.read(step) for step in (fan_out.since_step, *steps_of(fan_out.completed_steps))]
        return [records[0], *(record for record in records[1:] if record.event == "completed")]

    async def _calls(self, source: _Source, *, must_drop: bool) -> list[RecordedCall]:
        """Return the recorded calls and answers of the open tasks, without those that are dropped."""
        kept: list[RecordedCall] = []
        dropped: set[str] = set()
        for task in tasks_of(self._base.frontier):
            if task.node in self._plan.children and task.rule is None:
                continue
            for step in steps_of(task.calls):
                calls = [call for call in (await source.read(step)).calls if call.task_id == task.id]
                names = {name for name in self._overlay.drop_calls for call in calls if is_call(call, name)}
                if names:
                    dropped |= names
                    # What the task asked after that call, it may not ask now.
                    self._interrupts = tuple(each for each in self._interrupts if each.task_id != task.id)
                    break
                kept += calls
        missing = [name for name in self._overlay.drop_calls if name not in dropped]
        if must_drop and missing:
            raise bad_overlay(
                f"no task that is open at step {self._parent_step} of run {self._base.run_id!r} has recorded the call"
                f" {missing[0]!r}"
            )
        return kept

    def _first(
        self, fan_out: FanOut | None, events: list[Checkpoint], remaining: int, metadata: Mapping[str, str]
    ) -> Checkpoint:
        state, update = self._state()
        if self._base.graph_hash != self._plan.graph_hash:
            encoded = {name: EncodedValue.of(value, f"state.{name}") for name, value in state.items()}
            state = {**state, **{name: value.value for name, value in self._plan.state.adopted(encoded).items()}}
            self._plan.state.refuse_dropped(self._base, encoded)
        if fan_out is None:
            frontier = tuple(
                task.model_copy(update={"since_step": 0, "calls": ()}) for task in tasks_of(self._base.frontier)
            )
        else:
            frontier = (Task(id=fan_out.task_id, node=events[0].last_node or "", since_step=0),)
        first = Checkpoint.genesis(
            run_id=self._run_id,
            graph_id=self._plan.document.id,
            graph_hash=self._plan.graph_hash,
            runtime_hash=self._plan.runtime_hash,
            definition={**self._plan.definition, "fork": {**self._overlay.as_json(), "remaining": remaining}},
            state=state,
            update=update,
            frontier=self._terms.kept(frontier),
            interrupts=self._interrupts,
            status=status_of(frontier, self._interrupts),
            executor_id=self._executor,
            timestamp=self._now,
            process=ProcessInfo.current(),
            parent_run_id=self._base.run_id,
            parent_step=self._parent_step,
            origin="fork",
            metadata=metadata,
        )
        self._plan.state.read(first)
        return first

    def _state(self) -> tuple[dict[str, JsonValue], dict[str, JsonValue] | None]:
        """Return the state that the fork begins with, and the fields in it that the overlay changes."""
        if not self._overlay.state:
            return self._base.fresh_state(), None
        state = changed_state(self._base.fresh_state(), self._overlay.state)
        old = self._base.encoded_state()
        update = {
            name: value
            for name, value in state.items()
            if name not in old or EncodedValue.of(value, f"state.{name}").digest != old[name].digest
        }
        fields = self._plan.state.fields
        if fields is None:
            return state, update
        for name, value in update.items():
            if name not in fields:
                raise StateError(
                    f"the overlay: the state has no field {name!r}",
                    reason="unknown-field",
                    hint=f"It has: {', '.join(fields)}.",
                    path=f"state.{name}",
                )
            state[name] = update[name] = fields[name].check(value, f"state.{name}")
        return state, update

    def _completed_again(self, tail: Checkpoint, event: Checkpoint, fan_out: FanOut | None, left: int) -> Checkpoint:
        """Return a completion of the parent as a step of the fork."""
        assert fan_out is not None
        step = tail.step + 1
        if tail.step == 0:
            # Every branch that was started, in the order of the parent; those that completed are removed one by one.
            begun = fan_out.model_copy(update={"since_step": step, "completed_steps": ()})
            open_tasks = tasks_of(self._base.frontier)
            open_ids = {task.id for task in open_tasks}
            started = (self._plan.branch(fan_out, index) for index in range(fan_out.next_index))
            ended = [task for task in started if task.id not in open_ids]
            tasks = [task.model_copy(update={"since_step": step, "calls": ()}) for task in (*ended, *open_tasks)]
            frontier: tuple[Task | FanOut, ...] = (begun, *tasks)
        else:
            current = fan_out_of(tail.frontier)
            assert current is not None
            frontier = (
                current.model_copy(update={"completed_steps": add_step(current.completed_steps, step)}),
                *(task for task in tasks_of(tail.frontier) if task.id != event.task_id),
            )
        return self._again(
            tail,
            left,
            event="completed",
            last_node=event.last_node,
            task_id=event.task_id,
            task_started_at=event.task_started_at,
            update=event.encoded_update(),
            frontier=self._terms.kept(frontier),
        )

    def _called_again(self, tail: Checkpoint, call: RecordedCall, left: int) -> Checkpoint:
        """Return a recorded call, answer or time of the parent as a step of the fork."""
        return self._again(
            tail,
            left,
            event=_EVENTS[call.kind],
            last_node=next(task.node for task in tasks_of(tail.frontier) if task.id == call.task_id),
            task_id=call.task_id,
            **called(tail, call),
        )

    def _again(self, tail: Checkpoint, left: int, **fields: Any) -> Checkpoint:
        status = status_of(fields["frontier"], self._interrupts)
        definition = {"fork": {"remaining": left}}
        return tail.next(
            executor_id=self._executor, timestamp=self._now, status=status, definition=definition, **fields
        )
