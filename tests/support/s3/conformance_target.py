"""The S3 driver as the conformance kit opens it: on the server that the environment names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import cache, partial
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from support.relay import Relay
from support.s3.servers import fresh_bucket, sdk_client

from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.s3._schema import STORE_FORMAT, KeyLayout, marker_of


@cache
def _relay() -> Relay:
    """The only way to the server, in the process that makes locations; what it does, other processes feel too."""
    server = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"])
    return Relay(server.hostname or "127.0.0.1", server.port or 80)


@asynccontextmanager
async def _location() -> AsyncIterator[str]:
    bucket = fresh_bucket(os.environ["AWS_ENDPOINT_URL_S3"])
    yield f"s3://{bucket}/store?endpoint_url=http://127.0.0.1:{_relay().port}&deadline=20"


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


async def _lose_step(location: str, run_id: str, step: int) -> None:
    _client().delete_object(Bucket=_bucket(location), Key=_KEYS.slot(run_id, step))


@asynccontextmanager
async def _other_format(marker: bytes, location: str) -> AsyncIterator[None]:
    client, key = _client(), _KEYS.marker
    before = client.get_object(Bucket=_bucket(location), Key=key)["Body"].read()
    client.put_object(Bucket=_bucket(location), Key=key, Body=marker)
    yield
    client.put_object(Bucket=_bucket(location), Key=key, Body=before)


def _outage(_: str) -> AbstractAsyncContextManager[None]:
    return _relay().outage()


def _read_only(location: str) -> S3Checkpointer:
    return S3Checkpointer.from_url(f"{location}&read_only=true")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("stargraph-checkpoint-s3", "aioboto3")} | _server()


def _server() -> dict[str, str]:
    said = str(_client().list_buckets()["ResponseMetadata"]["HTTPHeaders"]["server"])
    if said.startswith("SeaweedFS"):
        return {"SeaweedFS": said.rpartition(" ")[2]}
    return {"moto": version("moto")} if said.startswith("Werkzeug") else {"server": said}


target = Target(
    open=S3Checkpointer.from_url,
    location=_location,
    stored_bytes=StoredBytes(),
    lost_step=_lose_step,
    newer_format=partial(_other_format, marker_of(STORE_FORMAT + 1)),
    older_format=partial(_other_format, b'{"format":4,"store":"stargraph-checkpoint-s3"}\n'),
    outage=_outage,
    clock_tolerance=timedelta(minutes=14),  # AWS and SeaweedFS: 15; what a check does may take some of it
    late_claims=True,
    encryption=S3Checkpointer.from_url,
    read_only=_read_only,
    url=str,
    preload=("aiobotocore.session",),
    versions=_versions,
)
