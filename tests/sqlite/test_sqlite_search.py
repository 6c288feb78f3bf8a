"""Finding and counting runs: what is found, in which order, and by which index."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import STARTED_AT, first, following, wait_until

from stargraph.checkpoint.driver import check_search, summary_json
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, RunFilters, RunOrder, RunSummary, Status
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

pytestmark = pytest.mark.thorough


class Filled:
    """A store, and what it must show."""

    def __init__(self, path: Path, runs: list[RunSummary]) -> None:
        self.path = path
        self.runs = runs


HASHES = ["a" * 64, "b" * 64]
REASONS = ["bad-input", "timeout"]
STATUSES: list[Status] = ["running", "done", "failed", "paused", "awaiting_input", "cancelled"]
TEAMS = ["t0", "t1", "a\0b"]
HOURS = [STARTED_AT + timedelta(hours=hours) for hours in range(-3, 5)]


def some_runs() -> list[list[Checkpoint]]:
    """120 runs in which everything that a filter compares varies."""
    runs = []
    for number in range(120):
        status: Status = STATUSES[number % 6] if number % 4 else "done"
        child = number % 3 == 0
        beginning = first(
            f"run-{number * 37 % 120:03}",
            graph_id=f"graph-{number % 3}",
            metadata={"team": TEAMS[number % 3], "même\0": str(number % 2)} if number % 5 else {},
            started_at=HOURS[0] + timedelta(minutes=number // 7 * 20, microseconds=number % 2),
            parent_run_id=f"run-{number % 7:03}" if child else None,
            parent_step=0 if child else None,
            origin=("subgraph" if number % 2 else "fork") if child else None,
        )
        latest = following(
            beginning,
            status=status,
            event="migrated",
            graph_hash=HASHES[number % 2],
            runtime_hash=HASHES[number // 2 % 2],
            error=ErrorInfo(type="E", message="m", reason=REASONS[number // 6 % 2]) if status == "failed" else None,
            interrupts=(wait_until(HOURS[number % 7]),) if status == "awaiting_input" else (),
            timestamp=beginning.timestamp + timedelta(minutes=number % 11 * 13, seconds=number % 3),
        )
        runs.append([beginning, latest])
    return runs


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    path = tmp_path_factory.mktemp("filled") / "run.sqlite"

    async def fill() -> list[RunSummary]:
        runs = some_runs()
        async with SQLiteCheckpointer(path) as store:
            for run in runs:
                await store.write_many(run)
            await store.delete_run("run-007")
        return [RunSummary.from_checkpoint(run[-1]) for run in runs if run[-1].run_id != "run-007"]

    return Filled(path, asyncio.run(fill()))


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.none() | st.sampled_from(STATUSES) | st.lists(st.sampled_from(STATUSES), max_size=4),
        "graph_id": st.sampled_from(["graph-0", "graph-1", "unknown"]),
        "graph_hash": st.sampled_from([*HASHES, "unknown"]),
        "runtime_hash": st.sampled_from(HASHES),
        "error_reason": st.sampled_from([*REASONS, "unknown"]),
        "metadata": st.dictionaries(
            st.sampled_from(["team", "même\0", "même"]), st.sampled_from([*TEAMS, "0", "1", "a"]), max_size=2
        ),
        "since": st.sampled_from(HOURS),
        "updated_since": st.sampled_from(HOURS),
        "updated_before": st.sampled_from(HOURS),
        "due_before": st.sampled_from(HOURS),
        "parent_run_id": st.sampled_from(["run-000", "run-003", "unknown"]),
        "roots_only": st.booleans(),
        "run_id_prefix": st.sampled_from(["run-0", "run-00", "run-003", "run_0", "%", ""]),
    },
)


@settings(max_examples=300, deadline=None)
@given(filters=FILTERS, order=st.sampled_from(["started", "updated"]), limit=st.sampled_from([1, 7, 1000]))
def test_pages_and_counts_are_those_of_a_store_that_looks_at_every_run(
    filled: Filled, filters: RunFilters, order: RunOrder, limit: int
) -> None:
    every = check_search(limit=1000, cursor=None, order=order, filters=filters).page(filled.runs)

    async def look() -> None:
        async with SQLiteCheckpointer(filled.path, read_only=True) as store:
            found: list[RunSummary] = []
            cursor = None
            while cursor is not None or not found:
                page = await store.search(limit=limit, cursor=cursor, order=order, **filters)
                found += page.items
                cursor = page.next_cursor
                assert len(page.items) == limit or cursor is None
                if cursor is None:
                    break
            assert found == list(every.items)
            assert await store.count_runs(**filters) == Counter(run.status for run in every.items)

    asyncio.run(look())


async def test_children_are_those_that_the_run_started(filled: Filled) -> None:
    async with SQLiteCheckpointer(filled.path, read_only=True) as store:
        for parent in ("run-000", "run-003", "run-119", "unknown", "not a run id"):
            expected = check_search(limit=1000, cursor=None, order="started", filters={"parent_run_id": parent}).page(
                run for run in filled.runs if run.origin == "subgraph"
            )
            assert await store.children(parent) == list(expected.items)
        assert len(await store.children("run-003")) > 2


@pytest.mark.parametrize("order", ["started", "updated"])
async def test_as_many_tags_are_looked_for_as_a_search_may_name(store: SQLiteCheckpointer, order: RunOrder) -> None:
    tags = {f"tag {number}": str(number) for number in range(1_000)}
    await store.write(first("all", metadata=tags))
    await store.write(first("all-but-one", metadata=tags | {"tag 999": ""}))
    found = await store.search(metadata=tags, status=["running", "done"], order=order)
    assert [run.run_id for run in found.items] == ["all"]
    assert await store.count_runs(metadata=tags) == {"running": 1}
    with pytest.raises(ValueError, match="metadata has 1,001 tags: give at most 1,000"):
        await store.count_runs(metadata=tags | {"one more": ""})


async def test_a_page_that_is_just_full_is_the_last(store: SQLiteCheckpointer) -> None:
    for name in ("a", "b"):
        await store.write(first(name))
    page = await store.search(limit=2)
    assert ([run.run_id for run in page.items], page.next_cursor) == (["a", "b"], None)
    assert (await store.search(limit=0)).next_cursor is None


async def test_runs_that_come_in_between_do_not_shift_pages(store: SQLiteCheckpointer) -> None:
    for name in ("b", "d"):
        await store.write(first(name))
    page = await store.search(limit=1)
    await store.write(first("a"))
    await store.write(first("c"))
    rest = await store.search(cursor=page.next_cursor)
    assert [run.run_id for run in (*page.items, *rest.items)] == ["b", "c", "d"]


async def test_every_step_moves_a_run_to_the_top_of_those_that_were_updated(store: SQLiteCheckpointer) -> None:
    latest = {"a": first("a"), "b": first("b")}
    for checkpoint in latest.values():
        await store.write(checkpoint)
    moment = STARTED_AT
    for name in "abbaabab" * 4:  # beyond the end of several minutes, without a change of anything else with an index
        moment += timedelta(seconds=11)
        latest[name] = following(latest[name], timestamp=moment)
        await store.write(latest[name])
        found = (await store.search(order="updated")).items
        assert found[0] == RunSummary.from_checkpoint(latest[name])
        assert (await store.search(order="updated", updated_since=moment)).items == found[:1]
        assert (await store.search(order="updated", updated_before=moment)).items == found[1:]


@pytest.mark.parametrize("cursor", ["", "x", "12", "12/", "/run-1", "1.5/run-1", f"{2**70}/run-1", "1/'; DROP"])
async def test_a_cursor_of_somebody_else_is_refused(store: SQLiteCheckpointer, cursor: str) -> None:
    with pytest.raises(ValueError, match="next_cursor"):
        await store.search(cursor=cursor)


async def test_arguments_are_checked(store: SQLiteCheckpointer) -> None:
    with pytest.raises(ValueError, match="since"):
        await store.search(since=STARTED_AT.replace(tzinfo=None))
    for limit in (-1, True, 1.0):
        with pytest.raises(ValueError, match="limit"):
            await store.search(limit=limit)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit"):
            await store.list_runs(limit=limit)  # type: ignore[arg-type]


MANY = 200_000

_FILL = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :many),
made AS (
    SELECT n, printf('run-%07d', n) AS run_id,
        CASE WHEN n % 2000 = 0 THEN 'failed' WHEN n % 3001 = 0 THEN 'running' ELSE 'done' END AS status,
        printf('graph-%d', CASE n % 50000 WHEN 7 THEN 99 ELSE n % 20 END) AS graph_id,
        :hash || (CASE n % 40000 WHEN 9 THEN 'f' ELSE n % 8 END) AS hash,
        CASE WHEN n % 4001 = 0 THEN :start + n * 1000000 END AS due_at,
        CASE WHEN n % 2000 = 0 THEN 'reason-' || (n % 7) END AS error_reason,
        CASE WHEN n % 10 = 0 THEN printf('run-%07d', n / 100 * 100 + 1) END AS parent_run_id,
        :start + n * 1000000 AS started_at,
        :start + n * 1000000 + (n * 7919 % 100000) * 1000000 AS updated_at
    FROM numbers
)
INSERT INTO runs (number, run_id, status, step, digest, graph_id, graph_hash, runtime_hash, error_reason,
    parent_run_id, is_child, started_at, updated_at, updated_minute, due_at, summary)
SELECT n, run_id, status, 1, zeroblob(32), graph_id, hash, hash, error_reason, parent_run_id,
    parent_run_id IS NOT NULL, started_at, updated_at, updated_at / 60000000, due_at,
    json_set(:summary, '$.run_id', run_id, '$.status', status, '$.graph_id', graph_id,
        '$.started_at', strftime('%Y-%m-%dT%H:%M:%S.000000Z', started_at / 1000000, 'unixepoch'),
        '$.updated_at', strftime('%Y-%m-%dT%H:%M:%S.000000Z', updated_at / 1000000, 'unixepoch'))
FROM made
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 200,000 runs, most of them done; of every kind some are rare."""
    path = tmp_path_factory.mktemp("many") / "run.sqlite"

    async def make() -> None:
        async with SQLiteCheckpointer(path):
            pass

    asyncio.run(make())
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        summary = summary_json(first())
        values = {"many": MANY, "hash": "a" * 63, "start": 1_700_000_000_000_000, "summary": summary.decode()}
        database.execute(_FILL, values)
        database.execute(
            "INSERT INTO tags SELECT 'team', CASE number % 50000 WHEN 3 THEN 'rare' ELSE 't' || (number % 5) END,"
            " started_at, run_id FROM runs"
        )
        database.execute("INSERT INTO tags SELECT 'half', number % 2, started_at, run_id FROM runs")
        database.commit()
    return path


