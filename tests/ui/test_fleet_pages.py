"""The pages on queues, workers and schedules."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import httpx
import pytest
from support.ui_runs import make_queued

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Schedule


def groups_of(text: str) -> dict[str, list[str]]:
    parts = re.split(r'<h2 class="spaced">', text)[1:]
    return {re.sub("<.*", "", part.split("\n")[0]).strip(): re.findall(r'/runs/(\w+)"', part) for part in parts}


async def test_the_runs_of_queues_are_shown_by_their_case(
    browser: httpx.AsyncClient, store: MemoryCheckpointer
) -> None:
    await make_queued(store)
    assert "default" in (await browser.get("/queues")).text
    text = (await browser.get("/queues/runs")).text
    groups = groups_of(text)
    assert groups["Failed and paused"] == ["broken"]
    assert groups["Without their process"] == ["lost"]
    assert sorted(groups["Taken by nobody"]) == ["lost", "old"]
    assert sorted(groups["Waiting for a worker"]) == ["later", "old", "ready"]
    assert "unqueued" not in text
    assert "vanished" in text
    assert "&lt;b&gt;no&lt;/b&gt; luck" in text
    assert "Requeue" not in text
    assert "stargraph runs --orphaned --checkpoint STORE" in text


async def test_a_damaged_run_is_named(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_queued(store)
    assert "leave these runs aside" not in (await browser.get("/queues/runs")).text
    store._store._runs["ready"].summary = b"x"
    text = (await browser.get("/queues/runs")).text
    assert "Workers leave these runs aside" in text
    assert re.findall(r'/runs/ready">ready</a> <bdi>([^<]*)', text)[0].endswith("does not belong to this run")
    assert (await browser.get("/queues")).status_code == 200


async def test_a_dead_letter_is_requeued_from_the_page(writer: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_queued(store)
    text = (await writer.get("/queues/runs")).text
    assert re.findall(r'action="/runs/(\w+)/requeue"', text) == ["broken", "lost"]
    for run_id in ("broken", "lost"):
        answer = await writer.post(f"/runs/{run_id}/requeue", data={"back": "queues"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/queues")
        found = await store.read_latest(run_id)
        assert found is not None
        assert found.status == "queued"
    assert "Failed and paused" not in groups_of((await writer.get("/queues/runs")).text)


async def test_schedules_show_their_next_times(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    empty = (await browser.get("/schedules")).text
    assert "No run is scheduled." in empty
    assert "stargraph schedule add" in empty
    since = datetime.now(UTC)
    for name, cron, zone in (
        ("daily", "0 7 * * *", "Europe/Berlin"),
        ("never", "0 0 30 2 *", "UTC"),
        ("wrong", "every day <b>", "UTC"),
        ("nowhere", "0 7 * * *", "Mars/Base"),
    ):
        await store.put_schedule(Schedule(id=name, cron=cron, timezone=zone, graph_id="<i>g</i>", since=since))
    text = (await browser.get("/schedules")).text
    rows = dict(re.findall(r'<tr data-row="(\w+)">(.*?)</tr>', text, re.DOTALL))
    times = [datetime.fromisoformat(each) for each in re.findall(r'datetime="([^"]+)" data-form="full"', rows["daily"])]
    assert len(times) == 3
    assert all(since < each for each in times)
    # A day apart, but for the days on which clocks change.
    assert all(timedelta(hours=23) <= b - a <= timedelta(hours=25) for a, b in pairwise(times))
    assert "✕" in rows["never"]
    assert "is not a cron expression" in rows["wrong"]
    assert "✕" in rows["nowhere"]
    assert "<b>" not in rows["wrong"].replace("<b>default", "")
    assert "&lt;i&gt;g" in rows["daily"]
    assert "Remove" not in text
    assert (await browser.post("/schedules/add")).status_code in (403, 404)


async def test_a_schedule_is_added_replaced_and_removed(writer: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    form = {"graph": "counter", "cron": "0 7 * * *", "inputs": '{"rounds": 3}', "id": "mine", "tag": "team=a"}
    answer = await writer.post("/schedules/add", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/schedules")
    (made,) = await store.schedules()
    assert (made.id, made.graph_id, made.inputs, made.metadata) == ("mine", "counter", {"rounds": 3}, {"team": "a"})
    assert made.timezone == "UTC"
    await writer.post("/schedules/add", data={**form, "cron": "*/5 * * * *", "priority": "4", "queue": "q"})
    (made,) = await store.schedules()
    assert (made.cron, made.queue.name, made.queue.priority) == ("*/5 * * * *", "q", 4)
    assert "stargraph schedule remove mine --checkpoint STORE" in (await writer.get("/schedules")).text
    assert (await writer.post("/schedules/remove", data={"id": "mine"})).status_code == 303
    assert await store.schedules() == []
    assert "there is no schedule" in (await writer.post("/schedules/remove", data={"id": "mine"})).text


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"graph": "other"}, "is not loaded"),
        ({"cron": "at seven"}, "is not a cron expression"),
        ({"cron": "0 0 30 2 *"}, "0 0 30 2 *"),
        ({"timezone": "Mars/Base"}, "Mars/Base"),
        ({"inputs": "[1]"}, "are not an object"),
        ({"inputs": "{"}, "not JSON"),
        ({"inputs": "{}"}, "rounds"),
        ({"priority": "high"}, "not JSON"),
        ({"priority": "[1]"}, "cannot be a schedule"),
        ({"queue": "a b"}, "cannot be a schedule"),
        ({"id": "../x"}, "cannot be a schedule"),
        ({"tag": "x"}, "The tag"),
    ],
    ids=str,
)
async def test_what_cannot_be_a_schedule_is_refused(
    writer: httpx.AsyncClient, store: MemoryCheckpointer, changed: dict[str, str], complaint: str
) -> None:
    form = {"graph": "counter", "cron": "0 7 * * *", "inputs": '{"rounds": 3}'}
    answer = await writer.post("/schedules/add", data={**form, **changed})
    assert answer.status_code == 400, answer.text
    assert complaint in answer.text
    assert await store.schedules() == []
