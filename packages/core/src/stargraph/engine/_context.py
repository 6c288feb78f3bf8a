"""What a node knows of its run, and what it may ask of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, cast
from uuid import UUID

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, Task
from stargraph.checkpoint.values import copy_json, own_json
from stargraph.engine._call_log import CallLog
from stargraph.engine._call_request import CallRequest, Calls
from stargraph.engine._questions import Questions
from stargraph.errors import NodeError, StateError
from stargraph.ir import signature_of
from stargraph.runtime._given import check_flags
from stargraph.runtime._loop_thread import running_loop

_NOT_GIVEN: Final[Any] = object()

_LONGEST_WAIT: Final = 100 * 365 * 24 * 3600.0
"""In seconds."""


class CallOptions:
    """Makes calls with options that were given beforehand; `Context.with_options` makes it.

    Args:
        context: the context of the node.
        key: tells apart calls of one name that are made at the same time.
        repeatable: whether a fork of the run may call the function again without permission.
        returns: the type of the result, or None.
    """

    def __init__(self, context: Context, *, key: str | None, repeatable: bool, returns: Any) -> None:
        self._context = context
        self._options: dict[str, Any] = {"key": key, "repeatable": repeatable, "returns": returns}

    def call(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Like `Context.call`.

        Args:
            name: what the call is known by.
            function: what is called.
            *args: its arguments.
            **kwargs: its arguments by name.
        """
        calls = self._context._attached("ctx.call()")
        if running_loop() is None:
            raise self._context._misplaced("ctx.call() is for async nodes", "In a sync node, use ctx.call_sync().")
        return calls.call(CallRequest(name, function, args, kwargs, **self._options))

    def call_sync(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Like `Context.call_sync`.

        Args:
            name: what the call is known by.
            function: what is called.
            *args: its arguments.
            **kwargs: its arguments by name.
        """
        calls = self._context._attached("ctx.call_sync()")
        if running_loop() is not None:
            raise self._context._misplaced(
                "ctx.call_sync() would block the event loop", "In an async node, await ctx.call()."
            )
        return calls.call_from_thread(CallRequest(name, function, args, kwargs, **self._options))


class Context:
    """What a node gets beside the state.

    Attributes:
        run_id: the run.
        task_id: the task; the same in every attempt and every resume of it.
        node: the id of the node.
        attempt: counts the attempts in this process, from 1.
        index: the position of the branch in its fan-out; None outside one.
        item: the item of a map's branch; None elsewhere.
        metadata: the tags of the run.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        task: Task,
        *,
        item: JsonValue = None,
        questions: Questions | None = None,
        call_log: CallLog | None = None,
    ) -> None:
        self.run_id = checkpoint.run_id
        self.task_id = task.id
        self.node = task.node
        self.attempt = 1
        self.index = task.index
        self.item = item
        self.metadata = dict(checkpoint.metadata)
        self._questions = questions
        self._call_log = call_log
        self._step = checkpoint.step
        self._now: datetime | None = None
        self._random: Random | None = None
        self._uuids: Random | None = None

    def __repr__(self) -> str:
        return f"Context(run_id={self.run_id!r}, task_id={self.task_id!r}, attempt={self.attempt})"

    @property
    def idempotency_key(self) -> str:
        """A text that is the same in every attempt and every resume of this task, and in no other task.

        Give it to a remote service, so that the service can tell a repeated request from a new one.
        """
        return hashlib.sha256(f"{self.run_id}\n{self.task_id}".encode()).hexdigest()[:32]

    @property
    def now(self) -> datetime:
        """The time in UTC, the same throughout one attempt; it is recorded, and a replay sees the recorded one."""
        if self._now is None:
            self._now = datetime.now(UTC) if self._call_log is None else self._call_log.now()
        return self._now

    @property
    def random(self) -> Random:
        """A source of random numbers, the same ones in every attempt, resume and replay of this task."""
        if self._random is None:
            self._random = self._seeded("random")
        return self._random

    def uuid(self) -> UUID:
        """Return a UUID of version 4; each attempt, resume and replay of this task gets the same ones in order."""
        if self._uuids is None:
            self._uuids = self._seeded("uuid")
        return UUID(int=self._uuids.getrandbits(128), version=4)

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = _NOT_GIVEN,
        repeatable: bool = _NOT_GIVEN,
        returns: Any = _NOT_GIVEN,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Await the outcome of a function that does something outside the run; it is recorded before this returns.

        After a crash, in another attempt, and in a replay, a call that succeeded returns what is recorded, and
        the function is not called. A call is known by its task, its name and key, and how often the node has made it.

        `key`, `repeatable` and `returns` are options of the call. If the function may take an argument of that name,
        the call is refused: give the options by `with_options`, then every argument by name goes to the function.

        Args:
            name: what the call is known by.
            function: a coroutine function, or any other, which is called in a thread.
            *args: its arguments.
            key: tells apart calls of one name that are made at the same time.
            repeatable: whether a fork of the run may call the function again without permission.
            returns: the type of the result, as in `list[Receipt]`; if not given, what the function declares.
            **kwargs: its arguments by name.

        Returns:
            What the function returned. Without a declared type that is JSON, and a pydantic model becomes an object.

        Raises:
            CallError: the function raised; this too is recorded. Or its result cannot be stored
                (`reason="result-not-storable"`): the call is recorded as made, and is never made again.
            NodeError: `reason` is `concurrent-calls`, `bad-call`, `ambiguous-option`, `detached-node`, `wrong-thread`,
                `node-ended` or `effect-refused`. A node that returns without having awaited the call fails with
                `call-not-awaited`.
        """
        options = self._options(name, function, key=key, repeatable=repeatable, returns=returns)
        return self.with_options(**options).call(name, function, *args, **kwargs)

    def call_sync(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = _NOT_GIVEN,
        repeatable: bool = _NOT_GIVEN,
        returns: Any = _NOT_GIVEN,
        **kwargs: Any,
    ) -> Any:
        """Like `call`, for a sync node: wait for the outcome. The function runs in the node's own thread.

        Args:
            name: what the call is known by.
            function: what is called.
            *args: its arguments.
            key: as for `call`.
            repeatable: as for `call`.
            returns: as for `call`.
            **kwargs: its arguments by name.

        Raises:
            CallError: as for `call`.
            NodeError: as for `call`.
        """
        options = self._options(name, function, key=key, repeatable=repeatable, returns=returns)
        return self.with_options(**options).call_sync(name, function, *args, **kwargs)

    def with_options(self, *, key: str | None = None, repeatable: bool = True, returns: Any = None) -> CallOptions:
        """Return an object that makes calls with these options, and passes every other argument to the function.

        Args:
            key: tells apart calls of one name that are made at the same time.
            repeatable: whether a fork of the run may call the function again without permission.
            returns: the type of the result; what the function is declared to return if None.
        """
        check_flags(repeatable=repeatable)
        return CallOptions(self, key=key, repeatable=repeatable, returns=returns)

    def emit(self, value: JsonValue, *, stored: bool = False) -> Awaitable[None]:
        """Send an event `emitted` to the listeners of the run: a token, a progress, or any other JSON.

        In an async node the result may be awaited, and must be if the value is stored. A node that runs again emits
        again what is not stored.

        Args:
            value: what to send.
            stored: record it too, as a call of the name `emit`, before this returns; it is then emitted once.

        Raises:
            StateError: the value is not JSON.
            NodeError: `reason` is `detached-node` or `node-ended`; if it is stored, as for `call`.
        """
        check_flags(stored=stored)
        calls = self._attached("ctx.emit()")
        emitted = own_json(value, "what ctx.emit() was given")
        if not stored:
            calls.emit(emitted)
            return DONE

        async def send() -> JsonValue:
            calls.emit(copy_json(emitted))  # a listener may change what it gets, but not what is recorded
            return emitted

        if running_loop() is not None:
            return self.call("emit", send)
        self.call_sync("emit", send)
        return DONE

    def interrupt(
        self, prompt: str, payload: JsonValue = None, *, key: str | None = None, into: str | None = None
    ) -> JsonValue:
        """Return a person's answer, or end the node until there is one; then it runs again from its beginning.

        A question is known by its task, its key and what it says, and how often the node has asked it: an answer is
        used for that question alone. A prompt or payload that differs in each attempt is a new question each time.

        Args:
            prompt: the question.
            payload: what the person needs to answer; JSON.
            key: tells apart the questions of this node that are open at the same time, as in `asyncio.gather`.
            into: the field of the state that the answer is for: an answer that the field does not take is refused, and
                not recorded. The node returns the field as any other. None takes any JSON.

        Raises:
            StateError: the payload is not JSON, the prompt or the key is not text, or the state has no field `into`
                (`reason="unknown-field"`).
            NodeError: another question without a key, or of the same key, is open (`reason="concurrent-questions"`).
        """
        return self._ask(prompt, payload, into=into, key=key)

    def sleep(self, seconds: float | None = None, *, until: datetime | None = None) -> Awaitable[None]:
        """End the node until a time has come; then it runs again from its beginning, and this returns at once.

        The run is stored with its due time and needs no process meanwhile: whoever resumes it then continues it. In an
        async node it is awaited; a sync node just calls it. A wait is known by how long it is, or until when, and how
        often the node has waited so.

        Args:
            seconds: how long, from when the wait is recorded; at most 100 years.
            until: the time to wait for instead, with its offset.

        Raises:
            StateError: neither or both are given, or one of them is no such value (`reason="bad-time"`).
            NodeError: `reason` is `detached-node` or `node-ended`.
        """
        self._attached("ctx.sleep()")
        if until is not None and seconds is None and isinstance(until, datetime) and until.tzinfo is not None:
            self._wait(until.astimezone(UTC))
        elif until is None and type(seconds) in (int, float) and 0 <= cast("float", seconds) <= _LONGEST_WAIT:
            self._wait(float(cast("float", seconds)))
        else:
            raise StateError(
                f"ctx.sleep() was given seconds={seconds!r:.80}, until={until!r:.80}",
                reason="bad-time",
                hint="Give either seconds, from 0 to 100 years, or until, a datetime with its offset.",
                node=self.node,
            )
        return DONE

    def _wait(self, wait: float | datetime) -> None:
        assert self._questions is not None
        self._questions.wait(wait)

    def _ask(self, prompt: str, payload: JsonValue, *, into: str | None, key: str | None = None) -> JsonValue:
        """Like `interrupt`, for an answer that goes into a field of the state if `into` names one."""
        self._attached("ctx.interrupt()")
        assert self._questions is not None
        return self._questions.ask(prompt, payload, key=key, into=into)

    def _begin(self, attempt: int) -> None:
        """Make ready for an attempt, counted from 1."""
        self.attempt = attempt
        self._now = self._random = self._uuids = None

    def _detached(self) -> Context:
        """Return a copy for another process, which can ask nothing of the run."""
        copied = copy.copy(self)
        copied._call_log = copied._questions = None
        return copied

    def _attached(self, what: str) -> Calls:
        if self._call_log is None:
            raise NodeError(
                f"{what} cannot be used in a node that runs in another process",
                reason="detached-node",
                hint="Make the node an async function, or give graph.start() an executor of threads.",
                node=self.node,
            )
        return self._call_log

    def _options(self, name: str, function: Callable[..., Any], **options: Any) -> dict[str, Any]:
        """Return the options that were given; one that the function may take as an argument is refused."""
        given = {option: value for option, value in options.items() if value is not _NOT_GIVEN}
        for option in given:
            if callable(function) and _may_take(function, option):
                shown = getattr(function, "__qualname__", None) or type(function).__qualname__
                raise NodeError(
                    f"call {name!r}: {option!r} is an option of the call, and {shown} may take it as an argument too",
                    reason="ambiguous-option",
                    hint=f"For the option, write ctx.with_options({option}=…).call(…); for an argument of the function,"
                    f" ctx.with_options().call(…, {option}=…).",
                    node=self.node,
                )
        return given

    def _misplaced(self, complaint: str, hint: str) -> NodeError:
        return NodeError(complaint, reason="wrong-thread", hint=hint, node=self.node)

    def _seeded(self, purpose: str) -> Random:
        seed = hashlib.sha256(f"{self.run_id}\n{self.task_id}\n{purpose}".encode()).digest()
        return Random(int.from_bytes(seed))  # noqa: S311  # no secret: it must come out the same again


class _Done:
    """Awaited, it returns at once; unawaited, it warns of nothing."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE: Final[Awaitable[None]] = _Done()
"""What is there already."""


def _may_take(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function may take an argument by a name; true if its signature cannot be read."""
    try:
        parameters = signature_of(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(
        parameter.kind is parameter.VAR_KEYWORD
        or (parameter.name == name and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY))
        for parameter in parameters
    )
