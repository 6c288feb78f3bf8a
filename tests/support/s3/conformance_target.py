"""The S3 driver as the conformance kit opens it: on the server that the environment names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

from support.s3.servers import fresh_bucket, sdk_client

from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.s3._schema import STORE_FORMAT, KeyLayout


@asynccontextmanager
async def _location() -> AsyncIterator[str]:
    yield f"s3://{fresh_bucket(os.environ['AWS_ENDPOINT_URL_S3'])}/store"


@cache
def _client() -> Any:
    return sdk_client(os.environ["AWS_ENDPOINT_URL_S3"])


def _bucket(location: str) -> str:
    return location.removeprefix("s3://").partition("/")[0]


_KEYS = KeyLayout("store")


class StoredBytes:
    """Reads and edits objects behind the driver's back."""

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        content: bytes = _client().get_object(Bucket=_bucket(location), Key=_KEYS.slot(run_id, step))["Body"].read()
        return content

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        _client().put_object(Bucket=_bucket(location), Key=_KEYS.slot(run_id, step), Body=data)


@asynccontextmanager
async def _other_format(number: int, location: str) -> AsyncIterator[None]:
    client, key = _client(), _KEYS.marker
    before = client.get_object(Bucket=_bucket(location), Key=key)["Body"].read()
    client.put_object(Bucket=_bucket(location), Key=key, Body=b'{"format": %d}' % number)
    yield
    client.put_object(Bucket=_bucket(location), Key=key, Body=before)


target = Target(
    open=S3Checkpointer,
    location=_location,
    stored_bytes=StoredBytes(),
    newer_format=partial(_other_format, STORE_FORMAT + 1),
    older_format=partial(_other_format, STORE_FORMAT - 1),
    url=str,
)
