"""Steps are stored as what changed in them, and come back whole."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from support.postgres_deadlines import hurried
from support.postgres_locks import waits_for_a_lock
from support.postgres_records import chain, following, genesis
from support.postgres_statements import is_latest, statement

from stargraph.checkpoint.codec import Cipher
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres._connection import PreparedConnection
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointCorruptedError,
    CheckpointError,
    StoreUnavailableError,
)

Opener = Callable[..., PostgresCheckpointer]
LATER = datetime(2030, 1, 1, tzinfo=UTC)
LARGE = secrets.token_hex(20_000)


def growing(length: int, run_id: str | None = None) -> list[Checkpoint]:
    """A run whose state of 40 KB changes a little in each step."""
    run = [genesis(run_id, state={"n": 0, "large": LARGE, "log": []})]
    while len(run) < length:
        log = [*run[-1].state["log"], secrets.token_hex(20)]
        run.append(following(run[-1], changes={"n": len(run), "log": log}))
    return run


async def bases(sql: asyncpg.Connection, schema: str, run_id: str) -> dict[int, int | None]:
    rows = await sql.fetch(f'SELECT step, base FROM "{schema}".checkpoints WHERE run_id = $1', run_id)
    return {row["step"]: row["base"] for row in rows}


async def history(checkpointer: PostgresCheckpointer, run_id: str) -> list[Checkpoint]:
    return [checkpoint async for checkpoint in checkpointer.history(run_id)]


@pytest.mark.parametrize("options", [{}, {"group_commit": False}], ids=["grouped", "one by one"])
async def test_a_step_costs_what_changed_in_it(
    opened: Opener, sql: asyncpg.Connection, schema: str, options: dict[str, Any]
) -> None:
    async with opened(**options) as checkpointer:
        run = growing(120)
        for checkpoint in run[:60]:
            await checkpointer.write(checkpoint)
        await checkpointer.write_many(run[60:])
        size = await sql.fetchval(f'SELECT sum(octet_length(record)) FROM "{schema}".checkpoints')
        assert size < 4 * len(run[-1].state_json())
        assert await history(checkpointer, run[0].run_id) == run
        assert [c.state_json() for c in await history(checkpointer, run[0].run_id)] == [c.state_json() for c in run]
        backwards = [c async for c in checkpointer.history(run[0].run_id, newest_first=True, from_step=7, to_step=99)]
        assert backwards == run[99:6:-1]


async def test_a_step_is_read_by_one_statement_and_few_records(
    checkpointer: PostgresCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = growing(150)
    await checkpointer.write_many(run)
    answers: list[int] = []
    fetch = PreparedConnection.fetch

    async def counted(self: PreparedConnection, sql: str, *arguments: object, timeout: float | None = None) -> Any:
        rows = await fetch(self, sql, *arguments, timeout=timeout)
        answers.append(len(rows))
        return rows

    monkeypatch.setattr(PreparedConnection, "fetch", counted)
    for checkpoint in run:
        assert await checkpointer.read_at_step(checkpoint.run_id, checkpoint.step) == checkpoint
    assert await checkpointer.read_latest(run[0].run_id) == run[-1]
    assert len(answers) == 151
    assert 2 < max(answers) <= 10


@pytest.mark.parametrize("mode", ["generic", "custom"])
async def test_a_step_of_a_long_run_among_short_ones_is_looked_up_by_its_key(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str, mode: str
) -> None:
    await sql.execute(f"""
        INSERT INTO "{schema}".runs (run_id, last_step, digest, status, is_child, started_at, updated_at, tags)
            SELECT 'r' || n, 9, ''::bytea, 'done', false, now(), now(), '{{}}'::text[] FROM generate_series(1, 500) AS n
            UNION ALL SELECT 'long', 19999, ''::bytea, 'done', false, now(), now(), '{{}}'::text[];
        INSERT INTO "{schema}".checkpoints (run_id, step, base, digest, record)
            SELECT 'r' || n, s, nullif(s - 1, -1), ''::bytea, repeat('x', 100)::bytea
            FROM generate_series(1, 500) AS n, generate_series(0, 9) AS s
            UNION ALL
            SELECT 'long', s, CASE WHEN s % 10 > 0 THEN s - 1 END, ''::bytea, repeat('x', 100)::bytea
            FROM generate_series(0, 19999) AS s;
        ANALYZE "{schema}".runs, "{schema}".checkpoints;
        SET plan_cache_mode = force_{mode}_plan;
    """)
    for sent, *parameters in (
        (statement("_CHAIN", schema), "long"),
        (statement("_CHAIN", schema, is_known=is_latest(schema)), "long", b""),
        (statement("_CHAIN", schema, step="$2"), "long", 15_555),
        (statement("_PAGE", schema), "long", 10_003, 2**53, 10**6),
        (statement("_PAGE", schema, order="DESC"), "long", 0, 15_555, 10**6),
        (statement("_ORPHANED", schema), "long", 19_990, [5], [5]),
    ):
        plan = "\n".join(row[0] for row in await sql.fetch(f"EXPLAIN {sent}", *parameters))
        assert "checkpoints_pkey" in plan
        for costly in ("Seq Scan on checkpoints", "Hash Join", "Merge Join"):
            assert costly not in plan, plan


async def test_records_that_lead_in_a_circle_are_an_error_and_no_hang(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = growing(5)
    await checkpointer.write_many(run)
    await sql.execute(f'UPDATE "{schema}".checkpoints SET base = 4 WHERE step = 2')
    for read in (checkpointer.read_latest(run[0].run_id), checkpointer.read_at_step(run[0].run_id, 2)):
        with pytest.raises(CheckpointCorruptedError):
            await read


async def test_a_handle_that_does_not_know_the_run_stores_a_step_alone_until_it_has_read_it(
    checkpointer: PostgresCheckpointer, opened: Opener, sql: asyncpg.Connection, schema: str
) -> None:
    run = growing(6)
    await checkpointer.write_many(run[:3])
    async with opened() as stranger:
        await stranger.write(run[3])
        await stranger.write(run[4])
    async with opened() as reader:
        assert await reader.read_latest(run[0].run_id) == run[4]
        await reader.write(run[5])
    assert await bases(sql, schema, run[0].run_id) == {0: None, 1: 0, 2: 1, 3: None, 4: 3, 5: 4}
    assert await history(checkpointer, run[0].run_id) == run


async def test_nothing_is_built_on_a_step_that_was_not_acknowledged_here(
    checkpointer: PostgresCheckpointer, opened: Opener, sql: asyncpg.Connection, schema: str
) -> None:
    run = growing(8)
    run_id = run[0].run_id
    await checkpointer.write_many(run[:3])
    async with opened() as other:
        await other.read_latest(run_id)
        await other.write(run[3])
        # The other handle has stored it, in a form of its own.
        await checkpointer.write(run[3])
        await checkpointer.write(run[4])
        assert (await bases(sql, schema, run_id))[4] is None
        rival = following(run[4])
        await other.write(rival)
        with pytest.raises(CheckpointConflictError):
            await checkpointer.write(run[5])
        await checkpointer.write(following(rival))
    assert (await bases(sql, schema, run_id))[6] is None
    assert [c.step for c in await history(checkpointer, run_id)] == list(range(7))


async def test_nothing_is_built_on_a_step_that_failed(opened: Opener, sql: asyncpg.Connection, schema: str) -> None:
    checkpointer = opened()
    await checkpointer.bootstrap()
    run = growing(5)
    await checkpointer.write_many(run[:3])
    await sql.execute(f"""
        CREATE FUNCTION "{schema}".fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '57014'; END $$;
        CREATE TRIGGER fail BEFORE UPDATE ON "{schema}".runs EXECUTE FUNCTION "{schema}".fail();
    """)
    with hurried(checkpointer, 2), pytest.raises(StoreUnavailableError):
        await checkpointer.write(run[3])
    await sql.execute(f'DROP TRIGGER fail ON "{schema}".runs')
    other_step = following(run[2])
    await checkpointer.write(other_step)
    await checkpointer.write(following(other_step))
    assert (await bases(sql, schema, run[0].run_id)) == {0: None, 1: 0, 2: 1, 3: 2, 4: 3}
    assert [c.step for c in await history(checkpointer, run[0].run_id)] == list(range(5))


async def test_nothing_is_built_on_history_that_the_database_has_lost(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = growing(7)
    run_id = run[0].run_id
    await checkpointer.write_many(run[:6])
    # What a failover to a replica that lagged behind leaves.
    await sql.execute(f'DELETE FROM "{schema}".checkpoints WHERE step > 2')
    await sql.execute(f'UPDATE "{schema}".runs SET last_step = 2, digest = $1', bytes.fromhex(run[2].digest))
    with pytest.raises(CheckpointError) as caught:
        await checkpointer.write(run[6])
    assert caught.value.reason == "history-lost"
    assert await checkpointer.read_latest(run_id) == run[2]
    resumed = [following(run[2])]
    resumed.append(following(resumed[0]))
    for checkpoint in resumed:
        await checkpointer.write(checkpoint)
    assert await bases(sql, schema, run_id) == {0: None, 1: 0, 2: 1, 3: 2, 4: 3}
    assert await history(checkpointer, run_id) == [*run[:3], *resumed]


@pytest.mark.parametrize("keep_last", [1, 2, 7, 31, 59])
async def test_what_a_prune_keeps_is_decoded_from_what_it_keeps(
    checkpointer: PostgresCheckpointer, opened: Opener, sql: asyncpg.Connection, schema: str, keep_last: int
) -> None:
    run = growing(61)
    run_id = run[0].run_id
    await checkpointer.write_many(run[:60])
    async with opened() as other:
        report = await other.prune(older_than=LATER, statuses=["running"], keep_last=keep_last)
    assert report.checkpoints == 60 - keep_last
    kept = await bases(sql, schema, run_id)
    assert all(base is None or base in kept for base in kept.values())
    assert await history(checkpointer, run_id) == run[60 - keep_last : 60]
    assert [await checkpointer.read_at_step(run_id, step) for step in range(60 - keep_last)] == [None] * (
        60 - keep_last
    )
    # This handle still remembers what the other one has removed.
    await checkpointer.write(run[60])
    assert await history(checkpointer, run_id) == run[60 - keep_last :]


@pytest.mark.parametrize("steps_at_once", [1, 2])
async def test_a_handle_that_remembers_what_is_gone_stores_a_step_alone(
    checkpointer: PostgresCheckpointer, opened: Opener, steps_at_once: int
) -> None:
    run = growing(42)
    run_id = run[0].run_id
    await checkpointer.write_many(run[:40])
    base = checkpointer._codec.encode(run[40]).base_steps[-1]
    assert base < 39, "the test needs a step that is decoded from an earlier one than the last"
    async with opened() as other:
        await other.prune(older_than=LATER, statuses=["running"])
    await checkpointer.write_many(run[40 : 40 + steps_at_once])
    assert await history(checkpointer, run_id) == run[39 : 40 + steps_at_once]


async def test_tables_that_take_nothing_are_an_error_and_no_hang(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, schema: str
) -> None:
    run = chain(2)
    await checkpointer.write(run[0])
    await sql.execute(f"""
        CREATE FUNCTION "{schema}".ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER ignore BEFORE UPDATE ON "{schema}".runs FOR EACH ROW EXECUTE FUNCTION "{schema}".ignore();
    """)
    with pytest.raises(CheckpointCorruptedError) as caught:
        await checkpointer.write(run[1])
    assert caught.value.reason == "corrupted-store"


@pytest.mark.parametrize("writers", [1, 3])
async def test_a_write_that_waits_for_a_prune_is_not_built_on_what_that_removed(
    checkpointer: PostgresCheckpointer, sql: asyncpg.Connection, dsn: str, schema: str, writers: int
) -> None:
    # The statement's snapshot is older than the prune: what it sees of the base is no proof that it is still there.
    run = growing(41)
    run_id = run[0].run_id
    await checkpointer.write_many(run[:40])
    record = checkpointer._codec.encode(run[40])
    base = record.base_steps[-1]
    assert base < 39, "the test needs a step that is decoded from an earlier one than the last"
    pruner = await asyncpg.connect(dsn)
    transaction = pruner.transaction()
    await transaction.start()
    digest = bytes.fromhex(run[39].digest)
    alone = checkpointer._codec.encode_alone(run[39]).data
    assert await pruner.fetch(statement("_REWRITE", schema), run_id, digest, 39, 39, alone)
    await pruner.fetch(statement("_PRUNE", schema), run_id, digest, list(range(39)), 39, 39)
    writes = [asyncio.create_task(checkpointer.write(c)) for c in (run[40], *(genesis() for _ in range(writers - 1)))]
    await waits_for_a_lock(sql, schema)
    assert not writes[0].done()
    await transaction.commit()
    await asyncio.gather(*writes)
    await pruner.close()
    assert await history(checkpointer, run_id) == run[39:]


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_handles_do_every_step_comes_back(opened: Opener, seed: int) -> None:
    chance = random.Random(seed)
    handles = [opened(group_commit=number != 2) for number in range(3)]
    for handle in handles:
        await handle.bootstrap()
    runs = [growing(90) for _ in range(3)]
    reached = [0, 0, 0]
    floors = [0, 0, 0]
    while min(reached) < 80:
        which, handle = chance.randrange(3), chance.choice(handles)
        run, at = runs[which], reached[which]
        match chance.randrange(8):
            case 0:
                await handle.write_many(run[at : at + 5])
                reached[which] = min(at + 5, 90)
            case 1 if at:
                assert await handle.read_latest(run[0].run_id) == run[at - 1]
            case 2 if at:
                await handle.write(run[at - 1])
            case 3 if at > 10 and chance.random() < 0.3:
                keep = chance.randrange(1, 12)
                await handle.prune(older_than=LATER, statuses=["running"], keep_last=keep)
                floors = [max(floor, length - keep) for floor, length in zip(floors, reached, strict=True)]
            case 4 if at:
                step = chance.randrange(at)
                found = await handle.read_at_step(run[0].run_id, step)
                assert found == (run[step] if step >= floors[which] else None)
            case _ if at < 90:
                await handle.write(run[at])
                reached[which] = at + 1
    for run, length, floor in zip(runs, reached, floors, strict=True):
        for handle in handles:
            assert await history(handle, run[0].run_id) == run[floor:length]


async def test_what_is_encrypted_cannot_be_read_and_keeps_the_rules(
    opened: Opener, sql: asyncpg.Connection, schema: str
) -> None:
    cipher = Cipher({"k1": b"0123456789abcdef0123456789abcdef"})
    run = growing(30)
    run_id = run[0].run_id
    async with opened(encryption=cipher) as first, opened(encryption=cipher) as second, opened() as keyless:
        await first.write_many(run[:20])
        for checkpoint in run[20:]:
            await first.write(checkpoint)
        rows = await sql.fetch(f'SELECT digest, record FROM "{schema}".checkpoints ORDER BY step')
        for row, checkpoint in zip(rows, run, strict=True):
            assert LARGE[:30].encode() not in row["record"]
            assert row["digest"].hex() != checkpoint.digest
        assert await history(second, run_id) == run
        await second.write(run[-1])
        with pytest.raises(CheckpointConflictError):
            await second.write(following(run[-2]))
        await second.write(following(run[-1], status="done"))
        with pytest.raises(CheckpointCorruptedError):
            await keyless.read_latest(run_id)
        assert [summary.run_id for summary in await keyless.list_runs()] == [run_id]
        await second.prune(older_than=LATER, keep_last=7)
        assert [c.step for c in await history(second, run_id)] == list(range(24, 31))


def test_the_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", "k1:0123456789abcdef0123456789abcdef")
    handle = PostgresCheckpointer.from_url("postgresql://h/db")
    assert handle._codec.fingerprint("a" * 64) != "a" * 64
    assert "0123456789abcdef" not in repr(handle)
