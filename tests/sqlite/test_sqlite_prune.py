"""Removing runs and their older steps."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.records import STARTED_AT, chain, endless, executor_id, first, following, noise, task

from stargraph.checkpoint.protocol import Checkpoint, FanOut, PruneReport, Status, StepRange
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _prune
from stargraph.checkpoint.sqlite._schema import deleted_id
from stargraph.errors import CheckpointConflictError, CheckpointError

LATER = STARTED_AT + timedelta(days=1)


async def steps(store: SQLiteCheckpointer, run_id: str = "run-1") -> list[int]:
    return [checkpoint.step async for checkpoint in store.history(run_id)]


def rows(path: Path, run_id: str = "run-1") -> int:
    connection = sqlite3.connect(path)
    try:
        ids = (run_id, deleted_id(run_id))
        (count,) = connection.execute("SELECT count(*) FROM log WHERE run_id IN (?, ?)", ids).fetchone()
        return int(count)
    finally:
        connection.close()


async def test_a_deleted_run_is_gone_for_good(store: SQLiteCheckpointer, path: Path) -> None:
    checkpoints = chain(length=600, metadata={"team": "a"})
    await store.write_many(checkpoints)
    await store.write(first("run-2"))
    assert await store.delete_run("run-1") is True
    assert await store.delete_run("run-1") is False
    assert await store.read_latest("run-1") is None
    assert await store.read_at_step("run-1", 0) is None
    assert await steps(store) == []
    assert [run.run_id for run in await store.list_runs()] == ["run-2"]
    assert (await store.search(metadata={"team": "a"})).items == ()
    assert rows(path) == 0
    for checkpoint in (checkpoints[0], checkpoints[-1], following(checkpoints[-1]), first()):
        with pytest.raises(CheckpointError) as caught:
            await store.write(checkpoint)
        assert caught.value.reason == "run-deleted"
    with pytest.raises(CheckpointError):
        await store.write_many(checkpoints[:3])
    assert rows(path) == 0


async def test_a_removal_that_was_interrupted_shows_nothing_and_is_finished_later(
    store: SQLiteCheckpointer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("run-1", "run-2"):
        await store.write_many(chain(run_id, 5))

    async def interrupted(*_: object, **__: object) -> int:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteCheckpointer, "_remove", interrupted)
        for run_id in ("run-1", "run-2"):
            with pytest.raises(asyncio.CancelledError):
                await store.delete_run(run_id)
    assert (rows(path, "run-1"), rows(path, "run-2")) == (5, 5)
    assert await store.read_latest("run-1") is None
    assert await store.read_at_step("run-1", 3) is None
    assert await steps(store) == []
    assert await store.delete_run("run-1") is False
    assert rows(path, "run-1") == 0
    assert await store.prune(older_than=LATER) == PruneReport(runs=0, checkpoints=0, dry_run=False)
    assert rows(path, "run-2") == 0


@pytest.mark.parametrize("length", [1, 2, 5, 700])
@pytest.mark.parametrize("keep_last", [0, 1, 3, 2**70])
async def test_prune_keeps_the_last_and_a_dry_run_counts_exactly(
    store: SQLiteCheckpointer, path: Path, length: int, keep_last: int
) -> None:
    checkpoints = chain(length=length, end="done") if length > 1 else [first(status="done")]
    await store.write_many(checkpoints)
    await store.write_many(chain("alive", 5))
    await store.write_many(chain("young", 5, end="done", started_at=LATER))
    expected = max(0, length - keep_last)
    forecast = await store.prune(older_than=LATER, keep_last=keep_last, dry_run=True)
    assert forecast == PruneReport(runs=int(expected > 0), checkpoints=expected, dry_run=True)
    assert rows(path) == length
    report = await store.prune(older_than=LATER, keep_last=keep_last)
    assert report == PruneReport(runs=forecast.runs, checkpoints=forecast.checkpoints, dry_run=False)
    assert rows(path) == length - expected
    assert await steps(store) == list(range(expected, length))
    assert await steps(store, "alive") == await steps(store, "young") == list(range(5))
    again = await store.prune(older_than=LATER, keep_last=keep_last)
    assert (again.runs, again.checkpoints) == (0, 0)
    if expected == 0:
        await store.write(checkpoints[0])
        return
    with pytest.raises(CheckpointError) as caught:
        await store.write(checkpoints[0])
    assert caught.value.reason == ("pruned" if keep_last else "run-deleted")
    assert ("run-1" in [run.run_id for run in await store.list_runs()]) == bool(keep_last)


async def test_only_old_runs_with_the_given_statuses_are_pruned(store: SQLiteCheckpointer) -> None:
    ends: tuple[Status, ...] = ("running", "awaiting_input", "paused", "done", "failed", "cancelled")
    for end in ends:
        await store.write_many(chain(end, 4, end=end))
    last_step_at = STARTED_AT + timedelta(seconds=3)
    assert (await store.prune(older_than=last_step_at, statuses=ends, dry_run=True)).runs == 0
    just_after = last_step_at + timedelta(microseconds=1)
    assert (await store.prune(older_than=just_after, statuses=ends, dry_run=True)).runs == 6
    assert (await store.prune(older_than=just_after, statuses=[], dry_run=True)).runs == 0
    assert (await store.prune(older_than=just_after)).runs == 1
    assert (await store.prune(older_than=just_after, statuses=["failed", "cancelled"])).runs == 2
    assert {end: len(await steps(store, end)) for end in ends} == {
        "running": 4,
        "awaiting_input": 4,
        "paused": 4,
        "done": 1,
        "failed": 1,
        "cancelled": 1,
    }


def busy_run() -> list[Checkpoint]:
    """A run that is paused at step 29 and needs steps 3, 5, 6, 7, 10, 12 and 13 to go on."""
    checkpoints = chain(length=29)
    frontier = (
        task(3, calls=(StepRange(first=5, last=7),)),
        FanOut(
            task_id="task-9",
            mode="map",
            rule="fan-out",
            join="report",
            since_step=10,
            width=5,
            next_index=3,
            completed_steps=(StepRange(first=12, last=13),),
        ),
    )
    checkpoints.append(following(checkpoints[-1], event="paused", status="paused", frontier=frontier))
    return checkpoints


async def test_prune_keeps_what_a_run_needs_to_go_on(store: SQLiteCheckpointer) -> None:
    checkpoints = busy_run()
    await store.write_many(checkpoints)
    forecast = await store.prune(older_than=LATER, statuses=["paused"], keep_last=2, dry_run=True)
    report = await store.prune(older_than=LATER, statuses=["paused"], keep_last=2)
    kept = [3, 5, 6, 7, 10, 12, 13, 28, 29]
    assert await steps(store) == kept
    assert report.checkpoints == forecast.checkpoints == 30 - len(kept)
    assert await store.read_at_step("run-1", 4) is None
    for step, reason in ((4, "pruned"), (27, "pruned")):
        with pytest.raises(CheckpointError) as caught:
            await store.write(checkpoints[step])
        assert caught.value.reason == reason
    await store.write(checkpoints[3])
    with pytest.raises(CheckpointConflictError):
        await store.write(following(checkpoints[2], executor_id=executor_id()))
    # Once the run has ended, nothing of that is needed any more.
    await store.write(following(checkpoints[-1], status="done", frontier=()))
    await store.prune(older_than=LATER, keep_last=1)
    assert await steps(store) == [30]


async def test_steps_that_are_needed_next_to_the_tail_are_part_of_it(store: SQLiteCheckpointer, path: Path) -> None:
    checkpoints = chain(length=10)
    checkpoints.append(following(checkpoints[-1], event="paused", status="paused", frontier=(task(8), task(9))))
    await store.write_many(checkpoints)
    await store.prune(older_than=LATER, statuses=["paused"], keep_last=1)
    assert await steps(store) == [8, 9, 10]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT floor FROM runs").fetchone() == (8,)
    connection.close()


async def test_a_run_that_moves_on_while_it_is_pruned_is_left_alone(
    store: SQLiteCheckpointer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = chain(length=20, end="failed")
    await store.write_many(checkpoints)
    plan = _prune.steps_to_remove
    resumed = following(checkpoints[-1], event="resumed")

    async def resume() -> None:
        async with SQLiteCheckpointer(path) as other:
            await other.write(resumed)

    def meanwhile(connection: sqlite3.Connection, prunable: _prune.PrunableSteps, after: int) -> object:
        found = plan(connection, prunable, after)
        asyncio.run(resume())
        return found

    monkeypatch.setattr(_prune, "steps_to_remove", meanwhile)
    report = await store.prune(older_than=LATER, statuses=["failed"])
    assert (report.runs, report.checkpoints) == (0, 0)
    assert await steps(store) == list(range(21))


@pytest.mark.parametrize("keep_last", [0, 1])
async def test_others_write_between_the_batches_of_a_prune(
    store: SQLiteCheckpointer, path: Path, monkeypatch: pytest.MonkeyPatch, keep_last: int
) -> None:
    monkeypatch.setattr(_prune, "_BATCH_STEPS", 4)
    await store.write_many(chain(length=400, end="done"))
    plan = _prune.steps_to_remove
    between = chain("run-2", 3)

    async def write(checkpoint: Checkpoint) -> None:
        async with SQLiteCheckpointer(path) as other:
            await other.write(checkpoint)

    def meanwhile(connection: sqlite3.Connection, prunable: _prune.PrunableSteps, after: int) -> object:
        if between and after > 0:
            asyncio.run(write(between.pop(0)))
        return plan(connection, prunable, after)

    monkeypatch.setattr(_prune, "steps_to_remove", meanwhile)
    assert (await store.prune(older_than=LATER, keep_last=keep_last)).checkpoints == 400 - keep_last
    assert not between


async def test_large_steps_are_removed_a_few_at_a_time(store: SQLiteCheckpointer) -> None:
    await store.write_many(list(itertools.islice(endless(pad=2_000_000), 12)))
    assert store._store
    prunable = _prune.PrunableSteps("run-1")
    found, after = await store._store.read(lambda connection: _prune.steps_to_remove(connection, prunable, -1))
    assert found == [*range(after or 0), after]
    assert len(found) < 8
    assert await store.delete_run("run-1")


async def test_arguments_of_prune_are_checked(store: SQLiteCheckpointer) -> None:
    with pytest.raises(ValueError, match="older_than"):
        await store.prune(older_than=LATER.replace(tzinfo=None))
    with pytest.raises(ValueError, match="keep_last"):
        await store.prune(older_than=LATER, keep_last=-1)


async def test_many_runs_are_pruned_page_by_page(store: SQLiteCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prune, "_PAGE_RUNS", 4)
    for number in range(21):
        await store.write_many(chain(f"run-{number}", 3, end="done"))
    assert await store.prune(older_than=LATER) == PruneReport(runs=21, checkpoints=42, dry_run=False)
    assert {run.last_step for run in await store.list_runs()} == {2}


class TestRecordsThatHoldWhatChanged:
    """A prune leaves nothing that cannot be decoded, whatever other handles remember."""

    async def test_what_stays_is_exact_whatever_goes(self, store: SQLiteCheckpointer) -> None:
        ends: tuple[Status, ...] = ("done", "failed")
        for number, end in enumerate(ends):
            for keep_last in (1, 2, 7, 30):
                run_id = f"run-{number}-{keep_last}"
                checkpoints = chain(run_id, 60, end=end, state={"pad": noise(2000), "count": 0})
                for checkpoint in checkpoints:
                    await store.write(checkpoint)
                await store.prune(older_than=LATER, statuses=[end], keep_last=keep_last)
                kept = checkpoints[-keep_last:]
                assert [found async for found in store.history(run_id)] == kept
                assert await store.read_latest(run_id) == kept[-1]
                for checkpoint in kept:
                    assert await store.read_at_step(run_id, checkpoint.step) == checkpoint

    async def test_a_writer_that_remembers_what_was_pruned_goes_on(self, store: SQLiteCheckpointer, path: Path) -> None:
        checkpoints = chain(length=25, end="failed", state={"pad": noise(2000), "count": 0})
        for checkpoint in checkpoints:
            await store.write(checkpoint)
        async with SQLiteCheckpointer(path) as other:
            await other.prune(older_than=LATER, statuses=["failed"], keep_last=1)
        assert await steps(store) == [24]
        for _ in range(40):
            checkpoints.append(following(checkpoints[-1]))
            await store.write(checkpoints[-1])
        async with SQLiteCheckpointer(path) as other:
            assert [found async for found in other.history("run-1")] == checkpoints[24:]
            for checkpoint in checkpoints[24:]:
                assert await other.read_at_step("run-1", checkpoint.step) == checkpoint

    async def test_a_batch_that_was_stored_in_part_and_in_another_form_goes_on(
        self, store: SQLiteCheckpointer, path: Path
    ) -> None:
        checkpoints = chain(length=40, state={"pad": noise(2000), "count": 0})
        await store.write_many(checkpoints[:10])
        async with SQLiteCheckpointer(path) as other:  # remembers nothing, so that its record stands alone
            await other.write(checkpoints[10])
        await store.write_many(checkpoints[8:20])
        async with SQLiteCheckpointer(path) as other:
            await other.prune(older_than=LATER, statuses=["running"], keep_last=3)
            assert [found async for found in other.history("run-1")] == checkpoints[17:20]
        await store.write_many(checkpoints[20:])
        assert [found async for found in store.history("run-1")] == checkpoints[17:]

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(moves=st.lists(st.sampled_from(["write", "write", "write", "batch", "retry", "reopen", "read", "prune"])))
    async def test_any_handles_in_any_order(self, tmp_path_factory: pytest.TempPathFactory, moves: list[str]) -> None:
        path = tmp_path_factory.mktemp("any") / "run.sqlite"
        handles = [SQLiteCheckpointer(path) for _ in range(2)]
        checkpoints = [first(state={"pad": noise(1000), "count": 0})]
        floor = 0
        for handle in handles:
            await handle.bootstrap()
        await handles[0].write(checkpoints[0])
        for number, move in enumerate(moves):
            handle = handles[number % 3 == 0]
            if move in ("write", "batch"):
                made = []
                for _ in range(1 if move == "write" else 6):
                    made.append(following(checkpoints[-1]))
                    checkpoints.append(made[-1])
                await handle.write_many(made)
            elif move == "retry":
                await handle.write_many(checkpoints[-2:] if len(checkpoints) - floor > 1 else checkpoints[-1:])
            elif move == "reopen":
                await handle.close()
                await handle.bootstrap()
            elif move == "read":
                assert await handle.read_latest("run-1") == checkpoints[-1]
            else:
                await handle.prune(older_than=LATER, statuses=["running"], keep_last=2)
                floor = max(floor, len(checkpoints) - 2)
            assert [found async for found in handle.history("run-1")] == checkpoints[floor:]
        for handle in handles:
            await handle.close()
