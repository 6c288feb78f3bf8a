"""The functions of calls, called inside the hooks: on the loop, in a pool, or in the thread of a sync node."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from stargraph.engine._middleware import CallHook, CallInfo, enter
from stargraph.engine._node_pools import NodePools, Outcome

T = TypeVar("T")


class CallFunctions:
    """Calls the functions of calls, and returns what they return or raise as a value.

    Args:
        pools: where sync functions of async nodes run.
        owner: what names the task among those of all runs.
        hooks: stand around each function.

    Attributes:
        loop: the event loop of the run.
    """

    def __init__(self, pools: NodePools, owner: str, hooks: Sequence[CallHook]) -> None:
        self._pools = pools
        self._owner = owner
        self._hooks = hooks
        self.loop = asyncio.get_running_loop()

    async def perform(self, info: CallInfo) -> Outcome:
        """Call the function of a call that an async node makes.

        Args:
            info: the call.
        """
        if not self._hooks:
            return await self._call(info.function)
        frames = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                await enter(stack, self._hooks, info)
                info.result, error = await self._call(info.function)
                if error is not None:
                    frames = error.__traceback__
                    raise error
        except BaseException as error:  # noqa: BLE001  # a value from here on, see Outcome
            return None, error.with_traceback(frames or error.__traceback__)
        return info.result, None

    def perform_here(self, info: CallInfo) -> Outcome:
        """Call the function of a call that a sync node makes, in the thread of the node; the hooks run on the loop.

        All of them run in one context, so that the function sees what the hooks have set, and they can take it back.

        Args:
            info: the call.
        """
        if not self._hooks:
            return self._call_here(info.function)
        stack, context = contextlib.AsyncExitStack(), contextvars.copy_context()

        def on_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
            return self.on_loop(_in_context(work, context))

        frames = None
        try:
            try:
                on_loop(lambda: enter(stack, self._hooks, info))
                info.result, error = context.run(self._call_here, info.function)
                if error is not None:
                    frames = error.__traceback__
                    raise error
            except BaseException as error:
                raised = error
                if not on_loop(lambda: stack.__aexit__(type(raised), raised, raised.__traceback__)):
                    raise
            else:
                on_loop(lambda: stack.__aexit__(None, None, None))
        except BaseException as error:  # noqa: BLE001  # a value from here on, see Outcome
            return None, error.with_traceback(frames or error.__traceback__)
        return info.result, None

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop, from a thread, and wait for it.

        Args:
            work: what to do.

        Raises:
            asyncio.CancelledError: it was cancelled, or the loop is closed.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            work.close()
            raise asyncio.CancelledError from None

    async def _call(self, function: Callable[[], Any]) -> Outcome:
        try:
            if inspect.iscoroutinefunction(function):
                return await function(), None
            result, error = await self._pools.run_in_thread(function, owner=self._owner)
            return (await result if error is None and inspect.isawaitable(result) else result), error
        except BaseException as error:  # noqa: BLE001  # a value from here on, see Outcome
            return None, error

    def _call_here(self, function: Callable[[], Any]) -> Outcome:
        try:
            result = function()
            return self.on_loop(_outcome_of(result)) if inspect.isawaitable(result) else (result, None)
        except BaseException as error:  # noqa: BLE001  # a value from here on, see Outcome
            return None, error


async def _in_context(work: Callable[[], Coroutine[Any, Any, T]], context: contextvars.Context) -> T:
    return await asyncio.get_running_loop().create_task(work(), context=context)


async def _outcome_of(work: Awaitable[object]) -> Outcome:
    try:
        return await work, None
    except BaseException as error:  # noqa: BLE001  # a value from here on, see Outcome
        return None, error
