"""What the contract says of writing and reading one store."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.records import chain, executor_id, first, following, noise

from stargraph.checkpoint.codec import Record
from stargraph.checkpoint.protocol import (
    Checkpoint,
    RunSummary,
)
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.checkpoint.sqlite._schema import MAX_STEP
from stargraph.errors import CheckpointCorruptedError, CheckpointError


async def test_what_is_unknown_is_none(store: SQLiteCheckpointer) -> None:
    await store.write(first())
    assert await store.read_latest("run-2") is None
    assert await store.read_at_step("run-1", 2**80) is None
    assert await store.read_latest("") is None
    assert await store.read_latest("no\0such \ud800 id") is None
    assert [checkpoint async for checkpoint in store.history("run-2")] == []
    assert await store.delete_run("run-2") is False


async def test_values_come_back_as_they_were(store: SQLiteCheckpointer) -> None:
    state = {"nul": "a\0b", "": 0, "astral": "\U0001f600", "é": "e\u0301", "numbers": [1, 1.0, True, -0.0, 2**63 - 1]}
    checkpoint = first(state=state, graph_id="graph\0id")
    await store.write(checkpoint)
    found = await store.read_latest("run-1")
    assert found is not None
    assert json.dumps(found.state) == json.dumps(state)
    assert (await store.search(graph_id="graph\0id")).items == (RunSummary.from_checkpoint(checkpoint),)


async def test_many_writers_of_one_handle_each_get_their_own_outcome(store: SQLiteCheckpointer) -> None:
    good = [first(f"good-{number}") for number in range(40)]
    bad = [chain(f"bad-{number}", 2)[1] for number in range(40)]
    outcomes = await asyncio.gather(
        *(store.write(checkpoint) for pair in zip(good, bad, strict=True) for checkpoint in pair),
        return_exceptions=True,
    )
    assert outcomes[::2] == [None] * 40
    assert {getattr(outcome, "reason", None) for outcome in outcomes[1::2]} == {"step-gap"}
    assert len(await store.list_runs()) == 40


async def test_writes_of_one_handle_keep_their_order(store: SQLiteCheckpointer) -> None:
    checkpoints = chain(length=60)
    await asyncio.gather(*map(store.write, checkpoints))
    assert await store.read_latest("run-1") == checkpoints[-1]


async def test_a_large_state_does_not_hold_the_loop_and_keeps_the_order(store: SQLiteCheckpointer) -> None:
    checkpoints = [first(state={"pad": [{"text": noise(40)} for _ in range(60_000)], "count": 0})]
    while len(checkpoints) < 4:
        checkpoints.append(following(checkpoints[-1]))
    checkpoints.append(following(checkpoints[-1], changes={"pad": []}))  # small: it would be quicker
    encoded_by: list[str] = []
    encode = store._codec.encode

    def recorded(checkpoint: Checkpoint, **options: Any) -> Record:
        encoded_by.append(threading.current_thread().name)
        return encode(checkpoint, **options)

    store._codec.encode = recorded  # type: ignore[method-assign]
    await asyncio.gather(*map(store.write, checkpoints))
    assert [found.step async for found in store.history("run-1")] == [0, 1, 2, 3, 4]
    here = threading.current_thread().name
    assert [name == here for name in encoded_by] == [False] * 4 + [True]
    assert store._encoder._turns == {}


async def test_write_many_splits_what_is_large(store: SQLiteCheckpointer) -> None:
    checkpoints = [first(state={"pad": "x" * 3_000_000})]
    while len(checkpoints) < 7:
        checkpoints.append(following(checkpoints[-1]))
    await store.write_many(checkpoints)
    assert [found async for found in store.history("run-1")] == checkpoints


async def test_history_goes_both_ways_and_between_steps(store: SQLiteCheckpointer) -> None:
    checkpoints = chain(length=200)
    await store.write_many(checkpoints)

    async def steps(**between: int | bool | None) -> list[int]:
        return [checkpoint.step async for checkpoint in store.history("run-1", **between)]  # type: ignore[arg-type]

    assert await steps() == list(range(200))
    assert await steps(newest_first=True) == list(range(199, -1, -1))
    assert await steps(from_step=63, to_step=130) == list(range(63, 131))
    assert await steps(from_step=63, to_step=130, newest_first=True) == list(range(130, 62, -1))
    assert await steps(from_step=-5, to_step=0) == [0]
    assert await steps(from_step=150, to_step=149) == []
    assert await steps(from_step=2**70) == []
    assert await steps(to_step=-1) == []


async def test_history_holds_nothing_open_meanwhile(store: SQLiteCheckpointer, path: Path) -> None:
    checkpoints = chain(length=100)
    await store.write_many(checkpoints)
    history = store.history("run-1")
    await anext(history)
    with sqlite3.connect(path, timeout=0) as other:
        # A read transaction that is still open would keep TRUNCATE from finishing.
        busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
    other.close()
    await store.write(following(checkpoints[-1]))
    assert len([checkpoint async for checkpoint in history]) == 100


async def test_times_before_1970_keep_their_microseconds(store: SQLiteCheckpointer) -> None:
    moments = [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
    for moment in moments:
        await store.write(first(f"run-{moment.year}", started_at=moment))
    assert [run.started_at for run in await store.list_runs()] == moments[::-1]
    assert [run.started_at for run in await store.list_runs(since=moments[1])] == moments[1:]


@pytest.mark.parametrize("handles", [1, 2])
async def test_a_burst_of_rivals_leaves_one_chain(path: Path, handles: int) -> None:
    async with SQLiteCheckpointer(path) as one, SQLiteCheckpointer(path) as two:
        stores = [one, two][:handles]
        tail = first()
        await one.write(tail)
        for _ in range(15):
            rivals = [following(tail, executor_id=executor_id()) for _ in range(8)]
            outcomes = await asyncio.gather(
                *(stores[number % handles].write(rival) for number, rival in enumerate(rivals)), return_exceptions=True
            )
            assert outcomes.count(None) == 1
            tail = rivals[outcomes.index(None)]
        found = [checkpoint async for checkpoint in one.history("run-1")]
        assert found[-1] == tail
        assert all(after.previous_digest == before.digest for before, after in pairwise(found))


@pytest.mark.parametrize("kind", ["BLOB", "TEXT"])
async def test_an_altered_record_is_reported(store: SQLiteCheckpointer, path: Path, kind: str) -> None:
    checkpoints = chain(length=2)
    await store.write_many(checkpoints)
    with sqlite3.connect(path) as other:
        (record,) = other.execute("SELECT record FROM log WHERE step = 1").fetchone()
        altered = record[:-1] + bytes((record[-1] ^ 1,))
        other.execute(f"UPDATE checkpoints SET record = CAST(? AS {kind}) WHERE record = ?", (altered, record))
        assert other.total_changes == 1
    other.close()
    with pytest.raises(CheckpointCorruptedError):
        await store.read_latest("run-1")
    with pytest.raises(CheckpointCorruptedError):
        [checkpoint async for checkpoint in store.history("run-1")]
    assert await store.read_at_step("run-1", 0) == checkpoints[0]


async def test_an_altered_summary_is_reported(store: SQLiteCheckpointer, path: Path) -> None:
    await store.write(first())
    with sqlite3.connect(path) as other:
        other.execute("UPDATE runs SET summary = '{}'")
    other.close()
    with pytest.raises(CheckpointCorruptedError, match="run-1"):
        await store.list_runs()


async def remove(path: Path, step: int) -> None:
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM checkpoints WHERE id & 1023 = ?", (step,))
        assert other.total_changes == 1
    other.close()


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_lost_tail_is_reported_by_every_read(store: SQLiteCheckpointer, path: Path, newest_first: bool) -> None:
    checkpoints = chain(length=5)
    await store.write_many(checkpoints)
    await remove(path, 4)
    reads = [
        store.read_latest("run-1"),
        store.read_at_step("run-1", 4),
        anext(store.history("run-1", from_step=4, newest_first=newest_first)),
        anext(store.history("run-1", newest_first=True)),
    ]
    for read in reads:
        with pytest.raises(CheckpointCorruptedError, match="step 4") as caught:
            await read
        assert (caught.value.reason, caught.value.run_id, caught.value.step) == ("missing-step", "run-1", 4)
    history = store.history("run-1")
    assert [(await anext(history)).step for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(CheckpointCorruptedError, match="step 4"):
        await anext(history)
    with pytest.raises(CheckpointCorruptedError, match="step 5"):
        await store.write(following(checkpoints[-1]))
    assert await store.read_at_step("run-1", 3) == checkpoints[3]
    assert await store.read_at_step("run-1", 5) is None
    assert [found async for found in store.history("run-1", to_step=3)] == checkpoints[:4]
    assert (await store.list_runs())[0].last_step == 4
    await store.write(first("run-2"))


async def test_a_lost_run_is_reported(store: SQLiteCheckpointer, path: Path) -> None:
    await store.write(first())
    await remove(path, 0)
    with pytest.raises(CheckpointCorruptedError):
        await store.read_latest("run-1")
    with pytest.raises(CheckpointCorruptedError):
        [checkpoint async for checkpoint in store.history("run-1")]


async def test_another_record_in_the_place_of_the_tail_is_reported(store: SQLiteCheckpointer, path: Path) -> None:
    checkpoints = chain(length=3)
    await store.write_many(checkpoints)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE checkpoints SET digest = zeroblob(32) WHERE id & 1023 = 2")
    other.close()
    with pytest.raises(CheckpointCorruptedError):
        await store.read_latest("run-1")
    with pytest.raises(CheckpointError):
        await store.write(following(checkpoints[-1]))


async def test_a_step_that_has_no_room_in_an_id_is_refused(tmp_path: Path) -> None:
    async with SQLiteCheckpointer(tmp_path / "run.sqlite") as store:
        highest = (
            first("r")
            .model_copy(update={"step": MAX_STEP - 1})
            .next(event="completed", changes={}, executor_id="0" * 32, timestamp=datetime.now(UTC))
        )
        await store.start_pruned([highest])
        beyond = highest.next(event="completed", changes={}, executor_id="0" * 32, timestamp=datetime.now(UTC))
        for call in (store.write(beyond), store.write_many([beyond])):
            with pytest.raises(CheckpointError) as refusal:
                await call
            assert refusal.value.reason == "invalid-checkpoint"
        assert await store.read_latest("r") == highest
