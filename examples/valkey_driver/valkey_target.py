"""The Valkey driver as the kit opens it: `stargraph-conformance run valkey_target:target`, in this folder.

`VALKEY_URL` names the server: one for tests, since a check fills its memory up. The scheme of the URL is registered
once the driver is installed: `pip install .`
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from importlib.metadata import version
from typing import Any

from valkey import Valkey as SyncValkey
from valkey.asyncio import Valkey

from stargraph.checkpoint.conformance import Target
from valkey_driver import FORMAT, ValkeyCheckpointer

URL = os.environ.get("VALKEY_URL", "valkey://127.0.0.1:6379/0")


@asynccontextmanager
async def _location() -> AsyncIterator[str]:
    """A prefix of its own, whose keys go away afterwards."""
    prefix = f"kit{secrets.token_hex(8)}"
    yield prefix
    async with Valkey.from_url(URL) as client:
        keys = [key async for key in client.scan_iter(match=f"{prefix}:*", count=1000)]
        if keys:
            await client.unlink(*keys)


class _StoredBytes:
    async def get(self, location: str, run_id: str, step: int) -> bytes:
        async with Valkey.from_url(URL) as client:
            found: bytes = await client.hget(f"{location}:records:{run_id}", str(step))
            return found

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        async with Valkey.from_url(URL) as client:
            await client.hset(f"{location}:records:{run_id}", str(step), data)


async def _lost_step(location: str, run_id: str, step: int) -> None:
    async with Valkey.from_url(URL) as client:
        await client.hdel(f"{location}:records:{run_id}", str(step))
        await client.hdel(f"{location}:digests:{run_id}", str(step))


@asynccontextmanager
async def _other_format(location: str, number: int) -> AsyncIterator[None]:
    async with Valkey.from_url(URL) as client:
        await client.set(f"{location}:format", number)
        yield
        await client.set(f"{location}:format", FORMAT)


@asynccontextmanager
async def _full(location: str) -> AsyncIterator[None]:
    """The server has no memory left: it answers reads, and refuses writes."""
    async with Valkey.from_url(URL) as client:
        before = (await client.config_get("maxmemory"))["maxmemory"]
        await client.config_set("maxmemory", 1)
        yield
        await client.config_set("maxmemory", before)


def _versions() -> dict[str, str]:
    with closing(SyncValkey.from_url(URL)) as client:
        server: Any = client.info("server")
    name = server.get("server_name", "redis")
    return {"valkey-py": version("valkey"), name: server.get(f"{name}_version", "unknown")}


def _url(location: str) -> str:
    return f"{URL}?prefix={location}"


target = Target(
    open=lambda location: ValkeyCheckpointer(URL, prefix=location),
    location=_location,
    stored_bytes=_StoredBytes(),
    lost_step=_lost_step,
    newer_format=lambda location: _other_format(location, FORMAT + 1),
    older_format=lambda location: _other_format(location, FORMAT - 1),
    outage=_full,
    encryption=lambda location: ValkeyCheckpointer.from_url(_url(location)),
    read_only=lambda location: ValkeyCheckpointer(URL, prefix=location, read_only=True),
    url=_url,
    versions=_versions,
)
