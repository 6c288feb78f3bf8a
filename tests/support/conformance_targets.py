"""Targets of the conformance kit for the tests."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from importlib.metadata import version

from stargraph.checkpoint.codec import Cipher
from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.checkpoint.sqlite._schema import MIGRATIONS

CONTRACT_GROUPS = ("steps", "batch", "fencing", "history", "timeline", "list_runs", "access", "closing")
"""Groups of checks that take a second together: what every driver keeps, whatever it stores in."""

CACHED_GROUPS = ("steps", "views", "deletion", "corruption", "concurrency", "durability")
"""Groups of checks that a handle fails that serves from memory what it may not."""

CHANCE_CHECKS = (
    "corruption",
    "concurrency",
    "growth",
    "cancel",
    "search.by_update",
    "clocks.microseconds_and_ids",
    "timeline.rows",
    "timeline.ranges",
    "timeline.damage",
)
"""Groups and checks in which chance decides most."""

SEEDS = range(200)
"""For how many seeds no check of `CHANCE_CHECKS` may accuse a sound driver."""


class _SQLiteBytes:
    """Reads and edits records in the file."""

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        with closing(sqlite3.connect(location)) as database:
            sql = "SELECT record FROM log WHERE run_id = ? AND step = ?"
            (record,) = database.execute(sql, (run_id, step)).fetchone()
        return bytes(record)

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        with closing(sqlite3.connect(location)) as database, database:
            sql = "UPDATE checkpoints SET record = ? WHERE id = (SELECT number FROM runs WHERE run_id = ?) << 34 | ?"
            database.execute(sql, (data, run_id, step))


async def _lose_step(location: str, run_id: str, step: int) -> None:
    with closing(sqlite3.connect(location)) as database, database:
        sql = "DELETE FROM checkpoints WHERE id = (SELECT number FROM runs WHERE run_id = ?) << 34 | ?"
        database.execute(sql, (run_id, step))


@asynccontextmanager
async def _other_format(location: str, pragma: str, number: int) -> AsyncIterator[None]:
    with closing(sqlite3.connect(location)) as database:
        (before,) = database.execute(f"PRAGMA {pragma}").fetchone()
        database.execute(f"PRAGMA {pragma} = {number}")
        yield
        database.execute(f"PRAGMA {pragma} = {before}")


@asynccontextmanager
async def _locked(location: str) -> AsyncIterator[None]:
    """Another process holds the write lock and does not let go of it."""
    with closing(sqlite3.connect(location, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def _versions() -> dict[str, str]:
    return {"stargraph-checkpoint-sqlite": version("stargraph-checkpoint-sqlite"), "sqlite": sqlite3.sqlite_version}


def _url(location: str) -> str:
    return f"sqlite:///{location}"


sqlite = Target(
    open=lambda location: SQLiteCheckpointer(location, busy_timeout=5),
    stored_bytes=_SQLiteBytes(),
    lost_step=_lose_step,
    newer_format=lambda location: _other_format(location, "user_version", max(MIGRATIONS) + 1),
    older_format=lambda location: _other_format(location, "application_id", int.from_bytes(b"SGcp", "big")),
    outage=_locked,
    encryption=lambda location: SQLiteCheckpointer.from_url(_url(location)),
    read_only=lambda location: SQLiteCheckpointer(location, read_only=True),
    url=_url,
    versions=_versions,
)

_ROOM = 64 * 1024 * 1024

sqlite_caching = replace(
    sqlite,
    open=lambda location: SQLiteCheckpointer(location, busy_timeout=5, latest_cache_bytes=_ROOM),
    encryption=lambda location: SQLiteCheckpointer.from_url(f"{_url(location)}?latest_cache_bytes={_ROOM}"),
    read_only=lambda location: SQLiteCheckpointer(location, read_only=True, latest_cache_bytes=_ROOM),
    url=lambda location: f"{_url(location)}?latest_cache_bytes={_ROOM}",
)
"""A handle that keeps the latest checkpoints in memory: it has to hold all that one without does."""


class _Memory:
    """Stores in memory by their locations, and the bytes in them."""

    def __init__(self) -> None:
        self._stores: dict[str, MemoryStore] = {}

    @asynccontextmanager
    async def location(self) -> AsyncIterator[str]:
        location = f"memory-{uuid.uuid4().hex}"
        self._stores[location] = MemoryStore()
        yield location
        del self._stores[location]

    def open(self, location: str) -> MemoryCheckpointer:
        return MemoryCheckpointer(self._stores[location])

    def read_only(self, location: str) -> MemoryCheckpointer:
        return MemoryCheckpointer(self._stores[location], read_only=True)

    def encrypting(self, location: str) -> MemoryCheckpointer:
        return MemoryCheckpointer(self._stores[location], encryption=Cipher.from_environment())

    async def get(self, location: str, run_id: str, step: int) -> bytes:
        return self._stores[location]._runs[run_id].records[step]

    async def put(self, location: str, run_id: str, step: int, data: bytes) -> None:
        self._stores[location]._runs[run_id].records[step] = data

    async def lose_step(self, location: str, run_id: str, step: int) -> None:
        del self._stores[location]._runs[run_id].records[step]


def _memory_target(stores: _Memory) -> Target:
    return Target(
        open=stores.open,
        location=stores.location,
        stored_bytes=stores,
        lost_step=stores.lose_step,
        encryption=stores.encrypting,
        read_only=stores.read_only,
        processes=False,
    )


memory = _memory_target(_Memory())
