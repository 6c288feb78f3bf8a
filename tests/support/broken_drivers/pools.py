"""Drivers that have a few connections, and lose one now and then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError
from support.broken_drivers.broken_driver import broken

T = TypeVar("T")


class _Pooled(ReferenceCheckpointer):
    """A base: a read or a list takes a connection, and is refused if all are taken."""

    _free = 90  # more than the tasks of any check

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        return await self._connected(lambda: super(_Pooled, self).read_latest(run_id))

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return await self._connected(lambda: super(_Pooled, self).read_at_step(run_id, step))

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return await self._connected(lambda: super(_Pooled, self).list_runs(since=since, limit=limit))

    async def _connected(self, read: Callable[[], Awaitable[T]]) -> T:
        raise NotImplementedError

    def _take(self) -> None:
        if not self._free:
            raise StoreUnavailableError("all connections are taken", reason="unavailable")
        self._free -= 1


@broken("cancel.uses_nothing_up")
class LosesTheCancelled(_Pooled):
    """The connection of a read is given back after it and after an Exception, which CancelledError is none of."""

    async def _connected(self, read: Callable[[], Awaitable[T]]) -> T:
        self._take()
        try:
            found = await read()
        except Exception:
            self._free += 1
            raise
        self._free += 1
        return found


@broken("corruption.uses_nothing_up")
class LosesTheDamaged(_Pooled):
    """The connection of a read whose record is damaged is not given back."""

    async def _connected(self, read: Callable[[], Awaitable[T]]) -> T:
        self._take()
        try:
            found = await read()
        except CheckpointCorruptedError:
            raise
        except BaseException:
            self._free += 1
            raise
        self._free += 1
        return found