def moment(number: int) -> datetime:
    return datetime.fromtimestamp(1_700_000_000 + number, UTC)


RARE_HASH = "a" * 63 + "f"


@pytest.mark.parametrize(
    ("filters", "started", "updated"),
    [
        ({}, "runs_by_start", "runs_by_update"),
        ({"since": moment(199_000)}, "runs_by_start", "runs_by_update"),
        ({"status": "done"}, "runs_by_status", "runs_by_status_update"),
        ({"status": "failed"}, "runs_by_status", "runs_by_status_update"),
        ({"status": ["failed", "running", "paused"]}, "runs_by_status", "runs_by_status_update"),
        ({"graph_id": "graph-1"}, "runs_by_graph", None),
        ({"graph_id": "graph-99"}, "runs_by_graph", "runs_by_graph"),
        ({"graph_hash": RARE_HASH}, "runs_by_graph_hash", "runs_by_graph_hash"),
        ({"runtime_hash": RARE_HASH}, "runs_by_runtime_hash", "runs_by_runtime_hash"),
        ({"error_reason": "reason-3"}, "runs_by_error", "runs_by_error"),
        ({"parent_run_id": "run-0000101"}, "runs_by_parent", "runs_by_parent"),
        ({"roots_only": True}, "roots_by_start", "runs_by_update"),
        ({"run_id_prefix": "run-00001"}, "sqlite_autoindex_runs_1", "sqlite_autoindex_runs_1"),
        ({"run_id_prefix": "run-00001", "roots_only": True}, "sqlite_autoindex_runs_1", "sqlite_autoindex_runs_1"),
        ({"metadata": {"team": "rare"}}, "lead USING PRIMARY KEY", "lead USING PRIMARY KEY"),
        ({"metadata": {"team": "t1"}}, "lead USING PRIMARY KEY", None),
        ({"metadata": {"team": "rare", "half": "1"}}, "tags USING PRIMARY KEY", "tags USING PRIMARY KEY"),
        ({"updated_since": moment(298_000)}, "runs_by_update", "runs_by_update"),
        ({"updated_before": moment(10_000)}, "runs_by_update", "runs_by_update"),
        ({"due_before": moment(100_000)}, "runs_by_due", "runs_by_due"),
        ({"due_before": moment(100_000), "status": "done", "roots_only": True}, "runs_by_due", "runs_by_due"),
        ({"status": "running", "updated_before": moment(150_000)}, "runs_by_status_update", "runs_by_status_update"),
        ({"status": "failed", "graph_id": "graph-0"}, "runs_by_status", "runs_by_status_update"),
        ({"status": "done", "graph_id": "graph-99"}, "runs_by_graph", "runs_by_graph"),
    ],
    ids=str,
)
async def test_every_filter_leads_to_an_index(
    many: Path, filters: RunFilters, started: str, updated: str | None
) -> None:
    async with SQLiteCheckpointer(many) as store:
        for order, index in (("started", started), ("updated", updated)):
            if index is None:  # many runs, which have to be sorted
                continue
            cursor: str | None = None
            for _ in range(2):
                async with watched(store) as work:
                    page = await store.search(limit=50, order=order, cursor=cursor, **filters)  # type: ignore[arg-type]
                assert page.items
                (statement,) = work.statements
                plan = explain(many, statement)
                assert index in plan, plan
                assert "SCAN runs" not in plan, plan
                others = {"updated_since", "updated_before", "due_before", "run_id_prefix"}
                if order == "started" and not filters.keys() & others:
                    # Only the runs of several pages are sorted, to make one page of them.
                    assert "TEMP B-TREE" not in plan.partition("UNION ALL")[0].replace("COMPOUND QUERY", ""), plan
                # To look at each of the 200,000 runs takes more than a million.
                assert work.operations < 150_000, (order, work.operations, plan)
                cursor = page.next_cursor
                if cursor is None:
                    break


