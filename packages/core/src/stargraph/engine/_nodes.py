"""Nodes: the code that a graph names, ready to be called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stargraph.engine._context import Context
from stargraph.engine._imports import Modules
from stargraph.engine._prompts import fill_prompt
from stargraph.engine._signatures import Arguments, SignatureFault, arguments_of
from stargraph.errors import GraphError, StateError
from stargraph.ir import NodeSpec


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph, ready to run.

    Attributes:
        spec: its definition.
        code: the callable or class that its kind names; None if the kind is built in.
        function: what an attempt calls.
        arguments: what it is called with.
        retried: the exceptions that are worth another attempt.
        is_async_here: whether it runs on the event loop.
    """

    spec: NodeSpec
    code: Any
    function: Callable[..., Any]
    arguments: Arguments
    retried: tuple[type[BaseException], ...]
    is_async_here: bool

    def call(self, state: object, context: Context) -> Callable[[], Any]:
        """Return the call of the node's function.

        Args:
            state: what it is given.
            context: its context, if it takes one.
        """
        return self.arguments.bind(self.function, state, context)


def build_node(spec: NodeSpec, modules: Modules) -> Node:
    """Make a node ready to run.

    Args:
        spec: its definition.
        modules: where its code is.

    Raises:
        GraphError: its code cannot be imported, or is not what a node can be.
    """
    owner = f"node {spec.id!r}"
    retried = (
        tuple(modules.load_exception(name, wanted_by=f"{owner}: retry") for name in spec.retry.on) if spec.retry else ()
    )
    if ":" not in spec.kind:
        does = {"interrupt": _ask, "wait": _wait}.get(spec.kind)
        function = _nothing if does is None else functools.partial(does, spec)
        return Node(spec, None, function, Arguments(("state", "context"), {}), retried, _is_async_here(spec, function))
    code = modules.load(spec.kind, wanted_by=owner)
    function = _executable(code, spec)
    try:
        arguments = arguments_of(function)
    except SignatureFault as fault:
        raise GraphError(
            f"{owner}: {spec.kind} {fault}",
            reason="wrong-signature",
            hint=fault.hint,
        ) from None
    return Node(spec, code, function, arguments, retried, _is_async_here(spec, function))


def _is_async_here(spec: NodeSpec, function: Callable[..., Any]) -> bool:
    return spec.isolation != "process" and inspect.iscoroutinefunction(function)


async def _nothing(state: object, context: Context) -> None:
    """What `echo` and `halt` do."""


async def _ask(spec: NodeSpec, state: object, context: Context) -> dict[str, object]:
    """What `interrupt` does: the answer is its update."""
    assert spec.prompt is not None
    assert spec.into is not None
    return {spec.into: context._ask(fill_prompt(spec.prompt, state), None, into=spec.into)}


async def _wait(spec: NodeSpec, state: object, context: Context) -> None:
    """What `wait` does."""
    if spec.until is None:
        await context.sleep(spec.seconds)
        return
    text = fill_prompt(spec.until, state)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise StateError(
            f"node {spec.id!r} waits until {text!r:.80}, which is not a time",
            reason="bad-time",
            hint="Write a time as ISO 8601 with its offset, as in 2027-01-31T09:00:00Z.",
            node=spec.id,
        ) from None
    await context.sleep(until=moment)


def _executable(code: Any, spec: NodeSpec) -> Callable[..., Any]:
    """Return what is called for a node: a function, the `execute` of an object, or the call of one."""
    if isinstance(code, type):
        try:
            code = code()
        except Exception as error:
            raise GraphError(
                f"node {spec.id!r}: {spec.kind}() failed: {type(error).__name__}: {error}",
                reason="node-class-failed",
                hint="The class of a node is instantiated without arguments; to give it some, name an instance.",
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
