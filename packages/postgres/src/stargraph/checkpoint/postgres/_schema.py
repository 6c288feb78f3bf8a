"""The tables, their versions, and the bootstrap that creates or migrates them."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Final

import asyncpg

from stargraph.checkpoint.driver import before_release_error, check_type
from stargraph.checkpoint.postgres._connection import PreparedConnection
from stargraph.checkpoint.postgres._errors import Advice
from stargraph.errors import CheckpointError, StoreUnavailableError, StoreVersionError

_BEFORE_THE_RELEASE: Final = frozenset({"migrations", "checkpoints"})
"""Tables of every store from before the first release, whose versions were numbered otherwise."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

_RUNS: Final = """
CREATE TABLE {schema}.stargraph_version (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each run: its tail, its summary, and what searches ask for. Every append updates it, so it is also the
-- fence. An update stays on its page (HOT) as long as no indexed column changes: updated_at changes with each step, so
-- only its minute is indexed.
CREATE TABLE {schema}.runs (
    run_id text COLLATE "C" PRIMARY KEY,
    last_step bigint NOT NULL,
    floor bigint NOT NULL DEFAULT 0,
    digest bytea NOT NULL,
    status text NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_minute timestamptz NOT NULL GENERATED ALWAYS AS
        (date_bin('1 minute', updated_at, '0001-01-01 00:00:00+00')) STORED,
    graph_id text,
    graph_hash bytea,
    runtime_hash bytea,
    error_reason text,
    parent_run_id text COLLATE "C",
    is_child boolean NOT NULL,
    tags text[] NOT NULL,
    due_at timestamptz,
    summary bytea
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX runs_by_start ON {schema}.runs (started_at DESC, run_id) WHERE status <> 'deleted';
CREATE INDEX runs_by_update ON {schema}.runs (updated_minute DESC) WHERE status <> 'deleted';
CREATE INDEX roots_by_start ON {schema}.runs (started_at DESC, run_id) WHERE NOT is_child AND status <> 'deleted';
CREATE INDEX runs_by_status ON {schema}.runs (status, started_at DESC, run_id);
CREATE INDEX runs_by_graph_id ON {schema}.runs (graph_id, started_at DESC, run_id) WHERE graph_id IS NOT NULL;
CREATE INDEX runs_by_graph_hash ON {schema}.runs (graph_hash, started_at DESC, run_id) WHERE graph_hash IS NOT NULL;
CREATE INDEX runs_by_runtime_hash ON {schema}.runs (runtime_hash, started_at DESC, run_id)
    WHERE runtime_hash IS NOT NULL;
CREATE INDEX runs_by_error ON {schema}.runs (error_reason, started_at DESC, run_id) WHERE error_reason IS NOT NULL;
CREATE INDEX runs_by_parent ON {schema}.runs (parent_run_id, started_at DESC, run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX runs_by_due ON {schema}.runs (due_at) WHERE due_at IS NOT NULL;
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

# The bytes of a key in UTF-8: a text column takes no NUL, and bytes are compared as the contract says.
_KEYS: Final = """
CREATE TABLE {schema}.keys (
    run_id text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    step bigint NOT NULL,
    PRIMARY KEY (run_id, key, step)
);
"""

# The runs of queues that have not ended, by what workers ask for; a run without a queue has no row.
_QUEUES: Final = """
CREATE TABLE {schema}.queued (
    run_id text COLLATE "C" PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    state text NOT NULL,
    priority integer NOT NULL,
    order_at timestamptz NOT NULL,
    wake_at timestamptz,
    version bytea NOT NULL,
    concurrency_key bytea,
    process_id text COLLATE "C" NOT NULL,
    reserved_by text COLLATE "C",
    reserved_until timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX queued_by_order ON {schema}.queued (queue, version, priority DESC, order_at, run_id) WHERE state = 'ready';
CREATE INDEX queued_by_time ON {schema}.queued (wake_at) WHERE state = 'scheduled';
CREATE INDEX queued_by_process ON {schema}.queued (process_id, queue, version) WHERE state = 'running';
CREATE INDEX queued_by_reservation ON {schema}.queued (reserved_by) WHERE reserved_by IS NOT NULL;
CREATE INDEX queued_by_queue ON {schema}.queued (queue, version);

CREATE TABLE {schema}.limits (queue text COLLATE "C" PRIMARY KEY, limits text NOT NULL);

CREATE TABLE {schema}.handed_out (queue text COLLATE "C" NOT NULL, moment timestamptz NOT NULL);
CREATE INDEX handed_out_by_time ON {schema}.handed_out (queue, moment);

CREATE TABLE {schema}.processes (
    process_id text COLLATE "C" PRIMARY KEY,
    process bytea NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL
);

CREATE TABLE {schema}.schedules (id text COLLATE "C" PRIMARY KEY, schedule bytea NOT NULL);
"""

MIGRATIONS: Final = {1: _RUNS + _KEYS + _QUEUES}
"""What makes each version of the tables from the one before it; a new schema goes through all of them."""


# Not from pg_settings, which makes a list of all that there are first: that takes a millisecond.
_SETTINGS: Final = "current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit"

_OPEN: Final = f"""
SELECT coalesce(max(version), 0) AS version, pg_backend_pid() AS backend, {_SETTINGS} FROM {{schema}}.stargraph_version
"""  # noqa: S608  # made of constants
"""Mostly the tables are there, and this tells all that matters."""

_NO_TABLE: Final = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)


class Schema:
    """The schema that holds the tables of one store.

    Raises:
        ValueError: it is not a letter or underscore followed by up to 62 letters, digits and underscores,
            or PostgreSQL keeps it for itself.
    """

    def __init__(self, name: str) -> None:
        check_type(name, "schema", str, "the name of a schema, as text")
        if _NAME.fullmatch(name) is None or name.lower().startswith("pg_") or name.lower() == "information_schema":
            raise ValueError(
                f"{name!r} cannot be the schema: give up to 63 letters, digits and underscores that do not begin"
                " with a digit or with pg_"
            )
        self.name = name

    def sql(self, template: str, **parts: str) -> str:
        """Return a statement for this schema: `{schema}` and the given parts of its text are replaced."""
        for part, text in {**parts, "schema": f'"{self.name}"'}.items():
            template = template.replace(f"{{{part}}}", text)
        return template.strip()


async def bootstrap(
    connection: PreparedConnection,
    schema: Schema,
    advice: Advice,
    *,
    allow_data_loss: bool = False,
    migrations: Mapping[int, str] = MIGRATIONS,
) -> None:
    """Create or migrate the tables; concurrent callers wait for one of them to do it.

    Args:
        connection: a connection to the database.
        schema: where the tables are.
        advice: writes the hints.
        allow_data_loss: accept a server that may lose acknowledged commits.
        migrations: what makes each version from the one before it.

    Raises:
        StoreVersionError: the tables are newer than this software, or from before the first release.
        CheckpointError: the server may lose acknowledged commits (`reason="not-durable"`).
    """
    database = connection.connection
    newest = max(migrations)
    with contextlib.suppress(*_NO_TABLE):
        found = await database.fetchrow(schema.sql(_OPEN))
        connection.answered_by(found["backend"])
        if not allow_data_loss:
            _refuse_data_loss(found, advice)
        if _known_version(found["version"], schema, newest) == newest:
            return
    if not allow_data_loss:
        await _check_durability(database, advice)
    # Stated, since a transaction that keeps its first snapshot would not see what the one before it created.
    async with database.transaction(isolation="read_committed"):
        await database.execute("SELECT pg_advisory_xact_lock($1)", _lock_key(schema.name))
        version = await _version(database, schema, newest) or 0
        # CREATE SCHEMA IF NOT EXISTS needs the right to create one even if it exists.
        if not await database.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema.name):
            await database.execute(schema.sql("CREATE SCHEMA {schema}"))
        for number, statements in migrations.items():
            if number > version:
                await database.execute(schema.sql(statements))
                await database.execute(
                    schema.sql("INSERT INTO {schema}.stargraph_version (version) VALUES ($1)"), number
                )


async def open_read_only(connection: PreparedConnection, schema: Schema, advice: Advice) -> None:
    """Check that the tables are there and can be read; write nothing.

    Raises:
        StoreUnavailableError: there are none (`reason="no-store"`).
        StoreVersionError: they have another version than this software reads.
    """
    newest = max(MIGRATIONS)
    with contextlib.suppress(*_NO_TABLE):
        found = await connection.connection.fetchrow(schema.sql(_OPEN))
        connection.answered_by(found["backend"])
        if found["version"] == newest:
            return
    version = await _version(connection.connection, schema, newest)
    if version is None:
        raise StoreUnavailableError(
            f"PostgreSQL at {advice.server}: there is no store in the schema {schema.name!r}",
            reason="no-store",
            hint=advice.hint("Check the database and {schema}; a store is created by opening it to write."),
        )
    if version < newest:
        raise StoreVersionError(
            f"the schema {schema.name!r} has version {version}, and this software reads version {newest}",
            reason="older-format",
            hint="Nothing was changed. Migrate it first with `stargraph migrate`, as a role that may create tables.",
        )


async def examine(
    connection: PreparedConnection, schema: Schema, advice: Advice, *, read_only: bool, allow_data_loss: bool
) -> list[str]:
    """Return what is right about a server and a role, one sentence each, and what was accepted.

    Raises:
        CheckpointError: the server may lose acknowledged commits (`reason="not-durable"`), and that was not accepted.
        StoreUnavailableError: the role lacks rights that the store needs (`reason="permission-denied"`).
    """
    database = connection.connection
    began = time.monotonic()
    version = await database.fetchval("SELECT current_setting('server_version')")
    milliseconds = 1000 * (time.monotonic() - began)
    found = [f"PostgreSQL {version.partition(' ')[0]} answers in {milliseconds:.1f} ms"]
    rights = ("SELECT",) if read_only else ("SELECT", "INSERT", "UPDATE", "DELETE")
    lacking = await database.fetch(
        "SELECT t || ': ' || r AS lacking FROM unnest($2::text[]) AS r, unnest($3::text[]) AS t"
        " WHERE NOT has_table_privilege(quote_ident($1) || '.' || t, r)",
        schema.name,
        rights,
        ("runs", "checkpoints", "keys", "queued", "limits", "handed_out", "processes", "schedules"),
    )
    if lacking:
        raise StoreUnavailableError(
            f"PostgreSQL at {advice.server}: this role lacks rights on the tables of the schema {schema.name!r}:"
            f" {', '.join(row['lacking'] for row in lacking)}",
            reason="permission-denied",
            hint="docs/postgres.md lists the grants.",
        )
    found.append(f"this role may {'read' if read_only else 'read and write'} the tables of the schema {schema.name!r}")
    if not read_only:
        settings = await database.fetchrow(f"SELECT {_SETTINGS}")
        if not allow_data_loss:
            _refuse_data_loss(settings, advice)
        found.append(
            f"a crash may lose steps that were acknowledged, which allow_data_loss accepts: {off}"
            if (off := _lossy(settings))
            else "steps that were acknowledged survive a crash: fsync and synchronous_commit are on"
        )
    if await database.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"):
        found.append("the connection is encrypted")
    return found


async def _version(database: asyncpg.Connection, schema: Schema, known: int) -> int | None:
    """Return the version of the tables; None if there are none."""
    tables = await database.fetchval(
        "SELECT array_agg(c.relname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = ANY ($2::text[])",
        schema.name,
        ["stargraph_version", *_BEFORE_THE_RELEASE],
    )
    found = set(tables or ())
    if "stargraph_version" not in found:
        if found == _BEFORE_THE_RELEASE:
            raise before_release_error(f"the schema {schema.name!r}")
        return None
    version: int = await database.fetchval(
        schema.sql("SELECT coalesce(max(version), 0) FROM {schema}.stargraph_version")
    )
    return _known_version(version, schema, known)


def _known_version(version: int, schema: Schema, known: int) -> int:
    """Return the version of the tables, unless it is newer than this software."""
    if version > known:
        raise StoreVersionError(
            f"the schema {schema.name!r} has version {version}, and this software knows versions up to {known}",
            reason="newer-format",
            hint="Upgrade stargraph-checkpoint-postgres here; nothing was changed.",
        )
    return version


def _lock_key(schema: str) -> int:
    return int.from_bytes(hashlib.sha256(f"stargraph bootstrap {schema}".encode()).digest()[:8], signed=True)


async def _check_durability(database: asyncpg.Connection, advice: Advice) -> None:
    _refuse_data_loss(await database.fetchrow(f"SELECT {_SETTINGS}"), advice)


def _lossy(settings: asyncpg.Record) -> str:
    return ", ".join(f"{name}=off" for name in ("fsync", "synchronous_commit") if settings[name] == "off")


def _refuse_data_loss(settings: asyncpg.Record, advice: Advice) -> None:
    off = _lossy(settings)
    if off:
        raise CheckpointError(
            f"this server may lose acknowledged checkpoints: it runs with {off}",
            reason="not-durable",
            hint=advice.hint("Turn these settings on, or accept the loss with {allow_data_loss=true}."),
        )
