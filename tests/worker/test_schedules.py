"""Schedules: each due time is enqueued once, whoever looks, and clocks may be put forward and back."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.protocol import Checkpoint, QueueEntry, RunPage, Schedule
from stargraph.errors import CheckpointCorruptedError, StargraphError
from stargraph.graph import Graph, GraphBuilder
from stargraph.worker import Scheduler, Worker, due_times

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


builder = GraphBuilder("greeter")
builder.state(name=str)


@builder.node
def greet(state: Any) -> dict[str, Any]:
    return {"name": state.name.upper()}


graph = Graph(builder)


def schedule(cron: str, timezone: str = "UTC", **fields: object) -> Schedule:
    plain: dict[str, object] = {"id": "s", "graph_id": "greeter", "since": NOON, "inputs": {"name": "ada"}}
    return Schedule.model_validate({**plain, **fields, "cron": cron, "timezone": timezone})


def local(cron: str, timezone: str, after: str, days: int) -> list[str]:
    begin = datetime.fromisoformat(after)
    return [f"{due:%m-%dT%H:%M}" for due in due_times(schedule(cron, timezone), begin, begin + timedelta(days=days))]


def test_a_time_that_the_clock_skips_is_due_right_after_the_gap() -> None:
    """On 29 March 2026 it is 3 o'clock in Berlin after 1:59."""
    found = local("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00+01:00", 3)
    assert found == ["03-28T01:30", "03-29T01:00", "03-30T00:30"]


def test_a_time_that_comes_twice_is_due_once() -> None:
    """On 25 October 2026 it is 2 o'clock in Berlin after 2:59."""
    found = local("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00+02:00", 3)
    assert len(found) == len(set(found)) == 3


def test_every_hour_is_every_hour_that_passes() -> None:
    for after in ("2026-03-28T12:00:00+01:00", "2026-10-24T12:00:00+02:00"):
        begin = datetime.fromisoformat(after)
        due = list(due_times(schedule("0 * * * *", "Europe/Berlin"), begin, begin + timedelta(days=2)))
        assert len(due) == 48
        assert {later - earlier for earlier, later in pairwise(due)} == {timedelta(hours=1)}


@pytest.mark.parametrize("cron", ["", "0 7 * *", "0 7 * * * *", "61 * * * *", "0 7 * * mon-", "@daily"])
def test_what_is_no_expression_is_refused(cron: str) -> None:
    with pytest.raises(StargraphError, match="is not a cron expression") as caught:
        list(due_times(schedule(cron), NOON, NOON + timedelta(days=1)))
    assert caught.value.reason == "invalid-schedule"
    with pytest.raises(StargraphError, match="is not a time zone"):
        list(due_times(schedule("0 7 * * *", "Mars/Olympus"), NOON, NOON + timedelta(days=1)))


async def enqueued(store: MemoryCheckpointer, scheduler: Scheduler, now: datetime) -> list[str]:
    return [each.run_id for each in await scheduler.enqueue_due(store, now) if each.is_new]


async def test_each_due_time_is_enqueued_once_whoever_looks_and_whatever_their_clocks_say() -> None:
    shared = MemoryStore()
    async with MemoryCheckpointer(shared) as store, MemoryCheckpointer(shared) as other:
        await store.put_schedule(
            schedule("*/5 * * * *", queue=QueueEntry(name="mail", priority=2), metadata={"a": "b"})
        )
        await store.put_schedule(schedule("* * * * *", id="of-another-graph", graph_id="unknown"))
        looks = []
        for minutes in range(0, 31, 5):
            for handle, skew in ((store, 0), (other, -10), (other, 10)):
                looks.append((handle, Scheduler({"greeter": graph}), NOON + timedelta(minutes=minutes + skew)))
        await asyncio.gather(*(scheduler.enqueue_due(handle, now) for handle, scheduler, now in looks))
        runs = {run.run_id: run for run in await store.list_runs()}
        assert sorted(runs) == [f"s:20260304T12{minutes:02}Z" for minutes in range(5, 41, 5)]
        run = runs["s:20260304T1205Z"]
        assert (run.status, run.due_at, run.metadata) == ("queued", NOON + timedelta(minutes=5), {"a": "b"})
        assert run.queue is not None
        assert (run.queue.name, run.queue.priority) == ("mail", 2)
        first = await store.read_latest(run.run_id)
        assert first is not None
        assert first.state == {"name": "ada"}


async def test_what_was_missed_is_enqueued_for_a_day() -> None:
    async with MemoryCheckpointer() as store:
        await store.put_schedule(schedule("0 * * * *"))
        late = NOON + timedelta(days=3)
        assert len(await enqueued(store, Scheduler({"greeter": graph}), late)) == 24
        assert await enqueued(store, Scheduler({"greeter": graph}), late) == []