@pytest.mark.parametrize(
    "filters",
    [
        {"status": "failed"},
        {"status": ["failed", "running"]},
        {"graph_id": "graph-99"},
        {"graph_hash": RARE_HASH},
        {"runtime_hash": RARE_HASH},
        {"error_reason": "reason-3"},
        {"parent_run_id": "run-0000101"},
        {"metadata": {"team": "rare"}},
        {"since": moment(199_000)},
        {"updated_since": moment(298_000)},
        {"updated_before": moment(10_000)},
        {"due_before": moment(100_000)},
    ],
    ids=str,
)
async def test_a_count_looks_at_what_it_counts(many: Path, filters: RunFilters) -> None:
    async with SQLiteCheckpointer(many) as store:
        async with watched(store) as work:
            counted = await store.count_runs(**filters)
        assert 0 < sum(counted.values()) < 2_000
        assert work.operations < 150_000, explain(many, work.statements[0])


async def test_all_runs_are_counted_from_an_index_alone(many: Path) -> None:
    async with SQLiteCheckpointer(many) as store:
        async with watched(store) as work:
            assert sum((await store.count_runs()).values()) == MANY
        assert "COVERING INDEX runs_by_status" in explain(many, work.statements[0])


async def test_runs_since_a_time_are_counted_from_an_index_alone(many: Path) -> None:
    async with SQLiteCheckpointer(many) as store:
        for since, most in ((moment(0), 20 * MANY), (moment(199_900), 10_000)):
            async with watched(store) as work:
                counted = await store.count_runs(since=since)
            assert sum(counted.values()) == MANY - max(round(since.timestamp()) - 1_700_000_000 - 1, 0)
            assert "COVERING INDEX runs_by_status (status=? AND started_at>" in explain(many, work.statements[0])
            assert work.operations < most


