"""What the log knows of the tasks and branches that are open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from stargraph.checkpoint.protocol import Checkpoint, FanOut, JsonValue, RecordedCall, Task
from stargraph.checkpoint.values import copy_json
from stargraph.engine._failures import is_made_anew
from stargraph.engine._plan import Completion, Plan
from stargraph.engine._subgraph import StoreFaultError
from stargraph.engine._transitions import Updates, fan_out_of, steps_of, tasks_of
from stargraph.errors import CheckpointCorruptedError, StateError

ReadStep = Callable[[int], Awaitable[Checkpoint | None]]
ReadSteps = Callable[[Sequence[int]], AsyncIterator[Checkpoint]]


class PendingTasks:
    """The recorded calls of open tasks, the updates of finished branches, and the items of a map.

    Args:
        plan: the graph.
        read_step: reads one step of the run from the store.
        read_steps: reads many, ascending, with few requests; leaves out what is not there.
    """

    def __init__(self, plan: Plan, read_step: ReadStep, read_steps: ReadSteps) -> None:
        self._plan = plan
        self._read_step = read_step
        self._read_steps = read_steps
        self._calls: dict[str, list[tuple[int, RecordedCall]]] = {}
        self._branches: dict[int, Updates] = {}
        self._items: list[JsonValue] | None = None

    async def load(self, tail: Checkpoint) -> None:
        """Read what a run's open tasks need from its log.

        Args:
            tail: the latest checkpoint.

        Raises:
            CheckpointCorruptedError: a step is missing.
        """
        calls = {step for task in tasks_of(tail.frontier) for step in steps_of(task.calls)}
        fan_out = fan_out_of(tail.frontier)
        completed = frozenset(() if fan_out is None else steps_of(fan_out.completed_steps))
        missing = calls | completed
        async for record in self._read_steps(sorted(missing - {tail.step})):
            missing.discard(record.step)
            self._note(record, called=record.step in calls, completed=record.step in completed)
        for step in sorted(missing):
            self._note(await self._read(tail, step), called=step in calls, completed=step in completed)

    def _note(self, record: Checkpoint, *, called: bool, completed: bool) -> None:
        if called:
            self.note_calls(record)
        if completed and record.event == "completed" and record.task_id is not None:
            index = int(record.task_id.rpartition(".")[2])
            self._branches[index] = record.encoded_update() or {}

    async def item(self, tail: Checkpoint, task: Task) -> JsonValue:
        """Return the item of a map's branch, as a copy; None for any other task.

        Args:
            tail: the latest checkpoint.

        Raises:
            StoreFaultError: the store cannot be read now, or a step is missing.
        """
        fan_out = fan_out_of(tail.frontier)
        if task.index is None or fan_out is None or fan_out.mode != "map":
            return None
        if self._items is None:
            try:
                self._items = await self._load_items(tail, fan_out)
            except (StateError, StoreFaultError, asyncio.CancelledError):
                raise
            except BaseException as error:
                raise StoreFaultError(error) from error
        return copy_json(self._items[task.index])

    async def _load_items(self, tail: Checkpoint, fan_out: FanOut) -> list[JsonValue]:
        origin = await self._read(tail, fan_out.since_step)
        rule = self._plan.rules[fan_out.rule]
        completion = Completion(
            node=rule.spec.when.node, task_id=fan_out.task_id, state=origin.state, update=origin.update or {}
        )
        items = self._plan.items(rule, completion)
        if len(items) != fan_out.width:
            raise StateError(
                f"rule {fan_out.rule!r} gives {len(items)} items, and gave {fan_out.width} when the map began",
                reason="map-changed",
                hint="Resume with the graph that began the map.",
            )
        return items

    def calls(self, task: Task) -> Sequence[RecordedCall]:
        """Return the calls that were recorded for a task."""
        noted = self._calls.get(task.id)
        return () if noted is None else [call for _, call in noted]

    def moment(self, task: Task) -> datetime | None:
        """Return the time that a task had read when it asked its first question, or None."""
        for _, call in self._calls.get(task.id, ()):
            if call.kind == "now":
                return call.started_at
        return None

    def call_steps(self, task: Task) -> Sequence[int]:
        """Return the steps at which the calls of a task were recorded, in the order of `calls`."""
        return [step for step, _ in self._calls.get(task.id, ())]

    def failed_calls(self, task_ids: Iterable[str]) -> set[int]:
        """Return the steps at which failed calls of some tasks were recorded.

        Args:
            task_ids: the tasks.
        """
        return {step for task_id in task_ids for step, call in self._calls.get(task_id, ()) if is_made_anew(call)}

    def forget_calls(self, steps: Collection[int]) -> None:
        """Forget the calls that were recorded at some steps."""
        for task_id, calls in self._calls.items():
            self._calls[task_id] = [(step, call) for step, call in calls if step not in steps]

    @property
    def branches(self) -> Mapping[int, Updates]:
        """The updates of the branches that have completed, by their index."""
        return self._branches

    def note_calls(self, record: Checkpoint) -> None:
        """Remember the calls that a checkpoint records.

        Args:
            record: the checkpoint.
        """
        for call in record.calls:
            self._calls.setdefault(call.task_id, []).append((record.step, call))

    def note_completed(self, task: Task, update: Updates, record: Checkpoint) -> None:
        """Remember that a task completed.

        Args:
            record: the checkpoint of its completion.
        """
        self._calls.pop(task.id, None)
        if task.index is not None:
            self._branches[task.index] = update
        fan_out = fan_out_of(record.frontier)
        if fan_out is None or fan_out.since_step == record.step:
            # Completions of this fan-out may have to be built again after an answer: they keep what they were given.
            self._branches = {}
            self._items = None

    async def _read(self, tail: Checkpoint, step: int) -> Checkpoint:
        record = tail if step == tail.step else await self._read_step(step)
        if record is None:
            raise CheckpointCorruptedError(
                f"run {tail.run_id!r}: step {step} is missing, and the run needs it to continue",
                reason="missing-step",
                hint="Restore the store from a backup.",
                run_id=tail.run_id,
                step=step,
            )
        return record
