"""One store of each driver, and the hands of somebody who edits what is in it behind the driver's back."""

from __future__ import annotations

import os
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stargraph.checkpoint.codec import Codec, encode
from stargraph.checkpoint.driver import microseconds, summary_json
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.s3._frame import pack
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from support.postgres_server import any_server
from support.postgres_target import Records, connection_to
from support.s3.servers import ENVIRONMENT, fresh_bucket, moto_server, sdk_client

Dump = dict[str, Any]
"""Everything that a store holds, by names such as `record r1 3` and `row r1`."""


class Place(ABC):
    """Where a store is."""

    url: str
    """Names the store on the command line."""

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Checkpointer]:
        """A new handle, that knows nothing of what another one has read."""

    @abstractmethod
    async def dump(self) -> Dump:
        """Everything that is stored."""

    @abstractmethod
    async def restore(self, dump: Dump) -> None:
        """Put a store back as it was."""

    @abstractmethod
    async def get(self, run_id: str, step: int) -> bytes:
        """The stored bytes of a step."""

    @abstractmethod
    async def put(self, run_id: str, step: int, data: bytes) -> None:
        """Replace the stored bytes of a step."""

    @abstractmethod
    async def remove(self, run_id: str, step: int) -> None:
        """Take a step away."""

    @abstractmethod
    async def forge(self, checkpoint: Checkpoint, record: bytes | None = None) -> None:
        """Store a checkpoint at its step, whatever the rules say: its own record, decoded from no other, or another."""

    async def write(self, *checkpoints: Checkpoint) -> None:
        """Write checkpoints as a driver does."""
        async with self.open() as store:
            for checkpoint in checkpoints:
                await store.write(checkpoint)

    async def stand_alone(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Store steps so that none is decoded from another one; nobody can tell by what is in them."""
        for checkpoint in checkpoints:
            await self.forge(checkpoint)

    @abstractmethod
    async def set_tail(self, checkpoint: Checkpoint) -> None:
        """Make a stored checkpoint the latest of its run in whatever says so."""

    @abstractmethod
    async def edit_summary(self, run_id: str, before: str, after: str) -> None:
        """Replace a text in what the list of runs is made of."""

    @abstractmethod
    async def queue_index(self) -> Dump:
        """What the index of the runs of queues holds, by run."""

    @abstractmethod
    async def set_queue_index(self, entries: Dump) -> None:
        """Put something else in its place."""


class SQLitePlace(Place):
    _ID = "(SELECT number FROM runs WHERE run_id = ?) << 34 | ?"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def open(self) -> AbstractAsyncContextManager[Checkpointer]:
        return SQLiteCheckpointer(self.path)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path)) as database, database:
            yield database

    async def dump(self) -> Dump:
        with self._database() as database:
            rows = database.execute("SELECT * FROM runs").fetchall()
            records = database.execute("SELECT * FROM checkpoints").fetchall()
            tags = database.execute("SELECT * FROM tags").fetchall()
        return (
            {f"row {row[0]}": row for row in rows}
            | {f"record {row[0] >> 34} {row[0] & (2**34 - 1)}": row for row in records}
            | {f"tag {row[3]} {row[0]}": row for row in tags}
        )

    async def restore(self, dump: Dump) -> None:
        with self._database() as database:
            for table in ("runs", "checkpoints", "tags"):
                database.execute(f"DELETE FROM {table}")
            for name, row in dump.items():
                table = {"row": "runs", "record": "checkpoints", "tag": "tags"}[name.split()[0]]
                database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    async def get(self, run_id: str, step: int) -> bytes:
        with self._database() as database:
            sql = "SELECT record FROM log WHERE run_id = ? AND step = ?"
            return bytes(database.execute(sql, (run_id, step)).fetchone()[0])

    async def put(self, run_id: str, step: int, data: bytes) -> None:
        with self._database() as database:
            database.execute(f"UPDATE checkpoints SET record = ? WHERE id = {self._ID}", (data, run_id, step))

    async def remove(self, run_id: str, step: int) -> None:
        with self._database() as database:
            database.execute(f"DELETE FROM checkpoints WHERE id = {self._ID}", (run_id, step))

    async def forge(self, checkpoint: Checkpoint, record: bytes | None = None) -> None:
        row = (checkpoint.run_id, checkpoint.step, bytes.fromhex(checkpoint.digest), record or encode(checkpoint))
        with self._database() as database:
            database.execute(f"INSERT OR REPLACE INTO checkpoints VALUES ({self._ID}, ?, ?)", row)

    async def set_tail(self, checkpoint: Checkpoint) -> None:
        with self._database() as database:
            database.execute(
                "UPDATE runs SET step = ?, digest = ?, status = ?, updated_at = ?, summary = ? WHERE run_id = ?",
                (
                    checkpoint.step,
                    bytes.fromhex(checkpoint.digest),
                    checkpoint.status,
                    microseconds(checkpoint.timestamp),
                    summary_json(checkpoint),
                    checkpoint.run_id,
                ),
            )

    async def edit_summary(self, run_id: str, before: str, after: str) -> None:
        with self._database() as database:
            database.execute(
                "UPDATE runs SET summary = replace(summary, ?, ?) WHERE run_id = ?", (before, after, run_id)
            )

    async def queue_index(self) -> Dump:
        with self._database() as database:
            return {row[0]: row for row in database.execute("SELECT * FROM queued")}

    async def set_queue_index(self, entries: Dump) -> None:
        with self._database() as database:
            database.execute("DELETE FROM queued")
            for row in entries.values():
                database.execute(f"INSERT INTO queued VALUES ({', '.join('?' * len(row))})", row)


async def _columns(connection: Any, schema: str, table: str) -> str:
    """The columns that can be written, in their order."""
    rows = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2"
        " AND is_generated = 'NEVER' ORDER BY ordinal_position",
        schema.strip('"'),
        table,
    )
    return ", ".join(row["column_name"] for row in rows)


class PostgresPlace(Place):
    def __init__(self, dsn: str) -> None:
        separator = "&" if "?" in dsn else "?"
        self.url = f"{dsn}{separator}schema=transfer_{uuid.uuid4().hex}"

    def open(self) -> AbstractAsyncContextManager[Checkpointer]:
        return PostgresCheckpointer.from_url(self.url)

    async def drop(self) -> None:
        async with connection_to(self.url) as (connection, schema):
            await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")

    async def dump(self) -> Dump:
        async with connection_to(self.url) as (connection, schema):
            rows = await connection.fetch(f"SELECT {await _columns(connection, schema, 'runs')} FROM {schema}.runs")
            records = await connection.fetch(f"SELECT * FROM {schema}.checkpoints")
        return {f"row {row['run_id']}": tuple(row) for row in rows} | {
            f"record {row['run_id']} {row['step']}": tuple(row) for row in records
        }

    async def restore(self, dump: Dump) -> None:
        async with connection_to(self.url) as (connection, schema):
            for table in ("runs", "checkpoints"):
                await connection.execute(f"DELETE FROM {schema}.{table}")
            for name, row in dump.items():
                table = {"row": "runs", "record": "checkpoints"}[name.split()[0]]
                values = ", ".join(f"${number + 1}" for number in range(len(row)))
                columns = await _columns(connection, schema, table)
                await connection.execute(f"INSERT INTO {schema}.{table} ({columns}) VALUES ({values})", *row)

    async def get(self, run_id: str, step: int) -> bytes:
        return await Records().get(self.url, run_id, step)

    async def put(self, run_id: str, step: int, data: bytes) -> None:
        await Records().put(self.url, run_id, step, data)

    async def remove(self, run_id: str, step: int) -> None:
        async with connection_to(self.url) as (connection, schema):
            sql = f"DELETE FROM {schema}.checkpoints WHERE run_id = $1 AND step = $2"
            await connection.execute(sql, run_id, step)

    async def forge(self, checkpoint: Checkpoint, record: bytes | None = None) -> None:
        async with connection_to(self.url) as (connection, schema):
            await connection.execute(
                f"INSERT INTO {schema}.checkpoints (run_id, step, digest, record) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (run_id, step) DO UPDATE SET base = NULL, digest = $3, record = $4",
                checkpoint.run_id,
                checkpoint.step,
                bytes.fromhex(checkpoint.digest),
                record or encode(checkpoint),
            )

    async def set_tail(self, checkpoint: Checkpoint) -> None:
        async with connection_to(self.url) as (connection, schema):
            await connection.execute(
                f"UPDATE {schema}.runs SET last_step = $2, digest = $3, status = $4, updated_at = $5, summary = $6"
                " WHERE run_id = $1",
                checkpoint.run_id,
                checkpoint.step,
                bytes.fromhex(checkpoint.digest),
                checkpoint.status,
                checkpoint.timestamp,
                summary_json(checkpoint),
            )

    async def edit_summary(self, run_id: str, before: str, after: str) -> None:
        async with connection_to(self.url) as (connection, schema):
            edited = "convert_to(replace(convert_from(summary, 'UTF8'), $2, $3), 'UTF8')"
            sql = f"UPDATE {schema}.runs SET summary = {edited} WHERE run_id = $1"
            await connection.execute(sql, run_id, before, after)

    async def queue_index(self) -> Dump:
        async with connection_to(self.url) as (connection, schema):
            return {row["run_id"]: tuple(row) for row in await connection.fetch(f"SELECT * FROM {schema}.queued")}

    async def set_queue_index(self, entries: Dump) -> None:
        async with connection_to(self.url) as (connection, schema):
            await connection.execute(f"DELETE FROM {schema}.queued")
            for row in entries.values():
                values = ", ".join(f"${number + 1}" for number in range(len(row)))
                await connection.execute(f"INSERT INTO {schema}.queued VALUES ({values})", *row)


class S3Place(Place):
    def __init__(self, endpoint: str) -> None:
        self._bucket = fresh_bucket(endpoint)
        self._keys = KeyLayout("store")
        self._client = sdk_client(endpoint)
        self.url = f"s3://{self._bucket}/store?endpoint_url={endpoint}"

    def open(self) -> AbstractAsyncContextManager[Checkpointer]:
        return S3Checkpointer.from_url(self.url)

    async def dump(self) -> Dump:
        listed = self._client.list_objects_v2(Bucket=self._bucket).get("Contents", [])
        return {each["Key"]: self._read(each["Key"]) for each in listed}

    async def restore(self, dump: Dump) -> None:
        for key in await self.dump():
            self._client.delete_object(Bucket=self._bucket, Key=key)
        for key, body in dump.items():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body)

    async def get(self, run_id: str, step: int) -> bytes:
        return self._read(self._keys.slot(run_id, step))

    async def put(self, run_id: str, step: int, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._keys.slot(run_id, step), Body=data)

    async def remove(self, run_id: str, step: int) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._keys.slot(run_id, step))

    async def forge(self, checkpoint: Checkpoint, record: bytes | None = None) -> None:
        codec = Codec()
        alone = codec.encode_alone(checkpoint)
        stored = alone if record is None else replace(alone, data=record)
        await self.put(checkpoint.run_id, checkpoint.step, pack(checkpoint, stored, codec))

    async def set_tail(self, checkpoint: Checkpoint) -> None:
        """The tail is the highest slot, and nothing else says so."""

    async def edit_summary(self, run_id: str, before: str, after: str) -> None:
        prefix = self._keys.log(run_id)
        newest = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1)["Contents"][0]["Key"]
        line, newline, record = self._read(newest).partition(b"\n")
        edited = line.replace(before.encode(), after.encode())
        self._client.put_object(Bucket=self._bucket, Key=newest, Body=edited + newline + record)

    async def queue_index(self) -> Dump:
        listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._keys.open).get("Contents", [])
        keys = [each["Key"] for each in listed]
        return {run.run_id: key for key in keys if (run := self._keys.run_of(key)) is not None}

    async def set_queue_index(self, entries: Dump) -> None:
        for key in (await self.queue_index()).values():
            self._client.delete_object(Bucket=self._bucket, Key=key)
        for key in entries.values():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=b"")

    def _read(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())


@dataclass(frozen=True)
class Servers:
    """The servers that places are on."""

    folder: Path
    postgres: str
    s3: str

    @asynccontextmanager
    async def place(self, driver: str) -> AsyncIterator[Place]:
        """Yield a fresh place of a driver; the store in it is to be made."""
        if driver == "sqlite":
            yield SQLitePlace(self.folder / f"{uuid.uuid4().hex}.sqlite")
        elif driver == "postgres":
            place = PostgresPlace(self.postgres)
            try:
                yield place
            finally:
                await place.drop()
        else:
            yield S3Place(self.s3)


DRIVERS = ("sqlite", "postgres", "s3")


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto, with the environment that its clients need; yield its URL."""
    former = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        with moto_server() as url:
            yield url
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Run PostgreSQL and moto.

    Args:
        folder: for the files of SQLite.
    """
    with any_server() as postgres, s3_server() as s3:
        yield Servers(folder, postgres, s3)
