"""Golden stores: what one version of each format is, written once, read for ever.

    PYTHONPATH=tests python -m support.golden

writes the files of a version and adds their hashes to the list. Nothing that is there is ever written again: a change
of bytes takes a new version, with files of its own beside the old ones.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from stargraph.audit import anchor
from stargraph.checkpoint.codec import DIGEST_FORM, Keyring
from stargraph.checkpoint.codec._compression import inflate
from stargraph.checkpoint.codec._header import COMPRESSED, ENCRYPTED, read_header
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.postgres import _schema as postgres_schema
from stargraph.checkpoint.protocol import Checkpoint, QueueEntry, QueueLimits, Schedule
from stargraph.graph import Graph
from stargraph.ir import parse_graph
from stargraph.transfer import export_runs
from stargraph.transfer._lines import LineReader
from support import golden_records
from support.checkpoints import NOW, chain, following, genesis
from support.digest_vectors import path_of
from support.places import DRIVERS, Place, PostgresPlace, S3Place, Servers, SQLitePlace, servers
from support.postgres_target import connection_to
from support.workspace import ROOT

FOLDER: Final = ROOT / "tests/formats/golden"
LIST: Final = FOLDER / "SHA256SUMS"
"""The hash of every golden file. Lines are added, and never changed or removed."""

VERSION: Final = 1
"""The version whose files `main` writes: raise it with the first format that gets another number."""

BEFORE_THE_RELEASE: Final = FOLDER / "before-1"
"""One store of each kind as the last software before the first release left it."""

KEYS: Final = golden_records.KEYS

GRAPH: Final = """
id: golden
state_schema: {n: {type: int, default: 0}, who: {type: "str | None", default: null}}
nodes:
  - {id: first, kind: "support.golden_nodes:count"}
  - {id: ask, kind: interrupt, prompt: "Who?", into: who}
  - {id: second, kind: "support.golden_nodes:count"}
"""


def folder_of(version: int) -> Path:
    """Return the folder with the files of a version."""
    return FOLDER / str(version)


def golden_graph() -> Graph:
    """Return the graph that has made the golden run `graph`."""
    return Graph(parse_graph(GRAPH))


def line_of(path: Path) -> str:
    """Return what the list of hashes says of a file."""
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}"


def listed_files() -> list[Path]:
    """Return the files whose hashes the list must hold."""
    vectors = [path_of(form) for form in range(1, DIGEST_FORM + 1)]
    dictionaries = (ROOT / "docs").glob("record-dictionary-*.bin")
    return sorted([*(path for path in FOLDER.rglob("*") if path.is_file() and path != LIST), *vectors, *dictionaries])


# What a golden store holds.


async def fixed_runs() -> list[list[Checkpoint]]:
    """Return the runs of a golden store: every part of the formats is used."""
    runs = [checkpoints for _, encrypted, checkpoints in golden_records.runs() if not encrypted]
    child = genesis(run_id="child", parent_run_id="edits", parent_step=3, origin="subgraph", metadata={"team": "α"})
    runs.append([child, following(child, status="done", changes={"n": 1})])
    runs.append(chain(2, run_id="gone"))
    pruned = chain(12, run_id="pruned")
    runs.append([*pruned, following(pruned[-1], status="done", key="last")])
    async with MemoryCheckpointer() as store:
        await (await golden_graph().start(checkpointer=store, run_id="graph")).start()
        made = [checkpoint async for checkpoint in store.history("graph")]
    assert made[-1].status == "awaiting_input"
    return [*runs, made]


def golden_runs(version: int) -> list[list[Checkpoint]]:
    """Return the runs that were written into the golden stores of a version."""
    runs: dict[str, list[Checkpoint]] = {}
    with (folder_of(version) / "export.jsonl").open("rb") as file:
        for line in LineReader(file):
            if isinstance(line, Checkpoint):
                runs.setdefault(line.run_id, []).append(line)
    return list(runs.values())


def left(runs: Iterable[list[Checkpoint]]) -> dict[str, list[Checkpoint]]:
    """Return what a golden store holds of the runs that were written into it, by run."""
    found = {run[0].run_id: run for run in runs if run[0].run_id != "gone"}
    return found | {"pruned": found["pruned"][-2:]}


async def fill(place: Place, runs: Iterable[list[Checkpoint]]) -> None:
    """Make a golden store: every run step by step, then one deleted and one pruned, a limit and a schedule."""
    async with place.open() as opened:
        store: Any = opened
        for run in runs:
            for checkpoint in run:
                await store.write(checkpoint)
        assert await store.delete_run("gone")
        report = await store.prune(older_than=NOW + timedelta(days=1), keep_last=2, run_id="pruned")
        assert report.runs == 1
        if not isinstance(place, S3Place):  # which has none
            await store.set_limits("mail", QueueLimits(concurrency=2, rate=10, period=60))
        await store.put_schedule(
            Schedule(id="nightly", cron="0 2 * * *", graph_id="golden", queue=QueueEntry(name="mail"), since=NOW)
        )


# How a store becomes a file and a file a store.


async def save(place: Place, path: Path) -> None:
    """Write what a place holds to a file."""
    if isinstance(place, SQLitePlace):
        path.write_bytes(place.path.read_bytes())
    elif isinstance(place, PostgresPlace):
        path.write_text(await _sql_of(place))
    elif isinstance(place, S3Place):
        objects = {key: base64.b64encode(body).decode() for key, body in sorted((await place.dump()).items())}
        path.write_text(json.dumps(objects, indent=1, ensure_ascii=False) + "\n")


async def load(place: Place, path: Path) -> None:
    """Make a store of what `save` has written."""
    if isinstance(place, SQLitePlace):
        place.path.write_bytes(path.read_bytes())
    elif isinstance(place, PostgresPlace):
        async with connection_to(place.url) as (connection, schema):
            await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            await connection.execute(path.read_text().replace("{schema}", schema))
    elif isinstance(place, S3Place):
        await place.restore({key: base64.b64decode(body) for key, body in json.loads(path.read_text()).items()})


def file_for(place: Place, folder: Path) -> Path:
    """Return the golden file for a kind of place."""
    names = {SQLitePlace: "sqlite.db", PostgresPlace: "postgres.sql", S3Place: "s3.json"}
    return folder / names[type(place)]


async def _sql_of(place: PostgresPlace) -> str:
    statements = "".join(postgres_schema.MIGRATIONS.values())
    parts = ["CREATE SCHEMA {schema};\n", statements.strip(), "\n"]
    async with connection_to(place.url) as (connection, schema):
        for table, columns in (await _columns(connection, schema)).items():
            shown = ", ".join(f"quote_nullable({column}::text)" for column in columns)
            rows = await connection.fetch(f"SELECT {shown} FROM {schema}.{table} ORDER BY {shown}")
            names = ", ".join(columns)
            parts += [f"INSERT INTO {{schema}}.{table} ({names}) VALUES ({', '.join(row)});\n" for row in rows]
    return "".join(parts)


async def _columns(connection: Any, schema: str) -> dict[str, list[str]]:
    """Return the columns of each table that a golden store is made of; not the time of a migration."""
    rows = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = $1"
        " AND is_generated = 'NEVER' AND column_name <> 'applied_at' ORDER BY table_name, ordinal_position",
        schema.strip('"'),
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["table_name"], []).append(row["column_name"])
    return found


# What two stores are compared by: all they hold, but how far zstd has compressed each record.


def unpacked(record: bytes) -> bytes:
    """Return a record in a form that does not depend on the version of zstd: its body inflated, no flag of that."""
    flags, _, end = read_header(record, "", 10**9)
    assert not flags & ENCRYPTED
    return record[:1] + record[2:end] + (inflate(record[end:]) if flags & COMPRESSED else record[end:])


async def content(place: Place, folder: Path) -> dict[str, Any]:
    """Return all that a place holds."""
    if isinstance(place, SQLitePlace):
        return sqlite_content(place.path)
    if isinstance(place, PostgresPlace):
        async with connection_to(place.url) as (connection, schema):
            found: dict[str, Any] = {}
            for table, columns in (await _columns(connection, schema)).items():
                rows = await connection.fetch(f"SELECT {', '.join(columns)} FROM {schema}.{table}")
                found[table] = (columns, sorted((_shown(dict(row)) for row in rows), key=repr))
            return found
    assert isinstance(place, S3Place)
    return {key: _object(key, body, folder) for key, body in (await place.dump()).items()}


def sqlite_content(path: Path) -> dict[str, Any]:
    """Return all that a file of SQLite holds."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        found: dict[str, Any] = {"schema": [tuple(row) for row in tables]}
        for pragma in ("application_id", "user_version", "page_size"):
            found[pragma] = database.execute(f"PRAGMA {pragma}").fetchone()[0]
        for kind, name, _ in tables:
            if kind == "table":
                rows = database.execute(f"SELECT * FROM {name}").fetchall()
                found[name] = sorted((_shown(dict(row)) for row in rows), key=repr)
        return found


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("status") == "deleted":  # what stays of it is noise, and the time of the deletion
        return row | {"digest": None, "started_at": None, "updated_at": None}
    return row | {"record": unpacked(row["record"])} if "record" in row else row


