"""A context for the test of one node, without a run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import NoneType
from typing import Any, cast

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, Task
from stargraph.checkpoint.values import own_json
from stargraph.engine import CallRequest, Calls, ResultType, call_error, error_info
from stargraph.graph import Context
from stargraph.runtime._given import check_count, check_moment, check_type
from stargraph.testing._fakes import EMIT, answer_for, faked


@dataclass(frozen=True, slots=True)
class CallMade:
    """A call that a node has made.

    Attributes:
        name: what it is known by.
        args: the arguments of its function.
        kwargs: its arguments by name.
        key: what tells it apart from others of this name, or None.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: str | None


class QuestionAsked(BaseException):
    """Ends a node that asks what has no answer ahead, as in a run; not an Exception, so that no node catches it.

    Attributes:
        prompt: the question.
        payload: what a person needs to answer.
    """

    def __init__(self, prompt: str, payload: JsonValue) -> None:
        super().__init__(prompt)
        self.prompt, self.payload = prompt, payload


class FakeContext(Context):
    """Give it to a node in a test: `await pay(state, FakeContext(calls={"charge": "receipt-7"}))`.

    What a call returns goes through the form in which a run stores it, so that a value that a run would refuse is
    refused here.

    Args:
        answers: to questions, by their text or by `node`: a value, or a function of the payload.
        calls: what stands in for calls, by their names: a value, an exception to raise, a function to call instead, or
            several of these `InTurn`. A call without one is an error; if None, the functions themselves are called.
        now: the time that `ctx.now` tells; the time of the clock if None.
        node: the id of the node.
        attempt: counts the attempts, from 1.
        index: the position of the branch.
        item: the item of a map's branch.
        metadata: the tags of the run.

    Attributes:
        calls_made: the calls that the node has made, in order.
        questions_asked: the texts of the questions that it has asked, in order.
        emitted: the values given to `ctx.emit`, in order.
        waits: what it has waited for, in order: seconds, or a time. None of it takes any time.
    """

    def __init__(
        self,
        *,
        answers: Mapping[str, Any] | None = None,
        calls: Mapping[str, Any] | None = None,
        now: datetime | None = None,
        node: str = "node",
        run_id: str = "run",
        attempt: int = 1,
        index: int | None = None,
        item: JsonValue = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        for name, given in (("answers", answers), ("calls", calls), ("metadata", metadata)):
            check_type(given, name, (Mapping, NoneType), "a dict, or None")
        check_type(node, "node", str, "the id of a node")
        check_count(attempt, "attempt", least=1)
        if index is not None:
            check_count(index, "index", least=0)
        if now is not None:
            check_moment(now, "now")
        started = Checkpoint.genesis(
            run_id=run_id,
            graph_id="test",
            graph_hash="0" * 64,
            runtime_hash="0" * 64,
            state={},
            executor_id="0" * 32,
            timestamp=datetime.now(UTC),
            metadata=metadata or {},
        )
        super().__init__(started, Task(id=f"{node}-0", node=node, since_step=0, index=index), item=item)
        self.attempt = attempt
        self.calls_made: list[CallMade] = []
        self.questions_asked: list[str] = []
        self.emitted: list[JsonValue] = []
        self.waits: list[float | datetime] = []
        self._answers = answers or {}
        self._fakes = calls
        self._now = now

    def _ask(self, prompt: str, payload: JsonValue, *, into: str | None, key: str | None = None) -> JsonValue:
        """Return the answer that was given ahead.

        Raises:
            QuestionAsked: there is none.
        """
        asked = own_json(payload, "payload")
        self.questions_asked.append(prompt)
        answer = answer_for(self._answers, prompt, self.node, asked)
        if answer is None:
            raise QuestionAsked(prompt, asked)
        return cast("JsonValue", answer[0])

    def _wait(self, wait: float | datetime) -> None:
        self.waits.append(wait)

    def _attached(self, what: str) -> Calls:
        return _Calls(self)


class _Calls:
    """What a context asks of the log of its calls."""

    def __init__(self, context: FakeContext) -> None:
        self._context = context

    def emit(self, value: JsonValue) -> None:
        self._context.emitted.append(value)

    async def call(self, request: CallRequest) -> Any:
        result_type, perform = self._begin(request)
        try:
            result = perform()
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            raise self._failed(request, error) from error
        return self._stored(request, result_type, result)

    def call_from_thread(self, request: CallRequest) -> Any:
        result_type, perform = self._begin(request)
        try:
            result = perform()
            if inspect.isawaitable(result):
                result = asyncio.run(_awaited(result))
        except Exception as error:
            raise self._failed(request, error) from error
        return self._stored(request, result_type, result)

    def _begin(self, request: CallRequest) -> tuple[ResultType, Callable[[], Any]]:
        context = self._context
        result_type = request.result_type(context.node)
        if request.name != EMIT:
            context.calls_made.append(CallMade(request.name, request.args, dict(request.kwargs), request.key))
        perform: Callable[[], Any] = request.bound()
        if context._fakes is not None:
            perform = faked(context._fakes, request.name, perform, request.returns, context.node)
        return result_type, perform

    def _failed(self, request: CallRequest, error: Exception) -> Exception:
        return call_error(request.name, error_info(error, node=self._context.node))

    @staticmethod
    def _stored(request: CallRequest, result_type: ResultType, result: object) -> Any:
        path = f"the result of call {request.name!r}"
        return result_type.load(result_type.store(result, path), path)


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work
