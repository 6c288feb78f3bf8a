"""Finding runs."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.records import STARTED_AT, chain, first

from stargraph.checkpoint.protocol import RunSummary
from stargraph.checkpoint.sqlite import SQLiteCheckpointer


@pytest.fixture
async def filled(store: SQLiteCheckpointer) -> SQLiteCheckpointer:
    for number in range(60):
        checkpoints = chain(
            f"run-{number:02}",
            2,
            end=("running", "done", "failed")[number % 3],
            graph_id=f"graph-{number % 2}",
            metadata={"team": f"t{number % 4}", "même\0": "a\0b"} if number % 5 else {"team": "none"},
            started_at=STARTED_AT - timedelta(hours=number // 6),
        )
        await store.write_many(checkpoints)
    await store.delete_run("run-07")
    return store


def expected(**wanted: Any) -> list[str]:
    found = []
    for number in (number for number in range(60) if number != 7):
        metadata = {"team": f"t{number % 4}", "même\0": "a\0b"} if number % 5 else {"team": "none"}
        if (
            wanted.get("status") in (None, ("running", "done", "failed")[number % 3])
            and wanted.get("graph_id") in (None, f"graph-{number % 2}")
            and (wanted.get("metadata") or {}).items() <= metadata.items()
            and (wanted.get("since") is None or STARTED_AT - timedelta(hours=number // 6) >= wanted["since"])
        ):
            found.append(f"run-{number:02}")
    return found


FILTERS: list[dict[str, Any]] = [
    {},
    {"status": "done"},
    {"status": "paused"},
    {"graph_id": "graph-1"},
    {"graph_id": "unknown"},
    {"metadata": {"team": "t1"}},
    {"metadata": {"team": "t1", "même\0": "a\0b"}},
    {"metadata": {"même\0": "a"}},
    {"metadata": {"même": "a\0b"}},
    {"metadata": {}},
    {"since": STARTED_AT - timedelta(hours=3)},
    {"status": "failed", "graph_id": "graph-0", "metadata": {"team": "t2"}, "since": STARTED_AT - timedelta(hours=7)},
]


@pytest.mark.parametrize("wanted", FILTERS)
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_hold_what_matches_in_order(filled: SQLiteCheckpointer, wanted: dict[str, Any], limit: int) -> None:
    found: list[RunSummary] = []
    cursor = None
    while True:
        page = await filled.search(**wanted, limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.items) == limit
    assert [run.run_id for run in found] == expected(**wanted)


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


@pytest.mark.parametrize("cursor", ["", "x", "12", "12/", "/run-1", "1.5/run-1", f"{2**70}/run-1", "1/'; DROP"])
async def test_a_cursor_of_somebody_else_is_refused(store: SQLiteCheckpointer, cursor: str) -> None:
    with pytest.raises(ValueError, match="next_cursor"):
        await store.search(cursor=cursor)


async def test_arguments_are_checked(store: SQLiteCheckpointer) -> None:
    with pytest.raises(ValueError, match="since"):
        await store.search(since=STARTED_AT.replace(tzinfo=None))
    with pytest.raises(ValueError, match="limit"):
        await store.search(limit=-1)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({}, "runs_by_start"),
        ({"status": "failed"}, "runs_by_status"),
        ({"graph_id": "graph-1"}, "runs_by_graph"),
        ({"metadata": {"team": "t1"}}, "PRIMARY KEY"),
    ],
)
async def test_every_filter_has_an_index_in_the_order_of_the_list(
    filled: SQLiteCheckpointer, path: Path, wanted: dict[str, Any], index: str
) -> None:
    statements: list[str] = []
    assert filled._store
    await filled._store.read(lambda connection: connection.set_trace_callback(statements.append))
    page = await filled.search(**wanted, limit=1)
    await filled.search(**wanted, limit=1, cursor=page.next_cursor)
    assert len(statements) == 2
    other = sqlite3.connect(path)
    for statement in statements:
        plan = " / ".join(row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert index in plan
        assert "TEMP B-TREE" not in plan
        assert "SCAN" not in plan
    other.close()
