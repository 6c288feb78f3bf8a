"""Appends that share a statement stay apart in what becomes of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from support.postgres_locks import waits_for_a_lock
from support.postgres_records import chain, following, genesis

from stargraph.checkpoint.codec import Codec
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._append import encode_appends
from stargraph.checkpoint.postgres._connection import PreparedConnection
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError
from stargraph.runtime.dispatch import read_steps

Opener = Callable[..., PostgresCheckpointer]
SLOW = pytest.mark.slow
SERVERS = ["server", pytest.param("debian_server", marks=SLOW), pytest.param("pooler", marks=SLOW)]


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is sent."""
    sent: list[str] = []
    fetch = PreparedConnection.fetch

    async def watched(self: PreparedConnection, sql: str, *arguments: object, timeout: float | None = None) -> Any:
        sent.append(sql)
        return await fetch(self, sql, *arguments, timeout=timeout)

    monkeypatch.setattr(PreparedConnection, "fetch", watched)
    return sent


async def write_all(checkpointer: PostgresCheckpointer, checkpoints: list[Checkpoint]) -> list[BaseException | None]:
    return await asyncio.gather(*map(checkpointer.write, checkpoints), return_exceptions=True)


async def test_one_write_is_one_statement(checkpointer: PostgresCheckpointer, statements: list[str]) -> None:
    run = chain(3)
    for checkpoint in run:
        await checkpointer.write(checkpoint)
    assert len(statements) == 3


async def test_concurrent_writes_share_statements(checkpointer: PostgresCheckpointer, statements: list[str]) -> None:
    runs = [chain(3) for _ in range(60)]
    for step in range(3):
        assert await write_all(checkpointer, [run[step] for run in runs]) == [None] * 60
    assert len(statements) <= 9
    for run in runs:
        assert [c async for c in checkpointer.history(run[0].run_id)] == run


async def test_a_crowd_stays_together(checkpointer: PostgresCheckpointer, statements: list[str]) -> None:
    ends: list[int] = []

    async def write(run: list[Checkpoint]) -> None:
        for checkpoint in run:
            await checkpointer.write(checkpoint)
        ends.append(len(statements))

    await asyncio.gather(*(write(chain(10)) for _ in range(60)))
    # Those whose first write took long are late by some steps, and at last alone: the crowd has gone then.
    alone = [sql for sql in statements[: min(ends)] if "unnest" not in sql]
    assert len(alone) <= 4  # the first ones, which know of no others
    # In two halves, of which one is built while the other one is stored; they drift apart a little.
    assert len(statements) <= 40


async def test_without_group_commit_each_write_is_alone(opened: Opener, statements: list[str]) -> None:
    async with opened(group_commit=False) as checkpointer:
        runs = [chain(2) for _ in range(10)]
        assert await write_all(checkpointer, [run[0] for run in runs]) == [None] * 10
        assert len(statements) == 10
        await checkpointer.write_many([following(runs[0][0])])
        assert not any("unnest" in sql for sql in statements)


async def test_a_refusal_fails_only_its_own_caller(checkpointer: PostgresCheckpointer) -> None:
    runs = [chain(3) for _ in range(20)]
    for run in runs:
        await checkpointer.write_many(run[:2])
    await checkpointer.delete_run(runs[4][0].run_id)
    ended = following(runs[5][1], status="done")
    await checkpointer.write(ended)
    batch = [run[2] for run in runs]
    batch[1] = following(runs[1][0])
    batch[2] = runs[2][1]
    batch[3] = following(following(runs[3][0]))
    batch[5] = following(ended)
    batch[6] = following(runs[6][2])
    batch.append(chain(2)[1])
    outcomes = await write_all(checkpointer, batch)
    refused = {n: o.reason for n, o in enumerate(outcomes) if isinstance(o, CheckpointError)}
    assert refused == {
        1: "step-taken",
        3: "wrong-predecessor",
        4: "run-deleted",
        5: "run-ended",
        6: "step-gap",
        20: "step-gap",
    }
    assert [o for n, o in enumerate(outcomes) if n not in refused] == [None] * 15
    for number in (0, 7, 19):
        assert await checkpointer.read_latest(runs[number][0].run_id) == runs[number][2]


