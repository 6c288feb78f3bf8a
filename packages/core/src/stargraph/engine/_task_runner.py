"""Run one task: a node's code, a rule's question, or a child run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, Task
from stargraph.engine._attempts import Attempts, MakeCall, NodeFailed
from stargraph.engine._call_log import CallLog, UnrecordedCallError
from stargraph.engine._context import Context
from stargraph.engine._fork_overrides import ForkOverrides
from stargraph.engine._in_place import Held, changed_in_place, held_by
from stargraph.engine._logging import log_lost_changes
from stargraph.engine._middleware import NO_HOOKS, Hooks, NodeInfo, around
from stargraph.engine._node_pools import NodePools
from stargraph.engine._pending_tasks import PendingTasks
from stargraph.engine._plan import Plan
from stargraph.engine._prompts import fill_prompt
from stargraph.engine._questions import Questions, Suspended
from stargraph.engine._remote import RemoteGraph, run_in_worker
from stargraph.engine._state import Given
from stargraph.engine._subgraph import ChildPausedError, StoreFaultError
from stargraph.engine._transitions import Updates

RunChild = Callable[[Checkpoint, Task, JsonValue], Awaitable[dict[str, object]]]


class TaskRunner:
    """Runs tasks, and returns their updates.

    Args:
        plan: the graph.
        pending_tasks: what the log has of the open tasks.
        pools: where sync nodes run.
        run_child: takes the child run of a subgraph to its end.
        overrides: what this run does differently from its graph.
        backs_off: whether time passes between two attempts of a node.
        hooks: stand around the attempts of nodes.
    """

    def __init__(
        self,
        plan: Plan,
        pending_tasks: PendingTasks,
        *,
        pools: NodePools,
        run_child: RunChild,
        overrides: ForkOverrides | None = None,
        backs_off: bool = True,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self._hooks = hooks.node
        self._plan = plan
        self._pending_tasks = pending_tasks
        self._pools = pools
        self._run_child = run_child
        self._overrides = overrides or ForkOverrides()
        self._backs_off = backs_off
        # Nodes of which one result is enough to know: they return what they update, or were told of.
        self._known: set[str] = set()

    async def run(self, tail: Checkpoint, task: Task, call_log: CallLog) -> Updates:
        """Run a task, and return its update in the form in which it is recorded.

        Args:
            tail: the latest checkpoint; its state is what the task is given.
            call_log: its recorded calls and its clock.

        Raises:
            Suspended: it waits for an answer.
            NodeFailed: what the node raised.
        """
        try:
            return await self._run(tail, task, call_log)
        except (NodeFailed, Suspended, StoreFaultError, ChildPausedError, UnrecordedCallError, asyncio.CancelledError):
            raise
        except BaseException as error:
            # User code again: what a class of the state does when it is read or written.
            raise NodeFailed(error) from error

    async def _run(self, tail: Checkpoint, task: Task, call_log: CallLog) -> Updates:
        state = self._plan.state
        node = self._plan.nodes[task.node]
        replaced = self._overrides.output_of(task)
        from_json = True
        if task.rule is not None:
            returned: object = self._ask(tail, task)
        elif replaced is not None:
            returned = replaced
        elif node.spec.kind == "subgraph":
            item = await self._pending_tasks.item(tail, task)
            run_child = self._observed_child if self._hooks else self._run_child
            returned = await run_child(tail, task, item)
        else:
            item = await self._pending_tasks.item(tail, task)
            questions = Questions(task, self._pending_tasks.calls(task), fields=state.fields)
            context = Context(tail, task, item=item, questions=questions, call_log=call_log)
            is_remote = not node.is_async_here and (node.spec.isolation == "process" or self._pools.is_remote)
            # What came from another process was recorded there, and what a built-in node returns was given to it.
            from_json = is_remote or node.code is None
            given: list[tuple[Given, Held | None]] = []
            attempts = Attempts(
                node,
                context,
                questions,
                call_log,
                self._pools,
                self._remote_calls(tail, task, context) if is_remote else self._calls(tail, task, context, given),
                backs_off=self._backs_off,
                hooks=self._hooks,
                info=self._info(tail, task) if self._hooks else None,
            )
            try:
                returned = await attempts.run()
            finally:
                call_log.close()
            if given:
                (last, held), update = given[-1], state.update_of(returned, task.node)
                state.refuse_given(returned, update, last, task.node)
                if task.node not in self._known:
                    self._tell_of_changes(update, last.state, held, tail, task)
                return await state.record_in_turns(update, tail, from_json=from_json)
        return await state.record_in_turns(state.update_of(returned, task.node), tail, from_json=from_json)

    async def _observed_child(self, tail: Checkpoint, task: Task, item: JsonValue) -> dict[str, object]:
        info = self._info(tail, task)
        returned: dict[str, object] = {}
        stopped: Suspended | ChildPausedError | None = None
        async with around(self._hooks, info):
            try:
                returned = await self._run_child(tail, task, item)
            except (Suspended, ChildPausedError) as waiting:
                info.waits, stopped = True, waiting
        if stopped is not None:
            raise stopped
        return returned

    def _info(self, tail: Checkpoint, task: Task) -> NodeInfo:
        kind = self._plan.nodes[task.node].spec.kind
        return NodeInfo(tail.run_id, task.node, kind, task.id, tail.step, index=task.index)

    def _tell_of_changes(
        self, update: Mapping[str, object], state: object, held: Held | None, tail: Checkpoint, task: Task
    ) -> None:
        """Log, once for each node, that it changed the state and returned nothing: the change is lost."""
        changed = [] if update else changed_in_place(state, held)
        if update or changed:
            self._known.add(task.node)
        if changed:
            log_lost_changes(tail, task, changed)

    def _calls(
        self, tail: Checkpoint, task: Task, context: Context, given: list[tuple[Given, Held | None]]
    ) -> MakeCall:
        """Return what makes the call of each attempt, with a fresh state, which is then the one that was `given`.

        Beside it is what it held then, unless the node is known to return what it updates.
        """
        state, node = self._plan.state, self._plan.nodes[task.node]

        async def make_call() -> Callable[[], Any]:
            fresh = state.given(await state.read_in_turns(tail))
            given[:] = [(fresh, None if task.node in self._known else held_by(fresh.state))]
            return node.call(fresh.state, context)

        return make_call

    def _remote_calls(self, tail: Checkpoint, task: Task, context: Context) -> MakeCall:
        """Return what makes the call of each attempt, in another process."""
        self._plan.state.refuse_unknown(tail)
        graph = RemoteGraph(
            self._plan.document.model_dump_json(by_alias=True), self._plan.modules, self._plan.code_of(task.node)
        )

        async def make_call() -> Callable[[], Any]:
            return partial(run_in_worker, graph, task.node, tail.state_json(), context._detached())

        return make_call

    def _ask(self, tail: Checkpoint, task: Task) -> dict[str, object]:
        assert task.rule is not None
        question = self._plan.rules[task.rule].spec.then[0]
        assert question.kind == "interrupt"
        prompt = fill_prompt(question.prompt, self._plan.state.read(tail))
        questions = Questions(task, self._pending_tasks.calls(task))
        return {question.into: questions.ask(prompt, None, key=None, into=question.into)}
