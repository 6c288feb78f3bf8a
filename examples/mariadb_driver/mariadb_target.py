"""The MariaDB driver as the kit opens it: `stargraph-conformance run mariadb_target:target`, in this folder.

`MARIADB_URL` names a server and a user who may create databases. The scheme of the URL is registered once the driver is
installed: `pip install .`
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncmy

from mariadb_driver import FORMAT, MariaDBCheckpointer
from stargraph.checkpoint.conformance import Target

URL = os.environ.get("MARIADB_URL", "mariadb://root@127.0.0.1:3306")
_ADDRESS = urlsplit(URL)
_SERVER = {
    "host": _ADDRESS.hostname,
    "port": _ADDRESS.port or 3306,
    "user": unquote(_ADDRESS.username or ""),
    "password": unquote(_ADDRESS.password or ""),
}


def _url(location: str) -> str:
    return _ADDRESS._replace(path=f"/{location}", query="").geturl()


@asynccontextmanager
async def _connected(database: str | None = None) -> AsyncIterator[Any]:
    connection = await asyncmy.connect(**_SERVER, database=database, autocommit=True)
    try:
        async with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@asynccontextmanager
async def _location() -> AsyncIterator[str]:
    """A database of its own."""
    name = f"kit_{secrets.token_hex(8)}"
    async with _connected() as cursor:
        await cursor.execute(f"CREATE DATABASE {name}")
    yield name
    async with _connected() as cursor:
        await cursor.execute(f"DROP DATABASE {name}")


class _StoredBytes:
    async def get(self, location: str, run_id: str, step: int) -> bytes:
        async with _connected(location) as cursor:
            await cursor.execute(
                "SELECT record FROM stargraph_checkpoints WHERE run_id = %s AND step = %s", (run_id, step)
            )
            (record,) = await cursor.fetchone()
            return bytes(record)

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        async with _connected(location) as cursor:
            await cursor.execute(
                "UPDATE stargraph_checkpoints SET record = %s WHERE run_id = %s AND step = %s", (data, run_id, step)
            )


async def _lost_step(location: str, run_id: str, step: int) -> None:
    async with _connected(location) as cursor:
        await cursor.execute("DELETE FROM stargraph_checkpoints WHERE run_id = %s AND step = %s", (run_id, step))


@asynccontextmanager
async def _other_format(location: str, number: int) -> AsyncIterator[None]:
    async with _connected(location) as cursor:
        await cursor.execute("UPDATE stargraph_format SET format = %s", (number,))
        yield
        await cursor.execute("UPDATE stargraph_format SET format = %s", (FORMAT,))


@asynccontextmanager
async def _locked(location: str) -> AsyncIterator[None]:
    """Another connection holds the tables and does not let go of them."""
    async with _connected(location) as cursor:
        await cursor.execute("LOCK TABLES stargraph_runs READ, stargraph_checkpoints READ")
        yield
        await cursor.execute("UNLOCK TABLES")


def _versions() -> dict[str, str]:
    async def ask() -> str:
        async with _connected() as cursor:
            await cursor.execute("SELECT version()")
            (server,) = await cursor.fetchone()
            return str(server)

    return {"asyncmy": version("asyncmy"), "mariadb": asyncio.run(ask())}


target = Target(
    open=lambda location: MariaDBCheckpointer(_url(location), lock_timeout=2),
    location=_location,
    stored_bytes=_StoredBytes(),
    lost_step=_lost_step,
    newer_format=lambda location: _other_format(location, FORMAT + 1),
    older_format=lambda location: _other_format(location, FORMAT - 1),
    outage=_locked,
    encryption=lambda location: MariaDBCheckpointer.from_url(_url(location)),
    read_only=lambda location: MariaDBCheckpointer(_url(location), read_only=True),
    url=_url,
    versions=_versions,
)
