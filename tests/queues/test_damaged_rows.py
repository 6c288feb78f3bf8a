"""What a store holds for workers is named if it is damaged, in the words of the contract and not of a library."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.places import Place, PostgresPlace, S3Place, SQLitePlace
from support.postgres_target import connection_to
from support.workers import graph, until, worker

from stargraph.checkpoint.driver import (
    Claim,
    DamagedRun,
    QueueDamage,
    model_from_json,
    presence_from_json,
    readable_summaries,
)
from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.postgres import _queues as postgres_queues
from stargraph.checkpoint.protocol import (
    Checkpointer,
    Presence,
    ProcessInfo,
    QueueLimits,
    RunDeletion,
    RunQueue,
    RunSummary,
    Schedule,
    Schedules,
)
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.checkpoint.sqlite import _queues as sqlite_queues
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError
from stargraph.transfer import export_runs, import_runs
from stargraph.worker._claims import Claims
from stargraph.worker._metrics import WorkerMetrics, prometheus_text
from stargraph.worker._versions import Versions

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
            await store.list_runs()
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


@pytest.mark.parametrize("limits", [None, QueueLimits(concurrency=9, per_key=9)], ids=["unlimited", "limited"])
@pytest.mark.parametrize(
    ("column", "value"),
    [("priority", "'x'"), ("priority", "x'00'"), ("order_at", "'x'"), ("concurrency_key", "'x'"), ("run_id", "x'61'")],
)
async def test_a_damaged_row_of_the_index_of_sqlite_holds_up_no_other(
    file: SQLitePlace, column: str, value: str, limits: QueueLimits | None
) -> None:
    async with SQLiteCheckpointer(file.path) as store:
        await store.set_limits("default", limits)
        for run_id in ("spoilt", "sound"):
            await graph.enqueue(store, {"n": 1}, run_id=run_id, concurrency_key="k")
        with contextlib.closing(sqlite3.connect(file.path)) as database, database:
            database.execute(f"UPDATE queued SET {column} = {value} WHERE run_id = 'spoilt'")
        assert await claimed(store, limit=9) == ["sound"]
        assert len(await store.damaged_runs()) == 1
        assert any("'spoilt' was" in sentence for sentence in await store.repair_queues())
        assert await claimed(store, limit=9) == ["spoilt"]
        assert await store.damaged_runs() == []


@pytest.mark.parametrize("state", ["'x'", "5"])
async def test_counts_of_a_damaged_index_are_refused_in_the_words_of_the_contract(
    file: SQLitePlace, state: str
) -> None:
    async with SQLiteCheckpointer(file.path) as store:
        await graph.enqueue(store, {"n": 1}, run_id="r")
        with contextlib.closing(sqlite3.connect(file.path)) as database, database:
            database.execute(f"UPDATE queued SET state = {state}")
        with pytest.raises(CheckpointCorruptedError, match="the index of the runs of queue 'default'"):
            await store.queue_counts()


DAMAGED = ("d0", "d1", "d2")
"""They come before all others, so that each claim meets them."""


async def enqueue_damaged(place: Place, store: Checkpointer) -> None:
    for run_id in DAMAGED:
        await graph.enqueue(store, {"n": 1}, run_id=run_id, priority=1)
    for run_id in ("a", "b"):
        await graph.enqueue(store, {"n": 1}, run_id=run_id)
    for run_id in DAMAGED:
        await place.edit_summary(run_id, '"queued"', '"quoted"')


async def heal(place: Place, run_id: str) -> None:
    await place.edit_summary(run_id, '"quoted"', '"queued"')


async def damaged_runs(store: Checkpointer) -> list[str]:
    assert isinstance(store, QueueDamage)
    return sorted(run.run_id for run in await store.damaged_runs())


async def claimed(store: Checkpointer, *, reserve: float = 3600.0, **arguments: Any) -> list[str]:
    """Claim runs; what is reserved stays so for the whole test, however long it takes."""
    assert isinstance(store, RunQueue)
    return [run.run_id for run in await store.claimable("f" * 16, ("default",), reserve=reserve, **arguments)]


@pytest.mark.parametrize("limits", [None, QueueLimits(concurrency=2), QueueLimits(rate=2, period=1000)])
async def test_a_claim_leaves_out_what_is_damaged_and_nothing_else(place: Place, limits: QueueLimits | None) -> None:
    if isinstance(place, S3Place) and limits is not None:
        return  # it has no limits
    async with place.open() as store:
        await enqueue_damaged(place, store)
        assert isinstance(store, RunQueue)
        if limits is not None:
            await store.set_limits("default", limits)
        assert await damaged_runs(store) == []  # no claim has met them
        assert await claimed(store, limit=9, reserve=0) == ["a", "b"]
        assert await claimed(store, limit=1) == ["a"]
        assert set(await damaged_runs(store)) <= set(DAMAGED)
        assert await claimed(store, limit=9) == ["b"]
        assert await damaged_runs(store) == sorted(DAMAGED)
        assert await claimed(store, limit=9) == []
    async with place.open() as other:
        assert isinstance(other, RunQueue)
        await heal(place, "d1")
        if limits is not None:
            await other.set_limits("default", None)
        assert await claimed(other, limit=9) == ["d1"]
        assert await damaged_runs(other) == ["d0", "d2"]
        await heal(place, "d0")
        await heal(place, "d2")
        # A handle may believe for some seconds what it has read.
        async with asyncio.timeout(60):
            while await claimed(other, limit=9, reserve=0) != ["d0", "d2"]:
                await asyncio.sleep(0.1)
        assert await damaged_runs(other) == []


async def test_a_claim_reserves_nothing_that_is_damaged(place: Place) -> None:
    async with place.open() as store:
        await enqueue_damaged(place, store)
        assert await claimed(store, limit=1) == ["a"]
        for run_id in DAMAGED:
            await heal(place, run_id)
        assert isinstance(store, RunQueue)
        (counts,) = await store.queue_counts()
        assert (counts.ready, counts.running) == (4, 1)
        async with place.open() as other:
            assert await claimed(other, limit=9) == [*DAMAGED, "b"]


@pytest.mark.parametrize("limits", [None, QueueLimits(concurrency=2)])
async def test_many_damaged_runs_do_not_take_as_many_rounds(
    place: Place, limits: QueueLimits | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(place, S3Place):
        return  # it reads each run by itself
    rounds: list[int] = []

    def noted(rows: Sequence[tuple[str, bytes]]) -> tuple[list[RunSummary], list[DamagedRun]]:
        rounds.append(len(rows))
        return readable_summaries(rows)

    for module in (sqlite_queues, postgres_queues):
        monkeypatch.setattr(module, "readable_summaries", noted)
    many = [f"d{number:02}" for number in range(40)]
    async with place.open() as store:
        assert isinstance(store, RunQueue)
        await store.set_limits("default", limits)
        for run_id in (*many, "a", "b", "c"):
            await graph.enqueue(store, {"n": 1}, run_id=run_id, priority=int(run_id in many))
        for run_id in many:
            await place.edit_summary(run_id, '"queued"', '"quoted"')
        assert await claimed(store, limit=1) == ["a"]
        assert len(rounds) < 20
        assert await claimed(store, limit=9) == (["b", "c"] if limits is None else ["b"])
        assert await damaged_runs(store) == many


async def test_a_claim_that_frees_what_is_damaged_waits_for_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.open() as store:
        if not isinstance(store, PostgresCheckpointer):
            return  # the others reserve nothing that is damaged
        await enqueue_damaged(place, store)
        fleet: Any = store._fleet()
        fetch = fleet._connections.fetch
        async with connection_to(place.url) as (connection, schema), connection.transaction():

            async def after_an_append(sql: str, *parameters: Any) -> Any:
                if sql == fleet._sql["free"]:
                    await connection.execute(f"SELECT FROM {schema}.queued WHERE run_id = 'd0' FOR UPDATE")
                    locked.append("d0")
                return await fetch(sql, *parameters)

            locked: list[str] = []
            monkeypatch.setattr(fleet._connections, "fetch", after_an_append)
            async with asyncio.timeout(60):
                assert await claimed(store, limit=1) == ["a"]
            assert "d0" in locked


async def test_a_claim_does_not_find_out_again_what_is_damaged_while_it_holds_the_lock(
    file: SQLitePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = sqlite_queues._choose
    left_out: list[int] = []

    def noted(connection: sqlite3.Connection, claim: Claim, damaged: Any, *arguments: Any, **more: Any) -> list[str]:
        left_out.append(len(damaged))
        return choose(connection, claim, damaged, *arguments, **more)

    monkeypatch.setattr(sqlite_queues, "_choose", noted)
    async with SQLiteCheckpointer(file.path) as store:
        await enqueue_damaged(file, store)
        assert await claimed(store, limit=1) == ["a"]
    assert left_out == [0, 1, 3, 3]


async def test_nothing_is_read_again_of_a_store_in_memory_that_is_not_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryCheckpointer() as store:
        await graph.enqueue(store, {"n": 1}, run_id="a")
        assert await claimed(store, limit=1) == ["a"]
        monkeypatch.setattr(store._store.queues, "_summaries", None)
        assert await damaged_runs(store) == []


async def test_a_damaged_run_that_was_deleted_is_damaged_no_more(place: Place) -> None:
    async with place.open() as store:
        await enqueue_damaged(place, store)
        assert await claimed(store, limit=9) == ["a", "b"]
        assert isinstance(store, RunDeletion)
        assert await store.delete_run("d1")
        assert await claimed(store, limit=9) == []
        assert await damaged_runs(store) == ["d0", "d2"]


def of_workers(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What workers have logged; asyncio may log what another test has left, and a store that it was slow."""
    return [record for record in caplog.records if record.name == "stargraph.worker"]


