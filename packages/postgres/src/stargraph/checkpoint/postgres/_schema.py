"""The tables, their versions, and the bootstrap that creates or migrates them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

import asyncpg

from stargraph.checkpoint.postgres._connections import Session
from stargraph.errors import CheckpointError, StoreVersionError

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

_VERSION_2: Final = """
CREATE TABLE {schema}.migrations (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each run: its tail and its summary. Every append moves it, so it is also the fence.
CREATE TABLE {schema}.runs (
    run_id text COLLATE "C" PRIMARY KEY,
    last_step bigint NOT NULL,
    floor bigint NOT NULL DEFAULT 0,
    digest bytea NOT NULL,
    status text NOT NULL,
    graph_id text NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    summary bytea,
    tags text[] NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX runs_by_start ON {schema}.runs (started_at DESC, run_id) WHERE status <> 'deleted';
CREATE INDEX runs_by_status ON {schema}.runs (status, started_at DESC, run_id);
CREATE INDEX runs_by_tag ON {schema}.runs USING gin (tags) WHERE tags <> '{}';

CREATE TABLE {schema}.checkpoints (
    run_id text COLLATE "C" NOT NULL,
    step bigint NOT NULL,
    base bigint,
    digest bytea NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (run_id, step)
);
-- The record is compressed before it gets here.
ALTER TABLE {schema}.checkpoints ALTER COLUMN record SET STORAGE EXTERNAL;
"""

MIGRATIONS: Final = {2: _VERSION_2}
"""What makes each version of the tables from the one before it; a new schema goes through all of them."""


def quoted(schema: str) -> str:
    """Return a schema name as SQL writes it.

    Args:
        schema: the name.

    Raises:
        ValueError: it is not a letter or underscore followed by up to 62 letters, digits and underscores,
            or PostgreSQL keeps it for itself.
    """
    if _NAME.fullmatch(schema) is None or schema.lower().startswith("pg_") or schema.lower() == "information_schema":
        raise ValueError(
            f"{schema!r} cannot be the schema: give up to 63 letters, digits and underscores that do not begin"
            " with a digit or with pg_"
        )
    return f'"{schema}"'


async def bootstrap(
    session: Session, schema: str, *, allow_data_loss: bool, migrations: Mapping[int, str] = MIGRATIONS
) -> None:
    """Create or migrate the tables; concurrent callers wait for one of them to do it.

    Args:
        session: a connection to the database.
        schema: the name of the schema.
        allow_data_loss: take a server that may lose acknowledged commits.
        migrations: what makes each version from the one before it.

    Raises:
        StoreVersionError: the tables are newer than this software, or from before the first release.
        CheckpointError: the server may lose acknowledged commits (`reason="not-durable"`).
    """
    if not allow_data_loss:
        await _check_durability(session)
    connection = session.connection
    newest = max(migrations)
    if await _version(connection, schema, newest) == newest:
        return
    # Stated, since a transaction that keeps its first snapshot would not see what the one before it created.
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _lock_key(schema))
        version = await _version(connection, schema, newest)
        # CREATE SCHEMA IF NOT EXISTS wants the right to create one even where it exists.
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        for number, statements in migrations.items():
            if number > version:
                await connection.execute(statements.replace("{schema}", quoted(schema)))
                await connection.execute(
                    "INSERT INTO {schema}.migrations (version) VALUES ($1)".replace("{schema}", quoted(schema)), number
                )


async def _version(connection: asyncpg.Connection, schema: str, known: int) -> int:
    exists = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = 'migrations')",
        schema,
    )
    if not exists:
        return 0
    version: int = await connection.fetchval(
        "SELECT coalesce(max(version), 0) FROM {schema}.migrations".replace("{schema}", quoted(schema))
    )
    if version > known:
        raise StoreVersionError(
            f"the schema {schema!r} has version {version}, and this software knows versions up to {known}",
            reason="newer-format",
            hint="Upgrade stargraph-checkpoint-postgres here; nothing was changed.",
        )
    if version == 1:
        raise StoreVersionError(
            f"the schema {schema!r} has version 1, from before the first release",
            reason="older-format",
            hint="Nothing was changed. This software cannot read it; the one that wrote it can.",
        )
    return version


def _lock_key(schema: str) -> int:
    return int.from_bytes(hashlib.sha256(f"stargraph bootstrap {schema}".encode()).digest()[:8], signed=True)


async def _check_durability(session: Session) -> None:
    rows = await session.connection.fetch(
        "SELECT name, setting FROM pg_settings WHERE (name, setting) IN"
        " (('fsync', 'off'), ('synchronous_commit', 'off'))"
    )
    if rows:
        found = ", ".join(f"{row['name']}={row['setting']}" for row in rows)
        raise CheckpointError(
            f"this server may lose checkpoints that it has acknowledged: it runs with {found}",
            reason="not-durable",
            hint="Turn these settings on, or accept the loss with PostgresCheckpointer(…, allow_data_loss=True).",
        )
