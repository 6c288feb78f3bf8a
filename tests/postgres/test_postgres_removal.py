"""Deleting runs and pruning them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from support.postgres_records import START, chain, following, genesis

from stargraph.checkpoint.driver import needed_steps
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres import _prune as removal
from stargraph.checkpoint.protocol import (
    Checkpoint,
    FanOut,
    PruneReport,
    StepRange,
    Task,
)
from stargraph.errors import CheckpointConflictError, CheckpointError

Opener = Callable[..., PostgresCheckpointer]
SLOW = pytest.mark.slow
SERVERS = ["server", pytest.param("debian_server", marks=SLOW), pytest.param("pooler", marks=SLOW)]
LATER = datetime(2030, 1, 1, tzinfo=UTC)


async def steps(checkpointer: PostgresCheckpointer, run_id: str) -> list[int]:
    return [checkpoint.step async for checkpoint in checkpointer.history(run_id)]


async def done_run(checkpointer: PostgresCheckpointer, length: int, **fields: Any) -> list[Checkpoint]:
    run = chain(length - 1, **fields)
    run.append(following(run[-1], status="done"))
    await checkpointer.write_many(run)
    return run


async def test_a_deleted_run_is_unknown_and_takes_nothing(
    checkpointer: PostgresCheckpointer, opened: Opener, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(5, metadata={"name": "private"}, graph_id="private")
    await checkpointer.write_many(run[:4])
    run_id = run[0].run_id
    async with opened() as other:
        assert await other.delete_run(run_id) is True
    assert await checkpointer.delete_run(run_id) is False
    assert await checkpointer.read_latest(run_id) is None
    assert await checkpointer.read_at_step(run_id, 0) is None
    assert await steps(checkpointer, run_id) == []
    assert await checkpointer.list_runs() == []
    assert (await checkpointer.search()).items == ()
    for checkpoint in (run[4], run[3], run[0], genesis(run_id)):
        with pytest.raises(CheckpointError) as caught:
            await checkpointer.write(checkpoint)
        assert caught.value.reason == "run-deleted"
    assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".checkpoints') == 0
    assert "private" not in str(await sql.fetchrow(f'SELECT * FROM "{schema}".runs'))


async def test_a_deletion_that_was_cut_short_is_finished_by_a_prune(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(5)
    await checkpointer.write_many(run)
    await sql.execute(f"UPDATE \"{schema}\".runs SET status = 'deleted'")
    assert await checkpointer.read_latest(run[0].run_id) is None
    assert await checkpointer.read_at_step(run[0].run_id, 2) is None
    assert await steps(checkpointer, run[0].run_id) == []
    await checkpointer.prune(older_than=LATER, dry_run=True)
    assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".checkpoints') == 5
    assert await checkpointer.prune(older_than=LATER) == PruneReport(runs=0, checkpoints=0, dry_run=False)
    assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".checkpoints') == 0


async def test_a_deletion_and_writers_take_turns(
    checkpointer: PostgresCheckpointer, opened: Opener, sql: asyncpg.Connection, schema: str
) -> None:
    async with opened() as other:
        for number in range(25):
            run = chain(30)
            await checkpointer.write(run[0])

            async def write_on(run: list[Checkpoint] = run) -> str | None:
                try:
                    for checkpoint in run[1:]:
                        await checkpointer.write(checkpoint)
                except CheckpointError as error:
                    return error.reason
                return None

            writing = asyncio.create_task(write_on())
            await asyncio.sleep(0.0007 * number)
            assert await other.delete_run(run[0].run_id) is True
            assert await writing in ("run-deleted", None)
            assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".checkpoints') == 0


async def test_a_deletion_takes_many_small_statements(
    checkpointer: PostgresCheckpointer, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection, schema: str
) -> None:
    monkeypatch.setattr(removal, "_ROWS", 7)
    run = chain(30)
    await checkpointer.write_many(run)
    assert await checkpointer.delete_run(run[0].run_id)
    assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".checkpoints') == 0


@pytest.mark.parametrize("rows", [1000, 7, 1])
async def test_a_prune_keeps_the_last_ones(
    checkpointer: PostgresCheckpointer, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(removal, "_ROWS", rows)
    monkeypatch.setattr(removal, "_RUNS", 2)
    runs = [await done_run(checkpointer, 12) for _ in range(5)]
    short = await done_run(checkpointer, 3)
    running = chain(12)
    await checkpointer.write_many(running)
    recent = await done_run(checkpointer, 12, timestamp=LATER)

    async def prune(dry_run: bool = False, keep_last: int = 3) -> PruneReport:
        return await checkpointer.prune(older_than=LATER, keep_last=keep_last, dry_run=dry_run)

    assert await prune(dry_run=True) == PruneReport(runs=5, checkpoints=45, dry_run=True)
    assert await steps(checkpointer, runs[0][0].run_id) == list(range(12))
    assert await prune() == PruneReport(runs=5, checkpoints=45, dry_run=False)
    for run in runs:
        assert await steps(checkpointer, run[0].run_id) == [9, 10, 11]
        assert await checkpointer.read_latest(run[0].run_id) == run[11]
        assert await checkpointer.read_at_step(run[0].run_id, 8) is None
    assert await steps(checkpointer, short[0].run_id) == [0, 1, 2]
    assert await steps(checkpointer, running[0].run_id) == list(range(12))
    assert await steps(checkpointer, recent[0].run_id) == list(range(12))
    assert await prune() == PruneReport(runs=0, checkpoints=0, dry_run=False)
    assert await prune(keep_last=1) == PruneReport(runs=6, checkpoints=12, dry_run=False)
    with pytest.raises(CheckpointError) as caught:
        await checkpointer.write(runs[0][5])
    assert caught.value.reason == "pruned"
    await checkpointer.write(runs[0][11])


async def test_keeping_none_removes_the_runs(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = await done_run(checkpointer, 4)
    kept = chain(4)
    await checkpointer.write_many(kept)
    report = await checkpointer.prune(older_than=LATER, keep_last=0, dry_run=True)
    assert report == PruneReport(runs=1, checkpoints=4, dry_run=True)
    assert await checkpointer.read_latest(run[0].run_id) == run[3]
    report = await checkpointer.prune(older_than=LATER, keep_last=0)
    assert report == PruneReport(runs=1, checkpoints=4, dry_run=False)
    assert await checkpointer.read_latest(run[0].run_id) is None
    assert await steps(checkpointer, kept[0].run_id) == [0, 1, 2, 3]
    with pytest.raises(CheckpointError) as caught:
        await checkpointer.write(run[0])
    assert caught.value.reason == "run-deleted"
    assert await sql.fetchval(f'SELECT count(*) FROM "{schema}".checkpoints') == 4


async def test_a_run_that_can_go_on_keeps_what_it_needs(checkpointer: PostgresCheckpointer) -> None:
    run = chain(20)
    run.append(
        following(
            run[-1],
            status="awaiting_input",
            frontier=(
                Task(id="t", node="n", since_step=3, calls=(StepRange(first=5, last=6),)),
                FanOut(
                    mode="map",
                    rule="r",
                    task_id="f",
                    join="j",
                    since_step=9,
                    width=9,
                    next_index=4,
                    completed_steps=(StepRange(first=11, last=12), StepRange(first=14, last=14)),
                ),
            ),
        )
    )
    await checkpointer.write_many(run)
    run_id = run[0].run_id
    report = await checkpointer.prune(older_than=LATER, statuses=["awaiting_input"], keep_last=2)
    assert report == PruneReport(runs=1, checkpoints=12, dry_run=False)
    assert await steps(checkpointer, run_id) == [3, 5, 6, 9, 11, 12, 14, 19, 20]
    await checkpointer.write(run[9])
    with pytest.raises(CheckpointError) as caught:
        await checkpointer.write(run[10])
    assert caught.value.reason == "pruned"
    with pytest.raises(CheckpointConflictError):
        await checkpointer.write(following(run[8]))
    last = following(run[-1], status="done", frontier=())
    await checkpointer.write(last)
    await checkpointer.prune(older_than=LATER)
    assert await steps(checkpointer, run_id) == [21]


async def test_a_run_that_moved_on_is_left_alone(
    checkpointer: PostgresCheckpointer, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = chain(10)
    await checkpointer.write_many(run)
    moved = following(run[-1])
    async with opened() as other:
        written: list[asyncio.Task[None]] = []

        def needed_and_moved(latest: Checkpoint) -> tuple[StepRange, ...]:
            written.append(asyncio.create_task(other.write(moved)))
            return needed_steps(latest)

        monkeypatch.setattr("stargraph.checkpoint.postgres._prune.needed_steps", needed_and_moved)
        fetch = checkpointer._pruner._fetch

        async def after_the_write(sql: str, *parameters: object) -> Any:
            if written:
                await written[0]
            return await fetch(sql, *parameters)

        monkeypatch.setattr(checkpointer._pruner, "_fetch", after_the_write)
        report = await checkpointer.prune(older_than=LATER, statuses=["running"])
    assert report == PruneReport(runs=0, checkpoints=0, dry_run=False)
    assert await steps(checkpointer, run[0].run_id) == list(range(11))


async def test_a_prune_beside_writers_harms_none(checkpointer: PostgresCheckpointer, opened: Opener) -> None:
    runs = [chain(60) for _ in range(4)]

    async def write(run: list[Checkpoint]) -> None:
        for checkpoint in run:
            await checkpointer.write(checkpoint)

    async with opened() as other:
        writing = [asyncio.create_task(write(run)) for run in runs]
        while not all(task.done() for task in writing):
            await other.prune(older_than=LATER, statuses=["running"], keep_last=2)
        await asyncio.gather(*writing)
        await other.prune(older_than=LATER, statuses=["running"], keep_last=2)
    for run in runs:
        assert await steps(checkpointer, run[0].run_id) == [58, 59]
        assert await checkpointer.read_latest(run[0].run_id) == run[59]


async def test_only_runs_older_than_the_instant_are_pruned(checkpointer: PostgresCheckpointer) -> None:
    run = await done_run(checkpointer, 4)
    at = run[-1].timestamp
    assert (await checkpointer.prune(older_than=at)).runs == 0
    assert (await checkpointer.prune(older_than=START)).runs == 0
    assert (await checkpointer.prune(older_than=at + timedelta(microseconds=1))).runs == 1
