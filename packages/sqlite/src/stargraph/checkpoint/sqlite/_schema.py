"""The tables, their versions, and how a file becomes a store.

`append` is a view that takes an insert for each checkpoint. Its triggers hold the rules of an append, so
that one statement checks the run's tail, moves it and stores the record, atomically and in one go; what
they refuse is told apart in `_appends`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from stargraph.checkpoint.sqlite._errors import not_a_store
from stargraph.errors import StoreVersionError

APPLICATION_ID: Final = int.from_bytes(b"SGcp", "big")
"""Marks the file as a Stargraph store, for SQLite and for `file`."""

MAX_STEP: Final = 2**34 - 1
"""The highest step. The key of a checkpoint is the number of its run, shifted by 34 bits, and its step."""

_VERSION_2: Final = (
    # The tail of every run, and what lists show of it. A deleted run keeps its row, with status 'deleted'
    # and without a step, so that neither its id nor its number is ever taken again.
    """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        step INTEGER,
        digest BLOB,
        floor INTEGER NOT NULL DEFAULT 0,
        graph_id TEXT,
        started_at INTEGER,  -- microseconds since 1970
        updated_at INTEGER,
        summary TEXT
    )
    """,
    "CREATE INDEX runs_by_start ON runs (started_at DESC, run_id)",
    "CREATE INDEX runs_by_status ON runs (status, started_at DESC, run_id)",
    "CREATE INDEX runs_by_graph ON runs (graph_id, started_at DESC, run_id)",
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
    """
    CREATE TABLE checkpoints (
        id INTEGER PRIMARY KEY,  -- number of the run << 34 | step
        digest BLOB NOT NULL,
        record BLOB NOT NULL
    )
    """,
    # For people who look into the file.
    """
    CREATE VIEW log AS
    SELECT runs.run_id, checkpoints.id & 17179869183 AS step, checkpoints.digest, checkpoints.record
    FROM runs JOIN checkpoints
    ON checkpoints.id BETWEEN runs.number << 34 AND runs.number << 34 | 17179869183
    """,
    """
    CREATE VIEW append (
        run_id, step, digest, previous_digest, base, status, graph_id, started_at, updated_at, summary, metadata, record
    ) AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE 0
    """,
    """
    CREATE TRIGGER append_first INSTEAD OF INSERT ON append WHEN NEW.step = 0 BEGIN
        INSERT INTO runs (run_id, status, step, digest, graph_id, started_at, updated_at, summary)
        VALUES (NEW.run_id, NEW.status, 0, NEW.digest, NEW.graph_id, NEW.started_at, NEW.updated_at, NEW.summary);
        INSERT INTO tags SELECT key, value, NEW.started_at, NEW.run_id FROM json_each(NEW.metadata);
        INSERT INTO checkpoints
        SELECT number << 34, NEW.digest, NEW.record FROM runs WHERE run_id = NEW.run_id;
    END
    """,
    # SQLite rewrites an index whenever a column of it is assigned, changed or not; hence two updates. The record that
    # a new one is decoded from must be there: a prune may have removed what a writer still remembers.
    """
    CREATE TRIGGER append_next INSTEAD OF INSERT ON append WHEN NEW.step > 0 BEGIN
        UPDATE runs
        SET step = NEW.step, digest = NEW.digest, updated_at = NEW.updated_at, summary = NEW.summary
        WHERE run_id = NEW.run_id AND step = NEW.step - 1 AND digest = NEW.previous_digest
            AND status NOT IN ('done', 'cancelled', 'moved', 'deleted')
            AND (NEW.base IS NULL
                OR EXISTS (SELECT 1 FROM checkpoints WHERE id = runs.number << 34 | NEW.base));
        SELECT RAISE(ABORT, 'refused') WHERE changes() = 0;
        UPDATE runs SET status = NEW.status, graph_id = NEW.graph_id
        WHERE run_id = NEW.run_id AND (status <> NEW.status OR graph_id <> NEW.graph_id);
        INSERT INTO checkpoints
        SELECT number << 34 | NEW.step, NEW.digest, NEW.record FROM runs WHERE run_id = NEW.run_id;
    END
    """,
)

_MIGRATIONS: Final = {2: _VERSION_2}
"""The statements that make each version of the tables from the one before; a new store goes through all of them."""

FORMAT_VERSION: Final = max(_MIGRATIONS)
"""The version of the tables that this software writes."""


def needs_migration(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell whether tables are to be made or migrated; changes nothing.

    Args:
        connection: open on the file, in autocommit mode.
        path: the file, for the errors.

    Raises:
        StoreUnavailableError: the file belongs to another application (`reason="not-a-store"`).
        StoreVersionError: the tables are newer than this software, or from before the first release.
    """
    # One look at all: else another process could make the tables between two questions.
    connection.execute("BEGIN")
    try:
        return _version(connection, path) < FORMAT_VERSION
    finally:
        connection.execute("ROLLBACK")


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Make or migrate the tables in one transaction; of many processes at once, one does it.

    Args:
        connection: in autocommit mode; it may wait for the write lock.
        path: the file, for the errors.

    Raises:
        StoreUnavailableError: the file belongs to another application.
        StoreVersionError: the tables are newer than this software.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)
        if version < FORMAT_VERSION:
            for made, statements in _MIGRATIONS.items():
                for statement in statements if made > version else ():
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the tables, 0 where there are none; within a transaction."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application or version or objects:
            raise not_a_store(path, "it is the SQLite database of another application")
    if version > FORMAT_VERSION:
        raise StoreVersionError(
            f"{path}: the store has format {version}, and this software knows formats up to {FORMAT_VERSION}",
            reason="newer-format",
            hint="Nothing was changed. Upgrade stargraph-checkpoint-sqlite here to the version that wrote it.",
        )
    if version == 1:
        raise StoreVersionError(
            f"{path}: the store has format 1, from before the first release",
            reason="older-format",
            hint="Nothing was changed. This software cannot read it; the one that wrote it can.",
        )
    return int(version)
