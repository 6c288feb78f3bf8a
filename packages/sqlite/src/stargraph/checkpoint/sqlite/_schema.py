"""The tables, their version, and how a file becomes a store."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Final

from stargraph.checkpoint.driver import before_release_error, no_store_error
from stargraph.checkpoint.protocol import ENDED
from stargraph.checkpoint.sqlite._errors import not_a_store_error
from stargraph.errors import StoreVersionError

APPLICATION_ID: Final = int.from_bytes(b"Stgr", "big")
"""Marks the file as a Stargraph store, for SQLite and for `file`."""

_ID_BEFORE_THE_RELEASE: Final = int.from_bytes(b"SGcp", "big")
"""Marks a store from before the first release, whose versions were numbered otherwise."""

PAGE_BYTES: Final = 1024
"""A commit writes whole pages: with these, a small checkpoint costs half of what it does with SQLite's 4096."""

_STEP_BITS: Final = 34

MAX_STEP: Final = 2**_STEP_BITS - 1
"""The highest step."""

STEP: Final = f"(checkpoints.id & {MAX_STEP})"
"""SQL: the step of a checkpoint."""

_NOT_OPEN: Final = ", ".join(f"'{status}'" for status in (*sorted(ENDED), "deleted"))

OPEN_RUN: Final = f"runs.status NOT IN ({_NOT_OPEN})"
"""SQL: a run that takes further checkpoints."""

MINUTE: Final = 60_000_000
"""Microseconds in a minute, the unit of `runs.updated_minute`."""


def deleted_id(run_id: str) -> str:
    """Return what stands in `runs.run_id` once a run is deleted: no run id, and none can be read from it."""
    return "#" + hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()


def checkpoint_id(step: str, *, run: str = "runs.number") -> str:
    """Return SQL for the id of a checkpoint: the number of its run, then its step.

    Args:
        step: SQL for the step.
        run: SQL for the number of the run.
    """
    return f"({run} << {_STEP_BITS} | {step})"


_RUNS: Final = (
    # The tail of every run, and what lists show of it. A deleted run keeps its row, with the status 'deleted', a
    # fingerprint instead of its id, and nothing else: neither its id nor its number is ever taken again.
    """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        step INTEGER,
        digest BLOB,
        floor INTEGER NOT NULL DEFAULT 0,  -- the lowest step of the unbroken tail
        graph_id TEXT,
        graph_hash TEXT,
        runtime_hash TEXT,
        error_reason TEXT,
        parent_run_id TEXT,
        is_child INTEGER,
        started_at INTEGER,  -- microseconds since 1970
        updated_at INTEGER,
        updated_minute INTEGER,
        due_at INTEGER,
        summary TEXT
    )
    """,
    # Each in the order of a list, so that a page reads no more rows than it shows.
    "CREATE INDEX runs_by_start ON runs (started_at DESC, run_id)",
    "CREATE INDEX runs_by_status ON runs (status, started_at DESC, run_id)",
    "CREATE INDEX runs_by_graph ON runs (graph_id, started_at DESC, run_id)",
    "CREATE INDEX runs_by_graph_hash ON runs (graph_hash, started_at DESC, run_id)",
    "CREATE INDEX runs_by_runtime_hash ON runs (runtime_hash, started_at DESC, run_id)",
    "CREATE INDEX runs_by_error ON runs (error_reason, started_at DESC, run_id) WHERE error_reason IS NOT NULL",
    "CREATE INDEX runs_by_parent ON runs (parent_run_id, started_at DESC, run_id) WHERE parent_run_id IS NOT NULL",
    "CREATE INDEX roots_by_start ON runs (started_at DESC, run_id) WHERE is_child = 0",
    # By the minute: an index of updated_at itself would be written with each checkpoint. SQLite sorts the runs of
    # one minute when they are read.
    "CREATE INDEX runs_by_update ON runs (updated_minute DESC)",
    "CREATE INDEX runs_by_status_update ON runs (status, updated_minute DESC)",
    "CREATE INDEX runs_by_due ON runs (due_at) WHERE due_at IS NOT NULL",
    """
    CREATE TABLE tags (
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        run_id TEXT NOT NULL,
        PRIMARY KEY (name, value, started_at DESC, run_id)
    ) WITHOUT ROWID
    """,
    # One tree and not two: a key of run id and step would be stored in the table and in an index of it.
    f"""
    CREATE TABLE checkpoints (
        id INTEGER PRIMARY KEY,  -- the number of the run << {_STEP_BITS} | step
        digest BLOB NOT NULL,
        record BLOB NOT NULL
    )
    """,
    # For people who look into the file.
    f"""
    CREATE VIEW log AS
    SELECT runs.run_id, {STEP} AS step, checkpoints.digest, checkpoints.record
    FROM runs JOIN checkpoints ON checkpoints.id BETWEEN {checkpoint_id("0")} AND {checkpoint_id(str(MAX_STEP))}
    """,  # noqa: S608  # made of constants; values are parameters
)

