"""What stands in for the functions of calls."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from stargraph.checkpoint.protocol import JsonValue, RecordedCall
from stargraph.engine import RemoteNodeError, ResultType
from stargraph.graph import CallInfo, Middleware

EMIT: Final = "emit"
"""The name of the call that records what a node emits."""


class InTurn:
    """Stands in for a call that is made several times: each gets the next one of these.

    Args:
        *outcomes: values, exceptions that are raised, or functions that are called.
    """

    def __init__(self, *outcomes: Any) -> None:
        self._outcomes = list(outcomes)
        self._next = 0

    def take(self, name: str) -> Any:
        """Return the next one.

        Args:
            name: what the call is known by.

        Raises:
            AssertionError: there is none left.
        """
        if self._next == len(self._outcomes):
            raise AssertionError(f"call {name!r} was made {self._next + 1} times, and has {self._next} fake outcomes")
        self._next += 1
        return self._outcomes[self._next - 1]


class Recorded:
    """The recorded outcome of a call; what the call returns then has the type that it had.

    Args:
        call: the record.
    """

    def __init__(self, call: RecordedCall) -> None:
        self._call = call

    def outcome(self, kind: ResultType) -> Any:
        """Return what the call returned, or raise what it raised.

        Args:
            kind: the type of the result.
        """
        if self._call.error is not None:
            raise RemoteNodeError(self._call.error, (self._call.error.type,))
        return kind.load(self._call.result, f"the recorded result of call {self._call.name!r}")


def faked(
    fakes: Mapping[str, Any], name: str, function: Callable[[], Any], returns: Any, node: str
) -> Callable[[], Any]:
    """Return what is called in place of a function.

    Args:
        fakes: by the names of calls: a value, an exception, a function, or several `InTurn`.
        name: what the call is known by.
        function: the function, with its arguments.
        returns: the type of the result that the node has asked for, or None.

    Raises:
        AssertionError: nothing stands in for it.
    """
    if name == EMIT and name not in fakes:
        return function  # ctx.emit(…, stored=True) does nothing outside
    if name not in fakes:
        known = ", ".join(map(repr, fakes)) or "none"
        raise AssertionError(f"node {node!r} made the call {name!r}, for which there is no fake (there are: {known})")
    fake = fakes[name]
    if isinstance(fake, InTurn):
        fake = fake.take(name)
    called = function.func if isinstance(function, partial) else function
    if isinstance(fake, Recorded):
        return partial(fake.outcome, ResultType.of(called, returns, node))
    if isinstance(fake, BaseException):
        return partial(_raise, fake)
    if callable(fake):
        return partial(fake, *function.args, **function.keywords) if isinstance(function, partial) else fake
    return partial(copy.deepcopy, fake)


def _raise(error: BaseException) -> None:
    raise error


class FakeCalls(Middleware):
    """Makes no call: each gets what stands in for it.

    Args:
        fakes: as `faked` takes them.
    """

    def __init__(self, fakes: Mapping[str, Any]) -> None:
        self._fakes = fakes

    @asynccontextmanager
    async def call(self, call: CallInfo) -> AsyncIterator[None]:
        """Put something else in the place of the function."""
        call.function = faked(self._fakes, call.name, call.function, call.returns, call.node)
        yield


def by_name(calls: Iterable[RecordedCall]) -> dict[str, InTurn]:
    """Return what stands in for recorded calls.

    Args:
        calls: in the order in which they are to be made.
    """
    outcomes: dict[str, list[Recorded]] = {}
    for call in calls:
        outcomes.setdefault(call.name, []).append(Recorded(call))
    return {name: InTurn(*each) for name, each in outcomes.items()}


def answer_for(answers: Mapping[str, Any], prompt: str, node: str, payload: JsonValue) -> tuple[Any] | None:
    """Return the answer that was given ahead to a question, or None if there is none.

    Args:
        answers: by the text of the question, or by the node that asks: a value, or a function of the payload.
        prompt: the question.
        node: the node that asks.
        payload: what a person would need to answer.
    """
    for key in (prompt, node):
        if key in answers:
            answer = answers[key]
            return (answer(payload) if callable(answer) else answer,)
    return None
