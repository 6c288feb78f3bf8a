"""The object store as the protocol sees it: a few operations. One implementation speaks S3, others simulate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, TypeVar

from stargraph.checkpoint.driver import RetryPolicy, TroubleLog, await_answer
from stargraph.checkpoint.s3._concurrency import CANCEL_SECONDS, map_each
from stargraph.errors import StoreUnavailableError

Result = TypeVar("Result")

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
_FIRST_CONTACT_ATTEMPTS: Final = 2
"""How often a store that has never answered is tried if no connection to it can be made."""

LOGGER: Final = logging.getLogger("stargraph.checkpoint.s3")
LOGGER.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing.

    Attributes:
        key: the key.
        size: the length, in bytes.
        etag: changes with the content.
        modified: when it was written, by the store's clock.
    """

    key: str
    size: int
    etag: str
    modified: datetime


class TransientStoreError(Exception):
    """A request got no clear answer: it may have been carried out, may be later, or never.

    Args:
        message: what happened.
        unreachable: what it means if the store has never answered: no such host, nothing listens there.
    """

    def __init__(self, message: str, *, unreachable: StoreUnavailableError | None = None) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class ObjectStore(Protocol):
    """What the protocol needs of S3.

    Every method may raise `TransientStoreError`, whose outcome is unknown, or `StoreUnavailableError`,
    which no retry helps.
    """

    async def create(self, key: str, body: bytes | Path) -> str | None:
        """Write an object if there is none; of two calls at once, one does.

        Args:
            body: the content, or the file that holds it.

        Returns:
            The ETag, or None if there is one already, whoever wrote it.
        """

    async def create_empty(self, keys: Sequence[str]) -> None:
        """Write an empty object for each key that has none, at once or one after another."""

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        """Write the same content to objects, at once or one after another, whatever was there."""

    async def get(self, key: str, *, first: int | None = None) -> bytes | None:
        """Return the content of an object, or None if there is none.

        Args:
            first: only so many bytes from its beginning.
        """

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return the contents of objects in the order of the keys, None for each that does not exist."""

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """Return objects in the order of their keys.

        Args:
            prefix: what their keys begin with; it ends with a slash.
            after: only keys greater than this one.
            limit: at most this many, up to 1000. Fewer than that mean that there are no more.
        """

    async def folders(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Return the folders whose keys begin with a prefix, each with the slash that ends it.

        Args:
            prefix: a folder, and what the names of those in it begin with.
            after: only those that the store lists after this one. Stores differ in the place of two names of which one
                begins with the other: those that keep folders as such do not compare the slash.
            limit: at most this many, up to 1000. Fewer than that mean that there are no more.
        """

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove up to 1000 objects; those that do not exist are no error."""


class UnconditionalStore:
    """An object store whose `create` looks before it writes, and again after, for a store without conditional writes.

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

    async def create_empty(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""
        await map_each(lambda key: self.create(key, b""), keys)

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

    async def folders(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """See `ObjectStore`."""
        return await self._store.folders(prefix, after=after, limit=limit)

    async def remove(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""
        await self._store.remove(keys)


class RetryingStore:
    """An object store whose requests are repeated, with growing random waits between them, until the deadline.

    Repeating is safe: reads change nothing, a tombstone is the same each time, and a `create` that was
    carried out and not answered reports the object as there already, which the log settles by reading it.

    Args:
        deadline: how long a request may take with all its attempts, in seconds.
    """

    def __init__(self, store: ObjectStore, *, deadline: float) -> None:
        self._store = store
        self._policy = RetryPolicy(deadline, first_pause=_FIRST_PAUSE, longest_pause=_LONGEST_PAUSE, cut_short=False)
        self._trouble = TroubleLog(LOGGER)
        self._answered = False

    async def create(self, key: str, body: bytes | Path) -> str | None:
        """See `ObjectStore`."""
        return await await_answer(self._repeat(key, lambda: self._store.create(key, body)), timeout=CANCEL_SECONDS)

    async def create_empty(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""
        await map_each(lambda key: self.create(key, b""), keys)

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        """See `ObjectStore`."""
        await map_each(lambda key: self._repeat(key, lambda: self._store.overwrite([key], body)), keys)

    async def get(self, key: str, *, first: int | None = None) -> bytes | None:
        """See `ObjectStore`."""
        return await self._repeat(key, lambda: self._store.get(key, first=first))

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `ObjectStore`."""
        return await map_each(self.get, keys)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """See `ObjectStore`."""
        return await self._repeat(prefix, lambda: self._store.list(prefix, after=after, limit=limit))

    async def folders(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[str]:
        """See `ObjectStore`."""
        return await self._repeat(prefix, lambda: self._store.folders(prefix, after=after, limit=limit))

    async def remove(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""
        await map_each(lambda key: self._repeat(key, lambda: self._store.remove([key])), keys)

    async def _repeat(self, key: str, request: Callable[[], Awaitable[Result]]) -> Result:
        failures: list[TransientStoreError] = []

        def is_transient(error: Exception) -> bool:
            if not isinstance(error, TransientStoreError):
                return False
            failures.append(error)
            self._raise_if_unreachable(failures)
            kind = type(error.__cause__).__name__
            self._trouble.failed(kind, "attempt %d failed and is repeated: %s", len(failures), error)
            return True

        try:
            # The deadline covers all of it: name resolution, a free connection, the body, and the pauses.
            async with asyncio.timeout(self._policy.deadline):
                result = await self._policy.run(request, is_transient=is_transient)
        except (TimeoutError, TransientStoreError):
            last = failures[-1] if failures else None
            raise StoreUnavailableError(
                f"{key}: the store gave no clear answer within {self._policy.deadline:g} s"
                + ("" if last is None else f"; the last attempt: {last}"),
                reason="no-answer",
                hint="Whether a write was stored is unknown; writing the same checkpoint again is safe and settles it.",
            ) from last
        self._answered = True
        self._trouble.succeeded("the object store")
        return result

    def _raise_if_unreachable(self, failures: Sequence[TransientStoreError]) -> None:
        # What has never answered is more likely named wrongly than about to come back.
        if not self._answered and failures[-1].unreachable is not None and len(failures) >= _FIRST_CONTACT_ATTEMPTS:
            raise failures[-1].unreachable from failures[-1]