_KEYS: Final = (
    """
    CREATE TABLE keys (
        run INTEGER NOT NULL,  -- runs.number
        key TEXT NOT NULL,
        step INTEGER NOT NULL,
        PRIMARY KEY (run, key, step)
    ) WITHOUT ROWID
    """,
)

_QUEUES: Final = (
    # The runs of queues that have not ended, by what workers ask for; a run without a queue has no row.
    """
    CREATE TABLE queued (
        run_id TEXT NOT NULL PRIMARY KEY,
        queue TEXT NOT NULL,
        state TEXT NOT NULL,  -- ready, scheduled, running, awaiting_input, paused, failed
        priority INTEGER NOT NULL,
        order_at INTEGER NOT NULL,  -- microseconds since 1970, as all times here
        wake_at INTEGER,  -- of a scheduled run
        version BLOB NOT NULL,  -- stands for graph_id, graph_hash and runtime_hash
        concurrency_key BLOB,
        process_id TEXT NOT NULL,  -- of a running run, else ''
        reserved_by TEXT,
        reserved_until INTEGER
    ) WITHOUT ROWID
    """,
    """
    CREATE INDEX queued_by_order ON queued (queue, version, priority DESC, order_at, run_id) WHERE state = 'ready'
    """,
    "CREATE INDEX queued_by_time ON queued (wake_at) WHERE state = 'scheduled'",
    "CREATE INDEX queued_by_process ON queued (process_id, queue) WHERE state = 'running'",
    "CREATE INDEX queued_by_reservation ON queued (reserved_until) WHERE reserved_until IS NOT NULL",
    "CREATE INDEX queued_by_queue ON queued (queue, version)",
    "CREATE TABLE limits (queue TEXT NOT NULL PRIMARY KEY, limits TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE handed_out (queue TEXT NOT NULL, moment INTEGER NOT NULL)",
    "CREATE INDEX handed_out_by_time ON handed_out (queue, moment)",
    """
    CREATE TABLE processes (
        process_id TEXT NOT NULL PRIMARY KEY,
        process TEXT NOT NULL,
        first_seen INTEGER NOT NULL,
        last_seen INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE TABLE schedules (id TEXT NOT NULL PRIMARY KEY, schedule TEXT NOT NULL) WITHOUT ROWID",
)

MIGRATIONS: Final = {1: (*_RUNS, *_KEYS, *_QUEUES)}
"""The statements that make each version of the tables from the one before; a new store goes through all of them."""


def stored_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the tables, 0 if there are none; changes nothing.

    Args:
        connection: open on the file, in autocommit mode.
        path: the file, for the errors.

    Raises:
        StoreUnavailableError: the file belongs to another application (`reason="not-a-store"`).
        StoreVersionError: the tables are newer than this software, or from before the first release.
    """
    # In one transaction: else another process could make the tables between two questions.
    connection.execute("BEGIN")
    try:
        return _version(connection, path)
    finally:
        connection.execute("ROLLBACK")


def check_to_read(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the tables are those that this software reads; changes nothing.

    Args:
        connection: open on the file, in autocommit mode.
        path: the file, for the errors.

    Raises:
        StoreUnavailableError: there are none (`reason="no-store"`), or the file belongs to another application.
        StoreVersionError: they have another version.
    """
    version, newest = stored_version(connection, path), max(MIGRATIONS)
    if not version:
        raise no_store_error(str(path))
    if version < newest:
        raise StoreVersionError(
            f"{path}: the store has format {version}, and this software reads format {newest}",
            reason="older-format",
            hint="Nothing was changed. Migrate it first: `stargraph migrate`, or open it once for writing.",
        )


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Make or migrate the tables in one transaction; of many processes at once, one does it.

    Args:
        connection: in autocommit mode; it may wait for the write lock.
        path: the file, for the errors.

    Raises:
        StoreUnavailableError: the file belongs to another application.
        StoreVersionError: the tables are newer than this software, or from before the first release.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)
        for number, statements in MIGRATIONS.items():
            if number > version:
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the tables, 0 if there are none; within a transaction."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == _ID_BEFORE_THE_RELEASE:
        raise before_release_error(str(path))
    if application != APPLICATION_ID:
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application or version or objects:
            raise not_a_store_error(path, "it is the SQLite database of another application")
    if version > max(MIGRATIONS):
        raise StoreVersionError(
            f"{path}: the store has format {version}, and this software knows formats up to {max(MIGRATIONS)}",
            reason="newer-format",
            hint="Nothing was changed. Upgrade stargraph-checkpoint-sqlite here to the version that wrote it.",
        )
    return int(version)
