"""What one task does: a node's code, a rule's question, or a child run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, Task
from stargraph.engine._call_log import CallLog
from stargraph.engine._context import NodeContext
from stargraph.engine._fork_overrides import ForkOverrides
from stargraph.engine._pending_tasks import PendingTasks
from stargraph.engine._plan import Plan
from stargraph.engine._prompts import fill_prompt
from stargraph.engine._remote import is_remote, run_in_worker
from stargraph.engine._transitions import Updates

RunChild = Callable[[Checkpoint, Task, JsonValue], Awaitable[dict[str, object]]]


class Worker:
    """Takes tasks to their updates.

    Args:
        plan: the graph.
        work: what the log knows of the open tasks.
        threads: where sync nodes run; the loop's own threads where None.
        run_child: takes the child run of a subgraph to its end.
        terms: what is otherwise than the graph says.
        waits: whether time passes between two tries of a node.
    """

    def __init__(
        self,
        plan: Plan,
        work: PendingTasks,
        *,
        threads: Executor | None,
        run_child: RunChild,
        terms: ForkOverrides | None = None,
        waits: bool = True,
    ) -> None:
        self._plan = plan
        self._work = work
        self._threads = threads
        self._run_child = run_child
        self._terms = terms or ForkOverrides()
        self._waits = waits

    async def run(self, tail: Checkpoint, task: Task, journal: CallLog) -> Updates:
        """Run a task, and return its update in the form in which it is recorded.

        Args:
            tail: the latest checkpoint; its state is what the task is given.
            task: the task.
            journal: what it learns from outside the run.

        Raises:
            Suspended: it waits for an answer.
            Exception: what the node raised.
        """
        state = self._plan.state
        node = self._plan.nodes[task.node]
        replaced = self._terms.output_of(task)
        if task.rule is not None:
            returned: object = self._ask(tail, task, journal)
        elif replaced is not None:
            returned = replaced
        elif node.spec.kind == "subgraph":
            returned = await self._run_child(tail, task, await self._work.item(tail, task))
        else:
            item = await self._work.item(tail, task)
            context = NodeContext(tail, task, item=item, recorded=self._work.calls(task), journal=journal)
            remote = not node.is_async and is_remote(self._threads)
            calls = self._remote_calls if remote else self._calls
            try:
                returned = await node.run(
                    calls(tail, task, context), context, executor=self._threads, waits=self._waits
                )
            finally:
                journal.close()
            if remote:
                assert isinstance(returned, tuple)
                returned, journal.seen = returned
        return state.record(state.update_of(returned, task.node))

    def _calls(self, tail: Checkpoint, task: Task, context: NodeContext) -> Callable[[], Callable[[], Any]]:
        """Return what makes the call of each try, with a fresh state."""
        state, node = self._plan.state, self._plan.nodes[task.node]
        return lambda: node.call(state.read(tail), context)

    def _remote_calls(self, tail: Checkpoint, task: Task, context: NodeContext) -> Callable[[], Callable[[], Any]]:
        """Return what makes the call of each try, in another process."""
        self._plan.state.refuse_unknown(tail)
        document = self._plan.document.model_dump_json(by_alias=True)
        return lambda: partial(run_in_worker, document, task.node, tail.state_json(), context.detached())

    def _ask(self, tail: Checkpoint, task: Task, journal: CallLog) -> dict[str, object]:
        assert task.rule is not None
        question = self._plan.rules[task.rule].spec.then[0]
        assert question.kind == "interrupt"
        context = NodeContext(tail, task, recorded=self._work.calls(task), journal=journal)
        prompt = fill_prompt(question.prompt, self._plan.state.read(tail))
        return {question.into: context.ask(prompt, None, into=question.into)}
