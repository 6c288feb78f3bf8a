"""For stores without conditional writes: checks before and after a write, which narrow the gap and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore


class UnconditionalStore:
    """An object store whose `create` looks before it writes, and again after.

    It finds another writer that came before or after, and misses one that comes in between. For a single
    writer only.

    Args:
        store: a store that ignores conditions.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def create(self, key: str, body: bytes | Path) -> str | None:
        """See `ObjectStore`."""
        if await self._store.get(key, first=1) is not None:
            return None
        etag = await self._store.create(key, body)
        content = await asyncio.to_thread(body.read_bytes) if isinstance(body, Path) else body
        # Somebody overwrote it meanwhile: the caller reads what is there now, and finds out.
        return etag if await self._store.get(key) == content else None

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        """See `ObjectStore`."""
        await self._store.overwrite(keys, body)

    async def get(self, key: str, *, first: int | None = None) -> bytes | None:
        """See `ObjectStore`."""
        return await self._store.get(key, first=first)

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `ObjectStore`."""
        return await self._store.get_many(keys)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """See `ObjectStore`."""
        return await self._store.list(prefix, after=after, limit=limit)

    async def remove(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""
        await self._store.remove(keys)
