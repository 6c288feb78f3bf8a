"""What drivers search by: checked filters, cursors and pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import NOW, following, genesis, rich

from stargraph.checkpoint.driver import (
    RunCursor,
    check_filters,
    check_search,
    in_order,
    read_only_error,
    scan_runs,
)
from stargraph.checkpoint.protocol import ErrorInfo, RunFilters, RunOrder, RunSummary, Status

DUE_AT = NOW + timedelta(hours=1)
RUN = RunSummary.from_checkpoint(rich()).model_copy(update={"due_at": DUE_AT})
assert RUN.error is not None

MATCHING: list[dict[str, Any]] = [
    {},
    {"status": None, "graph_id": None, "metadata": None, "since": None, "roots_only": False},
    {"status": "awaiting_input"},
    {"status": ["failed", "awaiting_input"]},
    {"graph_id": RUN.graph_id},
    {"graph_hash": RUN.graph_hash},
    {"runtime_hash": RUN.runtime_hash},
    {"error_reason": RUN.error.reason},
    {"metadata": {"team": "α"}},
    {"since": RUN.started_at},
    {"updated_since": RUN.updated_at},
    {"updated_before": RUN.updated_at + timedelta(microseconds=1)},
    {"due_before": DUE_AT + timedelta(microseconds=1)},
    {"parent_run_id": RUN.parent_run_id},
    {"roots_only": True},
    {"run_id_prefix": RUN.run_id},
    {"run_id_prefix": RUN.run_id[:1]},
    {"run_id_prefix": ""},
]
DIFFERENT: list[dict[str, Any]] = [
    {"status": "running"},
    {"status": ["running", "failed"]},
    {"status": []},
    {"graph_id": "other"},
    {"graph_hash": "0" * 64},
    {"runtime_hash": "0" * 64},
    {"error_reason": "other"},
    {"metadata": {"team": "b"}},
    {"metadata": {"team": "α", "more": ""}},
    {"since": RUN.started_at + timedelta(microseconds=1)},
    {"updated_since": RUN.updated_at + timedelta(microseconds=1)},
    {"updated_before": RUN.updated_at},
    {"due_before": DUE_AT},
    {"parent_run_id": "other"},
    {"run_id_prefix": RUN.run_id + "0"},
    {"run_id_prefix": RUN.run_id[1:]},
    {"run_id_prefix": "*"},
]


@pytest.mark.parametrize("filters", MATCHING, ids=str)
def test_a_run_matches_what_it_is(filters: dict[str, Any]) -> None:
    assert check_filters(cast("RunFilters", filters)).matches(RUN)


@pytest.mark.parametrize("filters", DIFFERENT, ids=str)
def test_a_run_that_differs_does_not_match(filters: dict[str, Any]) -> None:
    assert not check_filters(cast("RunFilters", filters)).matches(RUN)


def test_every_filter_is_tried() -> None:
    for cases in (MATCHING, DIFFERENT):
        tried = {name for filters in cases for name, value in filters.items() if value is not None}
        assert tried | {"roots_only"} == set(RunFilters.__annotations__)


def test_a_child_run_is_no_root_and_a_fork_is_one() -> None:
    child = RunSummary.from_checkpoint(genesis(parent_run_id="p", parent_step=0, origin="subgraph"))
    fork = RunSummary.from_checkpoint(genesis(parent_run_id="p", parent_step=0, origin="fork"))
    roots = check_filters({"roots_only": True})
    assert not roots.matches(child)
    assert roots.matches(fork)
    assert check_filters({"parent_run_id": "p"}).matches(child)


def test_a_run_without_an_error_has_no_reason() -> None:
    assert not check_filters({"error_reason": ""}).matches(RunSummary.from_checkpoint(genesis()))


def test_a_run_that_waits_for_no_time_is_never_due() -> None:
    at_the_end_of_time = datetime.max.replace(tzinfo=UTC)
    assert not check_filters({"due_before": at_the_end_of_time}).matches(RunSummary.from_checkpoint(genesis()))


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"status": "finished"}, "status is 'finished'"),
        ({"status": ["done", "finished"]}, "status is 'finished'"),
        ({"graph_id": 7}, "graph_id is 7"),
        ({"graph_hash": b"0"}, "graph_hash"),
        ({"metadata": {"a": 1}}, "metadata holds 'a': 1"),
        ({"since": NOW.replace(tzinfo=None)}, "since"),
        ({"updated_since": NOW.replace(tzinfo=None)}, "updated_since"),
        ({"updated_before": "yesterday"}, "updated_before is 'yesterday'"),
        ({"due_before": NOW.replace(tzinfo=None)}, "due_before"),
        ({"roots_only": 1}, "roots_only is 1"),
        ({"metadata": {str(number): "x" for number in range(1001)}}, "metadata has 1,001 tags: give at most 1,000"),
        ({"run_id_prefix": 1}, "run_id_prefix is 1"),
    ],
)
def test_a_malformed_filter_is_refused(filters: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_filters(cast("RunFilters", filters))


def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(TypeError, match="there is no filter 'state'"):
        check_filters(cast("RunFilters", {"state": "done"}))


@pytest.mark.parametrize("limit", [-1, True, 1.0, None])
def test_a_bad_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="limit"):
        check_search(limit=limit, cursor=None, order="started", filters={})


def test_a_bad_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order is 'oldest'"):
        check_search(limit=1, cursor=None, order=cast("RunOrder", "oldest"), filters={})


# Pages.


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9))])), st.sampled_from(["a", "z" * 200]))
def test_a_cursor_comes_back(moment: datetime, run_id: str) -> None:
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        return
    cursor = RunCursor("updated", utc, run_id)
    assert RunCursor.decode(cursor.encode(), "updated") == cursor


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "12/run-1", "bnVsbA==", "WzEsMl0=", "WyJzdGFydGVkIiwxLCIvIl0=", "WyJzdGFydGVkIix0cnVlLCJhIl0=", "é"],
)
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="next_cursor"):
        check_search(limit=1, cursor=cursor, order="started", filters={})


def test_a_cursor_of_another_order_is_refused() -> None:
    cursor = RunCursor.after(RUN, "started").encode()
    with pytest.raises(ValueError, match="same order"):
        RunCursor.decode(cursor, "updated")
    with pytest.raises(ValueError, match="next_cursor"):
        RunCursor.decode(f"{cursor[:-1]}\n{cursor[-1]}", "started")


RUNS = [
    RunSummary.from_checkpoint(
        following(
            genesis(run_id=f"r{number}", timestamp=NOW + timedelta(seconds=number // 3)),
            timestamp=NOW + timedelta(seconds=100 - number // 2),
            status="done" if number % 2 else "failed",
            error=None if number % 2 else ErrorInfo(type="E", message="m"),
        )
    )
    for number in range(10)
]


@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize("order", ["started", "updated"])
@pytest.mark.parametrize("status", [None, "done"])
def test_pages_hold_every_match_once_and_in_order(limit: int, order: RunOrder, status: Status | None) -> None:
    found: list[RunSummary] = []
    cursor = None
    while True:
        query = check_search(limit=limit, cursor=cursor, order=order, filters={"status": status})
        page = query.page(reversed(RUNS))
        found += page.items
        cursor = page.next_cursor
        assert len(page.items) == limit or cursor is None
        if cursor is None:
            break
    by_time = sorted(RUNS, key=lambda run: run.started_at if order == "started" else run.updated_at, reverse=True)
    assert found == [run for run in by_time if status in (None, run.status)]
    assert found == in_order(found, order)


class Index:
    """A store that has its runs in order, and pages that are a little shorter than asked for."""

    def __init__(self) -> None:
        self.read: list[int] = []

    async def page(self, order: RunOrder, after: RunCursor | None, count: int) -> Sequence[RunSummary]:
        behind = [run for run in in_order(RUNS, order) if after is None or after.precedes(run)]
        found = behind[: max(1, count - 1)]
        self.read.append(len(found))
        return found


@pytest.mark.parametrize("limit", [0, 1, 3, 9, 10, 11])
@pytest.mark.parametrize("order", ["started", "updated"])
@pytest.mark.parametrize("filters", [{}, {"status": "done"}, {"graph_id": "other"}, {"since": RUNS[4].started_at}])
async def test_a_scan_finds_what_a_search_of_everything_finds(limit: int, order: RunOrder, filters: RunFilters) -> None:
    cursor = None
    while True:
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        page = await query.scan(Index().page)
        assert page == query.page(RUNS)
        cursor = page.next_cursor
        if cursor is None:
            break


async def test_a_scan_stops_where_nothing_can_match_any_more() -> None:
    index = Index()
    newest = in_order(RUNS)[0]
    found = await check_search(limit=5, cursor=None, order="started", filters={"since": newest.started_at}).scan(
        index.page
    )
    assert found.items == (newest,)
    assert sum(index.read) < len(RUNS)


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_every_run_is_scanned_once_from_a_place_on(page: int) -> None:
    ordered = in_order(RUNS, "updated")
    assert [run async for run in scan_runs(Index().page, "updated", page=page)] == ordered
    after = RunCursor.after(ordered[3], "updated")
    assert [run async for run in scan_runs(Index().page, "updated", after, page=page)] == ordered[4:]


def test_a_page_of_none_has_no_next() -> None:
    page = check_search(limit=0, cursor=None, order="started", filters={}).page(RUNS)
    assert (page.items, page.next_cursor) == ((), None)


def test_runs_are_counted_by_their_status() -> None:
    assert check_filters({}).count(RUNS) == {"done": 5, "failed": 5}
    assert check_filters({"status": "done"}).count(RUNS) == {"done": 5}
    assert check_filters({"graph_id": "other"}).count(RUNS) == {}


def test_a_refused_change_names_what_was_called() -> None:
    error = read_only_error("write")
    assert (error.reason, str(error).partition("\n")[0]) == ("read-only", "write: the checkpointer is read-only")