async def test_batches_in_opposite_order_never_block_each_other(opened: Opener) -> None:
    handles = [opened(), opened(), opened()]
    for handle in handles:
        await handle.bootstrap()
    run_ids = [f"shared-{number:02}" for number in range(30)]
    tails: dict[str, Checkpoint] = {}
    for round_number in range(12):
        rivals = [
            {run_id: following(tails[run_id]) if round_number else genesis(run_id) for run_id in run_ids}
            for _ in handles
        ]
        orders = [run_ids, run_ids[::-1], run_ids[::2] + run_ids[1::2]]
        outcomes = await asyncio.gather(
            *(
                write_all(handle, [rival[run_id] for run_id in order])
                for handle, rival, order in zip(handles, rivals, orders, strict=True)
            )
        )
        winners: dict[str, list[Checkpoint]] = {run_id: [] for run_id in run_ids}
        for rival, order, outcome in zip(rivals, orders, outcomes, strict=True):
            for run_id, refused in zip(order, outcome, strict=True):
                assert refused is None or isinstance(refused, CheckpointConflictError), refused
                if refused is None:
                    winners[run_id].append(rival[run_id])
        assert all(len(won) == 1 for won in winners.values())
        tails = {run_id: won[0] for run_id, won in winners.items()}


async def test_a_held_run_does_not_hold_up_the_others(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, dsn: str, schema: str, statements: list[str]
) -> None:
    runs = [chain(2) for _ in range(10)]
    assert await write_all(checkpointer, [run[0] for run in runs]) == [None] * 10
    holder = await asyncpg.connect(dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(f'SELECT FROM "{schema}".runs WHERE run_id = $1 FOR UPDATE', runs[3][0].run_id)
    writes = [asyncio.create_task(checkpointer.write(run[1])) for run in runs]
    done, waiting = await asyncio.wait([w for n, w in enumerate(writes) if n != 3], timeout=60)
    assert not waiting
    assert [task.exception() for task in done] == [None] * 9
    await waits_for_a_lock(sql, schema)
    assert not writes[3].done()
    assert len(statements) < 12
    await transaction.rollback()
    await writes[3]
    assert await checkpointer.read_latest(runs[3][0].run_id) == runs[3][1]
    await holder.close()


async def test_a_batch_of_steps_waits_for_whoever_holds_the_run(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, dsn: str, schema: str, statements: list[str]
) -> None:
    run = chain(5)
    await checkpointer.write(run[0])
    holder = await asyncpg.connect(dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(f'SELECT FROM "{schema}".runs FOR UPDATE')
    write = asyncio.create_task(checkpointer.write_many(run[1:]))
    await waits_for_a_lock(sql, schema)
    assert not write.done()
    assert len(statements) < 6
    await transaction.rollback()
    await write
    assert [c async for c in checkpointer.history(run[0].run_id)] == run
    await holder.close()


async def test_an_error_of_one_row_fails_only_its_own_caller(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    await sql.execute(f'ALTER TABLE "{schema}".runs ADD CHECK (graph_id <> \'"forbidden"\')')
    good = [genesis() for _ in range(8)]
    outcomes = await write_all(checkpointer, [*good[:4], genesis(graph_id="forbidden"), *good[4:]])
    assert [o for n, o in enumerate(outcomes) if n != 4] == [None] * 8
    assert isinstance(outcomes[4], StoreUnavailableError)
    assert len(await checkpointer.list_runs()) == 8


async def test_the_loser_of_an_open_transaction_is_given_the_winner(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, dsn: str, schema: str
) -> None:
    # The winner's commit falls between the loser's snapshot and its lock.
    run = chain(1)
    await checkpointer.write(run[0])
    winner, loser = following(run[0]), following(run[0])
    holder = await asyncpg.connect(dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(
        f'UPDATE "{schema}".runs SET last_step = 1, digest = $2 WHERE run_id = $1',
        winner.run_id,
        bytes.fromhex(winner.digest),
    )
    await holder.execute(
        f'INSERT INTO "{schema}".checkpoints (run_id, step, digest, record) VALUES ($1, 1, $2, $3)',
        winner.run_id,
        bytes.fromhex(winner.digest),
        b"",
    )
    write = asyncio.create_task(checkpointer.write(loser))
    await waits_for_a_lock(sql, schema)
    assert not write.done()
    await transaction.commit()
    with pytest.raises(CheckpointConflictError) as caught:
        await write
    assert caught.value.reason == "step-taken"
    assert winner.digest[:12] in str(caught.value)
    await holder.close()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_a_stricter_default_isolation_keeps_the_rules(
    sql: asyncpg.Connection, schema: str, dsn: str, opened: Opener, isolation: str
) -> None:
    role = f"strict_{schema}"
    await sql.execute(
        f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET default_transaction_isolation = '{isolation}';"
    )
    strict = dsn.replace("//postgres@", f"//{role}@", 1)
    handles = [opened(dsn=strict) for _ in range(4)]
    try:
        await asyncio.gather(*(handle.bootstrap() for handle in handles))
        tail = genesis()
        await handles[0].write(tail)
        for _ in range(8):
            rivals = [following(tail) for _ in handles]
            outcomes = await asyncio.gather(
                *(h.write(r) for h, r in zip(handles, rivals, strict=True)), return_exceptions=True
            )
            assert outcomes.count(None) == 1
            assert all(o is None or isinstance(o, CheckpointConflictError) for o in outcomes)
            tail = rivals[outcomes.index(None)]
    finally:
        for handle in handles:
            await handle.close()
        await sql.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role};")


async def test_a_writer_that_leaves_does_not_take_the_batch_with_it(checkpointer: PostgresCheckpointer) -> None:
    runs = [chain(2) for _ in range(30)]
    assert await write_all(checkpointer, [run[0] for run in runs]) == [None] * 30
    writes = [asyncio.create_task(checkpointer.write(run[1])) for run in runs]
    await asyncio.sleep(0)
    for write in writes[::3]:
        write.cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(o, asyncio.CancelledError) for o in outcomes[::3])
    assert [o for n, o in enumerate(outcomes) if n % 3] == [None] * 20
    for run in runs:
        await checkpointer.write(run[1])
        assert await checkpointer.read_latest(run[0].run_id) == run[1]


def test_no_statement_is_too_large() -> None:
    run = [genesis(state={"n": 0, "blob": ""})]
    while len(run) < 7:
        run.append(following(run[-1], changes={"blob": secrets.token_hex(4_000_000)}))
    pieces = list(encode_appends(run, Codec()))
    assert [len(piece) for piece in pieces] == [4, 3]
    assert [checkpoint for piece in pieces for checkpoint in piece.checkpoints] == run
    assert [len(piece) for piece in encode_appends(run, Codec(), most=1)] == [1] * 7


async def test_many_steps_are_read_by_few_statements(checkpointer: PostgresCheckpointer, statements: list[str]) -> None:
    run = chain(1_500)
    await checkpointer.write_many(run)
    wanted = [step for step in range(1_500) if step % 3]
    statements.clear()
    read = [checkpoint async for checkpoint in read_steps(checkpointer, run[0].run_id, wanted)]
    assert read == [run[step] for step in wanted]
    assert len(statements) <= 7
    statements.clear()
    assert [c async for c in checkpointer.history(run[0].run_id, from_step=1_490)] == run[1_490:]
    assert len(statements) == 1
