"""What a check is given: fresh places, handles, child processes, a seeded source of chance."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

from stargraph.checkpoint.conformance._capabilities import Capability
from stargraph.checkpoint.conformance._expect import HarnessError, NotEvaluated, Violation, error_line
from stargraph.checkpoint.conformance._forks import ForkServer
from stargraph.checkpoint.conformance._handle import DriverCalls, Handle
from stargraph.checkpoint.conformance._neighbours import Neighbours
from stargraph.checkpoint.conformance._processes import Child, spawn
from stargraph.checkpoint.conformance._target import (
    Opener,
    Target,
    directory_in,
    fresh_directory,
    looks_like_driver,
    opened,
    remove_store,
)
from stargraph.checkpoint.conformance.stdio import everything

if TYPE_CHECKING:
    from types import TracebackType


PATIENCE: Final = 20.0
"""Seconds for what a driver does within two: a machine that is busy is no fault of the driver."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all checks of a session share.

    Attributes:
        target: the driver under test.
        spec: the target as child processes import it; None if it was given as an object.
        seed: what chance was seeded with.
        thorough: whether a check that can look longer should.
        declared: the capabilities that the driver has.
        neighbours: other processes that open the same stores; None if they cannot.
        fork_server: forks child processes; None if each is a new interpreter.
        keep: the folder for the stores of checks that fail, or None.
        patience: seconds that checks wait for what a driver may do a little later.
    """

    target: Target
    spec: str | None = None
    seed: int = 0
    thorough: bool = True
    declared: frozenset[Capability] = frozenset()
    neighbours: Neighbours | None = None
    fork_server: ForkServer | None = None
    keep: Path | None = None
    patience: float = PATIENCE


class Kit:
    """The surroundings of one run of one check; everything that it opened is closed at its end.

    Attributes:
        target: the driver under test.
        spec: the target as child processes import it.
        seed: what chance was seeded with.
        thorough: whether a check that can look longer should.
        declared: the capabilities that the driver has.
        patience: seconds to wait for what the driver may do a little later, such as tell a watch of a step.
        random: seeded chance, of this check alone.
        location: the check's own store.
        log: what the driver was asked.
        measurements: what an advisory check measured: name, value, unit.
    """

    def __init__(self, surroundings: Surroundings, check_id: str, log: DriverCalls | None = None) -> None:
        self.surroundings = surroundings
        self.target = surroundings.target
        self.spec = surroundings.spec
        self.seed = surroundings.seed
        self.thorough = surroundings.thorough
        self.declared = surroundings.declared
        self.patience = surroundings.patience
        self.random = Random(f"{self.seed}:{check_id}")  # noqa: S311  # reproducible on purpose
        self.location = ""
        self.log = log or DriverCalls()
        self.measurements: list[tuple[str, float, str]] = []
        self.unkept = ""
        self._check_id = check_id
        self._stack = AsyncExitStack()
        self._locations: list[str] = []
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self.location = await self.fresh_location()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._end_children()
            if error is not None and self.surroundings.keep is not None:
                try:
                    self._keep(self.surroundings.keep)
                except OSError as failure:  # what the check found is worth more than its store
                    self.unkept = f"its store could not be kept in {self.surroundings.keep}: {error_line(failure)}"
        finally:
            await self._close(error)

    async def _end_children(self) -> None:
        for child in self._children:
            child.end_group()  # none goes on writing while another one is waited for
        for child in self._children:
            await child.end()

    async def _close(self, error: BaseException | None) -> None:
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
        return await self._located(self.target.location())

    async def location_on_disk(self) -> str:
        """Make one more empty store, on a disk if stores are files in memory, where no inode is used a second time."""
        by_default = self.target.location is fresh_directory
        return await self._located(directory_in(None) if by_default else self.target.location())

    async def _located(self, place: AbstractAsyncContextManager[str]) -> str:
        try:
            location = await self._stack.enter_async_context(place)
        except Exception as error:
            raise HarnessError(f"the target could not make a fresh location: {error_line(error)}") from error
        self._locations.append(location)
        return location

    async def unready(self, location: str | None = None, opener: Opener | None = None) -> Handle:
        """Open a handle without bootstrapping it, as the target opens it or as an opener does."""
        closing = AsyncExitStack()
        number = self.log.enter("opening a handle")
        try:
            driver = await closing.enter_async_context(opened(self.target, location or self.location, opener))
        except BaseException as error:
            self.log.leave(number, error)
            raise
        self.log.leave(number)
        self._stack.push_async_exit(closing)
        if not looks_like_driver(driver):
            raise Violation(f"the target gave {type(driver).__name__}, which has too few of the methods of a driver")
        return Handle(driver, self.log, closing)

    async def open(self, location: str | None = None) -> Handle:
        """Open a handle and bootstrap it."""
        handle = await self.unready(location)
        await handle.bootstrap()
        return handle

    async def elsewhere(
        self,
        location: str | None = None,
        *,
        clock: timedelta = timedelta(),
        environment: Mapping[str, str] | None = None,
    ) -> Handle:
        """Open a handle in another process and bootstrap it; in this one if other processes cannot open the store.

        Args:
            location: the store; the check's own if None.
            clock: how far the wall clock of that process is ahead.
            environment: what is set there beside the environment of this process.
        """
        if self.surroundings.neighbours is None or not self.thorough:
            return await self.open(location)
        handle = await self.unready_elsewhere(location, clock=clock, environment=environment)
        await handle.bootstrap()
        return handle

    async def unready_elsewhere(
        self,
        location: str | None = None,
        *,
        clock: timedelta = timedelta(),
        environment: Mapping[str, str] | None = None,
    ) -> Handle:
        """Open a handle in another process without bootstrapping it.

        Raises:
            NotEvaluated: other processes cannot open the store.
        """
        if self.surroundings.neighbours is None:
            raise NotEvaluated("other processes cannot open the store")
        process = self.surroundings.neighbours.process(clock=clock, environment=environment)
        driver = everything(process, location or self.location)
        closing = AsyncExitStack()
        closing.push_async_callback(driver.close)
        self._stack.push_async_exit(closing)
        return Handle(driver, self.log, closing)

    def neighbour_id(self, *, clock: timedelta) -> int | None:
        """Return the id of the process whose wall clock is that far ahead; None if no handle was opened in it."""
        neighbours = self.surroundings.neighbours
        return None if neighbours is None else neighbours.process(clock=clock).process_id

    def _discard(self) -> None:
        """End the processes and remove the stores of a check whose thread never ended, as far as that can be done."""
        for child in self._children:
            child.end_group()
        for location in self._locations:
            remove_store(location)

    def _keep(self, folder: Path) -> None:
        """Copy the stores that are files or folders, so that their author can look at them."""
        for number, location in enumerate(self._locations):
            store = Path(location)
            if store.is_absolute() and store.parent.is_dir():
                name = re.sub(r"[^a-z0-9.]+", "-", self._check_id) + (f"-{number}" if number else "")
                shutil.copytree(store.parent, folder / name, dirs_exist_ok=True)

    async def child(self, script: str, location: str | None = None, **arguments: Any) -> Child:
        """Start a process that opens the same store and runs one of the kit's scripts."""
        if self.spec is None:
            raise HarnessError("the target was given as an object: child processes need package.module:name")
        child = await spawn(
            self.spec, script, location or self.location, arguments, self.log, self.surroundings.fork_server
        )
        self._children.append(child)
        return child

    def measured(self, name: str, value: float, unit: str) -> None:
        """Keep a measurement for the report."""
        self.measurements.append((name, value, unit))