async def test_children_are_found_among_many_runs(many: Path) -> None:
    async with SQLiteCheckpointer(many) as store:
        async with watched(store) as work:
            assert len(await store.children("run-0000101")) == 10
        assert work.operations < 10_000


class Work:
    """What a connection did.

    Attributes:
        statements: with their values.
        operations: of SQLite's virtual machine, in thousands.
    """

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.operations = 0

    def count(self) -> None:
        self.operations += 1_000


@asynccontextmanager
async def watched(store: SQLiteCheckpointer) -> AsyncIterator[Work]:
    work = Work()

    def watch(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(work.statements.append)
        connection.set_progress_handler(work.count, 1_000)

    def leave(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(None)
        connection.set_progress_handler(None, 0)

    assert store._store
    await store._store.read(watch)
    yield work
    await store._store.read(leave)


def explain(path: Path, statement: str) -> str:
    with closing(sqlite3.connect(path)) as database:
        return " / ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}"))


async def test_a_filter_that_is_not_text_finds_nothing(tmp_path: Path) -> None:
    async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
        run = first("run", metadata={"team": "t0"})
        await store.write(run)
        await store.write(following(run, key="b"))
        assert len((await store.search(limit=10)).items) == 1
        for text in ("\ud800", "a\udfff", "é\ud800"):
            filters: list[RunFilters] = [
                {"graph_id": text},
                {"metadata": {"team": text}},
                {"metadata": {text: "t0"}},
                {"metadata": {"team": "t0", "other": text}},
                {"error_reason": text},
                {"parent_run_id": text},
            ]
            for each in filters:
                assert (await store.search(limit=10, **each)).items == ()
                assert await store.count_runs(**each) == {}
            assert await store.read_at_key("run", text) is None
        assert await store.step_keys("run", below="a\ud800") == []
        assert await store.step_keys("run", below="\ud800") == [("b", 1)]


async def test_a_page_of_keys_begins_at_its_bound_in_the_index(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    async with SQLiteCheckpointer(path) as store:
        for below, constraint in ((None, "(run=?)"), ("key", "(run=? AND key<?)")):
            async with watched(store) as work:
                assert await store.step_keys("run", below=below) == []
            (statement,) = [each for each in work.statements if "FROM runs JOIN keys" in each]
            plan = explain(path, statement)
            assert f"SEARCH keys USING PRIMARY KEY {constraint}" in plan
            assert "TEMP B-TREE" not in plan