async def test_one_damaged_run_stops_no_worker(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "stargraph.worker")
    async with place.open() as store:
        await enqueue_damaged(place, store)
        at_work = worker(store, until_idle=False)
        running = asyncio.ensure_future(at_work.run())
        await until(lambda: at_work.metrics.executions["done"] == 2 and at_work.metrics.damaged == 3)
        assert "stargraph_worker_damaged 3" in prometheus_text(at_work.metrics)
        for run_id in DAMAGED:
            await heal(place, run_id)
        await until(lambda: at_work.metrics.executions["done"] == 5 and at_work.metrics.damaged == 0)
        at_work.drain()
        await running
    said = [record.getMessage() for record in caplog.records if "left aside" in record.getMessage()]
    begun, ended = "is left aside until", "is not left aside any more"
    for run_id in DAMAGED:
        assert [begun in each or ended in each for each in said if each.startswith(f"run {run_id} ")] == [True, True]
    assert len(said) == 6


async def test_damaged_limits_of_one_queue_stop_no_other(file: SQLitePlace, caplog: pytest.LogCaptureFixture) -> None:
    async with SQLiteCheckpointer(file.path) as store:
        for queue in ("mail", "default", "other"):
            await graph.enqueue(store, {"n": 1}, run_id=queue, queue=queue)
        await store.set_limits("mail", QueueLimits(concurrency=1))
        await damage(file, "limits", "limits")
        metrics = await worker(store, queues=("mail", "default", "other")).run()
        assert (metrics.executions, metrics.damaged) == ({"done": 2}, 1)
        assert (await worker(store, queues=("mail",)).run()).executions == {}
        await store.set_limits("mail", None)
        assert (await worker(store, queues=("mail",)).run()).executions == {"done": 1}
    said = [record.getMessage() for record in of_workers(caplog) if record.levelno == logging.ERROR]
    assert [each.partition(":")[0] for each in said] == 2 * ["queue mail is left aside until it can be read again"]


