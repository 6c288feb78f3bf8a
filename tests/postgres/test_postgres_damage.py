"""Tables that somebody edited, or that a restore left incomplete: what is gone is never taken for what never was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from support.postgres_records import START, chain, following, genesis

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, QueueEntry, StepRange, Task
from stargraph.errors import CheckpointCorruptedError

Opener = Callable[..., PostgresCheckpointer]
LATER = START.replace(year=2030)


async def corruption(read: Awaitable[Any]) -> CheckpointCorruptedError:
    with pytest.raises(CheckpointCorruptedError) as caught:
        await read
    assert caught.value.hint
    return caught.value


async def steps(history: AsyncIterator[Checkpoint]) -> list[int]:
    return [checkpoint.step async for checkpoint in history]


@pytest.mark.parametrize("gone", ["step >= 4", "step = 4", "step >= 0"])
async def test_a_tail_that_is_gone_is_no_unknown_run(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, opened: Opener, gone: str
) -> None:
    run = chain(5)
    run_id = run[0].run_id
    await checkpointer.write_many(run)
    await sql.execute(f'DELETE FROM "{schema}".checkpoints WHERE {gone}')
    async with opened(read_only=True) as other:
        for store in (checkpointer, other):
            error = await corruption(store.read_latest(run_id))
            assert (error.reason, error.run_id, error.step) == ("missing-step", run_id, 4)
            await corruption(store.read_at_step(run_id, 4))
            await corruption(steps(store.history(run_id)))
            await corruption(steps(store.history(run_id, newest_first=True)))
            await corruption(steps(store.history(run_id, from_step=4)))
            assert await store.read_at_step(run_id, 5) is None
            assert await steps(store.history(run_id, from_step=5)) == []
    if gone != "step >= 0":
        assert await steps(checkpointer.history(run_id, to_step=3)) == [0, 1, 2, 3]
        assert await checkpointer.read_at_step(run_id, 3) == run[3]


@pytest.mark.parametrize("gone", [0, 2, 300])
async def test_a_gap_is_found_wherever_it_is(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, gone: int
) -> None:
    run = [genesis(state={"n": 0})]
    while len(run) < 600:
        run.append(following(run[-1], state={"n": len(run)}, changes=None))
    await checkpointer.write_many(run)
    # Each stands alone, so that only the gap is damage.
    await sql.executemany(
        f'UPDATE "{schema}".checkpoints SET base = NULL, record = $2 WHERE step = $1',
        [(checkpoint.step, checkpointer._codec.encode_alone(checkpoint).data) for checkpoint in run],
    )
    await sql.execute(f'DELETE FROM "{schema}".checkpoints WHERE step = $1', gone)
    run_id = run[0].run_id
    for newest_first in (False, True):
        error = await corruption(steps(checkpointer.history(run_id, newest_first=newest_first)))
        assert (error.reason, error.step) == ("missing-step", gone)
    await corruption(checkpointer.read_at_step(run_id, gone))
    assert await steps(checkpointer.history(run_id, from_step=gone + 1)) == list(range(gone + 1, 600))
    assert await checkpointer.read_latest(run_id) == run[-1]


async def test_what_was_pruned_is_no_gap(checkpointer: PostgresCheckpointer) -> None:
    first = genesis(state={"n": 0})
    needs = Task(id="t", node="n", since_step=3, calls=(StepRange(first=5, last=6),))
    run = [first]
    while len(run) < 700:
        run.append(following(run[-1], frontier=(needs,)))
    await checkpointer.write_many(run)
    await checkpointer.prune(older_than=LATER, statuses=["running"], keep_last=300)
    kept = [3, 5, 6, *range(400, 700)]
    run_id = first.run_id
    assert await steps(checkpointer.history(run_id)) == kept
    assert await steps(checkpointer.history(run_id, newest_first=True)) == kept[::-1]
    assert await steps(checkpointer.history(run_id, to_step=399)) == [3, 5, 6]
    assert await steps(checkpointer.history(run_id, from_step=7, to_step=399)) == []
    assert await checkpointer.read_at_step(run_id, 4) is None


async def test_more_kept_steps_than_a_page_holds_are_no_gap(checkpointer: PostgresCheckpointer) -> None:
    needs = Task(id="t", node="n", since_step=0, calls=(StepRange(first=2, last=500),))
    run = [genesis(state={"n": 0})]
    while len(run) < 700:
        run.append(following(run[-1], frontier=(needs,)))
    await checkpointer.write_many(run)
    await checkpointer.prune(older_than=LATER, statuses=["running"], keep_last=3)
    kept = [0, *range(2, 501), 697, 698, 699]
    assert await steps(checkpointer.history(run[0].run_id)) == kept
    assert await steps(checkpointer.history(run[0].run_id, newest_first=True)) == kept[::-1]


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_step_that_does_not_follow_the_one_before_is_found(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, newest_first: bool
) -> None:
    run = chain(4)
    other = [run[0], following(run[0])]
    await checkpointer.write_many(run)
    for step, checkpoint in ((1, other[1]), (2, run[2]), (3, run[3])):
        await sql.execute(
            f'UPDATE "{schema}".checkpoints SET base = NULL, record = $2 WHERE step = $1',
            step,
            checkpointer._codec.encode_alone(checkpoint).data,
        )
    error = await corruption(steps(checkpointer.history(run[0].run_id, newest_first=newest_first)))
    assert (error.reason, error.step) == ("corrupted-store", 2)


async def test_a_deleted_run_leaves_nothing_to_read_in_any_table(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    secret = "customer 4711"
    run = [
        genesis(
            "the-run",
            state={"who": secret},
            graph_id=f"graph of {secret}",
            metadata={"user": secret, secret: "tag"},
            parent_run_id="the-parent",
            origin="fork",
            queue=QueueEntry(name="default", concurrency_key=f"key of {secret}"),
        )
    ]
    run.append(following(run[0], changes={"note": secret * 500}))
    other = chain(2, state={"who": "somebody else"})
    for checkpoints in (run, other):
        await checkpointer.write_many(checkpoints)
    assert await checkpointer.delete_run("the-run")
    tables = [
        row[0] for row in await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema)
    ]
    queues = ["handed_out", "limits", "processes", "queued", "schedules"]
    assert tables == sorted(["checkpoints", "keys", "runs", "stargraph_version", *queues])
    for table in tables:
        for row in await sql.fetch(f'SELECT * FROM "{schema}"."{table}"'):
            kept = " ".join(repr(bytes(v)) if isinstance(v, bytes) else str(v) for v in row.values())
            for trace in (secret, "4711", "graph of", "the-parent", run[0].digest[:16], run[1].digest[:16]):
                assert trace not in kept
                assert trace.encode().hex() not in kept
    tombstone = await sql.fetchrow(f"SELECT * FROM \"{schema}\".runs WHERE run_id = 'the-run'")
    named = {name for name, value in tombstone.items() if value not in (None, [], False, 0)}
    assert named == {"run_id", "last_step", "digest", "status", "started_at", "updated_at", "updated_minute"}
    assert tombstone["digest"].hex() not in (run[0].digest, run[1].digest)
    assert tombstone["started_at"] > START
    assert await sql.fetchval(f"SELECT count(*) FROM \"{schema}\".checkpoints WHERE run_id = 'the-run'") == 0
