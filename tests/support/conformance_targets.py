"""Targets of the conformance kit for the tests."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

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
async def _newer_sqlite(location: str) -> AsyncIterator[None]:
    with closing(sqlite3.connect(location)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + 1}")
        yield
        database.execute(f"PRAGMA user_version = {version}")


sqlite = Target(open=SQLiteCheckpointer, stored_bytes=_SQLiteBytes(), newer_format=_newer_sqlite)
