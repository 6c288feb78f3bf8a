"""A reference driver in memory: the contract with nothing around it, and the smallest thing to try the kit on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from stargraph.checkpoint.conformance._reference_driver import ReferenceCheckpointer
from stargraph.checkpoint.conformance._reference_store import FORMAT, ReferenceStore
from stargraph.checkpoint.conformance._target import Target
from stargraph.checkpoint.protocol import Checkpointer

__all__ = ["FORMAT", "ReferenceCheckpointer", "ReferenceStore", "ReferenceStores", "target"]


class ReferenceStores:
    """Stores by their locations, with the hooks that the kit needs.

    Args:
        driver: makes a handle on a store.
    """

    def __init__(self, driver: Callable[[ReferenceStore], Checkpointer] = ReferenceCheckpointer) -> None:
        self._driver = driver
        self._stores: dict[str, ReferenceStore] = {}
        self._made = 0

    def target(self) -> Target:
        """Return the target; other processes cannot open it."""
        return Target(
            open=lambda location: self._driver(self._stores[location]),
            location=self._location,
            stored_bytes=self,
            lost_step=self.lose,
            newer_format=lambda location: self._other_format(location, FORMAT + 1),
            older_format=lambda location: self._other_format(location, FORMAT - 1),
            outage=self._outage,
            read_only=lambda location: self._read_only(self._stores[location]),
            processes=False,
        )

    @asynccontextmanager
    async def _location(self) -> AsyncIterator[str]:
        self._made += 1
        location = f"memory-{self._made}"
        self._stores[location] = ReferenceStore()
        yield location
        del self._stores[location]

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        """Return the stored bytes of a step."""
        return self._stores[location].runs[run_id][step]

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        """Replace the stored bytes of a step."""
        self._stores[location].runs[run_id][step] = data

    async def lose(self, location: str, run_id: str, step: int) -> None:
        """Take a step away."""
        del self._stores[location].runs[run_id][step]

    @asynccontextmanager
    async def _other_format(self, location: str, number: int) -> AsyncIterator[None]:
        store = self._stores[location]
        before, store.format = store.format, number
        yield
        store.format = before

    @asynccontextmanager
    async def _outage(self, location: str) -> AsyncIterator[None]:
        store = self._stores[location]
        store.reachable = False
        yield
        store.reachable = True

    def _read_only(self, store: ReferenceStore) -> Checkpointer:
        handle = self._driver(store)
        assert isinstance(handle, ReferenceCheckpointer)
        handle.read_only = True
        return handle


target: Final = ReferenceStores().target()
