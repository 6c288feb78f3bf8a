"""The recorded calls of one execution of a task, and its clock."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from stargraph.checkpoint.protocol import JsonValue, RecordedCall, Task
from stargraph.checkpoint.values import format_time
from stargraph.engine._call_functions import CallFunctions
from stargraph.engine._call_request import CallRequest
from stargraph.engine._failures import NOT_STORABLE, call_error, error_info
from stargraph.engine._middleware import CallHook, CallInfo
from stargraph.engine._node_pools import NodePools
from stargraph.engine._questions import IN_CALL, Question, Suspended, question_lost
from stargraph.engine._recorded_calls import CallId, RecordedCalls
from stargraph.engine._results import ResultType
from stargraph.errors import NodeError
from stargraph.runtime import dispatch
from stargraph.runtime._loop_thread import running_loop

Record: TypeAlias = Callable[[Task, RecordedCall], Coroutine[Any, Any, bool]]
"""Appends a call to the log, and tells whether it is there; if not, the executor has lost the run."""

Tell: TypeAlias = Callable[..., None]
"""Publishes what is not recorded: its type, the task, the time, and what the event says, by name."""


class UnrecordedCallError(BaseException):
    """Ends a node that is executed again from its log and makes a call that the log does not have.

    Not an Exception, so that a node's own `except Exception` lets it through.
    """

    def __init__(self, call_id: CallId) -> None:
        super().__init__(str(call_id))
        self.call_id = call_id


_NO_OUTCOME: Final = (
    asyncio.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
    Suspended,
    UnrecordedCallError,
)
"""What a function raises that is not its own outcome, but ends the node that calls it."""


class CallLog:
    """The calls of one execution of a task, recorded before or made by it, and its clock.

    A call that succeeded is never made again by its task. One that failed raises once: if a later attempt of the node
    makes it again, the function runs again, and its outcome is recorded beside the first. So an execution that repeats
    another, attempt by attempt, gets the outcomes that the other one got.

    Args:
        recorded: what its log has of its calls, in order.
        record: appends a call to the log; if None, a call that is not recorded ends the node.
        pools: where sync functions run; threads of this log's own if None.
        owner: what names the task among those of all runs.
        effects: whether calls that are not repeatable may be made.
        moment: the current time; the time of the clock if None.
        run_id: the run, for the hooks.
        hooks: stand around the functions of calls.
        tell: publishes what is not recorded.
        record_attempts: record an attempt that failed at once, and not with what the task records next.

    Attributes:
        attempt: counts the attempts of the node, from 1.
        seen: the time that the node has read in this attempt, or None if it has not looked.
        missing: a call that was made and is not recorded, if nothing can be recorded.
    """

    def __init__(
        self,
        task: Task,
        recorded: Iterable[RecordedCall] = (),
        *,
        record: Record | None = None,
        pools: NodePools | None = None,
        owner: str = "",
        effects: bool = True,
        moment: datetime | None = None,
        run_id: str = "",
        hooks: Sequence[CallHook] = (),
        tell: Tell = lambda what, task, when, **content: None,
        record_attempts: bool = False,
    ) -> None:
        self.attempt = 1
        self._run_id = run_id
        self.seen: datetime | None = None
        self.missing: CallId | None = None
        self._task = task
        self._recorded = recorded
        self._record = record
        self._functions = CallFunctions(pools or NodePools(), owner, hooks)
        self._effects = effects
        self._moment = moment
        self._tell = tell
        self._record_attempts = record_attempts
        self._failed_attempts: list[RecordedCall] = []
        self._closed = self._ended = False
        self._under_way: set[tuple[str, str | None]] = set()
        # By the identity of the request, which the coroutine keeps alive: what it holds need not be hashable.
        self._not_awaited: dict[int, tuple[str, Coroutine[Any, Any, Any]]] = {}
        self._idle: asyncio.Future[None] | None = None
        self._loop = self._functions.loop

    @functools.cached_property
    def _calls(self) -> RecordedCalls:
        # Most nodes call nothing, and pay nothing.
        return RecordedCalls(self._recorded)

    def begin(self) -> None:
        """Make ready for another attempt of the node."""
        self.attempt += 1
        self._closed = self._ended
        if "_calls" in self.__dict__:
            self._calls.begin_attempt()
        self.seen = None

    @property
    def is_calling(self) -> bool:
        """Whether calls are under way."""
        return bool(self._under_way)

    async def settle(self) -> None:
        """Wait for the calls that an attempt has begun and not awaited; refuse further ones until the next attempt.

        Their outcomes are recorded by then, so that the next attempt does not make them again.
        """
        self._closed = True
        while self.is_calling:
            self._idle = self._loop.create_future()
            await self._idle

    def refuse_calls(self) -> None:
        """Take no further calls of this attempt; one that is under way may still be recorded."""
        self._closed = True

    def close(self) -> None:
        """Take and record no further calls: the task has ended."""
        self._closed = self._ended = True

    def now(self) -> datetime:
        """Return the time that it is for this attempt."""
        if self.seen is None:
            self.seen = self._moment or datetime.now(UTC)
        return self.seen

    def moments(self) -> tuple[RecordedCall, ...]:
        """Return what the log records of the clock, if anybody looked at it, and of the attempts that have failed."""
        failed = tuple(self._failed_attempts)
        if self.seen is None:
            return failed
        now = RecordedCall(
            kind="now", task_id=self._task.id, name="now", result=format_time(self.seen), started_at=self.seen
        )
        return (now, *failed)

    async def note_failed_attempt(self, error: BaseException, began: datetime) -> None:
        """Report an attempt that failed and that another one follows, and have it recorded.

        Args:
            error: what the node raised.
            began: when the attempt began.
        """
        now = datetime.now(UTC)
        info = error_info(error, node=self._task.node)
        seconds = max((now - began).total_seconds(), 0.0)
        self._tell("attempt_failed", self._task, now, attempt=self.attempt, error=info, seconds=seconds)
        if self._record is None:
            return
        failed = RecordedCall(
            kind="attempt",
            task_id=self._task.id,
            name="attempt",
            occurrence=self.attempt - 1,
            error=info,
            started_at=began,
        )
        if self._record_attempts:
            await dispatch.run_uncancelled(self._record(self._task, failed))
        else:
            self._failed_attempts.append(failed)

    def emit(self, value: JsonValue) -> None:
        """Publish what the node says; from any thread.

        Args:
            value: what it says; JSON.

        Raises:
            NodeError: the node has ended.
        """
        if self._closed:
            raise NodeError(
                "ctx.emit() was called after its node had ended",
                reason="node-ended",
                hint="Await what the node begins before it returns.",
                node=self._task.node,
            )
        tell = functools.partial(
            self._tell, "emitted", self._task, datetime.now(UTC), attempt=self.attempt, value=value
        )
        if running_loop() is self._loop:
            tell()
        else:
            self._loop.call_soon_threadsafe(tell)

    @property
    def unused(self) -> Sequence[RecordedCall]:
        """The recorded calls that this execution has not made."""
        return self._calls.unused()

    def call(self, request: CallRequest) -> Coroutine[Any, Any, Any]:
        """Await the outcome of a call: the recorded one, or that of the function, which is recorded first.

        Args:
            request: the call.

        Raises:
            CallError: the function raised, or its result cannot be stored.
            NodeError: the call cannot be made.
            StateError: the recorded result does not fit the type any more.
        """
        made = self._call(request)
        self._not_awaited[id(request)] = request.name, made
        return made

    async def drop_not_awaited(self) -> list[str]:
        """Return the names of the calls of this attempt that were never awaited, and can be awaited no more."""
        if not self._not_awaited:
            return []
        await asyncio.sleep(0)  # a task that was made of one begins it now, as it would had the node awaited anything
        made_only = inspect.CORO_CREATED  # not those that the node has closed, or cancelled as tasks
        names = [name for name, made in self._not_awaited.values() if inspect.getcoroutinestate(made) == made_only]
        for _, made in self._not_awaited.values():
            made.close()
        self._not_awaited.clear()
        return names

    async def _call(self, request: CallRequest) -> Any:
        del self._not_awaited[id(request)]
        result_type = request.result_type(self._task.node)
        call_id, position = await self._open(request)
        error: BaseException | None = None
        try:
            if position is None:
                began = datetime.now(UTC)
                with _questions_asked() as asked:
                    result, error = await self._functions.perform(self._info(call_id, request))
                self._raise_unless_outcome(error, asked, request.name)
                position = await self._record_outcome(call_id, began, result_type, result, error)
                if position is None:
                    # The executor has lost the run, and cancels what it executes.
                    await asyncio.get_running_loop().create_future()
                assert position is not None
            return self._outcome(position, result_type, error)
        finally:
            self._leave(call_id)

    def call_from_thread(self, request: CallRequest) -> Any:
        """Like `call`, for a node that runs in a thread: the function runs in the same thread.

        Args:
            request: the call.
        """
        result_type = request.result_type(self._task.node)
        call_id, position = self._functions.on_loop(self._open(request))
        error: BaseException | None = None
        try:
            if position is None:
                began = datetime.now(UTC)
                with _questions_asked() as asked:
                    result, error = self._functions.perform_here(self._info(call_id, request))
                self._raise_unless_outcome(error, asked, request.name)
                recording = self._record_outcome(call_id, began, result_type, result, error)
                position = self._functions.on_loop(recording)
                if position is None:
                    raise asyncio.CancelledError
            return self._outcome(position, result_type, error)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._leave, call_id)

    def _raise_unless_outcome(self, error: BaseException | None, asked: Sequence[Question], name: str) -> None:
        """Raise what ends the node and is no outcome of a call; nothing is recorded then."""
        if error is not None and issubclass(type(error), _NO_OUTCOME):
            raise error
        # Were the outcome recorded, no further attempt would ask.
        if asked:
            raise question_lost(self._task, asked, f"the function of call {name!r} went on without", error)

    async def _open(self, request: CallRequest) -> tuple[CallId, int | None]:
        """Begin a call; return the position of its recorded outcome, or None if the function is to be called."""
        name, key = request.name, request.key
        self._check(name, key)
        call_id = self._calls.next_id(name, key)
        self._under_way.add((name, key))
        try:
            position = self._calls.position_of(call_id)
            if position is not None:
                await self._calls.turn(position)
            elif self._record is None:
                self.missing = call_id
                raise UnrecordedCallError(call_id)
            elif not (request.repeatable or self._effects):
                raise NodeError(
                    f"call {name!r} must not be repeated, and this fork has no record of it",
                    reason="effect-refused",
                    hint="Replace the node's output in the fork, or allow it: allow_effects=True, --allow-effects.",
                    node=self._task.node,
                )
        except BaseException:
            self._leave(call_id)
            raise
        return call_id, position

    def _leave(self, call_id: CallId) -> None:
        self._under_way.discard((call_id.name, call_id.key))
        if not self._under_way and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _check(self, name: str, key: str | None) -> None:
        if self._closed:
            raise NodeError(
                f"call {name!r} was made after its node had ended",
                reason="node-ended",
                hint="Await everything that the node starts before it returns.",
                node=self._task.node,
            )
        if (name, key) in self._under_way:
            raise NodeError(
                f"call {name!r} was made while another call of this name was running, and nothing tells the two apart",
                reason="concurrent-calls",
                hint="Give each of them a key, as in ctx.call('fetch', fetch, url, key=url).",
                node=self._task.node,
            )

    def _info(self, call_id: CallId, request: CallRequest) -> CallInfo:
        task = self._task
        return CallInfo(self._run_id, task.node, task.id, call_id.name, call_id.key, request.bound(), request.returns)

    async def _record_outcome(
        self, call_id: CallId, began: datetime, result_type: ResultType, result: object, error: BaseException | None
    ) -> int | None:
        """Record an outcome; return its position, or None if the executor has lost the run."""
        node = self._task.node
        record = functools.partial(
            RecordedCall,
            kind="call",
            task_id=self._task.id,
            name=call_id.name,
            key=call_id.key,
            occurrence=call_id.occurrence,
            started_at=began,
        )
        if error is not None:
            call = record(error=error_info(error, node=node))
        else:
            try:
                call = record(result=result_type.store(result, f"the result of call {call_id.name!r}"))
            except BaseException as fault:  # noqa: BLE001  # what writes a value is user code; its effect has happened
                call = record(error=error_info(fault, node=node, reason=NOT_STORABLE))
        # A node that is cancelled meanwhile, by its timeout, say, must not leave the log behind its back.
        return await dispatch.run_uncancelled(self._append(call_id, call))

    async def _append(self, call_id: CallId, call: RecordedCall) -> int | None:
        assert self._record is not None
        if self._ended or not await self._record(self._task, call):
            return None
        return self._calls.add(call_id, call)

    def _outcome(self, position: int, result_type: ResultType, cause: BaseException | None) -> Any:
        call = self._calls.calls[position]
        if call.error is not None:
            raise call_error(call.name, call.error) from cause
        return result_type.load(call.result, f"the result of call {call.name!r}")


@contextlib.contextmanager
def _questions_asked() -> Iterator[list[Question]]:
    """Collect the questions that the function of a call asks."""
    asked: list[Question] = []
    token = IN_CALL.set(asked)
    try:
        yield asked
    finally:
        IN_CALL.reset(token)
