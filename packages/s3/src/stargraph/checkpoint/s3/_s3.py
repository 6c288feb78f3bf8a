"""The object store that speaks S3, through aioboto3."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from stargraph.checkpoint.s3._clock import StoreClock
from stargraph.checkpoint.s3._concurrency import map_each
from stargraph.checkpoint.s3._connection import Connection
from stargraph.checkpoint.s3._errors import ErrorAnswer, Request, classify
from stargraph.checkpoint.s3._objects import ObjectInfo
from stargraph.checkpoint.s3._options import ConnectionOptions
from stargraph.errors import StoreUnavailableError

_PAGE: Final = 1000
_DIRECTORY_BUCKET: Final = "--x-s3"

_LAST: Final = "~"
"""Comes after whatever the name of an object in a folder of the store begins with."""


class S3ObjectStore:
    """The objects of one bucket.

    Args:
        connection: makes the client.
        options: how the store is reached.

    Attributes:
        clock: tells the time of the store.
        lists_in_order: a listing can begin anywhere; else all of a folder is listed.
    """

    def __init__(self, connection: Connection, options: ConnectionOptions, bucket: str) -> None:
        self._connection = connection
        self._options = options
        self._bucket = bucket
        # A directory bucket lists in no order and knows no start: all of a folder is listed and sorted here.
        self.lists_in_order = not bucket.endswith(_DIRECTORY_BUCKET)
        self.clock = StoreClock()
        self._encryption: dict[str, Any] = {}
        if options.kms_key_id is not None:
            self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": options.kms_key_id}

    async def create(self, key: str, body: bytes | Path) -> str | None:
        """See `ObjectStore`."""
        if isinstance(body, Path):
            with body.open("rb") as content:
                return await self._create(key, content)
        return await self._create(key, body)

    async def _create(self, key: str, content: Any) -> str | None:
        reply = await self._request(
            "put_object", "s3:PutObject", key, (ErrorAnswer.EXISTS,), Body=content, IfNoneMatch="*", **self._encryption
        )
        return None if reply is ErrorAnswer.EXISTS else str(reply["ETag"])

    async def create_empty(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""
        await map_each(lambda key: self.create(key, b""), keys)

    async def overwrite(self, keys: Sequence[str], body: bytes) -> None:
        """See `ObjectStore`."""

        async def put(key: str) -> None:
            await self._request("put_object", "s3:PutObject", key, Body=body, **self._encryption)

        await map_each(put, keys)

    async def get(self, key: str, *, first: int | None = None) -> bytes | None:
        """See `ObjectStore`."""
        extra = {} if first is None else {"Range": f"bytes=0-{first - 1}"}
        reply = await self._request(
            "get_object", "s3:GetObject", key, (ErrorAnswer.MISSING, ErrorAnswer.EMPTY), **extra
        )
        if reply is ErrorAnswer.MISSING:
            return None
        return b"" if reply is ErrorAnswer.EMPTY else reply["Body"]

    async def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See `ObjectStore`."""
        return await map_each(self.get, keys)

    async def list(self, prefix: str, *, after: str = "", limit: int = _PAGE) -> Sequence[ObjectInfo]:
        """See `ObjectStore`."""
        found: list[ObjectInfo] = []
        async for reply in self._pages(prefix, after, lambda: limit - len(found)):
            found.extend(
                ObjectInfo(item["Key"], item["Size"], item["ETag"], item["LastModified"])
                for item in reply.get("Contents", ())
            )
        if not self.lists_in_order:
            found = sorted((info for info in found if info.key > after), key=lambda info: info.key)[:limit]
        elif any(before.key >= later.key for before, later in pairwise(found)):
            raise StoreUnavailableError(
                f"s3://{self._bucket}/{prefix}: the store lists keys out of order",
                reason="unordered-listing",
                hint="A checkpoint store must list keys in order, as S3 does.",
            )
        return found

    async def folders(self, prefix: str, *, after: str = "", limit: int = _PAGE) -> Sequence[str]:
        """See `ObjectStore`."""
        found: list[str] = []
        # A directory bucket knows no prefix but a whole folder.
        listed = prefix if self.lists_in_order else prefix[: prefix.rindex("/") + 1]
        # After all that is in the folder: what is in it comes after its own name.
        start = f"{after}{_LAST}" if after else ""
        async for reply in self._pages(listed, start, lambda: limit - len(found), Delimiter="/"):
            found.extend(item["Prefix"] for item in reply.get("CommonPrefixes", ()))
        if not self.lists_in_order:
            found = sorted(folder for folder in found if folder.startswith(prefix) and folder > after)[:limit]
        return found

    async def _pages(
        self, prefix: str, after: str, wanted: Callable[[], int], **options: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the answers to a listing: until no more is wanted or, of a store without an order, all of them."""
        token: str | None = None
        while not self.lists_in_order or wanted() > 0:
            extra: dict[str, Any] = {"ContinuationToken": token} if token else {}
            if self.lists_in_order:
                extra["MaxKeys"] = wanted()
                if after and not token:
                    extra["StartAfter"] = after
            reply = await self._request("list_objects_v2", "s3:ListBucket", None, Prefix=prefix, **options, **extra)
            yield reply
            token = reply.get("NextContinuationToken")
            if not reply.get("IsTruncated") or not token:
                return

    async def remove(self, keys: Sequence[str]) -> None:
        """See `ObjectStore`."""

        async def delete(key: str) -> None:
            await self._request("delete_object", "s3:DeleteObject", key, (ErrorAnswer.MISSING,))

        # One request each: the bulk form needs a checksum that not every store knows, and removing is free.
        await map_each(delete, keys)

    async def _request(
        self, operation: str, permission: str, key: str | None, answers: Collection[ErrorAnswer] = (), **arguments: Any
    ) -> Any:
        request = Request(self._bucket, arguments["Prefix"] if key is None else key, permission, answers)
        if key is not None:
            arguments["Key"] = key
        client = None
        while True:
            refused = client
            try:
                client = await self._connection.client()
                return await self._send(client, operation, arguments)
            except Exception as error:  # noqa: BLE001  # classify raises what it does not know
                try:
                    return classify(error, request, self._options)
                except StoreUnavailableError as failure:
                    if failure.reason != "bad-credentials" or client is None or refused is not None:
                        raise
                    # They may have been rotated: once more with those of now, if these are others.
                    if not await self._connection.renew(client):
                        raise

    async def _send(self, client: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if isinstance(body := arguments.get("Body"), io.IOBase):
            body.seek(0)
        reply = await getattr(client, operation)(Bucket=self._bucket, **arguments)
        self.clock.hear(reply["ResponseMetadata"].get("HTTPHeaders", {}))
        if operation == "get_object":
            async with reply["Body"] as stream:
                reply["Body"] = await stream.read()
        return reply
