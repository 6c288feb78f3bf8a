"""What a check is given: fresh places, handles, child processes, a seeded source of chance."""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, Any, Self

from stargraph.checkpoint.conformance._findings import Finding, HarnessError, told
from stargraph.checkpoint.conformance._handle import CallLog, Handle
from stargraph.checkpoint.conformance._processes import Child, spawn
from stargraph.checkpoint.conformance._target import Target, looks_like_driver, opened

if TYPE_CHECKING:
    from types import TracebackType


class Kit:
    """The surroundings of one run of one check; everything that it opened is closed at its end.

    Attributes:
        target: the driver under test.
        spec: the target as child processes import it.
        seed: what chance was seeded with.
        thorough: whether a check that can look longer should.
        random: seeded chance, of this check alone.
        location: the check's own store.
        log: what the driver was asked.
        measurements: what an advisory check measured: name, value, unit.
    """

    def __init__(self, target: Target, spec: str | None, seed: int, check_id: str, *, thorough: bool = True) -> None:
        self.target = target
        self.spec = spec
        self.seed = seed
        self.thorough = thorough
        self.random = Random(f"{seed}:{check_id}")  # noqa: S311  # reproducible on purpose
        self.location = ""
        self.log = CallLog()
        self.measurements: list[tuple[str, float, str]] = []
        self._stack = AsyncExitStack()
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self.location = await self.fresh_location()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._children:
            await child.end()
        number = self.log.enter("closing the handles")
        try:
            await self._stack.aclose()
        except Exception as failure:
            self.log.leave(number, failure)
            # What the check found first says more than what closing found after it.
            if error is None:
                raise
        else:
            self.log.leave(number)

    async def fresh_location(self) -> str:
        """Make one more empty store; it goes away after the check."""
        try:
            return await self._stack.enter_async_context(self.target.location())
        except Exception as error:
            raise HarnessError(f"the target could not make a fresh location: {told(error)}") from error

    async def unready(self, location: str | None = None) -> Handle:
        """Open a handle without bootstrapping it."""
        closing = AsyncExitStack()
        number = self.log.enter("opening a handle")
        try:
            driver = await closing.enter_async_context(opened(self.target, location or self.location))
        except BaseException as error:
            self.log.leave(number, error)
            raise
        self.log.leave(number)
        self._stack.push_async_exit(closing)
        if not looks_like_driver(driver):
            raise Finding(f"the target gave {type(driver).__name__}, which has too few of the methods of a driver")
        return Handle(driver, self.log, closing)

    async def open(self, location: str | None = None) -> Handle:
        """Open a handle and bootstrap it."""
        handle = await self.unready(location)
        await handle.bootstrap()
        return handle

    async def child(self, script: str, location: str | None = None, **arguments: Any) -> Child:
        """Start a process that opens the same store and runs one of the kit's scripts."""
        if self.spec is None:
            raise HarnessError("the target was given as an object: child processes need package.module:name")
        child = await spawn(self.spec, script, location or self.location, arguments, self.log)
        self._children.append(child)
        return child

    def measured(self, name: str, value: float, unit: str) -> None:
        """Keep a measurement for the report."""
        self.measurements.append((name, value, unit))
