"""A call that a node asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import check_json
from stargraph.engine._results import ResultType
from stargraph.errors import NodeError


@dataclass(frozen=True, slots=True)
class CallRequest:
    """What `ctx.call` was given.

    Attributes:
        name: the name of the call.
        function: what is called; a coroutine function on the loop, any other in a thread.
        args: its arguments.
        kwargs: its arguments by name.
        key: tells concurrent calls of one name apart.
        repeatable: whether the call may be made although effects are not allowed.
        returns: the type of the result; what the function is declared to return if None.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    key: str | None = None
    repeatable: bool = True
    returns: Any = None

    def bound(self) -> partial[Any]:
        """Return the function with its arguments."""
        return partial(self.function, *self.args, **self.kwargs)

    def result_type(self, node: str) -> ResultType:
        """Return the type of the result, as it is recorded and returned.

        Args:
            node: the node that makes the call, for errors.

        Raises:
            NodeError: this cannot be a call (`reason="bad-call"`).
            StateError: the name or the key cannot be stored.
        """
        complaint = _complaint(self.name, self.function, self.key)
        if complaint is not None:
            raise NodeError(
                complaint,
                reason="bad-call",
                hint="Give a name, the function and its arguments, as in ctx.call('fetch', fetch, url).",
                node=node,
            )
        check_json([self.name, self.key], "the name and the key of a call")
        return ResultType.of(self.function, self.returns, node)


class Calls(Protocol):
    """What makes the calls of a node, and tells others what it emits."""

    async def call(self, request: CallRequest) -> Any:
        """Return the outcome of a call of an async node."""
        ...

    def call_from_thread(self, request: CallRequest) -> Any:
        """Return the outcome of a call of a sync node; its function runs in the same thread."""
        ...

    def emit(self, value: JsonValue) -> None:
        """Publish what the node says."""
        ...


def _complaint(name: object, function: object, key: object) -> str | None:
    if not isinstance(name, str) or not name:
        return f"the name of a call is {name!r:.80}, and not a text"
    if not (key is None or isinstance(key, str)):
        return f"the key of call {name!r} is {key!r:.80}, and not a text"
    if not callable(function):
        return f"call {name!r} was given a value of type {type(function).__qualname__} in place of a function"
    return None
