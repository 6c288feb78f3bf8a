"""docs/postgres.md and the README of the distribution do what they say."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.documents import blocks_of
from support.postgres_records import START, chain, following
from support.postgres_statements import statement, templates
from support.workspace import ROOT

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres import _errors as errors

Opener = Callable[..., PostgresCheckpointer]
PAGE = ROOT / "docs/postgres.md"


def sql_block(name: str) -> str:
    (text,) = [block.text for block in blocks_of(PAGE.read_text()) if block.language == "sql" and block.name == name]
    return text


GRAPH = """
id: hello
nodes:
  - {id: greet, kind: echo}
  - {id: end, kind: halt}
"""


@pytest.mark.parametrize("page", [PAGE, ROOT / "packages/postgres/README.md"], ids=lambda page: page.name)
async def test_its_python_runs(
    page: Path, dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.chdir(tmp_path)
    Path("my-graph.yaml").write_text(GRAPH)
    namespace: dict[str, Any] = {}
    ran = 0
    for block in blocks_of(page.read_text()):
        if block.language == "py":
            code = compile(block.text, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, namespace)
            if inspect.iscoroutine(result):
                await result
            ran += 1
    assert ran >= 1
    await namespace["checkpointer"].close()
    await sql.execute("DROP SCHEMA IF EXISTS stargraph CASCADE; DROP SCHEMA IF EXISTS billing CASCADE")


async def test_the_grants_are_enough(checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str) -> None:
    role = f"app_{schema}"
    await sql.execute(
        sql_block("grants").replace("stargraph_app", role).replace("SCHEMA stargraph", f"SCHEMA {schema}")
    )
    try:
        for table in ("runs", "checkpoints", "stargraph_version"):
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                assert await sql.fetchval("SELECT has_table_privilege($1, $2, $3)", role, f"{schema}.{table}", right)
    finally:
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_rights_of_an_auditor_are_enough(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, dsn: str
) -> None:
    run = chain(2)
    await checkpointer.write_many(run)
    role = f"auditor_{schema}"
    block = sql_block("auditor").replace("stargraph_auditor", role)
    await sql.execute(re.sub(r"SCHEMA stargraph\b", f"SCHEMA {schema}", block))
    try:
        url = f"{dsn.replace('//postgres@', f'//{role}@', 1)}?schema={schema}&read_only=true"
        async with PostgresCheckpointer.from_url(url) as auditor:
            assert [checkpoint async for checkpoint in auditor.history(run[0].run_id)] == run
    finally:
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_tombstones_may_be_removed(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    runs = [chain(2), chain(2), chain(2)]
    for run in runs:
        await checkpointer.write_many(run)
    for run in runs[:2]:
        await checkpointer.delete_run(run[0].run_id)
    remove = sql_block("tombstones").replace("stargraph.runs", f'"{schema}".runs')
    await sql.execute(remove)
    assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".runs') == 3
    await sql.execute(f"UPDATE \"{schema}\".runs SET updated_at = now() - interval '91 days'")
    await sql.execute(remove)
    assert [s.run_id for s in await checkpointer.list_runs()] == [runs[2][0].run_id]


@pytest.fixture
async def partitioned(sql: asyncpg.Connection, schema: str, opened: Opener) -> PostgresCheckpointer:
    async with opened():
        pass
    await sql.execute(re.sub(r"\bstargraph\b", schema, sql_block("partitioned")))
    handle = opened()
    await handle.bootstrap()
    return handle


@pytest.mark.parametrize("group_commit", [True, False])
async def test_a_partitioned_store_keeps_the_contract(
    partitioned: PostgresCheckpointer, opened: Opener, group_commit: bool
) -> None:
    async with opened(group_commit=group_commit) as checkpointer:
        runs = [chain(4) for _ in range(40)]
        for step in range(3):
            await asyncio.gather(*(checkpointer.write(run[step]) for run in runs))
        for run in runs:
            assert [c async for c in checkpointer.history(run[0].run_id)] == run[:3]
        outcomes = await asyncio.gather(
            *(checkpointer.write(following(run[1]) if n % 4 == 0 else run[3]) for n, run in enumerate(runs)),
            return_exceptions=True,
        )
        assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == list(range(0, 40, 4))
        listed = [summary.run_id for summary in await checkpointer.list_runs()]
        assert listed == sorted(run[0].run_id for run in runs)
        assert await checkpointer.delete_run(runs[0][0].run_id)
        report = await checkpointer.prune(older_than=START.replace(year=2030), statuses=["running"])
        assert (report.runs, report.checkpoints) == (39, 30 * 3 + 9 * 2)


async def test_no_statement_about_a_run_touches_two_partitions(
    partitioned: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    runs = [chain(3) for _ in range(50)]
    await asyncio.gather(*(partitioned.write_many(run) for run in runs))
    run = runs[7]
    run_id, digest = run[0].run_id, bytes.fromhex(run[2].digest)
    moment = START
    hashes = (b"", b"")
    statements: dict[str, tuple[Any, ...]] = {
        "_BEGIN": ("new", b"", b"", "done", moment, moment, '""', *hashes, None, None, False, [], b"", None),
        "_ADVANCE": (run_id, 3, b"", 2, b"", digest, "done", moment, *hashes, None, b"", None),
        "_START_PRUNED": (
            *("other", b"", [b""], "done", moment, moment, '""', *hashes, None, None, False, [], b"", None, 3),
            *([3], [b""], [b"k"], [3]),
        ),
        "_STORED": (run_id, [0, 1]),
        "_STEP_KEYS": (run_id, 10),
        "_STEP_KEYS_BELOW": (run_id, 10, b"k"),
        "_TAIL": (run_id, 0, 2),
        "_CHAIN": (run_id,),
        "_PAGE": (run_id, 0, 10, 1000),
        "_TIMELINE": (run_id, 0, 10, 256, 1000, 1000),
        "_LATEST_STEP": (run_id,),
        "_MARK_DELETED": (run_id, b"", None),
        "_TOMBSTONE": (run_id,),
        "_REMOVE_STEPS": (run_id, 10),
        "_MARK_EMPTY": (run_id,),
        "_COUNT_STEPS": (run_id,),
        "_PRUNABLE": (run_id, 2, [], [], 10, 0),
        "_ORPHANED": (run_id, 2, [], []),
        "_REWRITE": (run_id, digest, 2, 1, b""),
        "_PRUNE": (run_id, digest, [0], 1, 2),
    }
    about_many = {"_APPEND_BATCH", "_NOT_EMPTY", "_IDLE"}
    assert set(statements) | about_many == set(templates())
    for generic in (False, True):
        await sql.execute(f"SET plan_cache_mode = force_{'generic' if generic else 'custom'}_plan")
        for name, parameters in statements.items():
            transaction = sql.transaction()
            await transaction.start()
            plan = await sql.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement(name, schema)}", *parameters)
            await transaction.rollback()
            read = set(tables_read(json.loads(plan)))
            assert read, (name, plan)
            for table in ("runs_", "checkpoints_"):
                assert sum(partition.startswith(table) for partition in read) <= 1, (name, generic, read)


def tables_read(plan: Any) -> Iterator[str]:
    """The tables and partitions that the nodes of a plan which were executed work on."""
    if isinstance(plan, list):
        for part in plan:
            yield from tables_read(part)
    elif isinstance(plan, dict) and plan.get("Actual Loops", 1):
        if "Relation Name" in plan:
            yield plan["Relation Name"]
        for part in plan.values():
            yield from tables_read(part)


def test_the_page_lists_the_reasons_of_the_driver() -> None:
    package = Path(inspect.getfile(errors)).parent
    code = "".join(path.read_text() for path in package.glob("*.py"))
    raised = {word for _, word, _ in errors._HINTS} | set(re.findall(r'reason(?:, hint)? ?= ?"([a-z-]+)"', code))
    of_the_contract = {"closed", "newer-format", "older-format", "invalid-checkpoint"}
    raised.add("missing-step")  # made by the toolkit of drivers
    table = PAGE.read_text().partition("| `reason` |")[2].partition("\n\n")[0]
    listed = {word for row in table.splitlines() for word in re.findall(r"`([a-z-]+)`", row.partition(" | ")[0])}
    assert listed == raised - of_the_contract
