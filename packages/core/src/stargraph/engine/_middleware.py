"""Hooks around what a run does: for tracing, metrics, rate limits and whatever else is not the graph's business."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, RunSummary, Status

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class RunInfo:
    """One execution of a run: from its `start` or a `resume` until it ends, fails, pauses or waits.

    Attributes:
        run_id: the run.
        graph_id: its graph.
        action: why it is executed.
        metadata: its tags. Before a `start`, a middleware may add some: they are stored with the run.
        parent_run_id: the run whose subgraph it is, or None.
        step: the latest step; before a `start` -1.
        status: where it stands after the execution; None before, and if an exception ended the execution.
        error: what it failed with, if it failed.
    """

    run_id: str
    graph_id: str
    action: Literal["start", "resume"]
    metadata: dict[str, str]
    parent_run_id: str | None = None
    step: int = -1
    status: Status | None = None
    error: ErrorInfo | None = None

    def ended(self, summary: RunSummary) -> None:
        """Take note of how the execution ended."""
        self.step, self.status, self.error = summary.last_step, summary.status, summary.error


@dataclass(slots=True, eq=False)
class NodeInfo:
    """One attempt of a node.

    Attributes:
        run_id: the run.
        node: the id of the node.
        kind: what its definition says it is.
        task_id: the task; the same in every attempt and every resume of it.
        step: the step whose state the node gets.
        attempt: counts the attempts in this process, from 1.
        index: the position of the branch in its fan-out; None outside one.
        waits: after the attempt, whether it ended with an open question, or with a pause.
    """

    run_id: str
    node: str
    kind: str
    task_id: str
    step: int
    attempt: int = 1
    index: int | None = None
    waits: bool = False


@dataclass(slots=True, eq=False)
class CallInfo:
    """One call that a node makes now; calls that are taken from the log are not made.

    Attributes:
        run_id: the run.
        node: the id of the node.
        task_id: the task.
        name: the name of the call.
        key: what tells it apart from others of this name, or None.
        function: what is called, with its arguments. What a middleware puts here before its `yield` is called instead.
        returns: the type of the result that the node has asked for; what the function declares if None.
        result: what the function returned. If a middleware replaces it, the replacement is recorded, and the node gets
            it.
    """

    run_id: str
    node: str
    task_id: str
    name: str
    key: str | None
    function: partial[Any] | Callable[[], Any]
    returns: Any = None
    result: Any = None


@dataclass(slots=True, eq=False)
class StoreInfo:
    """One operation of the store.

    Attributes:
        operation: the method of the checkpointer; `history` stands for one record of it.
        run_id: the run, or None if it concerns several.
        checkpoints: what is written; empty if it is a read.
    """

    operation: Literal["write", "write_many", "read_latest", "read_at_step", "history", "list_runs"]
    run_id: str | None
    checkpoints: Sequence[Checkpoint] = ()


class Middleware:
    """Async context managers around what a run does; override those that you need.

    The first middleware of a run is the outermost one. Context variables that a context manager sets are visible to
    what runs inside it, also in the threads of sync nodes.

    An exception that one raises before its `yield` prevents what it stands around, and counts, like one that it raises
    after it, as that of what it stands around: the node or call fails, and is tried again if the graph says so; the
    execution of the run ends, as it does if the store fails, and can be resumed. An exception that is thrown into one
    may be replaced by another. If it is swallowed, a call returns `result`; anything else still fails.
    """

    def run(self, run: RunInfo) -> AbstractAsyncContextManager[None]:
        """Stand around one execution of a run, and of each child run.

        Args:
            run: which one; after the execution, also where it stands.
        """
        return _nothing(run)

    def node(self, node: NodeInfo) -> AbstractAsyncContextManager[None]:
        """Stand around one attempt of a node; what it raises is thrown into the context manager.

        A cancellation is thrown in as CancelledError: the attempt was given up, by a timeout or with the whole run.

        Args:
            node: which one.
        """
        return _nothing(node)

    def call(self, call: CallInfo) -> AbstractAsyncContextManager[None]:
        """Stand around the function of one `ctx.call` or `ctx.call_sync`, before its outcome is recorded.

        Of a sync node, what stands before the `yield` and what stands after it are two tasks of the loop.

        Args:
            call: which one.
        """
        return _nothing(call)

    def store(self, store: StoreInfo) -> AbstractAsyncContextManager[None]:
        """Stand around one operation of the store. That of a write is never cancelled: bound its time yourself.

        Args:
            store: which one.
        """
        return _nothing(store)


@asynccontextmanager
async def _nothing(_: object) -> AsyncIterator[None]:
    yield


RunHook: TypeAlias = Callable[[RunInfo], AbstractAsyncContextManager[None]]
NodeHook: TypeAlias = Callable[[NodeInfo], AbstractAsyncContextManager[None]]
CallHook: TypeAlias = Callable[[CallInfo], AbstractAsyncContextManager[None]]
StoreHook: TypeAlias = Callable[[StoreInfo], AbstractAsyncContextManager[None]]


class Hooks:
    """The middleware of a run, as its executor uses it.

    Args:
        middleware: the first one is the outermost.

    Attributes:
        run: the hooks around a run; likewise the others. Empty if nobody has overridden that one.
    """

    def __init__(self, middleware: Sequence[Middleware] = ()) -> None:
        self.run: list[RunHook] = [each.run for each in middleware if type(each).run is not Middleware.run]
        self.node: list[NodeHook] = [each.node for each in middleware if type(each).node is not Middleware.node]
        self.call: list[CallHook] = [each.call for each in middleware if type(each).call is not Middleware.call]
        self.store: list[StoreHook] = [each.store for each in middleware if type(each).store is not Middleware.store]


NO_HOOKS: Final = Hooks()
"""What a run without middleware has."""


async def enter(
    stack: AsyncExitStack, hooks: Sequence[Callable[[T], AbstractAsyncContextManager[None]]], info: T
) -> None:
    """Enter the context managers of some hooks, the first one first."""
    for hook in hooks:
        await stack.enter_async_context(hook(info))


def around(
    hooks: Sequence[Callable[[T], AbstractAsyncContextManager[None]]], info: T
) -> AbstractAsyncContextManager[None, None]:
    """Return a context manager that enters those of some hooks, the first one first, and leaves them the other way.

    An error that one of them swallows is raised nevertheless: a write, say, must not seem to have succeeded.
    """
    return cast("AbstractAsyncContextManager[None, None]", _around(hooks, info))


@asynccontextmanager
async def _around(hooks: Sequence[Callable[[T], AbstractAsyncContextManager[None]]], info: T) -> AsyncIterator[None]:
    raised: BaseException | None = None
    async with AsyncExitStack() as stack:
        await enter(stack, hooks, info)
        try:
            yield
        except BaseException as error:
            raised = error
            raise
    if raised is not None:
        raise raised


def check_middleware(middleware: Sequence[Middleware]) -> None:
    """Refuse what is no middleware.

    Raises:
        TypeError: one of them is not, or they are not listed: an iterator would be empty once it has been checked.
    """
    if not isinstance(middleware, Sequence):
        raise TypeError(f"middleware is {middleware!r:.80}: give a list of instances of stargraph.graph.Middleware")
    for each in middleware:
        if not isinstance(each, Middleware):
            raise TypeError(f"middleware holds {each!r}: pass instances of subclasses of stargraph.graph.Middleware")
