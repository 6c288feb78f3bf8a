"""The store of the reference driver: what its handles share, and a handle that has not learnt a method yet."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Final

from stargraph.checkpoint.codec import decode
from stargraph.checkpoint.driver import DamagedRun, closed_error, not_bootstrapped_error, read_only_error
from stargraph.checkpoint.memory._queues import MemoryQueues
from stargraph.checkpoint.protocol import RunSummary
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError, StoreVersionError

FORMAT: Final = 1
"""The format of a store; a higher one is refused."""


@dataclass(slots=True)
class ReferenceStore:
    """What several handles share.

    Attributes:
        format: the format of the store; None if it was not made yet.
        runs: the stored records of each run, by step.
        floors: the lowest step of the unbroken tail of each run that was pruned.
        deleted: the runs that are gone for good.
        reachable: whether calls reach it.
        queues: what workers share of it.
    """

    format: int | None = None
    runs: dict[str, dict[int, bytes]] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    reachable: bool = True
    queues: MemoryQueues = field(init=False)

    def __post_init__(self) -> None:
        self.queues = MemoryQueues(threading.Lock(), self._summaries)

    def _summaries(self) -> tuple[list[RunSummary], list[DamagedRun]]:
        summaries: list[RunSummary] = []
        damaged: list[DamagedRun] = []
        for run_id, steps in self.runs.items():
            try:
                latest = decode(steps[max(steps)], run_id=run_id, step=max(steps))
            except (CheckpointCorruptedError, StoreVersionError) as error:
                damaged.append(DamagedRun(run_id, error.message))
            else:
                summaries.append(RunSummary.from_checkpoint(latest))
        return summaries, damaged


class ReferenceHandle:
    """A handle on a store: whether it may be used, and whether the store can be reached.

    Args:
        store: what the handles share; a new one if None.
        read_only: never change the store.
    """

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        self._store = store if store is not None else ReferenceStore()
        self.read_only = read_only
        self._state: str = "not-bootstrapped"

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if not self._store.reachable:
            raise StoreUnavailableError("the store cannot be reached", reason="unavailable")

    def _ensure_writable(self, what: str) -> None:
        self._ensure_ready()
        if self.read_only:
            raise read_only_error(what)

    def _ensure_ready(self) -> None:
        if self._state == "not-bootstrapped":
            raise not_bootstrapped_error()
        if self._state == "closed":
            raise closed_error()
