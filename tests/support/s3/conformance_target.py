"""The S3 driver as the conformance kit opens it: on the server that the environment names."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from support.s3.servers import sdk_client
from support.s3.stores import BUCKET

from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.s3._keys import KeyLayout


@asynccontextmanager
async def _location() -> AsyncIterator[str]:
    yield f"s3://{BUCKET}/conformance/{uuid.uuid4().hex}"


@cache
def _client() -> Any:
    return sdk_client(os.environ["AWS_ENDPOINT_URL_S3"])


def _keys(location: str) -> KeyLayout:
    return KeyLayout(location.removeprefix(f"s3://{BUCKET}/"))


class StoredBytes:
    """Reads and edits objects behind the driver's back."""

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        content: bytes = _client().get_object(Bucket=BUCKET, Key=_keys(location).slot(run_id, step))["Body"].read()
        return content

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        _client().put_object(Bucket=BUCKET, Key=_keys(location).slot(run_id, step), Body=data)


@asynccontextmanager
async def _newer_format(location: str) -> AsyncIterator[None]:
    client, key = _client(), _keys(location).marker
    before = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=key, Body=b'{"format": 2}')
    yield
    client.put_object(Bucket=BUCKET, Key=key, Body=before)


target = Target(open=S3Checkpointer, location=_location, stored_bytes=StoredBytes(), newer_format=_newer_format)
