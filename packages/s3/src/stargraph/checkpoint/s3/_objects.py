"""The object store as the protocol sees it: a few operations. One implementation speaks S3, others simulate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


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
    """


class ObjectStore(Protocol):
    """What the protocol needs of S3.

    Every method may raise `TransientStoreError`, whose outcome is unknown, or `StoreUnavailableError`,
    which no retry helps.
    """

    async def create(self, key: str, body: bytes | Path) -> str | None:
        """Write an object where there is none; of two that do so at once, one.

        Args:
            key: where.
            body: the content, or the file that holds it.

        Returns:
            The ETag, or None where there is one already, whoever wrote it.
        """

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        """Write the same content to objects, one after another or at once, whatever was there.

        Args:
            keys: where.
            body: the content.
        """

    async def get(self, key: str, *, first: int | None = None) -> bytes | None:
        """Return the content of an object, or None where there is none.

        Args:
            key: where.
            first: only so many bytes from its beginning.
        """

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return the contents of objects in the order of the keys, None where there is none.

        Args:
            keys: the keys.
        """

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Sequence[ObjectInfo]:
        """Return objects in the order of their keys.

        Args:
            prefix: what their keys begin with; it ends with a slash.
            after: only keys greater than this one.
            limit: how many at the most, up to 1000. Fewer than that mean that there are no more.
        """

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are no error.

        Args:
            keys: which, up to 1000.
        """
