"""A checkpointer with the hooks of a run around its operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol, cast

from stargraph.checkpoint.protocol import BatchAppend, Checkpoint, Checkpointer, RunHistory, RunSummary
from stargraph.engine._middleware import StoreHook, StoreInfo, around
from stargraph.runtime.dispatch import closing


class _Store(Checkpointer, BatchAppend, RunHistory, Protocol):
    """What is called of a store, if it has it."""


class _ObservedStore:
    """The five methods; the capabilities that an executor uses are mixed in, if the store has them."""

    def __init__(self, store: _Store, hooks: Sequence[StoreHook]) -> None:
        self._store = store
        self._hooks = hooks

    async def bootstrap(self) -> None:
        await self._store.bootstrap()

    async def write(self, checkpoint: Checkpoint) -> None:
        async with around(self._hooks, StoreInfo("write", checkpoint.run_id, (checkpoint,))):
            await self._store.write(checkpoint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        async with around(self._hooks, StoreInfo("read_latest", run_id)):
            return await self._store.read_latest(run_id)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        async with around(self._hooks, StoreInfo("read_at_step", run_id)):
            return await self._store.read_at_step(run_id, step)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        async with around(self._hooks, StoreInfo("list_runs", None)):
            return await self._store.list_runs(since=since, limit=limit)


class _WithBatches(_ObservedStore):
    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        async with around(self._hooks, StoreInfo("write_many", checkpoints[0].run_id, tuple(checkpoints))):
            await self._store.write_many(checkpoints)


class _WithHistory(_ObservedStore):
    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        found = self._store.history(run_id, from_step=from_step, to_step=to_step, newest_first=newest_first)
        async with closing(found) as records:
            while True:
                # Around each record, since what a hook sets in the context must not last into the code between two.
                async with around(self._hooks, StoreInfo("history", run_id)):
                    record = await anext(records, None)
                if record is None:
                    return
                yield record


class _WithBoth(_WithBatches, _WithHistory):
    pass


def observed(store: Checkpointer, hooks: Sequence[StoreHook]) -> Checkpointer:
    """Return a store with hooks around its operations; the store itself if there are none.

    Args:
        hooks: the first one is the outermost.
    """
    if not hooks:
        return store
    kinds = {
        (False, False): _ObservedStore,
        (True, False): _WithBatches,
        (False, True): _WithHistory,
        (True, True): _WithBoth,
    }
    return kinds[isinstance(store, BatchAppend), isinstance(store, RunHistory)](cast("_Store", store), hooks)
