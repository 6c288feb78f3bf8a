"""The stores that workers fight on, and how each is taken away from them for a while."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias
from unittest.mock import patch

from support.postgres_server import DEBIAN_BINARIES, LocalServer, embedded_binaries
from support.s3.servers import ENVIRONMENT, fresh_bucket, moto_server
from support.tcp_proxy import TcpProxy

CutOff: TypeAlias = Callable[[float], Awaitable[None]]
Ground: TypeAlias = AbstractAsyncContextManager[tuple[str, CutOff | None]]


async def _refuse(proxy: TcpProxy, seconds: float) -> None:
    proxy.refusing = True
    proxy.cut()
    try:
        await asyncio.sleep(seconds)
    finally:
        proxy.refusing = False


@asynccontextmanager
async def on_sqlite(folder: Path) -> AsyncIterator[tuple[str, CutOff | None]]:
    """A file, whose lock another process holds for a while."""
    path = folder / "runs.sqlite"

    async def cut_off(seconds: float) -> None:
        code = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)"
        code += "; c.execute('BEGIN EXCLUSIVE'); time.sleep(float(sys.argv[2])); c.execute('ROLLBACK'); c.close()"
        words = [sys.executable, "-c", code, str(path), str(seconds)]
        await asyncio.to_thread(partial(subprocess.run, words, check=False, capture_output=True))

    yield f"sqlite:///{path}", cut_off


@asynccontextmanager
async def on_postgres(folder: Path) -> AsyncIterator[tuple[str, CutOff | None]]:
    """A server of its own, behind a proxy that refuses for a while."""
    server = await asyncio.to_thread(partial(LocalServer, embedded_binaries() or DEBIAN_BINARIES, {}))
    try:
        await asyncio.to_thread(server.start)
        async with TcpProxy("127.0.0.1", server.port) as proxy:
            yield f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres", partial(_refuse, proxy)
    finally:
        server.remove()


@asynccontextmanager
async def on_s3(folder: Path) -> AsyncIterator[tuple[str, CutOff | None]]:
    """A bucket of moto's, behind a proxy that refuses for a while."""
    # The workers need the same.
    with moto_server() as upstream, patch.dict(os.environ, ENVIRONMENT):
        bucket = fresh_bucket(upstream)
        host, _, port = upstream.removeprefix("http://").partition(":")
        async with TcpProxy(host, int(port)) as proxy:
            yield f"s3://{bucket}/workers?endpoint_url=http://127.0.0.1:{proxy.port}", partial(_refuse, proxy)


GROUNDS: Final[dict[str, Callable[[Path], Ground]]] = {"sqlite": on_sqlite, "postgres": on_postgres, "s3": on_s3}