def _object(key: str, body: bytes, folder: Path) -> Any:
    if key.endswith(".sqlite"):
        path = folder / "object.sqlite"
        path.write_bytes(body)
        return sqlite_content(path)
    line, newline, record = body.partition(b"\n")
    if not record:
        return body
    return json.loads(line) | {"size": None}, newline, unpacked(record)


# The script.


async def write(folder: Path, hosts: Servers) -> None:
    """Write the files of the current version."""
    runs = await fixed_runs()
    async with MemoryCheckpointer() as store:
        for run in runs:
            for checkpoint in run:
                await store.write(checkpoint)
        with (folder / "export.jsonl").open("wb") as file:
            await export_runs(store, file)
        keyring = Keyring.parse(KEYS)
        await store.delete_run("run-1")  # has steps without a seal
        sealed = following(chain(1, run_id="sealed")[0])
        for checkpoint in (chain(1, run_id="sealed")[0], sealed):
            await store.write(keyring.seal(checkpoint))
        only = MemoryCheckpointer()
        await only.bootstrap()
        async for checkpoint in store.history("sealed"):
            await only.write(checkpoint)
        (folder / "anchor.json").write_text((await anchor(only, keyring=keyring)).to_json())
        async with only:
            with (folder / "anchored.jsonl").open("wb") as file:
                await export_runs(only, file)
    for driver in DRIVERS:
        async with hosts.place(driver) as place:
            await fill(place, golden_runs(VERSION))
            await save(place, file_for(place, folder))
    (folder / "records.json").write_text(golden_records.text())


def main() -> None:
    """Write the files of the current version, if there are none, and add them to the list."""
    folder = folder_of(VERSION)
    if folder.exists():
        raise SystemExit(f"{folder.relative_to(ROOT)} is there already, and golden files are never written again")
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary, servers(Path(temporary)) as hosts:
        asyncio.run(write(folder, hosts))
    known = LIST.read_text() if LIST.exists() else ""
    added = [line for path in listed_files() if (line := line_of(path)) not in known]
    LIST.write_text(known + "".join(f"{line}\n" for line in added))


if __name__ == "__main__":
    main()
