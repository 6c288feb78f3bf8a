"""Creating and migrating the schema."""

from __future__ import annotations

import asyncio
import functools
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from support.postgres_records import chain

from stargraph.checkpoint.driver import SelfTest
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres import _schema as schema_module
from stargraph.checkpoint.postgres._connection import PreparedConnection
from stargraph.checkpoint.postgres._errors import Advice
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.errors import CheckpointError, StoreUnavailableError, StoreVersionError

Opener = Callable[..., PostgresCheckpointer]
SLOW = pytest.mark.slow
SERVERS = ["server", pytest.param("debian_server", marks=SLOW), pytest.param("pooler", marks=SLOW)]


async def catalog(sql: asyncpg.Connection, schema: str) -> list[str]:
    """Everything that a schema is made of, as text without its name."""
    rows = await sql.fetch(
        """
        SELECT format('%s %s %s %s %s %s', c.relname, c.relkind, c.reloptions, a.attname,
                      format_type(a.atttypid, a.atttypmod),
                      concat_ws(' ', a.attnotnull, a.attstorage, co.collname, pg_get_expr(d.adbin, d.adrelid))) AS line
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        LEFT JOIN pg_collation co ON co.oid = a.attcollation
        WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT indexdef FROM pg_indexes WHERE schemaname = $1::text
        UNION ALL
        SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = $1::text::regnamespace
        """,
        schema,
    )
    return sorted(row["line"].replace(schema, "SCHEMA") for row in rows)


async def test_it_is_idempotent_and_keeps_what_is_stored(checkpointer: PostgresCheckpointer, opened: Opener) -> None:
    run = chain(2)
    await checkpointer.write_many(run)
    await checkpointer.bootstrap()
    other = opened()
    await other.bootstrap()
    assert await other.read_latest(run[0].run_id) == run[1]


@pytest.mark.parametrize("read_only", [False, True])
async def test_opening_a_store_that_is_there_asks_one_question(
    checkpointer: PostgresCheckpointer, opened: Opener, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    asked: list[str] = []
    for name in ("fetch", "fetchrow", "fetchval", "execute", "prepare"):

        async def counted(self: Any, sql: str, *arguments: Any, method: Any, **options: Any) -> Any:
            asked.append(sql)
            return await method(self, sql, *arguments, **options)

        method = getattr(asyncpg.Connection, name)
        monkeypatch.setattr(asyncpg.Connection, name, functools.partialmethod(counted, method=method))
    handle = opened(read_only=read_only)
    await handle.bootstrap()
    assert len(asked) == 1
    await handle.read_latest("unknown")
    assert len(asked) == 2  # what the server calls itself is known by then


async def test_many_handles_may_bootstrap_at_once(opened: Opener, sql: asyncpg.Connection, schema: str) -> None:
    handles = [opened() for _ in range(32)]
    await asyncio.gather(*(handle.bootstrap() for handle in handles))
    assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".stargraph_version') == len(schema_module.MIGRATIONS)
    run = chain(2)
    await handles[0].write_many(run)
    assert await handles[31].read_latest(run[0].run_id) == run[1]


BOOTSTRAP = """
import asyncio, sys
from stargraph.checkpoint.postgres import PostgresCheckpointer
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(PostgresCheckpointer(sys.argv[1], schema=sys.argv[2]).bootstrap())
"""


@pytest.mark.slow
async def test_32_processes_may_bootstrap_at_once(dsn: str, schema: str, opened: Opener) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, dsn, schema],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(32)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert errors == [b""] * 32
    assert [process.returncode for process in processes] == [0] * 32
    async with opened() as checkpointer:
        assert await checkpointer.list_runs() == []


async def test_a_newer_format_is_refused_and_left_alone(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, opened: Opener
) -> None:
    await sql.execute(f'INSERT INTO "{schema}".stargraph_version (version) VALUES (99)')
    before = await catalog(sql, schema)
    with pytest.raises(StoreVersionError) as caught:
        await opened().bootstrap()
    assert caught.value.reason == "newer-format"
    assert await catalog(sql, schema) == before


async def test_a_role_without_rights_to_create_works_on_a_migrated_database(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, dsn: str
) -> None:
    role = f"app_{schema}"
    await sql.execute(f"""
        CREATE ROLE {role} LOGIN PASSWORD 'secret';
        GRANT USAGE ON SCHEMA "{schema}" TO {role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO {role};
    """)
    restricted = dsn.replace("//postgres@", f"//{role}:secret@", 1)
    try:
        async with PostgresCheckpointer(restricted, schema=schema) as handle:
            run = chain(3)
            await handle.write_many(run)
            assert await handle.read_latest(run[0].run_id) == run[2]
            assert await handle.delete_run(run[0].run_id)
        async with PostgresCheckpointer(restricted, schema=schema, group_commit=False) as handle:
            assert await handle.list_runs() == []
        with pytest.raises(StoreUnavailableError) as caught:
            await PostgresCheckpointer(restricted, schema=f"{schema}_x").bootstrap()
        assert caught.value.reason == "permission-denied"
        assert "secret" not in str(caught.value)
    finally:
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role};")


