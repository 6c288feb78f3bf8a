"""How a handle is named, made and shown."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from support.postgres_records import chain

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.errors import StoreUnavailableError

Opener = Callable[..., PostgresCheckpointer]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_the_registry_opens_it(scheme: str, dsn: str, schema: str) -> None:
    url = f"{scheme}{dsn.removeprefix('postgresql')}?schema={schema}"
    handle = open_checkpointer(url)
    assert isinstance(handle, PostgresCheckpointer)
    async with handle:
        run = chain(2)
        await handle.write_many(run)
    async with PostgresCheckpointer(dsn, schema=schema) as other:
        assert await other.read_latest(run[0].run_id) == run[1]


def test_a_url_without_a_schema_has_the_default_one() -> None:
    assert repr(PostgresCheckpointer.from_url("postgresql:///db?host=/tmp")) == (
        "PostgresCheckpointer('postgresql:///db?host=/tmp', schema='stargraph')"
    )


def test_a_url_says_how_long_to_try() -> None:
    handle = PostgresCheckpointer.from_url("postgresql://h/db?timeout=1.5&sslmode=require&schema=mine")
    assert repr(handle) == "PostgresCheckpointer('postgresql://h/db?sslmode=require', schema='mine')"
    assert handle._timeout == 1.5
    for bad in ("x", "0", "-1", "nan", ""):
        with pytest.raises(ValueError, match="timeout is"):
            PostgresCheckpointer.from_url(f"postgresql://h/db?timeout={bad}")


@pytest.mark.parametrize(
    ("dsn_text", "shown"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        (
            "postgresql://u:p@a:1,b:2/d?target_session_attrs=any",
            "postgresql://u:***@a:1,b:2/d?target_session_attrs=any",
        ),
        ("postgresql://h/d?user=u&password=p", "postgresql://h/d?user=u&password=***"),
        ("postgresql://h/d?sslkey=p&sslmode=require", "postgresql://h/d?sslkey=***&sslmode=require"),
        ("postgresql://u:p@p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/p@h/d", "postgresql://…"),
        ("postgresql://u:p?p@h/d", "postgresql://…"),
        ("postgresql://u:p#p@h/d", "postgresql://…"),
        ("postgresql://[p", "postgresql://…"),
        ("postgresql://u:p/p", "postgresql://…"),
        ("postgresql://u@h/d?p=p", "postgresql://u@h/d"),
        ("host=h password=p", "host=h password=***"),
        ("host=h password='p p' user=u", "host=h password=*** user=u"),
        ("host=h password=p p user=u", "postgresql://…"),
        ("host=h hunter=p", "host=h"),
        ("password=x://hush host=h", "password=*** host=h"),
    ],
)
def test_no_secret_is_shown(dsn_text: str, shown: str) -> None:
    assert repr(PostgresCheckpointer(dsn_text)) == f"PostgresCheckpointer({shown!r}, schema='stargraph')"


@pytest.mark.parametrize(
    "options",
    [{}, {"dsn": "postgresql://h", "pool": object()}, {"dsn": "x", "max_connections": 0}, {"dsn": "x", "timeout": 0}],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        PostgresCheckpointer(**options)


async def test_the_password_may_be_a_function(dsn: str, opened: Opener, sql: asyncpg.Connection, schema: str) -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append("once")
        return "token"

    async with opened(password=token) as handle:
        assert await handle.list_runs() == []
    assert asked


async def test_tls_is_insisted_on_when_asked_for(dsn: str, schema: str) -> None:
    for insisting in (
        PostgresCheckpointer(f"{dsn}?sslmode=require", schema=schema, timeout=300),
        PostgresCheckpointer(dsn, ssl=ssl.create_default_context(), schema=schema, timeout=300),
    ):
        with pytest.raises(StoreUnavailableError) as caught:
            async with asyncio.timeout(60):
                await insisting.bootstrap()
        assert caught.value.reason == "tls-failed"
        assert "SSL" in str(caught.value)


async def test_connections_are_bounded_and_opened_when_needed(opened: Opener, sql: asyncpg.Connection) -> None:
    async with opened(max_connections=2) as handle:
        (attached,) = handle._attached.values()
        assert len(attached.connections._idle) == 1  # type: ignore[attr-defined]
        runs = [chain(2) for _ in range(30)]
        for run in runs:
            await handle.write_many(run)
        await asyncio.gather(*(handle.read_latest(run[0].run_id) for run in runs))
        assert len(attached.connections._idle) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "dsn", ["postgresql://h/d?sslmode=verify-full&sslmode=disable", "host=h sslmode=verify-full sslmode=disable"]
)
async def test_a_parameter_that_is_given_twice_is_refused(dsn: str) -> None:
    with pytest.raises(StoreUnavailableError, match="sslmode is given twice") as refused:
        await PostgresCheckpointer(dsn).bootstrap()
    assert refused.value.reason == "bad-dsn"
