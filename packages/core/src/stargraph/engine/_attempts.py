"""The attempts of a node: its retries, its timeout, and what each of them ends with."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from stargraph.checkpoint.protocol import ErrorInfo
from stargraph.engine._call_log import CallLog, UnrecordedCallError
from stargraph.engine._context import Context
from stargraph.engine._failures import RemoteNodeError, explained, is_a, is_any_of, is_final, name_of
from stargraph.engine._logging import log_retry
from stargraph.engine._middleware import NodeHook, NodeInfo, around
from stargraph.engine._node_pools import CANCEL_SECONDS, NodePools, Outcome, timed_out
from stargraph.engine._nodes import Node
from stargraph.engine._questions import Questions, Suspended
from stargraph.errors import NodeError

MakeCall: TypeAlias = Callable[[], Awaitable[Callable[[], Any]]]
"""Makes the call of an attempt: what to call, or what to send to another process."""

_MAX_OVERRUN: Final = 30.0


class NodeFailed(Exception):
    """Carries whatever a node raised out of its task: some exceptions would end the loop that they meet.

    Args:
        error: what it raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(name_of(type(error)))
        self.error = error


class Attempts:
    """The attempts of one execution of a node.

    Args:
        context: the context of the node.
        questions: what the node asks.
        call_log: what the node calls.
        pools: where sync code runs.
        make_call: gives the call of each attempt, with a state of its own.
        backs_off: whether time passes between two attempts.
        hooks: stand around each attempt.
        info: says which node it is.
    """

    def __init__(
        self,
        node: Node,
        context: Context,
        questions: Questions,
        call_log: CallLog,
        pools: NodePools,
        make_call: MakeCall,
        *,
        backs_off: bool = True,
        hooks: Sequence[NodeHook] = (),
        info: NodeInfo | None = None,
    ) -> None:
        self._hooks = hooks
        self._info = info
        self._node = node
        self._context = context
        self._owner = f"{context.run_id}/{context.task_id}"
        self._questions = questions
        self._call_log = call_log
        self._pools = pools
        self._make_call = make_call
        self._backs_off = backs_off

    async def run(self) -> object:
        """Run the node until an attempt succeeds or no further one is due, and return what it returned.

        Raises:
            Suspended: it waits for answers.
            NodeFailed: what the last attempt raised.
        """
        retry = self._node.spec.retry
        last = 1 if retry is None else retry.attempts
        for attempt in range(1, last + 1):
            if attempt > 1:
                self._context._begin(attempt)
                self._questions.begin()
                self._call_log.begin()
            began = datetime.now(UTC)
            returned, raised = await (self._observed_attempt() if self._hooks else self._run_once())
            if raised is None:
                return returned
            if is_a(raised, Suspended) or is_a(raised, UnrecordedCallError):
                raise raised
            if attempt == last or is_final(raised) or not is_any_of(raised, self._node.retried):
                raise NodeFailed(raised)
            await self._call_log.note_failed_attempt(raised, began)
            if self._backs_off and retry is not None:
                delay = retry_seconds(attempt, retry.initial_delay, retry.max_delay)
                log_retry(self._context, last, raised, delay)
                await asyncio.sleep(delay)
        raise AssertionError("a node is tried once at least")

    async def _observed_attempt(self) -> Outcome:
        """Return what an attempt ends with, or what a middleware makes of it."""
        assert self._info is not None
        info = replace(self._info, attempt=self._context.attempt)
        returned: object = None
        raised: BaseException | None = None
        frames = None
        try:
            async with around(self._hooks, info):
                returned, raised = await self._run_once()
                info.waits = is_a(raised, Suspended)
                if raised is not None and not info.waits:
                    frames = raised.__traceback__
                    raise raised
        except BaseException as error:
            if error is raised:
                raised.__traceback__ = frames  # it is recorded with the frames of the node alone
            elif isinstance(error, Exception):
                return None, error
            else:
                raise
        return returned, raised

    async def _run_once(self) -> Outcome:
        spec = self._node.spec
        patience = _MAX_OVERRUN if spec.max_overrun is None else spec.max_overrun
        has_strays = self._pools.has_strays(self._owner)
        if has_strays and not await self._pools.wait_for_strays(self._owner, patience):
            return None, NodeError(
                f"an earlier attempt of node {spec.id!r} still runs {patience:g} s after its end was due",
                reason="still-running",
                hint="Give its blocking call a timeout, raise max_overrun, or set isolation: process, which"
                " makes the node's timeout kill it. Then resume the run.",
                node=spec.id,
            )
        returned, raised = await self._outcome()
        if self._pools.has_strays(self._owner):
            # What the thread does from now on is nobody's; the call that it is in may still be recorded.
            self._call_log.refuse_calls()
        else:
            forgotten = await self._call_log.drop_not_awaited()
            if self._call_log.is_calling:
                await self._call_log.settle()
            if forgotten and raised is None:
                raised = NodeError(
                    f"the node did not await ctx.call({forgotten[0]!r}, …), so the call was not made",
                    reason="call-not-awaited",
                    hint="Await ctx.call(…), ctx.emit(…, stored=True), and everything that the node starts before it"
                    " returns.",
                    node=spec.id,
                )
        return returned, explained(self._questions.outcome_of(raised), spec.id)

    async def _outcome(self) -> Outcome:
        """Return what the function ends with; only a cancellation is raised."""
        try:
            call = await self._make_call()
            if self._node.is_async_here:
                return await self._within(call(), self._node.spec.timeout)
            return await self._elsewhere(call)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # a value from here on, see Outcome
            return None, error

    async def _elsewhere(self, call: Callable[[], Any]) -> Outcome:
        """Run a sync function in a thread or a process, and await what it returns if it wraps an async one."""
        spec, owner = self._node.spec, self._owner
        if spec.isolation == "process":
            return self._from_worker(await self._pools.run_isolated(call, node=spec.id, seconds=spec.timeout))
        if self._pools.is_remote:
            return self._from_worker(await self._pools.run_remotely(call, owner=owner, seconds=spec.timeout))
        began = time.monotonic()
        returned, raised = await self._pools.run_in_thread(call, owner=owner, seconds=spec.timeout, in_given=True)
        if raised is None and inspect.isawaitable(returned):
            left = None if spec.timeout is None else max(spec.timeout - (time.monotonic() - began), 0)
            return await self._within(returned, left)
        return returned, raised

    def _from_worker(self, outcome: dict[str, Any]) -> Outcome:
        self._call_log.seen = outcome["time"]
        if outcome["error"] is None:
            return outcome["update"], None
        error = ErrorInfo.model_validate(outcome["error"])
        return None, RemoteNodeError(error, tuple(outcome["classes"]), tuple(map(tuple, outcome["members"])))

    async def _within(self, work: Awaitable[object], seconds: float | None) -> Outcome:
        if seconds is None:
            return await work, None
        working = asyncio.ensure_future(_by_value(work))
        try:
            await asyncio.wait({working}, timeout=seconds)
        except asyncio.CancelledError:
            working.cancel()
            await asyncio.wait({working}, timeout=CANCEL_SECONDS)
            raise
        finally:
            self._pools.give_up(working, self._owner)
        if working.done():
            return await working
        working.cancel()
        done, _ = await asyncio.wait({working}, timeout=CANCEL_SECONDS)
        return None, timed_out(self._node.spec.timeout, None if done else "it was cancelled, and continues")


async def _by_value(work: Awaitable[object]) -> Outcome:
    """Return what work ends with: a task that raises SystemExit, say, would end its loop."""
    try:
        return await work, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  # see Outcome
        return None, error


def retry_seconds(attempt: int, initial_delay: float, max_delay: float) -> float:
    """Return the seconds before the next attempt: doubled each time, with jitter so that many do not come at once.

    Args:
        attempt: counts the attempts, from 1; this one has failed.
        initial_delay: seconds before the second attempt.
        max_delay: seconds that no wait exceeds, but for the jitter.
    """
    jitter = random.uniform(0, initial_delay)  # noqa: S311  # no secret
    return min(initial_delay * 2.0 ** min(attempt - 1, 1000), max_delay) + jitter