async def test_a_schema_that_an_administrator_made_is_used(
    sql: asyncpg.Connection, schema: str, opened: Opener
) -> None:
    await sql.execute(f'CREATE SCHEMA "{schema}"')
    async with opened() as checkpointer:
        assert await checkpointer.list_runs() == []


@pytest.mark.parametrize("name", ["", "1a", "a-b", 'a"b', "a b", "pg_x", "PG_x", "information_schema", "a\0", "x" * 64])
def test_names_that_no_schema_may_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the schema"):
        PostgresCheckpointer("postgresql://nowhere", schema=name)


async def test_names_are_quoted(opened: Opener, sql: asyncpg.Connection) -> None:
    name = "Select_Mixed"
    async with opened(schema=name) as checkpointer:
        run = chain(2)
        await checkpointer.write_many(run)
        assert await checkpointer.read_latest(run[0].run_id) == run[1]
        assert (await checkpointer.search()).items
    await sql.execute(f'DROP SCHEMA "{name}" CASCADE')


async def test_two_schemas_are_two_stores(checkpointer: PostgresCheckpointer, opened: Opener, schema: str) -> None:
    async with opened(schema=f"{schema[:50]}_2") as other:
        run = chain(1)
        await checkpointer.write(run[0])
        assert await other.read_latest(run[0].run_id) is None


async def test_a_migration_that_fails_leaves_nothing(sql: asyncpg.Connection, schema: str) -> None:
    broken = schema_module.MIGRATIONS | {1000: "CREATE TABLE {schema}.half (a integer); SELECT 1 / 0"}
    with pytest.raises(asyncpg.DivisionByZeroError):
        await schema_module.bootstrap(
            PreparedConnection(sql, caches=True), Schema(schema), Advice(lambda: "here"), migrations=broken
        )
    assert await sql.fetchval("SELECT to_regnamespace($1)", schema) is None


async def test_migrations_run_once_and_in_order(sql: asyncpg.Connection, schema: str) -> None:
    steps = {
        1: "CREATE TABLE {schema}.stargraph_version (version int PRIMARY KEY); CREATE TABLE {schema}.log (word text)",
        2: "INSERT INTO {schema}.log VALUES ('second')",
        3: "INSERT INTO {schema}.log SELECT 'third after ' || word FROM {schema}.log",
    }

    def up_to(version: int) -> dict[int, str]:
        return {number: statements for number, statements in steps.items() if number <= version}

    for known in (1, 2, 3, 3):
        await schema_module.bootstrap(
            PreparedConnection(sql, caches=True), Schema(schema), Advice(lambda: "here"), migrations=up_to(known)
        )
    assert [r["word"] for r in await sql.fetch(f'SELECT word FROM "{schema}".log')] == ["second", "third after second"]
    with pytest.raises(StoreVersionError):
        await schema_module.bootstrap(
            PreparedConnection(sql, caches=True), Schema(schema), Advice(lambda: "here"), migrations=up_to(2)
        )
    await sql.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_a_server_and_a_role_are_examined(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, dsn: str
) -> None:
    assert isinstance(checkpointer, SelfTest)
    found = "; ".join(await checkpointer.examine())
    assert re.search(r"PostgreSQL \d+\.\d+ answers in \d+\.\d ms; this role may read and write .*; .*fsync", found)
    role = f"half_{schema}"
    await sql.execute(f"""
        CREATE ROLE {role} LOGIN;
        GRANT USAGE ON SCHEMA "{schema}" TO {role};
        GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO {role};
        GRANT UPDATE ON "{schema}".runs TO {role};
    """)
    restricted = dsn.replace("//postgres@", f"//{role}@", 1)
    try:
        async with PostgresCheckpointer(restricted, schema=schema, read_only=True) as reader:
            assert "this role may read the tables" in "; ".join(await reader.examine())
        async with PostgresCheckpointer(restricted, schema=schema) as writer:
            with pytest.raises(StoreUnavailableError) as caught:
                await writer.examine()
        assert caught.value.reason == "permission-denied"
        for lacking in ("runs: INSERT", "runs: DELETE", "checkpoints: INSERT"):
            assert lacking in str(caught.value)
        assert "runs: UPDATE" not in str(caught.value)
    finally:
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role};")


@pytest.mark.parametrize("setting", ["synchronous_commit"])
async def test_a_server_that_may_lose_commits_is_refused(
    sql: asyncpg.Connection, schema: str, dsn: str, opened: Opener, setting: str
) -> None:
    role = f"lossy_{schema}"
    await sql.execute(f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET {setting} = off;")
    lossy = dsn.replace("//postgres@", f"//{role}@", 1)
    try:
        with pytest.raises(CheckpointError) as caught:
            await opened(dsn=lossy).bootstrap()
        assert caught.value.reason == "not-durable"
        assert f"{setting}=off" in str(caught.value)
        assert await sql.fetchval("SELECT to_regnamespace($1)", schema) is None
        accepted = opened(dsn=lossy, allow_data_loss=True)
        await accepted.bootstrap()
        assert any("may lose" in found and f"{setting}=off" in found for found in await accepted.examine())
        await accepted.close()
        unaware = opened(dsn=dsn)
        await unaware.bootstrap()
        assert any("survive a crash" in found for found in await unaware.examine())
        await unaware.close()
    finally:
        await sql.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role};")
