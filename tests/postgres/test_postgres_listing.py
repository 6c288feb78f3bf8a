"""Lists and searches."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import asyncpg
import pytest
from support.postgres_records import START, following, genesis

from stargraph.checkpoint.driver import check_search
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._queries import Queries
from stargraph.checkpoint.postgres._runs import search_statement
from stargraph.checkpoint.protocol import Checkpoint, RunFilters, RunSummary

Opener = Callable[..., PostgresCheckpointer]
SLOW = pytest.mark.slow
SERVERS = ["server", pytest.param("debian_server", marks=SLOW), pytest.param("pooler", marks=SLOW)]
LONG = secrets.token_hex(5000)
LAST = datetime.max.replace(tzinfo=UTC)


async def store(checkpointer: PostgresCheckpointer, checkpoints: list[Checkpoint]) -> None:
    await asyncio.gather(*map(checkpointer.write, checkpoints))


def expected(checkpoints: list[Checkpoint]) -> list[str]:
    return [c.run_id for c in sorted(checkpoints, key=lambda c: (-c.started_at.timestamp(), c.run_id))]


async def test_the_newest_start_comes_first_and_ties_are_by_id(checkpointer: PostgresCheckpointer) -> None:
    ids = ["b", "a", "B", "A", "a.b", "a-b", "a:b", "a_b", "Z", "z", "0"]
    runs = [genesis(run_id, timestamp=START + timedelta(seconds=n // 6)) for n, run_id in enumerate(ids)]
    await store(checkpointer, runs)
    assert [s.run_id for s in await checkpointer.list_runs()] == expected(runs)
    assert [s.run_id for s in await checkpointer.list_runs(limit=3)] == expected(runs)[:3]
    assert await checkpointer.list_runs(limit=0) == []
    assert len(await checkpointer.list_runs(limit=10**30)) == len(ids)


async def test_since_compares_instants(checkpointer: PostgresCheckpointer) -> None:
    runs = [genesis(f"r{n}", timestamp=START + timedelta(microseconds=n)) for n in range(5)]
    await store(checkpointer, runs)
    since = (START + timedelta(microseconds=2)).astimezone(timezone(timedelta(hours=-11, minutes=-30)))
    assert [s.run_id for s in await checkpointer.list_runs(since=since)] == ["r4", "r3", "r2"]
    for extreme in (datetime(1, 1, 1, tzinfo=UTC), LAST):
        await checkpointer.list_runs(since=extreme)


async def test_bad_arguments_are_refused(checkpointer: PostgresCheckpointer) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    for call in (
        lambda: checkpointer.list_runs(since=naive),
        lambda: checkpointer.list_runs(limit=-1),
        lambda: checkpointer.search(since=naive),
        lambda: checkpointer.search(limit=-1),
        lambda: checkpointer.prune(older_than=naive),
        lambda: checkpointer.prune(older_than=START, keep_last=-1),
    ):
        with pytest.raises(ValueError, match="is"):
            await call()
    for cursor in ("", "x", "WzEsIjEiXQ", "WzFd", "WyIxIiwieCJd", "é", "WzFlMzAsICJ4Il0="):
        with pytest.raises(ValueError, match="cursor"):
            await checkpointer.search(cursor=cursor)


@pytest.mark.parametrize("moment", [datetime(1, 1, 1, tzinfo=UTC), LAST])
async def test_extreme_times_come_back_exact(checkpointer: PostgresCheckpointer, moment: datetime) -> None:
    first = genesis(timestamp=moment)
    await checkpointer.write(first)
    assert await checkpointer.list_runs() == [RunSummary.from_checkpoint(first)]
    page = await checkpointer.search(limit=1)
    assert page.items[0].started_at == moment


async def test_a_search_matches_all_that_is_given(checkpointer: PostgresCheckpointer) -> None:
    runs = [
        genesis(
            f"r{n:02}",
            graph_id="even" if n % 2 == 0 else "odd\0",
            metadata={"team": f"t{n % 3}", "nul": "\0", "long": LONG} if n % 4 else {},
            timestamp=START + timedelta(seconds=n),
        )
        for n in range(24)
    ]
    await store(checkpointer, runs)
    await store(checkpointer, [following(run, status="failed") for run in runs[::5]])

    async def found(**given: Any) -> list[int]:
        return [int(summary.run_id[1:]) for summary in (await checkpointer.search(**given)).items]

    def matching(match: Callable[[int], bool]) -> list[int]:
        return [n for n in reversed(range(24)) if match(n)]

    assert await found() == matching(lambda n: True)
    assert await found(status="failed") == matching(lambda n: n % 5 == 0)
    assert await found(graph_id="odd\0") == matching(lambda n: n % 2 == 1)
    assert await found(metadata={"team": "t1"}) == matching(lambda n: n % 4 != 0 and n % 3 == 1)
    assert await found(metadata={"team": "t1", "nul": "\0", "long": LONG}) == await found(metadata={"team": "t1"})
    assert await found(metadata={"team": "t9"}) == []
    assert await found(metadata={"long": LONG[:-1]}) == []
    assert await found(metadata={}) == matching(lambda n: True)
    assert await found(since=START + timedelta(seconds=20)) == [23, 22, 21, 20]
    assert await found(status="running", graph_id="even", metadata={"team": "t2"}) == matching(
        lambda n: n % 5 != 0 and n % 2 == 0 and n % 4 != 0 and n % 3 == 2
    )


async def test_pages_neither_repeat_nor_miss(checkpointer: PostgresCheckpointer) -> None:
    runs = [genesis(timestamp=START + timedelta(seconds=n // 7)) for n in range(40)]
    await store(checkpointer, runs)
    for limit in (1, 3, 7, 39, 40, 41):
        seen: list[str] = []
        cursor = None
        while True:
            page = await checkpointer.search(limit=limit, cursor=cursor)
            assert len(page.items) <= limit
            seen += [summary.run_id for summary in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
            await checkpointer.write(genesis(timestamp=START + timedelta(days=1)))
        assert [run_id for run_id in seen if run_id in {run.run_id for run in runs}] == expected(runs)
        for run in await checkpointer.list_runs(since=START + timedelta(days=1), limit=1000):
            await checkpointer.delete_run(run.run_id)
    assert (await checkpointer.search(limit=0)).items == ()


async def plan_of(sql: asyncpg.Connection, statement: str, *parameters: object) -> str:
    return "\n".join(row[0] for row in await sql.fetch(f"EXPLAIN {statement}", *parameters))


async def test_lists_and_searches_read_their_index_in_order(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    await sql.execute(
        f"""INSERT INTO "{schema}".runs (run_id, last_step, digest, status, graph_id, started_at, updated_at,
               summary, tags)
            SELECT 'r' || n, 0, '', CASE WHEN n % 50 = 0 THEN 'awaiting_input' ELSE 'done' END, '"g"',
               now() - n * interval '1 s', now(),
               convert_to(json_build_object('run_id', 'r' || n, 'graph_id', 'g', 'graph_hash', repeat('a', 64),
                   'runtime_hash', repeat('b', 64),
                   'started_at', now() - n * interval '1 s', 'updated_at', now(), 'last_step', 0, 'status', 'done'
               )::text, 'UTF8'),
               CASE WHEN n % 900 = 0 THEN '{{"[1,2]"}}'::text[] ELSE '{{}}' END
            FROM generate_series(1, 20000) AS n;
            ANALYZE "{schema}".runs"""
    )
    queries = Queries.of(schema)
    for since in (None, datetime.now(UTC) - timedelta(hours=1)):
        plan = await plan_of(sql, queries.list_runs, since, 100)
        assert "Index Scan using runs_by_start" in plan, plan
        assert "Sort" not in plan, plan

    async def search(**given: Any) -> str:
        cursor = given.pop("cursor", None)
        query = check_search(limit=100, cursor=cursor, order="started", filters=cast("RunFilters", given))
        statement, parameters = search_statement(queries.runs, query)
        return await plan_of(sql, statement, *parameters)

    plan = await search(status="awaiting_input")
    assert "Index Scan using runs_by_status" in plan, plan
    assert "Sort" not in plan, plan
    last = await checkpointer.search(limit=10_000)
    plan = await search(cursor=last.next_cursor)
    assert "Index Scan using runs_by_start" in plan, plan
    plan = await search(metadata={"team": "nobody"})
    assert "runs_by_tag" in plan, plan
