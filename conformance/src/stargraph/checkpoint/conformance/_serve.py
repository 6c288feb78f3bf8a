"""The other side of the driver protocol for drivers in Python: opens a target's handles and calls them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from stargraph.checkpoint.conformance._target import Target, opened
from stargraph.checkpoint.conformance._wire import PROTOCOL, arguments_from_wire, error_to_wire, to_wire


class _Server:
    def __init__(self, target: Target, send: Callable[[dict[str, Any]], None]) -> None:
        self._target = target
        self._send = send
        self._handles: dict[int, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._stack:
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                task = loop.create_task(self._answer(json.loads(line)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, request: dict[str, Any]) -> None:
        try:
            result = await self._call(request)
        except Exception as error:  # noqa: BLE001  # reported to the other side, which judges it
            self._send({"id": request["id"], "error": error_to_wire(error)})
        else:
            self._send({"id": request["id"], "result": result})

    async def _call(self, request: dict[str, Any]) -> Any:
        name = request["call"]
        if name == "hello":
            return {"protocol": PROTOCOL}
        arguments = arguments_from_wire(request["arguments"])
        number = request["handle"]
        if name == "open":
            self._handles[number] = await self._stack.enter_async_context(opened(self._target, arguments["location"]))
            return None
        driver = self._handles[number]
        if name == "history":
            return [to_wire(found) async for found in driver.history(**arguments)]
        if name == "watch":
            return await _watched(driver, **arguments)
        if name == "close":
            closing = getattr(driver, "close", None)
            return None if closing is None else await closing()
        return to_wire(await getattr(driver, name)(**arguments))


async def _watched(driver: Any, run_id: str, after_step: int, seconds: float) -> int | None:
    """Wait for the next step above `after_step`; None if none comes in time."""
    async with aclosing(driver.watch(run_id, after_step=after_step)) as watch:
        try:
            found: int = await asyncio.wait_for(anext(watch), seconds)
        except TimeoutError:
            return None
        return found


async def serve(target: Target, send: Callable[[dict[str, Any]], None]) -> None:
    """Answer the requests that come on stdin until it ends.

    Args:
        target: the driver.
        send: takes an answer to the other side.
    """
    await _Server(target, send).run()
