"""A wrapper around a driver that keeps account of what it acknowledged, and waits for no answer for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from stargraph.checkpoint.protocol import BatchAppend, Checkpoint, Checkpointer, Closing, RunHistory, RunSummary
from stargraph_torture.ledger import Ledger
from stargraph_torture.nodes import SESSION

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds after which a call has hung: every driver here is told to give up in a fraction of that."""


class Store(Checkpointer, BatchAppend, Closing, RunHistory, Protocol):
    """A driver as the harness uses it."""


class Recorder:
    """Passes everything on to a driver; writes to the ledger what the driver has acknowledged.

    Args:
        store: the driver.
        ledger: takes the acknowledgements.
    """

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    async def bootstrap(self) -> None:
        await self._watched("bootstrap", self._store.bootstrap())

    async def write(self, checkpoint: Checkpoint) -> None:
        await self._watched("write", self._store.write(checkpoint))
        self._acknowledged(checkpoint)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        # One after the other, in the worst case.
        await self._watched("write_many", self._store.write_many(checkpoints), PATIENCE * (1 + len(checkpoints) // 4))
        for checkpoint in checkpoints:
            self._acknowledged(checkpoint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        return await self._watched("read_latest", self._store.read_latest(run_id))

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return await self._watched("read_at_step", self._store.read_at_step(run_id, step))

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return await self._watched("list_runs", self._store.list_runs(since=since, limit=limit))

    def _acknowledged(self, checkpoint: Checkpoint) -> None:
        self._ledger.add(
            "acknowledged",
            run=checkpoint.run_id,
            step=checkpoint.step,
            digest=checkpoint.digest,
            event=checkpoint.event,
            executor_id=checkpoint.executor_id,
            session=SESSION.get(None),
        )

    async def _watched(self, method: str, call: Coroutine[Any, Any, T], seconds: float = PATIENCE) -> T:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await call
        except TimeoutError:
            if limit.expired():
                self._ledger.add("odd", text=f"{method}() did not return in {seconds:g} s")
            raise


_: type[Checkpointer] = Recorder
_batch: type[BatchAppend] = Recorder
