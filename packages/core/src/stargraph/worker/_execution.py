"""One run that this process took from a queue: executed until it rests, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, ProcessInfo, RunSummary
from stargraph.engine import facts, new_executor_id
from stargraph.errors import CheckpointConflictError, StargraphError, StoreUnavailableError
from stargraph.graph import Graph, Run
from stargraph.graph._options import RunOptions
from stargraph.graph._records import failed_record
from stargraph.graph._resume_checks import Accept
from stargraph.runtime import dispatch

LOGGER: Final = logging.getLogger("stargraph.worker")

_MANY: Final = 10**9
"""Resumes that the run itself allows: the worker counts what they cost, and decides."""

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0
"""Seconds until a store that could not be reached is asked again."""


class LostRunError(Exception):
    """Somebody else has the run, or it is gone: there is nothing to do here."""


class RefusedRunError(Exception):
    """The run cannot be executed as it is stored; nothing was written.

    Args:
        error: why.
    """

    def __init__(self, error: StargraphError) -> None:
        super().__init__(reason_of(error))
        self.error = error


class RunExecution:
    """A run in this process.

    Args:
        store: holds it.
        claimed: where it stood when it was taken.
        options: how it is executed.
        accept: the changes that are accepted.
    """

    def __init__(
        self,
        graph: Graph[Any],
        store: Checkpointer,
        claimed: RunSummary,
        *,
        options: RunOptions,
        accept: Sequence[Accept] = (),
    ) -> None:
        self._graph = graph
        self._store = store
        self._claimed = claimed
        self._options = options
        self._accept = accept
        self._run: Run[Any] | None = None
        self._grace: float | None = None
        self._nap: asyncio.Event = asyncio.Event()

    def pause(self, grace: float) -> None:
        """Leave the run to other workers, once its running nodes have ended or the grace is over.

        Args:
            grace: seconds.
        """
        self._grace = grace
        self._nap.set()
        if self._run is not None:
            self._run.pause(grace=grace, requeue=True)

    async def carry(self) -> Checkpoint:
        """Execute the run until it rests, and return its latest checkpoint. An outage of the store is waited out.

        Raises:
            LostRunError: somebody else has it, or goes on with it.
            RefusedRunError: it cannot be executed as it is stored.
        """
        step = self._claimed.last_step
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._resume(step)
            except StoreUnavailableError as error:
                LOGGER.warning(
                    "run %s: the store cannot be reached (%s); the run goes on when it can",
                    self._claimed.run_id,
                    error.reason,
                    extra=facts(self._claimed.run_id, step),
                )
            except CheckpointConflictError as error:
                raise LostRunError(error.message) from error
            except StargraphError as error:
                await self._give_up(error)
            pause, tail = await self._outlast(pause)
            if not is_ours(tail):
                raise LostRunError("the store could not be reached before this process had the run")
            assert tail is not None
            step = tail.step

    async def _resume(self, step: int) -> Checkpoint:
        run_id = self._claimed.run_id
        self._run = run = self._graph._run(self._store, run_id, self._options)
        executing = asyncio.ensure_future(
            run.resume(only_at_step=step, as_of=self._claimed.due_at, max_resumes=_MANY, accept=self._accept)
        )
        try:
            if self._grace is not None:
                run.pause(grace=self._grace, requeue=True)
            result = await executing
        finally:
            self._run = None
            if not executing.done():
                executing.cancel()
                await asyncio.gather(executing, return_exceptions=True)
        return result._latest

    async def _outlast(self, pause: float) -> tuple[float, Checkpoint | None]:
        """Wait until the store answers, and return the next pause and where the run stands."""
        run_id = self._claimed.run_id
        while True:
            try:
                await asyncio.wait_for(self._nap.wait(), pause)
            except TimeoutError:
                pass
            else:
                raise LostRunError("the worker stops, and the store cannot be reached")
            try:
                return pause, await dispatch.read_latest(self._store, run_id, keyring=self._graph._keyring)
            except StoreUnavailableError:
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _give_up(self, error: StargraphError) -> None:
        """Fail a run that this process has and cannot go on with; refuse one that it has not begun with.

        Raises:
            RefusedRunError: always.
        """
        run_id = self._claimed.run_id
        try:
            tail = await dispatch.read_latest(self._store, run_id, keyring=self._graph._keyring)
            if tail is not None and is_ours(tail):
                await dispatch.write(
                    self._store, failed_record(tail, new_executor_id(), error), keyring=self._graph._keyring
                )
        except StargraphError as fault:
            LOGGER.warning("run %s: what stopped it cannot be recorded: %s", run_id, reason_of(fault))
        raise RefusedRunError(error) from error


def reason_of(error: BaseException) -> str:
    """Return what a log may say of an error: its message may hold a value of a state."""
    reason = error.reason if isinstance(error, StargraphError) else None
    return reason or type(error).__qualname__


def is_ours(tail: Checkpoint | None) -> bool:
    """Return whether this process has a run."""
    return (
        tail is not None
        and tail.status == "running"
        and tail.process is not None
        and tail.process.id == ProcessInfo.current().id
    )
