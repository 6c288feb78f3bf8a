"""Lists and searches."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast, get_args

import asyncpg
import pytest
from support.postgres_records import START, following, genesis
from support.records import wait_until

from stargraph.checkpoint.driver import RunCursor, check_filters, check_search, in_order
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.checkpoint.postgres._search import SearchStatements
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, RunFilters, RunOrder, RunSummary, Status

pytestmark = pytest.mark.thorough

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


def a_run(chance: random.Random, number: int) -> list[Checkpoint]:
    """Return a run that differs from others in all that a search may ask for."""
    parents: list[dict[str, Any]] = [
        {},
        {"parent_run_id": "r000", "origin": "fork"},
        {"parent_run_id": "r001", "origin": "subgraph"},
    ]
    first = genesis(
        f"r{number:03}",
        graph_id=chance.choice(["one", "two\0", LONG]),
        metadata=chance.choice([{}, {"team": "a"}, {"team": "b", "long": LONG}]),
        timestamp=START + timedelta(seconds=chance.randrange(100)),
        **chance.choice(parents),
    )
    status = chance.choice(get_args(Status))
    reason = chance.choice([None, "timeout", LONG])
    latest = following(
        first,
        event="migrated",
        status=status,
        graph_hash=chance.choice("ab") * 64,
        runtime_hash=chance.choice("cd") * 64,
        definition={},
        error=ErrorInfo(type="E", message="m", reason=reason) if status == "failed" else None,
        interrupts=(wait_until(START + timedelta(seconds=number)),) if status == "awaiting_input" else (),
        timestamp=first.timestamp + timedelta(seconds=chance.randrange(1, 200)),
    )
    return [first, latest]


FILTERS: dict[str, list[Any]] = {
    "status": ["failed", ["failed", "running"], ["done", "paused", "awaiting_input"], []],
    "graph_id": ["one", "two\0", LONG, LONG[:-1], "nobody's"],
    "graph_hash": ["a" * 64, "A" * 64, "x", ""],
    "runtime_hash": ["c" * 64, "c" * 63],
    "error_reason": ["timeout", LONG, "", "\0"],
    "metadata": [{"team": "a"}, {"team": "b", "long": LONG}, {"team": "c"}],
    "since": [START + timedelta(seconds=50)],
    "updated_since": [START + timedelta(seconds=90), START + timedelta(minutes=2)],
    "updated_before": [START + timedelta(seconds=90), START + timedelta(minutes=2)],
    "due_before": [START, START + timedelta(seconds=75), START + timedelta(days=1)],
    "parent_run_id": ["r000", "r001", "\0", ""],
    "roots_only": [True],
    "run_id_prefix": ["r", "r00", "r007", "x", "\0", "%", "r_", "é", ""],
}


async def test_every_filter_and_their_combinations_find_what_fits(checkpointer: PostgresCheckpointer) -> None:
    chance = random.Random(7)
    runs = [a_run(chance, number) for number in range(150)]
    await asyncio.gather(*map(checkpointer.write_many, runs))
    summaries = [RunSummary.from_checkpoint(run[-1]) for run in runs]
    asked: list[dict[str, Any]] = [{name: value} for name, values in FILTERS.items() for value in values]
    for _ in range(120):
        names = chance.sample(sorted(FILTERS), chance.randrange(0, 4))
        asked.append({name: chance.choice(FILTERS[name]) for name in names})
    for filters in asked:
        order: Any = chance.choice(["started", "updated"])
        limit = chance.choice([1, 7, 50, 200])
        pages: list[RunSummary] = []
        cursor = None
        while True:
            page = await checkpointer.search(limit=limit, cursor=cursor, order=order, **filters)
            pages += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        matcher = check_filters(cast("RunFilters", filters))
        assert pages == in_order(filter(matcher.matches, summaries), order), (filters, order)
        assert await checkpointer.count_runs(**filters) == matcher.count(summaries), filters
    for parent in ("r000", "r001", "r002", "\0"):
        assert await checkpointer.children(parent) == in_order(
            run for run in summaries if run.parent_run_id == parent and run.origin == "subgraph"
        )


MANY = 200_000


@pytest.fixture
async def many_runs(checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str) -> SearchStatements:
    """As many runs as an operator has after a year; what is rare among them is old."""
    await sql.execute(f"""
        INSERT INTO "{schema}".runs (run_id, last_step, digest, status, started_at, updated_at, graph_id, graph_hash,
            runtime_hash, error_reason, parent_run_id, is_child, due_at, tags, summary)
        SELECT 'r' || n, 3, '', CASE WHEN n % 2000 = 0 THEN 'awaiting_input' WHEN n % 1000 = 1 THEN 'failed'
                   WHEN n % 5000 = 2 THEN 'running' ELSE 'done' END,
               '2026-06-01'::timestamptz - n * interval '1 s',
               '2026-06-01'::timestamptz - n * interval '1 s' + n % 300 * interval '1 s',
               CASE WHEN n > {MANY - 50} THEN '"rare"' ELSE '"common"' END,
               decode(repeat(CASE WHEN n > {MANY - 50} THEN 'aa' ELSE 'bb' END, 32), 'hex'),
               decode(repeat(CASE WHEN n > {MANY - 50} THEN 'cc' ELSE 'dd' END, 32), 'hex'),
               CASE WHEN n % 1000 = 1 THEN CASE WHEN n > {MANY - 50_000} THEN '"timeout"' ELSE '"other"' END END,
               CASE WHEN n % 100 > 0 THEN 'r' || n / 100 * 100 END, n % 100 > 0,
               CASE WHEN n % 2000 = 0 THEN '2026-06-01'::timestamptz - n * interval '1 s' END,
               CASE WHEN n % 9000 = 0 THEN ARRAY['["team","a"]'] ELSE '{{}}' END, ''
        FROM generate_series(1, {MANY}) AS n;
    """)
    await sql.execute(f'VACUUM ANALYZE "{schema}".runs')
    return SearchStatements(Schema(schema))


def rows_read(plan: Any) -> int:
    """The rows that the scans of a plan looked at."""
    if isinstance(plan, list):
        return sum(map(rows_read, plan))
    if not isinstance(plan, dict):
        return 0
    assert plan.get("Node Type") != "Seq Scan", plan
    here = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if "Scan" in plan.get("Node Type", "") else 0
    return int(here * plan.get("Actual Loops", 1)) + sum(map(rows_read, plan.values()))


AT = datetime(2026, 5, 31, 12, tzinfo=UTC)
RARE: list[dict[str, Any]] = [
    {},
    {"status": "awaiting_input"},
    {"status": ["awaiting_input", "failed", "running"]},
    {"status": ["awaiting_input", "done"]},
    {"graph_id": "rare"},
    {"graph_id": "common"},
    {"graph_hash": "a" * 64},
    {"graph_hash": "b" * 64},
    {"runtime_hash": "c" * 64},
    {"runtime_hash": "e" * 64},
    {"error_reason": "timeout"},
    {"metadata": {"team": "a"}},
    {"metadata": {"team": "nobody"}},
    {"since": AT},
    {"updated_since": AT},
    {"updated_before": AT},
    {"due_before": AT},
    {"due_before": AT, "status": "awaiting_input", "roots_only": True},
    {"updated_since": AT - timedelta(minutes=1), "updated_before": AT},
    {"parent_run_id": "r7000"},
    {"roots_only": True},
    {"roots_only": True, "graph_id": "rare"},
    {"run_id_prefix": "r700"},
    {"run_id_prefix": "r700", "roots_only": True},
    {"run_id_prefix": "r700", "status": "done"},
    {"status": "failed", "error_reason": "timeout"},
]


@pytest.mark.parametrize("mode", ["custom", pytest.param("generic", marks=SLOW)])
async def test_every_search_of_200000_runs_is_led_by_an_index(
    many_runs: SearchStatements, sql: asyncpg.Connection, mode: str
) -> None:
    await sql.execute(f"SET plan_cache_mode = force_{mode}_plan")
    place = AT - timedelta(hours=12)
    for order in get_args(RunOrder):
        for cursor in (None, RunCursor(order, place, "r1").encode()):
            for filters in RARE:
                query = check_search(limit=100, cursor=cursor, order=order, filters=cast("RunFilters", filters))
                statement, parameters = many_runs.search(query)
                plan = await sql.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *parameters)
                read = rows_read(json.loads(plan))
                # In the order of one time, those that another time leaves out are passed over one by one.
                passed_over = bool(filters) and filters.keys() <= {"since", "updated_since", "updated_before"}
                most = MANY if passed_over else 15_000
                assert read <= most, (filters, order, cursor, read, plan)
    plan = await sql.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {many_runs.children}", "r7000")
    assert rows_read(json.loads(plan)) <= 200
