"""The stores that are fought over: how workers reach each, and what can be done to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, get_args

from support.postgres_server import DEBIAN_BINARIES, LocalServer, embedded_binaries
from support.s3 import proxy as http
from support.s3.servers import ENVIRONMENT, fresh_bucket, moto_server
from support.tcp_proxy import TcpProxy

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph_torture.nemesis import Fault
from stargraph_torture.recorder import Store

_MEMORY_BYTES: Final = 384 * 1024**2
_SERVER_MEMORY_BYTES: Final = 1024**3


@dataclass(frozen=True)
class Arena:
    """A store for one round.

    Attributes:
        url: names the store for `open_checkpointer`; nothing is done to it on this way.
        open_from_afar: makes a worker's handle; what is done to the store lies between.
        open_at_rest: makes a handle past all of that, for the oracle.
        faults: what can be done to it.
        environment: variables that workers need.
        impossible: what cannot be done here, and why.
    """

    url: str
    open_from_afar: Callable[[], Store]
    open_at_rest: Callable[[], Store]
    faults: dict[str, Fault]
    environment: dict[str, str] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def sqlite_arena(folder: Path) -> AsyncIterator[Arena]:
    """A file on a small file system in memory.

    Args:
        folder: where to put it.
    """
    with _small_filesystem(folder / "disk", _MEMORY_BYTES) as (disk, complaint):
        path = disk / "runs.sqlite"

        async def hold_the_lock(rng: Random) -> None:
            if not path.exists():
                return
            await asyncio.to_thread(_hold_the_lock, path, 0.2 + rng.random() * 1.5)

        faults: dict[str, Fault] = {"lock held by another process": hold_the_lock}
        impossible = {}
        if complaint is None:
            faults["disk full"] = partial(_fill, disk)
        else:
            impossible["disk full"] = complaint
        yield Arena(
            url=str(path),
            open_from_afar=partial(SQLiteCheckpointer, path, busy_timeout=1.0),
            open_at_rest=partial(SQLiteCheckpointer, path),
            faults=faults,
            impossible=impossible,
        )


@asynccontextmanager
async def postgres_arena(folder: Path) -> AsyncIterator[Arena]:
    """A server of its own, on a small file system, behind a proxy.

    Args:
        folder: where to put it.
    """
    binaries = embedded_binaries() or DEBIAN_BINARIES
    with _small_filesystem(folder / "disk", _SERVER_MEMORY_BYTES) as (disk, complaint):
        # Shared memory of its own kind would outlive a server that is killed for good.
        settings = {"max_wal_size": "'128MB'", "min_wal_size": "'32MB'", "dynamic_shared_memory_type": "mmap"}
        server = await asyncio.to_thread(partial(LocalServer, binaries, settings, directory=disk))
        try:
            await asyncio.to_thread(server.start)
            async with TcpProxy("127.0.0.1", server.port) as proxy:
                yield _postgres_arena(server, proxy, disk, complaint)
        finally:
            server.remove()


def _postgres_arena(server: LocalServer, proxy: TcpProxy, disk: Path, complaint: str | None) -> Arena:
    async def restart(rng: Random) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(rng.random() * 0.5)
        await asyncio.to_thread(server.start)

    async def freeze(rng: Random) -> None:
        processes = server.processes()
        _signal_all(processes, signal.SIGSTOP)
        await asyncio.sleep(rng.random() * 3)
        _signal_all(processes, signal.SIGCONT)

    async def end_backends(rng: Random) -> None:
        others = server.processes()[1:]  # none while it starts them again
        _signal_all(rng.sample(others, min(1, len(others))), signal.SIGKILL)
        await asyncio.sleep(0.2)

    async def fill(rng: Random) -> None:
        await _fill(disk, rng)
        # It gives up if it cannot write its log, at once or when it tries to recover.
        await asyncio.to_thread(server.revive)

    faults: dict[str, Fault] = {
        **_faults_on_the_network(proxy),
        "server killed and restarted": restart,
        "server frozen": freeze,
        "a process of the server killed": end_backends,
    }
    impossible = {}
    if complaint is None:
        faults["disk full"] = fill
    else:
        impossible["disk full"] = complaint
    through = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
    return Arena(
        url=server.dsn,
        open_from_afar=partial(PostgresCheckpointer, through, timeout=6.0),
        open_at_rest=partial(PostgresCheckpointer, server.dsn),
        faults=faults,
        impossible=impossible,
    )


_HTTP_FAULTS: Final = tuple(kind for kind in get_args(http.Fault) if kind not in ("truncated", "stale listing"))
"""What an S3 store and the way to it can do; a store that lists old news is not one."""


@asynccontextmanager
async def s3_arena(folder: Path) -> AsyncIterator[Arena]:
    """A bucket of moto's, behind a proxy for connections and one for requests.

    moto keeps its objects in memory, so it cannot be restarted: it is cut off instead.

    Args:
        folder: not used; the bucket is in another process.
    """
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients that hang up are the point
    with moto_server() as upstream:
        bucket = fresh_bucket(upstream)
        async with http.FaultProxy(upstream) as requests:
            host, _, port = requests.url.removeprefix("http://").partition(":")
            async with TcpProxy(host, int(port)) as proxy:
                url = f"s3://{bucket}/torture"
                afar = partial(
                    S3Checkpointer,
                    url,
                    endpoint_url=f"http://127.0.0.1:{proxy.port}",
                    connect_timeout=2.0,
                    read_timeout=2.0,
                    deadline=8.0,
                )
                requests.slow_seconds = 3.0
                yield Arena(
                    # moto sends the header Server twice, which aiohttp refuses in developer mode; the proxy drops it.
                    url=f"{url}?endpoint_url={requests.url}",
                    open_from_afar=afar,
                    open_at_rest=partial(S3Checkpointer, url, endpoint_url=upstream),
                    faults=_faults_on_the_network(proxy) | _faults_on_requests(requests),
                    environment=ENVIRONMENT,
                    impossible={
                        "server killed and restarted": "moto keeps its objects in memory; it is cut off instead",
                        "disk full": "moto has no disk; it answers 500 and 503 instead",
                    },
                )


ARENAS: Final = {"sqlite": sqlite_arena, "postgres": postgres_arena, "s3": s3_arena}


def _faults_on_the_network(proxy: TcpProxy) -> dict[str, Fault]:
    async def cut(rng: Random) -> None:
        proxy.cut()

    async def delay(rng: Random) -> None:
        proxy.delay = rng.random() * 0.2
        await asyncio.sleep(0.5)
        proxy.delay = 0.0

    async def swallow(rng: Random) -> None:
        proxy.swallowing = True
        await asyncio.sleep(rng.random() * 3)
        proxy.swallowing = False
        proxy.cut()  # what was swallowed would be missing in the middle of a stream

    async def refuse(rng: Random) -> None:
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(rng.random() * 2)
        proxy.refusing = False

    async def lose_an_answer(rng: Random) -> None:
        proxy.cut_after_request = 100
        await asyncio.sleep(0.1)

    async def tear_a_request(rng: Random) -> None:
        proxy.cut_inside_request = True
        await asyncio.sleep(0.1)

    return {
        "connections cut": cut,
        "network slow": delay,
        "network silent": swallow,
        "server cut off": refuse,
        "answer lost": lose_an_answer,
        "request torn": tear_a_request,
    }


def _faults_on_requests(proxy: http.FaultProxy) -> dict[str, Fault]:
    async def break_some(kind: http.Fault, rng: Random) -> None:
        proxy.fault_of = lambda index, request: kind if rng.random() < 0.3 else None
        await asyncio.sleep(0.1 + rng.random() * 0.4)
        proxy.reset()
        if kind == "late":
            await asyncio.sleep(rng.random())
            await proxy.arrive()

    return {f"requests: {kind}": partial(break_some, kind) for kind in _HTTP_FAULTS}


@contextmanager
def _small_filesystem(directory: Path, size: int) -> Iterator[tuple[Path, str | None]]:
    """A file system that can be filled; else a plain directory, with the reason why it cannot."""
    directory.mkdir()
    directory.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(directory)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
        complaint = done.stderr.strip() if done.returncode else None
    except FileNotFoundError as error:
        complaint = str(error)
    try:
        yield directory, None if complaint is None else f"no small file system can be mounted here: {complaint}"
    finally:
        if complaint is None:
            subprocess.run(["umount", "-l", str(directory)], check=True)


async def _fill(disk: Path, rng: Random) -> None:
    ballast = disk / f"ballast-{uuid.uuid4().hex}"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(disk).free - rng.randrange(64) * 4096, 1))
        await asyncio.sleep(0.2 + rng.random())
    finally:
        ballast.unlink(missing_ok=True)


def _hold_the_lock(path: Path, seconds: float) -> None:
    # In another process: closing a file here would drop the locks that this process has on it.
    code = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)"
    code += "; c.execute('BEGIN IMMEDIATE'); time.sleep(float(sys.argv[2])); c.execute('ROLLBACK'); c.close()"
    subprocess.run([sys.executable, "-c", code, str(path), str(seconds)], check=False, capture_output=True)


def _signal_all(processes: list[int], what: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)