async def test_damaged_limits_are_logged_once_also_while_another_queue_fills_the_worker(
    file: SQLitePlace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "stargraph.worker")
    async with SQLiteCheckpointer(file.path) as store:
        await store.set_limits("mail", QueueLimits(concurrency=1))
        await damage(file, "limits", "limits")
        claims = claims_of(store, "default", "mail")
        assert await taken(claims, room=1) == []
        for run_id in ("a", "b"):
            await graph.enqueue(store, {"n": 1}, run_id=run_id)
        # There is no room left to ask mail for.
        assert await taken(claims, room=1) == ["a"]
        assert claims._metrics.damaged == 1
        await store.set_limits("mail", None)
        assert await taken(claims, room=1) == ["b"]
        assert claims._metrics.damaged == 0
    said = [record.getMessage().partition(" left aside ")[0] for record in of_workers(caplog)]
    assert said == ["queue mail is", "queue mail is not"]


async def test_what_was_taken_is_executed_although_the_store_then_goes_away() -> None:
    class Away(MemoryCheckpointer):
        async def damaged_runs(self) -> list[DamagedRun]:
            raise StoreUnavailableError("it is away", reason="store-unavailable")

    async with Away() as store:
        claims = claims_of(store, "default")
        with pytest.raises(StoreUnavailableError):
            await taken(claims, room=1)
        await graph.enqueue(store, {"n": 1}, run_id="a")
        assert await taken(claims, room=1) == ["a"]


