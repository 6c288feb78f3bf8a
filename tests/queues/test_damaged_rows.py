"""What a store holds for workers is named if it is damaged, in the words of the contract and not of a library."""

from __future__ import annotations

import contextlib
import io
import logging
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.places import Place, PostgresPlace, S3Place, SQLitePlace
from support.postgres_target import connection_to
from support.workers import graph, worker

from stargraph.checkpoint.driver import model_from_json, presence_from_json
from stargraph.checkpoint.protocol import Presence, ProcessInfo, QueueLimits, RunQueue, Schedule, Schedules
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointCorruptedError
from stargraph.transfer import export_runs, import_runs

DAMAGE = b'{"damaged": true}'
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


async def damage(place: Place, table: str, column: str) -> None:
    """Write something else in the place of what workers share."""
    if isinstance(place, SQLitePlace):
        with contextlib.closing(sqlite3.connect(place.path)) as database, database:
            database.execute(f"UPDATE {table} SET {column} = ?", (DAMAGE.decode(),))
    elif isinstance(place, PostgresPlace):
        async with connection_to(place.url) as (connection, schema):
            damaged = DAMAGE.decode() if table == "limits" else DAMAGE
            await connection.execute(f"UPDATE {schema}.{table} SET {column} = $1", damaged)
    else:
        assert isinstance(place, S3Place)
        key = place._keys.schedule("nightly") if table == "schedules" else place._keys.process("f" * 16)
        place._client.put_object(Bucket=place._bucket, Key=key, Body=DAMAGE)


def nightly() -> Schedule:
    return Schedule(id="nightly", cron="0 3 * * *", graph_id="g", since=NOW)


async def test_a_damaged_schedule_is_named(place: Place) -> None:
    async with place.open() as store:
        assert isinstance(store, Schedules)
        await store.put_schedule(nightly())
        await damage(place, "schedules", "schedule")
        with pytest.raises(CheckpointCorruptedError, match="schedule 'nightly' is not what was written") as caught:
            await store.schedules()
        assert caught.value.reason == "corrupted-record"
        await store.put_schedule(nightly())
        assert await store.schedules() == [nightly()]


async def test_damaged_limits_of_a_queue_are_named(place: Place) -> None:
    if isinstance(place, S3Place):
        return  # it has no limits
    async with place.open() as store:
        assert isinstance(store, RunQueue)
        await store.set_limits("default", QueueLimits(concurrency=1))
        await damage(place, "limits", "limits")
        with pytest.raises(CheckpointCorruptedError, match="the limits of queue 'default'") as caught:
            await store.claimable("f" * 16, ("default",))
        assert caught.value.reason == "corrupted-record"


async def test_a_damaged_process_raises_no_error_of_a_library(place: Place) -> None:
    async with place.open() as store:
        assert isinstance(store, Presence)
        await store.beat(ProcessInfo.current().model_copy(update={"id": "f" * 16}))
        await damage(place, "processes", "process")
        with contextlib.suppress(CheckpointCorruptedError):
            assert await store.processes() == []


async def test_a_damaged_entry_of_a_run_is_named_and_goes_with_the_run(file: SQLitePlace, tmp_path: Path) -> None:
    async with SQLiteCheckpointer(file.path) as store, SQLiteCheckpointer(tmp_path / "other.sqlite") as other:
        for run_id in ("kept", "moved"):
            await graph.enqueue(store, {"n": 1}, run_id=run_id)
        await file.edit_summary("moved", '"moved"', '"other"')
        with pytest.raises(CheckpointCorruptedError, match="run 'moved': the stored summary"):
            await worker(store).run()
        with io.BytesIO() as stream:
            await export_runs(store, stream, ["moved"])
            stream.seek(0)
            await import_runs(other, stream)
        assert await store.delete_run("moved")
        for each, run_id in ((store, "kept"), (other, "moved")):
            await worker(each).run()
            latest = await each.read_latest(run_id)
            assert latest is not None
            assert latest.status == "done"


@pytest.mark.parametrize("text", [b"x", b"[]", b'{"id": 1}'])
def test_text_that_is_no_model_is_damage(text: bytes) -> None:
    with pytest.raises(CheckpointCorruptedError, match="a thing"):
        model_from_json(Schedule, text, "a thing")
    with pytest.raises(CheckpointCorruptedError, match="a process"):
        presence_from_json(text, first_seen=NOW, silent_seconds=0.0)


async def test_a_worker_executes_runs_beside_a_damaged_schedule(
    file: SQLitePlace, caplog: pytest.LogCaptureFixture
) -> None:
    async with SQLiteCheckpointer(file.path) as store:
        await graph.enqueue(store, {"n": 1}, run_id="r")
        await store.put_schedule(nightly())
        await damage(file, "schedules", "schedule")
        at_work = worker(store)
        for _ in range(3):
            at_work._look_at_schedules = 0.0
            await at_work._enqueue_due(store)
        await at_work.run()
        latest = await store.read_latest("r")
    assert latest is not None
    assert latest.status == "done"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.partition(":")[0] for error in errors] == ["no run of a schedule is enqueued"]
