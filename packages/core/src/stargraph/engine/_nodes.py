"""Nodes: the code behind a graph's steps, and how a try of it is made."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from stargraph.engine._context import NodeContext
from stargraph.engine._failures import is_any_of, is_final
from stargraph.engine._imports import load_exception, load_object
from stargraph.engine._prompts import fill_prompt
from stargraph.engine._signatures import CONTEXT_NAME, Arguments, SignatureFault, arguments_of
from stargraph.engine._threads import run_in_executor, timed_out
from stargraph.errors import GraphError, NodeError
from stargraph.ir import NodeSpec


@dataclass(frozen=True, slots=True)
class Node:
    """A step of a graph, ready to run.

    Attributes:
        spec: its definition.
        code: the callable or class that its kind names; None where the kind is built in.
        function: what a try calls.
        arguments: what it is called with.
        retried: the exceptions that are worth another try.
    """

    spec: NodeSpec
    code: Any
    function: Callable[..., Any]
    arguments: Arguments
    retried: tuple[type[BaseException], ...]

    async def run(
        self,
        make_call: Callable[[], Callable[[], Any]],
        context: NodeContext,
        *,
        executor: Executor | None = None,
        waits: bool = True,
    ) -> object:
        """Run the node with its retries, and return what it returned.

        Args:
            make_call: gives the call of each try, with a state of its own.
            context: what the node is told.
            executor: where a sync function runs; threads of the loop's own where None.
            waits: whether time passes between two tries.

        Raises:
            BaseException: what the last try raised.
        """
        try:
            return await self._tries(make_call, context, executor, waits=waits)
        except SystemExit as exit_:
            raise NodeError(
                f"the node called sys.exit({exit_.code!r})",
                reason="node-exited",
                hint="A node ends by returning or by raising an exception.",
                node=self.spec.id,
            ) from exit_

    async def _tries(
        self,
        make_call: Callable[[], Callable[[], Any]],
        context: NodeContext,
        executor: Executor | None,
        *,
        waits: bool,
    ) -> object:
        retry = self.spec.retry
        if retry is None:
            return await self._try(make_call(), context, executor)
        from tenacity import (
            AsyncRetrying,
            retry_if_exception,
            stop_after_attempt,
            wait_exponential,
            wait_none,
            wait_random,
        )

        tries = AsyncRetrying(
            stop=stop_after_attempt(retry.attempts),
            wait=wait_exponential(multiplier=retry.initial_delay, max=retry.max_delay)
            + wait_random(0, retry.initial_delay)
            if waits
            else wait_none(),
            retry=retry_if_exception(lambda error: is_any_of(error, self.retried) and not is_final(error)),
            reraise=True,
        )
        async for attempt in tries:
            with attempt:
                context.begin(attempt.retry_state.attempt_number)
                return await self._try(make_call(), context, executor)
        raise AssertionError("tenacity ends with an outcome")

    def call(self, state: object, context: NodeContext) -> Callable[[], Any]:
        """Return the call of the node's function.

        Args:
            state: what it is given.
            context: what it is told, if it takes it.
        """
        return self.arguments.bind(self.function, state, context)

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop."""
        return inspect.iscoroutinefunction(self.function)

    async def _try(self, call: Callable[[], Any], context: NodeContext, executor: Executor | None) -> object:
        raised: BaseException | None = None
        returned: object = None
        try:
            returned = await self._outcome(call, executor)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # raised again below, unless it stands for a question
            raised = error
        if context.is_calling:
            await context.settle()
        outcome = context.outcome_of(raised)
        if outcome is not None:
            raise outcome
        return returned

    async def _outcome(self, call: Callable[[], Any], executor: Executor | None) -> object:
        if not self.is_async:
            return await self._in_executor(call, executor)
        return await self._within(call(), self.spec.timeout)

    async def _in_executor(self, call: Callable[[], Any], executor: Executor | None) -> object:
        """Run a sync function in a thread, and await what it returns if it wraps an async one."""
        timeout, began = self.spec.timeout, time.monotonic()
        returned = await run_in_executor(call, executor, timeout)
        if not inspect.isawaitable(returned):
            return returned
        return await self._within(returned, None if timeout is None else timeout - (time.monotonic() - began))

    async def _within(self, work: Awaitable[object], seconds: float | None) -> object:
        if seconds is None:
            return await work
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if limit.expired():
                raise timed_out(self.spec.timeout) from None
            raise


def build_node(spec: NodeSpec) -> Node:
    """Make a node ready to run.

    Args:
        spec: its definition.

    Raises:
        GraphError: its code cannot be imported, or is not what a node can be.
    """
    owner = f"node {spec.id!r}"
    retried = tuple(load_exception(name, wanted_by=f"{owner}: retry") for name in spec.retry.on) if spec.retry else ()
    if ":" not in spec.kind:
        function = functools.partial(_ask, spec) if spec.kind == "interrupt" else _nothing
        return Node(spec, None, function, Arguments(("state", "context"), {}), retried)
    code = load_object(spec.kind, wanted_by=owner)
    function = _executable(code, spec)
    try:
        arguments = arguments_of(function)
    except SignatureFault as fault:
        raise GraphError(
            f"{owner}: {spec.kind} {fault}",
            reason="wrong-signature",
            hint=f"A node takes the state first, and the context as a parameter that is called {CONTEXT_NAME!r} or"
            " annotated as NodeContext; what else it takes needs a default.",
        ) from None
    return Node(spec, code, function, arguments, retried)


async def _nothing(state: object, context: NodeContext) -> None:
    """What `echo` and `halt` do."""


async def _ask(spec: NodeSpec, state: object, context: NodeContext) -> dict[str, object]:
    """What `interrupt` does: the answer is its update."""
    assert spec.prompt is not None
    assert spec.into is not None
    return {spec.into: context.ask(fill_prompt(spec.prompt, state), None, into=spec.into)}


def _executable(code: Any, spec: NodeSpec) -> Callable[..., Any]:
    """Return what is called for a node: a function, the `execute` of an object, or the call of one."""
    if isinstance(code, type):
        try:
            code = code()
        except Exception as error:
            raise GraphError(
                f"node {spec.id!r}: {spec.kind}() failed: {type(error).__name__}: {error}",
                reason="node-class-failed",
                hint="The class of a node is made without arguments; to give it some, name an instance of it.",
            ) from error
    is_function = inspect.isroutine(code) or isinstance(code, functools.partial)
    if not is_function and callable(getattr(code, "execute", None)):
        return code.execute  # type: ignore[no-any-return]
    if not callable(code):
        raise GraphError(
            f"node {spec.id!r}: {spec.kind} is a {type(code).__qualname__}, and cannot be called",
            reason="not-callable",
            hint="Name a function, or a class with an execute() method.",
        )
    # What a library makes of a function, as functools.lru_cache does, names the function that it wraps.
    return code if is_function or hasattr(code, "__wrapped__") else code.__call__  # type: ignore[no-any-return]
