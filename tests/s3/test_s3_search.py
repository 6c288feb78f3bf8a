"""Finding runs: every filter, in both orders, page by page, and what each search costs."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from support.records import STARTED_AT, chain, first, following, wait_until
from support.s3.proxy import FaultProxy
from support.s3.servers import sdk_client
from support.s3.stores import Stores

from stargraph.checkpoint.driver import check_filters, in_order
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo, RunOrder, RunSummary
from stargraph.checkpoint.s3 import S3Checkpointer, _index
from stargraph.errors import CheckpointCorruptedError

pytestmark = pytest.mark.thorough

LATER = STARTED_AT + timedelta(days=1)


def _runs(count: int, seed: int = 7) -> list[list[Checkpoint]]:
    random = Random(seed)
    runs = []
    for number in range(count):
        parent: dict[str, Any] = {}
        if number % 3 == 2:
            origin = "subgraph" if number % 2 else "fork"
            parent = {"parent_run_id": f"run-{number % 2}", "parent_step": 0, "origin": origin}
        run = [
            first(
                f"run-{number}",
                started_at=STARTED_AT + timedelta(hours=random.randint(0, 5)),
                graph_id=random.choice(("order", "invoice")),
                metadata={"team": random.choice(("ops", "dev"))},
                **parent,
            )
        ]
        status = random.choice(("awaiting_input", "running", "failed", "paused", "done", "cancelled"))
        error = ErrorInfo(type="E", message="m", reason="lost") if status == "failed" and number % 2 else None
        moment = run[0].timestamp + timedelta(minutes=random.randint(1, 500))
        interrupts = (wait_until(moment),) if status == "awaiting_input" else ()
        run.append(following(run[0], status=status, error=error, interrupts=interrupts, timestamp=moment))  # type: ignore[arg-type]
        runs.append(run)
    return runs


FILTERS: list[dict[str, Any]] = [
    {},
    {"status": "running"},
    {"status": ("running", "failed", "paused")},
    {"status": ["done", "running"]},
    {"status": ()},
    {"graph_id": "order"},
    {"graph_hash": "a" * 64},
    {"runtime_hash": "c" * 64},
    {"error_reason": "lost"},
    {"metadata": {"team": "ops"}},
    {"since": STARTED_AT + timedelta(hours=3)},
    {"updated_since": STARTED_AT + timedelta(hours=5)},
    {"updated_before": STARTED_AT + timedelta(hours=5)},
    {"due_before": STARTED_AT + timedelta(hours=9)},
    {"due_before": STARTED_AT + timedelta(days=9), "graph_id": "order"},
    {"due_before": STARTED_AT + timedelta(days=9), "parent_run_id": "run-1"},
    {"parent_run_id": "run-1"},
    {"parent_run_id": "no/run"},
    {"roots_only": True},
    {"run_id_prefix": "run-1"},
    {"run_id_prefix": "run-", "roots_only": True, "status": "failed"},
    {"run_id_prefix": "x"},
    {"run_id_prefix": "no/run"},
    {"status": "failed", "metadata": {"team": "dev"}, "since": STARTED_AT + timedelta(hours=1), "roots_only": True},
]


async def _all_pages(store: S3Checkpointer, order: RunOrder, filters: dict[str, Any]) -> list[RunSummary]:
    found: list[RunSummary] = []
    cursor = None
    while True:
        page = await store.search(limit=4, cursor=cursor, order=order, **filters)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_every_filter_finds_what_it_describes(stores: Stores) -> None:
    store = await stores.open(files_of_ended_runs=False)
    runs = _runs(18)
    for run in runs:
        await store.write_many(run)
    summaries = [RunSummary.from_checkpoint(run[-1]) for run in runs]
    other = await stores.open(read_only=True)
    for filters in FILTERS:
        matcher = check_filters(filters)  # type: ignore[arg-type]
        expected = [summary for summary in summaries if matcher.matches(summary)]
        assert await other.count_runs(**filters) == Counter(summary.status for summary in expected), filters
        for order in ("started", "updated"):
            assert await _all_pages(other, order, filters) == in_order(expected, order), (filters, order)
    for parent in ("run-0", "run-1", "run-17", "unknown", "no/run"):
        found = [summary for summary in summaries if (summary.parent_run_id, summary.origin) == (parent, "subgraph")]
        assert await other.children(parent) == in_order(found), parent


async def test_what_is_unfinished_is_found_among_the_finished_at_its_own_cost(
    watched: Stores, proxy: FaultProxy
) -> None:
    store = await watched.open(files_of_ended_runs=False)
    for number in range(30):
        await store.write_many(chain(f"done-{number}", 2, end="done", started_at=STARTED_AT + timedelta(hours=number)))
    for number in range(3):
        await store.write_many(chain(f"open-{number}", 2, end="failed", metadata={"number": str(number)}))
    other = await watched.open(read_only=True)
    proxy.reset()
    found = await other.search(status=("running", "failed", "paused", "awaiting_input"))
    assert [run.run_id for run in found.items] == ["open-0", "open-1", "open-2"]
    assert sorted(proxy.kinds()) == ["GET"] * 3 + ["LIST"] * 4
    proxy.reset()
    assert await other.count_runs(status="failed") == {"failed": 3}
    assert len(proxy.requests) == 7
    proxy.reset()
    assert await other.count_runs() == {"done": 30, "failed": 3}
    assert len(proxy.requests) == 1 + 2 * 33  # as docs/s3.md says: one or two for every run


async def test_children_are_found_among_many_runs_at_their_own_cost(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    for number in range(20):
        await store.write(first(f"other-{number}"))
    for number in range(2):
        await store.write(first(f"child-{number}", parent_run_id="other-1", parent_step=0, origin="subgraph"))
    await store.write(first("fork", parent_run_id="other-1", parent_step=0, origin="fork"))
    proxy.reset()
    assert [run.run_id for run in await store.children("other-1")] == ["child-0", "child-1"]
    assert len(proxy.requests) == 1 + 2 * 3
    proxy.reset()
    assert await store.children("other-2") == []
    assert proxy.kinds() == ["LIST"]
    await store.delete_run("child-0")
    assert [run.run_id for run in await store.children("other-1")] == ["child-1"]


@pytest.mark.parametrize("page", [1, 2, 1000])
async def test_runs_are_found_by_their_prefix_at_their_own_cost(
    watched: Stores, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(_index, "_PAGE", page)
    store = await watched.open()
    found = ("run-1", "run-1-a", "run-1.b", "run-10")
    for number, run_id in enumerate((*found, "run-0", "run-2", "other")):
        await store.write_many(chain(run_id, 3, started_at=STARTED_AT - timedelta(hours=number)))
    other = await watched.open(read_only=True)
    proxy.reset()
    assert [run.run_id for run in (await other.search(run_id_prefix="run-1")).items] == list(found)
    assert proxy.kinds().count("GET") == 4
    assert proxy.kinds().count("LIST") == 4 + 4 // page + 1
    assert (await other.search(run_id_prefix="run-10")).items[0].run_id == "run-10"
    assert (await other.search(run_id_prefix="run-11")).items == ()
    await store.delete_run("run-1")
    assert [run.run_id for run in (await other.search(run_id_prefix="run-1")).items] == list(found[1:])


def _open_entries(stores: Stores) -> list[str]:
    client = sdk_client(stores.endpoint)
    listed = client.list_objects_v2(Bucket=stores.bucket, Prefix=f"{stores.prefix}/open/").get("Contents", [])
    client.close()
    return [item["Key"].rpartition("/")[2].partition("-")[2] for item in listed]


@pytest.mark.usefixtures("impatient")
async def test_an_entry_that_a_crash_left_is_seen_through_and_removed_by_a_prune(
    stores: Stores, watched: Stores, proxy: FaultProxy
) -> None:
    """The process dies after the step that ends the run, and before it removes the entry."""
    beside = Stores(stores.endpoint, stores.session, watched.bucket)
    store = await watched.open(files_of_ended_runs=False)
    run = chain("run", 2, end="done")
    await store.write(run[0])
    proxy.fail_when(lambda request: request.method == "DELETE", "dropped")
    await store.write(run[1])
    proxy.reset()
    other = await beside.open()
    assert _open_entries(beside) == ["run"]
    assert (await other.search(status=("running", "failed"))).items == ()
    assert await other.count_runs(status="running") == {}
    await other.prune(older_than=LATER, statuses=["done"], dry_run=True)
    assert _open_entries(beside) == ["run"]
    await other.prune(older_than=LATER, statuses=["cancelled"])
    assert _open_entries(beside) == []
    assert await other.count_runs() == {"done": 1}
    await beside.close()


async def test_a_retry_of_the_last_write_removes_the_entry(watched: Stores, proxy: FaultProxy, stores: Stores) -> None:
    beside = Stores(stores.endpoint, stores.session, watched.bucket)
    store = await watched.open(files_of_ended_runs=False)
    run = chain("run", 2, end="done")
    await store.write_many(run)
    client = sdk_client(stores.endpoint)
    opened = store._opened()
    key = opened.keys.entry("run", run[0].started_at, folder=opened.keys.open)
    client.put_object(Bucket=beside.bucket, Key=key, Body=b"")
    client.close()
    await (await beside.open()).write(run[-1])
    assert _open_entries(beside) == []
    await beside.close()


async def test_a_run_that_was_deleted_is_in_no_folder(stores: Stores) -> None:
    store = await stores.open()
    await store.write(first("run", parent_run_id="parent", parent_step=0, origin="subgraph"))
    assert _open_entries(stores) == ["run"]
    await store.delete_run("run")
    assert _open_entries(stores) == []
    assert await store.children("parent") == []
    assert await store.count_runs() == {}


@pytest.mark.parametrize(("lost", "pruned"), [(1, False), (2, False), (4, False), (1, True)])
async def test_a_run_that_lost_its_end_is_corrupted_and_not_a_shorter_one(
    stores: Stores, lost: int, pruned: bool
) -> None:
    """Somebody removed the newest objects; the file of the ended run says where it ended."""
    store = await stores.open()
    run = chain("run", 5, end="done")
    await store.write_many(run)
    if pruned:
        await store.prune(older_than=LATER, run_id="run", keep_last=2)
    await store.write_many(chain("whole", 5, end="done"))
    client = sdk_client(stores.endpoint)
    keys = store._opened().keys
    for step in range(5 - lost, 5):
        client.delete_object(Bucket=stores.bucket, Key=keys.slot("run", step))
    client.close()
    other = await stores.open()
    with pytest.raises(CheckpointCorruptedError) as caught:
        await other.read_latest("run")
    assert (caught.value.reason, caught.value.step) == ("truncated", 4)
    assert f"the newest one left is step {4 - lost}" in str(caught.value)
    with pytest.raises(CheckpointCorruptedError, match="it ended at step 4"):
        await other.list_runs()
    assert (await _steps(other, "whole")) == [0, 1, 2, 3, 4]


async def _steps(store: S3Checkpointer, run_id: str) -> list[int]:
    return [checkpoint.step async for checkpoint in store.history(run_id)]


async def test_a_cursor_goes_on_though_its_run_is_gone(stores: Stores) -> None:
    store = await stores.open()
    for number in range(6):
        await store.write(first(f"run-{number}", started_at=datetime(2026, 1, 1, number, tzinfo=UTC)))
    page = await store.search(limit=2)
    await store.delete_run(page.items[-1].run_id)
    await store.write(first("newer", started_at=datetime(2026, 1, 2, tzinfo=UTC)))
    rest = await store.search(limit=10, cursor=page.next_cursor)
    assert [run.run_id for run in rest.items] == ["run-3", "run-2", "run-1", "run-0"]