async def test_a_run_that_was_deleted_is_not_enqueued_again() -> None:
    async with MemoryCheckpointer() as store:
        await store.put_schedule(schedule("0 13 * * *"))
        now = NOON + timedelta(hours=1)
        assert await enqueued(store, Scheduler({"greeter": graph}), now) == ["s:20260304T1300Z"]
        await store.delete_run("s:20260304T1300Z")
        assert await enqueued(store, Scheduler({"greeter": graph}), now) == []


async def test_a_schedule_that_was_changed_counts_from_its_new_beginning() -> None:
    async with MemoryCheckpointer() as store:
        scheduler = Scheduler({"greeter": graph})
        await store.put_schedule(schedule("0 13 * * *"))
        assert await enqueued(store, scheduler, NOON + timedelta(hours=2)) == ["s:20260304T1300Z"]
        await store.put_schedule(schedule("30 13 * * *", since=NOON + timedelta(hours=2)))
        assert await enqueued(store, scheduler, NOON + timedelta(hours=3)) == []
        assert await enqueued(store, scheduler, NOON + timedelta(days=1, hours=2)) == ["s:20260305T1330Z"]


async def test_a_schedule_whose_inputs_no_longer_fit_disturbs_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    async with MemoryCheckpointer() as store:
        await store.put_schedule(schedule("0 13 * * *", id="a", inputs={"name": 1}))
        await store.put_schedule(schedule("nonsense", id="b"))
        await store.put_schedule(schedule("0 13 * * *", id="c"))
        found = await enqueued(store, Scheduler({"greeter": graph}), NOON + timedelta(hours=1))
        assert found == ["c:20260304T1300Z"]
        assert "schedule a, due 2026-03-04T13:00:00+00:00: no run was enqueued" in caplog.text
        assert "schedule b: 'nonsense' is not a cron expression" in caplog.text


async def test_what_is_wrong_with_a_schedule_is_logged_once_until_it_is_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with MemoryCheckpointer() as store:
        scheduler = Scheduler({"greeter": graph})
        for cron in ("nonsense", "more nonsense", "0 13 * * *", "nonsense"):
            await store.put_schedule(schedule(cron, id="b"))
            for _ in range(3):
                await enqueued(store, scheduler, NOON)
    expressions = [each.getMessage().partition(" is not a cron")[0] for each in caplog.records]
    assert expressions == ["schedule b: 'nonsense'", "schedule b: 'more nonsense'", "schedule b: 'nonsense'"]


async def test_a_worker_enqueues_and_executes_what_is_due() -> None:
    async with MemoryCheckpointer() as store:
        began = datetime.now(UTC)
        every_minute = schedule("* * * * *", since=began - timedelta(minutes=3))
        await store.put_schedule(every_minute)
        worker = Worker(store, graph, until_idle=True, handle_signals=False)
        await worker.run()
        done = {run.run_id for run in await store.list_runs() if run.status == "done"}

        def due(until: datetime) -> set[str]:
            return {f"s:{each:%Y%m%dT%H%MZ}" for each in due_times(every_minute, every_minute.since, until)}

        # A minute may have ended meanwhile, and a clock may be set back by a moment.
        moment = timedelta(seconds=1)
        assert due(began - moment) <= done <= due(datetime.now(UTC) + moment)
        assert len(done) >= 2


class WithADamagedRun(MemoryCheckpointer):
    """The run of schedule a at noon is there, and nothing of it can be read."""

    async def write(self, checkpoint: Checkpoint) -> None:
        if checkpoint.run_id == "a:20260304T1201Z":
            raise CheckpointCorruptedError("it is damaged", reason="corrupted-record", run_id=checkpoint.run_id)
        await super().write(checkpoint)

    async def search(self, **filters: Any) -> RunPage:
        if str(filters.get("run_id_prefix")).startswith("a:"):
            raise CheckpointCorruptedError("it is damaged", reason="corrupted-record")
        return await super().search(**filters)


async def test_a_damaged_run_of_one_schedule_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async with WithADamagedRun() as store:
        for name in ("a", "b"):
            await store.put_schedule(schedule("* * * * *", id=name))
        scheduler, now = Scheduler({"greeter": graph}), NOON + timedelta(minutes=4)
        found = await enqueued(store, scheduler, now)
        due = [f"20260304T12{minute:02}Z" for minute in range(1, 5)]
        assert found == [*(f"a:{each}" for each in due[1:]), *(f"b:{each}" for each in due)]
        assert await enqueued(store, scheduler, now) == []
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [each.partition(":")[0] for each in errors] == ["schedule a, due 2026-03-04T12"]
