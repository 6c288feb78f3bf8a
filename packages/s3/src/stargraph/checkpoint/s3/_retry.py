"""Repeats requests that got no clear answer, until one comes or the deadline is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from stargraph.checkpoint.s3._concurrency import map_each
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore, TransientStoreError
from stargraph.errors import StoreUnavailableError

Result = TypeVar("Result")

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0


class RetryingStore:
    """An object store whose requests are repeated, with growing random waits between them.

    Repeating is safe: reads change nothing, a tombstone is the same each time, and a `create` that was
    carried out and not answered reports the object as there already, which the log settles by reading it.

    Args:
        store: the store.
        deadline: how long to go on, in seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self, store: ObjectStore, *, deadline: float, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    ) -> None:
        self._store = store
        self._deadline = deadline
        self._sleep = sleep

    async def create(self, key: str, body: bytes | Path) -> str | None:
        """See `ObjectStore`."""
        return await self._repeat(key, lambda: self._store.create(key, body))

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        """See `ObjectStore`."""
        if keys:
            await self._repeat(keys[0], lambda: self._store.overwrite(keys, body))

    async def get(self, key: str, *, first: int | None = None) -> bytes | None:
        """See `ObjectStore`."""
        return await self._repeat(key, lambda: self._store.get(key, first=first))

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `ObjectStore`."""
        return await map_each(self.get, keys)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """See `ObjectStore`."""
        return await self._repeat(prefix, lambda: self._store.list(prefix, after=after, limit=limit))

    async def remove(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""
        if keys:
            await self._repeat(keys[0], lambda: self._store.remove(keys))

    async def _repeat(self, key: str, request: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await request()
        except TransientStoreError as error:
            first = error

        async def attempt() -> Result:
            return await request()

        # Imported by the first failure only: it takes longer than the whole driver.
        import tenacity

        retrying = tenacity.AsyncRetrying(
            sleep=self._sleep,
            retry=tenacity.retry_if_exception_type(TransientStoreError),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            stop=tenacity.stop_after_delay(self._deadline),
            reraise=True,
        )
        await self._sleep(_FIRST_WAIT)
        try:
            return await retrying(attempt)
        except TransientStoreError as error:
            raise StoreUnavailableError(
                f"{key}: the store gave no clear answer within {self._deadline:g} s; the last time: {error}",
                reason="no-answer",
                hint="Whether a write was stored is unknown; writing the same checkpoint again is safe and settles it.",
            ) from first
