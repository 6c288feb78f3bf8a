"""Bugs to plant between the engine and a driver, each of which the harness has to catch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError
from stargraph_torture.recorder import Store


class _Wrapped:
    """Passes everything on."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class AcknowledgesFirst(_Wrapped):
    """Says that a checkpoint is stored before it is."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._behind: dict[str, asyncio.Task[None]] = {}

    async def write(self, checkpoint: Checkpoint) -> None:
        await self._settle(checkpoint.run_id)
        self._behind[checkpoint.run_id] = asyncio.create_task(self._write_later(checkpoint))

    async def _write_later(self, checkpoint: Checkpoint) -> None:
        await asyncio.sleep(0.01)
        await self._store.write(checkpoint)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await self._settle(checkpoints[0].run_id)
        await self._store.write_many(checkpoints)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        await self._settle(run_id)
        return await self._store.read_latest(run_id)

    async def _settle(self, run_id: str) -> None:
        behind = self._behind.pop(run_id, None)
        if behind is not None:
            await behind


class LosesConflicts(_Wrapped):
    """Says that a checkpoint is stored although another one is in its place."""

    async def write(self, checkpoint: Checkpoint) -> None:
        try:
            await self._store.write(checkpoint)
        except CheckpointConflictError:
            return
        except CheckpointError as error:
            if error.reason not in ("step-gap", "run-ended"):
                raise

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            await self.write(checkpoint)


PLANTED: Final[dict[str, Callable[[Store], Any]]] = {
    "acknowledges first": AcknowledgesFirst,
    "loses conflicts": LosesConflicts,
}
"""A skipped fsync is planted where power is cut; a process that dies does not show it."""
