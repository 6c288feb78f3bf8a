"""What a worker reports of itself: its endpoint, its numbers, and the age of its queues."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from datetime import timedelta

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from support.runs import latest
from support.workers import BLOCKED, EFFECTS, graph, until, worker

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import ProcessInfo, QueueLimits
from stargraph.graph import RunRequest
from stargraph.otel import observe_worker
from stargraph.worker import WorkerMetrics
from stargraph.worker._metrics import prometheus_text
from stargraph.worker._observer import QueueObserver


async def test_the_endpoint_tells_how_it_is(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    BLOCKED["r"] = asyncio.Event()
    at_work = worker(store, until_idle=False, listen=("127.0.0.1", 0))
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r/second" in EFFECTS)
    assert at_work.address is not None

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{at_work.address}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    code, text = await asyncio.to_thread(get, "/health")
    assert (code, json.loads(text)["running"]) == (200, 1)
    assert (await asyncio.to_thread(get, "/ready"))[0] == 200
    assert (await asyncio.to_thread(get, "/else"))[0] == 404
    code, text = await asyncio.to_thread(get, "/metrics")
    assert code == 200
    assert "# TYPE stargraph_worker_claims_total counter\nstargraph_worker_claims_total 1\n" in text
    assert 'stargraph_worker_queue_runs{queue="default",state="running"}' in text

    async def never(process: ProcessInfo) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "beat", never)  # no heartbeat comes between what is set here and the answer
    alive = at_work.metrics.heartbeat
    at_work.metrics.heartbeat -= 3600
    code, text = await asyncio.to_thread(get, "/health")
    assert (code, json.loads(text)["store"]) == (503, "unavailable")
    at_work.metrics.heartbeat = alive + 3600
    assert (await asyncio.to_thread(get, "/ready"))[0] == 200
    at_work.drain()
    assert (await asyncio.to_thread(get, "/ready"))[0] == 503
    BLOCKED["r"].set()
    await running


async def test_metrics_are_written_for_prometheus() -> None:
    metrics = WorkerMetrics(claims=3)
    metrics.executions["done"] = 2
    lines = prometheus_text(metrics).splitlines()
    assert 'stargraph_worker_executions_total{status="done"} 2' in lines
    assert len([line for line in lines if line.startswith("# TYPE")]) == len(
        {line for line in lines if "# TYPE" in line}
    )


async def test_opentelemetry_reads_the_numbers(store: MemoryCheckpointer) -> None:
    reader = InMemoryMetricReader()
    at_work = worker(store)
    observe_worker(at_work, meter_provider=MeterProvider([reader]))
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await at_work.run()
    data = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
    found = {
        (metric["name"], *point["attributes"].values()): point["value"]
        for metric in data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
        for point in metric["data"]["data_points"]
    }
    assert found["stargraph.worker.claims",] == 1
    assert found["stargraph.worker.executions", "done"] == 1
    assert found["stargraph.worker.queue_runs", "default", "failed"] == 0
    assert found["stargraph.worker.queue_age_seconds", "default"] < 60
    assert {name for name, *_ in found} == {
        f"stargraph.worker.{sample.name}" for sample in (*at_work.metrics.counters(), *at_work.metrics.gauges())
    } | {"stargraph.worker.executions"}


async def test_the_age_of_a_queue_is_measured_while_the_worker_is_full(store: MemoryCheckpointer) -> None:
    BLOCKED["busy"] = asyncio.Event()
    await graph.enqueue(store, {"n": 1}, run_id="busy", priority=1)
    at_work = worker(store, concurrency=1)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "busy/second" in EFFECTS)
    metrics = WorkerMetrics()
    now = (await latest(store, "busy")).timestamp
    observer = QueueObserver(store, ("default", "mail"), metrics, now=lambda: now)
    await observer.look()
    assert (metrics.queue_ages, metrics.queues[0].running) == ({"default": 0}, 1)
    await graph.enqueue_many(store, [RunRequest(inputs={"n": 1}, run_id=run_id) for run_id in ("first", "next")])
    await graph.enqueue(store, {"n": 1}, queue="other")
    waiting_since = min([(await latest(store, run_id)).timestamp for run_id in ("first", "next")])
    now = waiting_since + timedelta(hours=1)
    await observer.look()
    assert metrics.queue_ages == {"default": 3600}
    # A queue at its limit hands nothing out: what waited then waits still.
    await store.set_limits("default", QueueLimits(concurrency=0))
    now = waiting_since + timedelta(hours=2)
    await observer.look()
    assert metrics.queue_ages == {"default": 7200}
    assert 'stargraph_worker_queue_age_seconds{queue="default"} 7' in prometheus_text(metrics)
    await store.set_limits("default", None)
    BLOCKED["busy"].set()
    await running


async def test_a_full_worker_goes_on_measuring(store: MemoryCheckpointer) -> None:
    BLOCKED["busy"] = asyncio.Event()
    await graph.enqueue_many(store, [RunRequest(inputs={"n": 1}, run_id=run_id) for run_id in ("busy", "next")])
    at_work = worker(store, concurrency=1)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: at_work.metrics.queue_ages.keys() == {"default"})
    BLOCKED["busy"].set()
    await running
    assert at_work.metrics.executions == {"done": 2}
