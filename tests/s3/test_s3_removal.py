"""Deletion and pruning: what goes, what stays, and what stays taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from support.records import STARTED_AT, chain, endless, first, following, task
from support.s3.servers import sdk_client
from support.s3.stores import Stores

from stargraph.audit import verify
from stargraph.checkpoint.protocol import FanOut, Status, StepRange
from stargraph.checkpoint.s3 import _prune
from stargraph.checkpoint.s3._frame import tombstone
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.errors import CheckpointConflictError, CheckpointError

pytestmark = pytest.mark.thorough

LATER = STARTED_AT + timedelta(days=1)


async def _steps(store: Any, run_id: str = "run") -> list[int]:
    return [checkpoint.step async for checkpoint in store.history(run_id)]


async def test_a_deleted_run_is_unknown_and_takes_no_step(stores: Stores) -> None:
    store, other = await stores.open(), await stores.open()
    run = chain("run", 4)
    await store.write_many(run)
    assert await other.delete_run("run") is True
    assert await other.delete_run("run") is False
    for handle in (store, other):
        assert await handle.read_latest("run") is None
        assert await handle.read_at_step("run", 2) is None
        assert await _steps(handle) == []
        assert await handle.list_runs() == []
        for checkpoint in (run[0], run[3], following(run[3]), first("run"), chain("run", 9)[8]):
            with pytest.raises(CheckpointError) as caught:
                await handle.write(checkpoint)
            assert caught.value.reason == "run-deleted"
    assert await other.delete_run("never") is False


@pytest.mark.parametrize("end", ["running", "done"])
async def test_a_run_whose_deletion_was_cut_short_is_gone(
    stores: Stores, moto: str, monkeypatch: pytest.MonkeyPatch, end: Status
) -> None:
    store, other = await stores.open(), await stores.open()
    run = chain("run", 4, end=end)
    await store.write_many(run)
    assert _count(moto, stores, "runs") == (2 if end == "done" else 1), "a run that ended has a file"

    async def cut_short(self: _prune.Pruner, *_: object) -> int:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(_prune.Pruner, "_mark_deleted", cut_short)
        with pytest.raises(ConnectionError):
            await store.delete_run("run")
    for handle in (store, other, await stores.open()):
        assert await handle.read_latest("run") is None
        assert [await handle.read_at_step("run", step) for step in range(4)] == [None] * 4
        assert await _steps(handle) == []
        assert await handle.list_runs() == []
        assert (await handle.search()).items == ()
        for checkpoint in (*run, following(run[2])):
            with pytest.raises(CheckpointError) as caught:
                await handle.write(checkpoint)
            assert caught.value.reason == "run-deleted"
    assert await other.delete_run("run") is True


@pytest.mark.parametrize("end", ["running", "done"])
@pytest.mark.parametrize("damaged", [(3,), (2, 3)])
async def test_a_run_whose_newest_records_are_damaged_is_deleted_as_a_whole(
    stores: Stores, moto: str, end: Status, damaged: tuple[int, ...]
) -> None:
    store = await stores.open()
    await store.write_many(chain("run", 4, end=end, state={"secret": "its text"}))
    await store.write_many(chain("other", 2))
    client = sdk_client(moto)
    for step in damaged:
        slot = KeyLayout(stores.prefix).slot("run", step)
        client.put_object(Bucket=stores.bucket, Key=slot, Body=b"its text, and no record" * 10)
    other = await stores.open()
    assert await other.delete_run("run") is True
    assert await other.delete_run("run") is False
    for handle in (store, other):
        assert await handle.read_latest("run") is None
        assert [run.run_id for run in await handle.list_runs()] == ["other"]
    for item in client.list_objects_v2(Bucket=stores.bucket)["Contents"]:
        body = client.get_object(Bucket=stores.bucket, Key=item["Key"])["Body"].read()
        assert b"its text" not in body, item["Key"]
    client.close()


async def test_deleting_one_run_leaves_its_neighbours(stores: Stores) -> None:
    store = await stores.open()
    for name in ("run", "run-1", "run.", "run:1", "ru"):
        await store.write_many(chain(name, 2))
    assert await store.delete_run("run")
    assert {summary.run_id for summary in await store.list_runs()} == {"run-1", "run.", "run:1", "ru"}
    assert await _steps(store, "run-1") == [0, 1]


@pytest.mark.parametrize("overtaken", [0, 1, 3])
async def test_a_deletion_and_a_writer_at_once(stores: Stores, monkeypatch: pytest.MonkeyPatch, overtaken: int) -> None:
    store, other = await stores.open(), await stores.open()
    run = endless("run")
    await store.write(next(run))
    take_slot = _prune.Pruner._take_slot
    taken: list[bool] = []

    async def refused() -> None:
        with pytest.raises(CheckpointError) as caught:
            await store.write(next(run))
        assert caught.value.reason == "run-deleted"

    async def take_slot_late(self: _prune.Pruner, run_id: str, step: int) -> bool:
        if len(taken) < overtaken:  # the writer appends after the deletion has looked for the end of the run
            await store.write(next(run))
        taken.append(await take_slot(self, run_id, step))
        if taken[-1]:  # nothing else of the run has gone yet
            await refused()
        return taken[-1]

    monkeypatch.setattr(_prune.Pruner, "_take_slot", take_slot_late)
    assert await other.delete_run("run") is True
    assert taken == [False] * overtaken + [True]
    await refused()
    for handle in (store, other):
        assert await handle.read_latest("run") is None
        assert await _steps(handle) == []


async def test_prune_keeps_the_last_steps_and_refuses_the_others(stores: Stores) -> None:
    store = await stores.open()
    run = list(islice(endless("run", pad=1000), 11))
    run.append(following(run[-1], status="done"))
    await store.write_many(run)
    kept = stores.decoded_from("run", 10, 11)
    gone = sorted(set(range(12)) - kept)
    assert len(gone) > 3
    report = await store.prune(older_than=LATER, keep_last=2, dry_run=True)
    assert (report.runs, report.checkpoints, report.dry_run) == (1, len(gone), True)
    assert await _steps(store) == list(range(12))
    report = await store.prune(older_than=LATER, keep_last=2)
    assert (report.runs, report.checkpoints) == (1, len(gone))
    assert await _steps(store) == sorted(kept)
    assert (await store.prune(older_than=LATER, keep_last=2)).checkpoints == 0
    other = await stores.open()
    for handle in (store, other):
        with pytest.raises(CheckpointError) as caught:
            await handle.write(run[gone[1]])
        assert caught.value.reason == "pruned"
        await handle.write(run[11])
        with pytest.raises(CheckpointConflictError):
            await handle.write(following(run[10], executor_id="f" * 32))
    fresh = await stores.open()
    assert [checkpoint async for checkpoint in fresh.history("run")] == [run[step] for step in sorted(kept)]


async def test_prune_keeps_what_a_run_needs_to_go_on(stores: Stores) -> None:
    store = await stores.open()
    run = list(islice(endless("run", pad=1000), 25))
    fork = FanOut(
        mode="parallel",
        task_id="task",
        rule="rule",
        join="join",
        since_step=2,
        width=3,
        next_index=3,
        completed_steps=(StepRange(first=4, last=5),),
    )
    last = following(run[-1], frontier=(fork, task(3, calls=(StepRange(first=7, last=7),))), status="failed")
    await store.write_many([*run, last])
    kept = stores.decoded_from("run", 2, 3, 4, 5, 7, 25)
    assert (await store.prune(older_than=LATER, statuses=["failed"])).checkpoints == 26 - len(kept) > 3
    assert await _steps(store) == sorted(kept)
    upcoming = following(last)
    await store.write(upcoming)
    assert await (await stores.open()).read_latest("run") == upcoming


async def test_what_a_run_writes_after_a_prune_is_decoded_from_what_stayed(stores: Stores) -> None:
    writer, other = await stores.open(), await stores.open()
    for checkpoint in islice(endless("run", pad=400), 20):
        await writer.write(checkpoint)
        await other.prune(older_than=LATER, statuses=["running"])
        assert await other.read_latest("run") == checkpoint
    assert len(await _steps(other)) <= 10


async def test_a_step_whose_base_was_pruned_reads_as_pruned(stores: Stores, moto: str) -> None:
    """A prune that is still at work, or was killed half way."""
    store = await stores.open()
    run = list(islice(endless("run", pad=400), 12))
    await store.write_many(run)
    gone = next(step for step in range(11) if step in stores.decoded_from("run", step + 1))
    left = [step for step in range(12) if gone not in stores.decoded_from("run", step)]
    client = sdk_client(moto)
    client.put_object(Bucket=stores.bucket, Key=KeyLayout(stores.prefix).slot("run", gone), Body=tombstone("pruned"))
    client.close()
    fresh = await stores.open()
    assert [step for step in range(12) if await fresh.read_at_step("run", step) is not None] == left
    assert await _steps(fresh) == left


async def test_prune_looks_at_status_and_age_alone(stores: Stores) -> None:
    store = await stores.open()
    await store.write_many(chain("done", 3, end="done"))
    await store.write_many(chain("live", 3))
    await store.write_many(chain("young", 3, end="done", started_at=LATER))
    report = await store.prune(older_than=LATER, keep_last=0)
    assert (report.runs, report.checkpoints) == (1, 3)
    assert {summary.run_id for summary in await store.list_runs()} == {"live", "young"}
    with pytest.raises(CheckpointError) as caught:
        await store.write(first("done"))
    assert caught.value.reason == "run-deleted"


@pytest.mark.parametrize(
    "arguments",
    [{"older_than": datetime(2026, 1, 1)}, {"older_than": LATER, "keep_last": -1}],  # noqa: DTZ001
)
async def test_prune_refuses_bad_arguments(stores: Stores, arguments: dict[str, Any]) -> None:
    store = await stores.open()
    with pytest.raises(ValueError, match=r"older_than|keep_last"):
        await store.prune(**arguments)


async def test_tombstones_go_after_the_grace_and_the_ends_stay(
    stores: Stores, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open()
    pruned, deleted = chain("pruned", 6, end="done"), chain("deleted", 6)
    await store.write_many(pruned)
    await store.write_many(deleted)
    await store.prune(older_than=LATER)
    await store.delete_run("deleted")
    await store.prune(older_than=LATER)
    assert _count(moto, stores, "log/pruned") == 6
    assert _count(moto, stores, "log/deleted") == 7

    monkeypatch.setattr(_prune, "TOMBSTONE_LIFETIME", timedelta(seconds=-10))
    await store.prune(older_than=LATER, dry_run=True)
    assert _count(moto, stores, "log/pruned") == 6
    await store.prune(older_than=LATER)
    bases = stores.decoded_from("pruned", 5)
    kept = {0, *bases, max(set(range(6)).difference(bases))}
    assert _count(moto, stores, "log/pruned") == len(kept)
    assert _count(moto, stores, "log/deleted") == 2
    assert _count(moto, stores, "runs") == 2  # the entry and the emptied file of the pruned run

    fresh = await stores.open()
    assert await _steps(fresh, "pruned") == sorted(stores.decoded_from("pruned", 5))
    gone = next(step for step in range(5) if step not in kept)
    for checkpoint, reason in (
        (pruned[gone], "pruned"),
        (deleted[0], "run-deleted"),
        (deleted[3], "run-deleted"),
    ):
        with pytest.raises(CheckpointError) as caught:
            await fresh.write(checkpoint)
        assert caught.value.reason == reason
    assert await fresh.read_latest("deleted") is None


def _count(moto: str, stores: Stores, folder: str) -> int:
    client = sdk_client(moto)
    listed = client.list_objects_v2(Bucket=stores.bucket, Prefix=f"{stores.prefix}/{folder}/")
    client.close()
    return int(listed["KeyCount"])


async def test_search_goes_page_by_page_through_what_matches(stores: Stores) -> None:
    store = await stores.open()
    for number in range(12):
        await store.write_many(
            chain(
                f"run-{number}",
                2,
                end="done" if number % 2 else "failed",
                started_at=STARTED_AT + timedelta(hours=number),
                metadata={"team": "ops" if number < 6 else "dev"},
            )
        )
    found: list[str] = []
    cursor = None
    for _ in range(5):
        page = await store.search(status="done", metadata={"team": "ops"}, limit=2, cursor=cursor)
        found += [summary.run_id for summary in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == ["run-5", "run-3", "run-1"]
    assert cursor is None
    since = (STARTED_AT + timedelta(hours=10)).astimezone(UTC)
    assert [summary.run_id for summary in (await store.search(since=since)).items] == ["run-11", "run-10"]
    assert (await store.search(graph_id="another")).items == ()
    assert (await store.search(limit=0)).items == ()
    for cursor in ("x", "", "!!", "bm90IGEga2V5"):
        with pytest.raises(ValueError, match="cursor"):
            await store.search(cursor=cursor)


async def test_a_start_in_the_place_of_a_lost_step_0_gets_no_further(stores: Stores, moto: str) -> None:
    """To see it at once would take each start a request more; docs/s3.md says so."""
    run = chain("run", 4)
    await (await stores.open()).write_many(run)
    sdk_client(moto).delete_object(Bucket=stores.bucket, Key=KeyLayout(stores.prefix).slot("run", 0))
    starting = await stores.open()
    other = first("run", state={"n": 7})
    await starting.write(other)
    with pytest.raises(CheckpointConflictError) as caught:
        await starting.write(following(other))
    assert caught.value.reason == "step-taken"
    (finding,) = (await verify(await stores.open())).findings
    assert (finding.kind, finding.step, finding.last_step) == ("unreadable", 1, 3)
    assert "another step is stored in the place of its base" in finding.message
