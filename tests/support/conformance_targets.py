"""Targets of the conformance kit for the tests."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from importlib.metadata import version

from stargraph.checkpoint.conformance import Target
from stargraph.checkpoint.sqlite import SQLiteCheckpointer


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


@asynccontextmanager
async def _other_format(location: str, change: int) -> AsyncIterator[None]:
    with closing(sqlite3.connect(location)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + change}")
        yield
        database.execute(f"PRAGMA user_version = {version}")


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
    newer_format=lambda location: _other_format(location, 1),
    older_format=lambda location: _other_format(location, -1),
    outage=_locked,
    encryption=lambda location: SQLiteCheckpointer.from_url(_url(location)),
    read_only=lambda location: SQLiteCheckpointer(location, read_only=True),
    url=_url,
    versions=_versions,
)
