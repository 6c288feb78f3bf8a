"""LangGraph's own savers on a database that a name gives; what holds something else is refused before it is changed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import typer

from stargraph.checkpoint.registry import redact, redact_text
from stargraph.errors import StoreUnavailableError
from stargraph.langgraph._opaque import OpaqueSerializer

_TABLE: Final = "checkpoints"
"""LangGraph's savers and the stores of Stargraph all have a table of this name."""

_COLUMN: Final = "thread_id"
_STARGRAPH_COLUMN: Final = "record"


def theirs_file(name: str) -> Path | None:
    """Return the SQLite file that a name means, or None if it means a PostgreSQL database."""
    is_postgres = name.startswith(("postgresql://", "postgres://"))
    return None if is_postgres else Path(name.removeprefix("sqlite:///"))


@asynccontextmanager
async def theirs(name: str, *, is_source: bool) -> AsyncIterator[Any]:
    """Open LangGraph's own saver, with a serializer that leaves values as they are.

    Args:
        name: an SQLite file, or `postgresql://…`.
        is_source: it is read, and must have threads already; else its tables are made if they are missing.

    Raises:
        StoreUnavailableError: it holds something else, or LangGraph's saver fails on it.
        typer.BadParameter: the package of that saver is not installed.
    """
    file = theirs_file(name)
    async with _postgres(name, is_source) if file is None else _sqlite(name, file, is_source) as saver:
        yield saver


@asynccontextmanager
async def _sqlite(name: str, file: Path, is_source: bool) -> AsyncIterator[Any]:
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError:
        raise typer.BadParameter("pip install langgraph-checkpoint-sqlite") from None
    try:
        _check_columns(name, _sqlite_columns(file), is_source)
        async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
            await saver.setup()
            saver.serde = OpaqueSerializer()
            yield saver
    except sqlite3.Error as error:
        raise _unusable(name, f"LangGraph's saver cannot use it: {redact_text(str(error).strip())}") from error


def _sqlite_columns(file: Path) -> set[str]:
    if not file.exists():
        return set()
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
        return {column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", [_TABLE])}


@asynccontextmanager
async def _postgres(name: str, is_source: bool) -> AsyncIterator[Any]:
    try:
        import psycopg

        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    except ImportError:
        raise typer.BadParameter("pip install langgraph-checkpoint-postgres") from None
    try:
        async with AsyncPostgresSaver.from_conn_string(name) as saver:
            connection = saver.conn
            assert isinstance(connection, psycopg.AsyncConnection)  # it has a pool only if it is given one
            found = await connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0", [_TABLE]
            )
            _check_columns(name, {row["attname"] for row in await found.fetchall()}, is_source)
            if is_source:
                # Who may only read cannot set it up, and need not.
                found = await connection.execute("SELECT max(v) AS version FROM checkpoint_migrations")
                is_current = await found.fetchone() == {"version": len(saver.MIGRATIONS) - 1}
            if not is_source or not is_current:
                await saver.setup()
            saver.serde = OpaqueSerializer()
            yield saver
    except psycopg.Error as error:
        raise _unusable(name, f"LangGraph's saver cannot use it: {redact_text(str(error).strip())}") from error


def _check_columns(name: str, columns: Collection[str], is_source: bool) -> None:
    """Refuse a database whose table of checkpoints is missing in a source, or is not LangGraph's."""
    if _COLUMN in columns:
        return
    if _STARGRAPH_COLUMN in columns:
        raise _unusable(name, "it is a Stargraph store, not a database of LangGraph's own saver")
    if columns:
        raise _unusable(name, f"its table {_TABLE!r} is not that of LangGraph's own saver")
    if is_source:
        raise _unusable(name, f"it holds no threads of LangGraph's own saver: there is no table {_TABLE!r}")


def _unusable(name: str, complaint: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{redact(name)}: {complaint}",
        reason="store-failed",
        hint="Name the SQLite file or the database of LangGraph's own saver, and check that it can be reached.",
    )