async def test_what_was_taken_of_one_queue_is_executed_although_the_store_then_goes_away() -> None:
    class Away(MemoryCheckpointer):
        async def claimable(self, process_id: str, queues: Sequence[str], **arguments: Any) -> list[RunSummary]:
            if len(queues) > 1:
                raise CheckpointCorruptedError("one of them is damaged", reason="corrupted-record")
            if queues == ("mail",):
                raise StoreUnavailableError("it is away", reason="store-unavailable")
            return await super().claimable(process_id, queues, **arguments)

    async with Away() as store:
        claims = claims_of(store, "default", "mail")
        with pytest.raises(StoreUnavailableError):
            await taken(claims, room=2)
        await graph.enqueue(store, {"n": 1}, run_id="a")
        assert await taken(claims, room=2) == ["a"]


def claims_of(store: Checkpointer, *queues: str) -> Claims:
    versions = Versions(graph, ())
    return Claims(store, "f" * 16, queues, versions, silent_after=3600.0, metrics=WorkerMetrics())


async def taken(claims: Claims, *, room: int) -> list[str]:
    return [claim.run.run_id for claim in await claims.take(room, ())]


async def test_a_worker_begins_beside_a_damaged_process(file: SQLitePlace) -> None:
    async with SQLiteCheckpointer(file.path) as store:
        await graph.enqueue(store, {"n": 1}, run_id="r")
        await store.beat(ProcessInfo.current().model_copy(update={"id": "f" * 16}))
        await damage(file, "processes", "process")
        assert (await worker(store).run()).executions == {"done": 1}


async def test_a_damaged_store_ends_its_workers() -> None:
    class Damaged(MemoryCheckpointer):
        async def claimable(self, *_: object, **__: object) -> list[RunSummary]:
            raise CheckpointCorruptedError("the file is damaged", reason="corrupted-store")

    async with Damaged() as store:
        with pytest.raises(CheckpointCorruptedError, match="the file is damaged"):
            await worker(store).run()


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
    errors = [record.getMessage() for record in of_workers(caplog) if record.levelno == logging.ERROR]
    assert [error.partition(":")[0] for error in errors] == ["no run of a schedule is enqueued"]
