"""The contract's rules, on one handle and on several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.postgres_records import chain, following, genesis, new_id

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import (
    Checkpoint,
    ErrorInfo,
    RunSummary,
)
from stargraph.errors import CheckpointConflictError, CheckpointError

Opener = Callable[..., PostgresCheckpointer]
SERVERS = ["server", "debian_server", "pooler"]


@pytest.fixture(params=["grouped", "one by one"])
async def checkpointer(request: pytest.FixtureRequest, opened: Opener) -> PostgresCheckpointer:
    handle = opened(group_commit=request.param == "grouped")
    await handle.bootstrap()
    return handle


async def refusal(checkpointer: PostgresCheckpointer, checkpoint: Checkpoint) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        await checkpointer.write(checkpoint)
    return caught.value


async def steps_of(checkpointer: PostgresCheckpointer, run_id: str) -> list[Checkpoint]:
    return [checkpoint async for checkpoint in checkpointer.history(run_id)]


async def test_what_is_unknown_reads_as_none(checkpointer: PostgresCheckpointer) -> None:
    run = chain(1)
    await checkpointer.write(run[0])
    for run_id in (new_id(), "", "a\0b", "x" * 5000):
        assert await checkpointer.read_latest(run_id) is None
        assert await checkpointer.read_at_step(run_id, 0) is None
        assert await steps_of(checkpointer, run_id) == []
        assert await checkpointer.delete_run(run_id) is False
    for step in (-1, 1, 2**63, -(2**70)):
        assert await checkpointer.read_at_step(run[0].run_id, step) is None


async def test_a_checkpoint_changed_after_it_was_built_is_refused(checkpointer: PostgresCheckpointer) -> None:
    altered = genesis().model_copy(update={"status": "done"})
    unvalidated: list[dict[str, Any]] = [{}, {"run_id": ["a"], "step": 0}]
    for invalid in (altered, *(Checkpoint.model_construct(**fields) for fields in unvalidated)):
        assert (await refusal(checkpointer, invalid)).reason == "invalid-checkpoint"
    assert await checkpointer.list_runs() == []


async def test_the_summary_is_that_of_the_latest_checkpoint(checkpointer: PostgresCheckpointer) -> None:
    first = genesis(
        metadata={"team": "red\0", "ünï": "😀"},
        graph_id="nul\0 and 😀",
        parent_run_id="parent",
        parent_step=3,
        origin="fork",
    )
    await checkpointer.write(first)
    assert await checkpointer.list_runs() == [RunSummary.from_checkpoint(first)]
    failed = following(
        first, status="failed", error=ErrorInfo(type="E", message="m\0😀", node="n", traceback="t" * 9000)
    )
    await checkpointer.write(failed)
    assert await checkpointer.list_runs() == [RunSummary.from_checkpoint(failed)]
    resumed = following(failed, status="running")
    await checkpointer.write(resumed)
    (summary,) = await checkpointer.list_runs()
    assert summary == RunSummary.from_checkpoint(resumed)
    assert summary.started_at.utcoffset() == timedelta(0)


async def test_writers_of_one_step_get_one_winner(opened: Opener) -> None:
    handles = [opened(group_commit=number % 2 == 0) for number in range(6)]
    await asyncio.gather(*(handle.bootstrap() for handle in handles))
    first = genesis()
    await handles[0].write(first)
    tail = first
    for _ in range(15):
        rivals = [following(tail) for _ in handles]
        outcomes = await asyncio.gather(
            *(handle.write(rival) for handle, rival in zip(handles, rivals, strict=True)), return_exceptions=True
        )
        winners = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
        assert len(winners) == 1
        assert sum(isinstance(outcome, CheckpointConflictError) for outcome in outcomes) == len(handles) - 1
        tail = winners[0]
        for handle in handles:
            assert await handle.read_latest(first.run_id) == tail


async def test_writers_of_one_genesis_get_one_winner(opened: Opener) -> None:
    handles = [opened(group_commit=number % 2 == 0) for number in range(6)]
    await asyncio.gather(*(handle.bootstrap() for handle in handles))
    for _ in range(10):
        run_id = new_id()
        rivals = [genesis(run_id) for _ in handles]
        outcomes = await asyncio.gather(
            *(handle.write(rival) for handle, rival in zip(handles, rivals, strict=True)), return_exceptions=True
        )
        winners = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
        assert len(winners) == 1
        assert await handles[0].read_latest(run_id) == winners[0]


async def test_one_handle_keeps_the_order_of_a_run(checkpointer: PostgresCheckpointer) -> None:
    run = chain(40)
    await asyncio.gather(*(checkpointer.write(checkpoint) for checkpoint in run))
    assert await steps_of(checkpointer, run[0].run_id) == run


async def test_large_records_are_stored_and_paged(checkpointer: PostgresCheckpointer) -> None:
    run = [genesis(state={"n": 0, "blob": "x" * 3_000_000})]
    while len(run) < 6:
        run.append(following(run[-1]))
    await checkpointer.write_many(run)
    run_id = run[0].run_id
    assert await steps_of(checkpointer, run_id) == run
    assert [c async for c in checkpointer.history(run_id, newest_first=True)] == run[::-1]
    assert [c.step async for c in checkpointer.history(run_id, from_step=2, to_step=4)] == [2, 3, 4]
    assert [c async for c in checkpointer.history(run_id, from_step=5, to_step=2)] == []


async def test_a_cancelled_write_is_all_or_nothing(checkpointer: PostgresCheckpointer) -> None:
    run = chain(60)
    await checkpointer.write(run[0])
    for number, checkpoint in enumerate(run[1:]):
        task = asyncio.create_task(checkpointer.write(checkpoint))
        await asyncio.sleep(0.0001 * (number % 15))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await checkpointer.write(checkpoint)
        assert await checkpointer.read_latest(checkpoint.run_id) == checkpoint
    assert await steps_of(checkpointer, run[0].run_id) == run


async def test_a_cancelled_read_leaves_the_handle_usable(checkpointer: PostgresCheckpointer) -> None:
    run = chain(3)
    await checkpointer.write_many(run)
    for number in range(40):
        task = asyncio.create_task(checkpointer.read_latest(run[0].run_id))
        await asyncio.sleep(0.0001 * (number % 12))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await checkpointer.read_latest(run[0].run_id) == run[-1]


@pytest.mark.parametrize("many", [1, 12])
async def test_what_a_cancelled_write_did_is_settled_when_it_returns(
    checkpointer: PostgresCheckpointer, opened: Opener, many: int
) -> None:
    async with opened() as other:
        for number in range(30):
            runs = [chain(2) for _ in range(many)]
            tasks = [asyncio.create_task(checkpointer.write_many(run)) for run in runs]
            await asyncio.sleep(0.0002 * number)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            seen = [await other.read_latest(run[0].run_id) for run in runs]
            await asyncio.sleep(0.005)
            assert [await other.read_latest(run[0].run_id) for run in runs] == seen
