"""The log of a run: one object per step. It finds the end, and remembers what is known of it.

Nothing here knows S3 or an event loop: the same code runs against the simulated store of the tests.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from stargraph.checkpoint.driver import Tail, missing_step_error
from stargraph.checkpoint.s3._errors import inconsistent_error
from stargraph.checkpoint.s3._frame import HEADER_BYTES, Header, PrunedFloor, Tombstone, is_tombstone, read_header
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.checkpoint.s3._schema import KeyLayout

Result = TypeVar("Result")

TAIL_SECONDS: Final = 3600.0
"""How long a cached tail is used. Far below the time after which the tombstones of taken slots may go."""

_TAILS: Final = 10_000
_PAGE: Final = 1000
_PEEK: Final = 2  # one key would do, but for an object of somebody else in the folder


@dataclass(slots=True)
class CachedTail:
    """What a handle knows of a run's end.

    Attributes:
        tail: a step that is stored, read or acknowledged; others may have been added since.
        at: when that was, in seconds.
        settled: no write of this handle has an unknown outcome.
    """

    tail: Tail
    at: float
    settled: bool = True


class LogReader:
    """Reads the logs of runs.

    Args:
        store: the objects.
        keys: where they are.
        clock: the time in seconds, going on while the machine sleeps.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._tails: OrderedDict[str, CachedTail] = OrderedDict()

    async def read_tail(self, run_id: str) -> Tail | Literal["deleted"] | None:
        """Return the end of a run as it is stored, or None if the run is unknown."""
        header = await self.newest_header(run_id)
        if not isinstance(header, Header):
            return header
        return self.update(header)

    async def read_newest(
        self, run_id: str, read: Callable[[int, ObjectInfo | None], Awaitable[Result | None]]
    ) -> Result | Literal["deleted"] | None:
        """Return what a reader makes of the newest record of a run, or None if the run is unknown.

        Between the listing and the read the run may go on, and a prune take what was listed: then it looks again.

        Args:
            read: reads the record at a step, given its line of the listing; None if there is none any more.
        """
        listed = None
        while True:
            newest = await self.newest(run_id)
            if newest is None:
                return None
            end = await self.tombstone_at(run_id, *newest)
            if isinstance(end, PrunedFloor):
                return None  # its other steps are still to come
            if end == "deleted":
                return "deleted"
            step, _ = newest
            if step == listed:
                raise inconsistent_error(self._keys.slot(run_id, step))
            found = await read(*newest)
            if found is not None:
                return found
            listed = step

    async def newest_header(self, run_id: str) -> Header | Literal["deleted"] | None:
        """Return the header of the newest record of a run, or None if the run is unknown.

        A run that `start_pruned` has not stored as a whole yet is unknown.
        """

        async def read(step: int, _: ObjectInfo | None) -> Header | None:
            header = await self.header(run_id, step)
            return header if isinstance(header, Header) else None

        newest = await self.read_newest(run_id, read)
        return None if isinstance(newest, Header) and newest.start is not None else newest

    async def newest(self, run_id: str) -> tuple[int, ObjectInfo | None] | None:
        """Return the highest step that is taken, and its line of the listing; None if no step is."""
        listed = await self._store.list(self._keys.log(run_id), limit=_PEEK)
        slots = [(step, info) for info in listed if (step := self._keys.step_of(info.key)) is not None]
        cached = self._tails.get(run_id)
        if cached is not None and (not slots or slots[0][0] < cached.tail.step):
            # A log never gets shorter: the listing is older than what this handle knows.
            return cached.tail.step, None
        return slots[0] if slots else None

    async def is_known(self, run_id: str) -> bool:
        """Return whether a run has begun and was not deleted."""
        return await self.known_end(run_id) is not None

    async def known_end(self, run_id: str) -> int | None:
        """Return the highest step of a run, or None if it has not begun or was deleted."""
        newest = await self.newest(run_id)
        return newest[0] if newest is not None and await self.tombstone_at(run_id, *newest) is None else None

    async def check_not_lost(self, run_id: str, step: int) -> None:
        """Refuse an empty slot below the latest one, unless a prune has freed it.

        Raises:
            CheckpointCorruptedError: it held a record.
        """
        if await self.header(run_id, step) is None and not await self.was_pruned(run_id, step):
            raise missing_step_error(run_id, step)

    async def was_pruned(self, run_id: str, step: int) -> bool:
        """Return whether a prune took a record: the highest tombstone always stays and is in its slot or above it."""
        async for taken, info in self.slots(run_id):
            if taken < step or is_tombstone(info.size):
                return taken >= step
        return False

    async def is_end_of_deleted(self, run_id: str, step: int, info: ObjectInfo | None) -> bool:
        """Return whether the newest slot of a run says that the run was deleted.

        Args:
            step: the step of the slot.
            info: its line of the listing.

        Raises:
            CheckpointCorruptedError: it has the length of a tombstone, and is none.
        """
        return await self.tombstone_at(run_id, step, info) == "deleted"

    async def tombstone_at(
        self, run_id: str, step: int, info: ObjectInfo | None
    ) -> Literal["deleted"] | PrunedFloor | None:
        """Return what the newest slot of a run says in the place of a record: it was deleted, or is only being started.

        Args:
            step: the step of the slot.
            info: its line of the listing.
        """
        if info is None or not is_tombstone(info.size):
            return None
        header = await self.header(run_id, step)
        return header if header == "deleted" or isinstance(header, PrunedFloor) else None

    async def slots(self, run_id: str, *, to_step: int | None = None) -> AsyncIterator[tuple[int, ObjectInfo]]:
        """Yield the slots of a run that are taken, the highest step first.

        Args:
            to_step: the highest step to yield.
        """
        after = "" if to_step is None else self._keys.slot(run_id, to_step + 1)
        while True:
            page = await self._store.list(self._keys.log(run_id), after=after, limit=_PAGE)
            for info in page:
                step = self._keys.step_of(info.key)
                if step is not None:
                    yield step, info
            if len(page) < _PAGE:
                return
            after = page[-1].key

    async def header(self, run_id: str, step: int) -> Header | Tombstone | PrunedFloor | None:
        """Return the header of what is in a slot, or None if the slot is empty."""
        key = self._keys.slot(run_id, step)
        body = await self._store.get(key, first=HEADER_BYTES)
        if body is None:
            return None
        header = read_header(body, run_id=run_id, step=step)
        if header is None:
            body = await self._store.get(key)
            header = None if body is None else read_header(body + b"\n", run_id=run_id, step=step)
        return header

    def update(self, header: Header) -> Tail:
        """Remember that a record is stored, since it was read; return the tail that it makes."""
        tail = Tail(header.summary.last_step, header.digest, header.summary.status)
        self.remember(header.summary.run_id, tail)
        return tail

    def remember(self, run_id: str, tail: Tail) -> None:
        """Remember a step that is stored: it was acknowledged, or read and verified."""
        cached = self._tails.get(run_id)
        if cached is not None and cached.tail.step > tail.step:
            tail = cached.tail
        self._tails[run_id] = CachedTail(tail, self._clock())
        self._tails.move_to_end(run_id)
        if len(self._tails) > _TAILS:
            self._tails.popitem(last=False)

    def cached_tail(self, run_id: str) -> Tail | None:
        """Return a step of a run that is known to be stored, and recently enough to be relied on."""
        cached = self._tails.get(run_id)
        if cached is None or not cached.settled or not 0 <= self._clock() - cached.at <= TAIL_SECONDS:
            return None
        return cached.tail

    def invalidate(self, run_id: str) -> None:
        """Rely on nothing that is known of a run, since a write of this handle has an unknown outcome."""
        cached = self._tails.get(run_id)
        if cached is not None:
            cached.settled = False
