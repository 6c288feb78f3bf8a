"""A worker on a store in memory: what it takes, what it leaves, and how it ends."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import (
    Checkpoint,
    Checkpointer,
    GraphVersion,
    ProcessInfo,
    QueueLimits,
    RunSummary,
    WorkerInfo,
)
from stargraph.errors import CheckpointError, StoreUnavailableError
from stargraph.graph import Context, Graph, GraphBuilder, RunRequest, requeue, respond
from stargraph.otel import observe_worker
from stargraph.worker import RunRetries, Worker, WorkerMetrics, orphaned_runs, stranded_runs
from stargraph.worker._metrics import prometheus_text
from stargraph.worker._observer import QueueObserver
from stargraph.worker._retries import setbacks

EFFECTS: list[str] = []
BLOCKED: dict[str, asyncio.Event] = {}
FAILS: set[str] = set()


def build(name: str = "g", *, more: bool = False) -> Graph[Any]:
    builder = GraphBuilder(name)
    builder.state(n=int, answer=(bool | None, None))
    builder.add_node("first", f"{__name__}:first")
    builder.add_node("second", f"{__name__}:second")
    if more:
        builder.add_node("third", f"{__name__}:second")
    return Graph(builder)


def first(state: Any, context: Context) -> dict[str, Any]:
    EFFECTS.append(f"{context.run_id}/first")
    return {"n": state.n + 1}


async def second(state: Any, context: Context) -> dict[str, Any]:
    EFFECTS.append(f"{context.run_id}/second")
    if context.run_id in FAILS:
        raise ValueError("no")
    if context.run_id in BLOCKED:
        await BLOCKED[context.run_id].wait()
    return {"n": state.n * 10}


graph = build()


@pytest.fixture(autouse=True)
def _clean() -> None:
    EFFECTS.clear()
    BLOCKED.clear()
    FAILS.clear()


@pytest.fixture
async def store() -> MemoryCheckpointer:
    store = MemoryCheckpointer()
    await store.bootstrap()
    return store


def worker(store: Checkpointer, graphs: Graph[Any] | Sequence[Graph[Any] | str] = graph, **options: Any) -> Worker:
    given: dict[str, Any] = {"until_idle": True, "poll": 0.02, "handle_signals": False, **options}
    return Worker(store, graphs, **given)


async def statuses(store: MemoryCheckpointer) -> dict[str, str]:
    return {run.run_id: str(run.status) for run in await store.list_runs()}


async def latest(store: MemoryCheckpointer, run_id: str) -> Checkpoint:
    found = await store.read_latest(run_id)
    assert found is not None
    return found


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not met():  # what it waits for has no event
            await asyncio.sleep(0.005)


async def orphan(store: MemoryCheckpointer, run_id: str, deaths: int = 1) -> None:
    """Leave a queued run as processes would that have died with it, each before it stored a step."""
    for number in range(deaths):
        tail = await latest(store, run_id)
        process = ProcessInfo(host="gone", pid=number, version="1", id=f"{number:016x}")
        await store.write(
            tail.next(
                event="resumed",
                status="running",
                executor_id=f"{number:016x}{'0' * 16}",
                timestamp=datetime.now(UTC),
                process=process,
            )
        )


async def test_it_executes_what_is_queued_in_its_queues(store: MemoryCheckpointer) -> None:
    runs = [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(20)]
    await graph.enqueue_many(store, runs)
    await graph.enqueue(store, {"n": 1}, run_id="other", queue="mail")
    metrics = await worker(store, concurrency=4).run()
    assert await statuses(store) == {**{f"r{n}": "done" for n in range(20)}, "other": "queued"}
    assert (metrics.claims, metrics.executions["done"], metrics.running) == (20, 20, 0)
    assert len(EFFECTS) == len(set(EFFECTS)) == 40
    assert (await latest(store, "r3")).state["n"] == 40
    assert await store.processes() == []


async def test_it_executes_no_more_at_once_than_it_may(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(5)])
    for n in range(5):
        BLOCKED[f"r{n}"] = asyncio.Event()
    at_work = worker(store, concurrency=2)
    running = asyncio.ensure_future(at_work.run())
    for n in range(5):
        await until(lambda: len([each for each in EFFECTS if each.endswith("second")]) >= min(n + 2, 5))  # noqa: B023
        assert len(at_work.running) <= 2
        BLOCKED[f"r{n}"].set()
    await running
    assert set((await statuses(store)).values()) == {"done"}


async def test_it_goes_on_with_what_a_lost_process_left(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r")
    assert [run.run_id for run in await orphaned_runs(store)] == ["r"]
    metrics = await worker(store).run()
    assert (metrics.takeovers, metrics.isolated) == (1, 0)
    assert await statuses(store) == {"r": "done"}


async def test_it_leaves_the_runs_of_a_living_process_alone(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r")
    await store.beat(ProcessInfo(host="gone", pid=0, version="1", id="0" * 16))
    assert await orphaned_runs(store) == []
    assert (await worker(store).run()).claims == 0
    assert (await latest(store, "r")).status == "running"


async def test_a_resume_elsewhere_says_that_its_process_lives(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(2)])
    for run_id in ("r0", "r1"):
        BLOCKED[run_id] = asyncio.Event()
    runs = [await graph.start(checkpointer=store, run_id=run_id) for run_id in BLOCKED]
    executions = [asyncio.ensure_future(run.resume()) for run in runs]
    await until(lambda: len(EFFECTS) == 4)
    assert [each.process for each in await store.processes()] == [ProcessInfo.current()]
    assert await store.claimable("b" * 16, ("default",), reserve=0) == []
    BLOCKED["r0"].set()
    await executions[0]
    assert len(await store.processes()) == 1
    BLOCKED["r1"].set()
    await executions[1]
    assert await store.processes() == []
    assert await statuses(store) == {"r0": "done", "r1": "done"}


async def test_it_goes_on_with_answered_runs(store: MemoryCheckpointer) -> None:
    builder = GraphBuilder("asking")
    builder.state(n=int, answer=(bool | None, None))
    builder.add_node("ask", "interrupt", prompt="Well?", into="answer")
    asking = Graph(builder)
    await asking.enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store, asking).run()).executions == {"awaiting_input": 1}
    assert (await worker(store, asking).run()).claims == 0
    (question,) = (await latest(store, "r")).questions
    await respond(store, "r", question.id, True)
    assert (await worker(store, asking).run()).executions == {"done": 1}


async def test_it_wakes_sleepers_by_the_time_of_the_store(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = GraphBuilder("sleeping")
    builder.state(n=int)
    builder.add_node("nap", "wait", seconds=3600)
    sleeping = Graph(builder)
    await sleeping.enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store, sleeping).run()).executions == {"awaiting_input": 1}
    assert (await worker(store, sleeping).run()).claims == 0

    # The store says that the hour is over; the clock of this machine does not show it.
    async def claimable(*_: object, **__: object) -> list[RunSummary]:
        run = RunSummary.from_checkpoint(await latest(store, "r"))
        return [run] if run.status == "awaiting_input" else []

    monkeypatch.setattr(store, "claimable", claimable)
    assert (await worker(store, sleeping).run()).executions == {"done": 1}


async def test_a_failed_run_is_tried_again_after_a_while(store: MemoryCheckpointer) -> None:
    FAILS.add("r")
    await graph.enqueue(store, {"n": 1}, run_id="r")
    retries = RunRetries(attempts=3, initial_delay=0.02)
    at_work = worker(store, retries=retries, until_idle=False)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: EFFECTS.count("r/second") == 3 and not at_work.running)
    at_work.drain()
    metrics = await running
    assert (metrics.retries, metrics.executions) == (2, {"failed": 3})
    events = [record.event async for record in store.history("r")]
    assert events == ["started", "resumed", "completed", *["failed", "queued", "resumed"] * 2, "failed"]
    assert EFFECTS.count("r/first") == 1
    # The backoff is in the store: another worker keeps it too.
    record = await store.read_at_step("r", 4)
    assert record is not None
    assert record.due_at is not None
    assert record.due_at > record.timestamp - timedelta(seconds=1)


async def test_without_retries_a_failed_run_stays_failed(store: MemoryCheckpointer) -> None:
    FAILS.add("r")
    await graph.enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store).run()).executions == {"failed": 1}
    assert (await worker(store).run()).claims == 0


@pytest.mark.parametrize(
    ("deaths", "isolated", "status"), [(1, 0, "done"), (2, 1, "done"), (3, 1, "done"), (4, 0, "failed")]
)
async def test_a_run_that_ends_processes_is_tried_alone_and_then_failed(
    store: MemoryCheckpointer, deaths: int, isolated: int, status: str
) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(3)])
    await orphan(store, "r1", deaths)
    metrics = await worker(store).run()
    assert metrics.isolated == isolated
    assert await statuses(store) == {"r0": "done", "r1": status, "r2": "done"}
    if status == "failed":
        error = (await latest(store, "r1")).error
        assert error is not None
        assert (error.reason, error.node) == ("poison", "first")
        assert "4 processes in a row ended while they executed run 'r1'" in error.message
        assert not [each for each in EFFECTS if each.startswith("r1/")]


async def test_while_a_run_is_alone_no_other_one_runs(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(6)])
    await orphan(store, "r3", 2)
    BLOCKED.update({"r3": asyncio.Event(), "r0": asyncio.Event()})
    at_work = worker(store, concurrency=2)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r0/second" in EFFECTS)
    BLOCKED["r0"].set()
    await until(lambda: "r3/second" in EFFECTS)
    before = list(EFFECTS)
    await asyncio.sleep(0.1)
    assert before == EFFECTS
    BLOCKED["r3"].set()
    await running
    assert set((await statuses(store)).values()) == {"done"}


async def test_progress_clears_a_run(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r", 3)

    async def counted() -> tuple[int, int]:
        return await setbacks(await latest(store, "r"), lambda step: store.read_at_step("r", step))

    assert await counted() == (3, 0)
    FAILS.add("r")
    run = await graph.start(checkpointer=store, run_id="r")
    assert (await run.resume()).status == "failed"
    assert await counted() == (0, 1)  # its first node has completed
    assert (await run.resume()).status == "failed"
    assert await counted() == (0, 2)
    await orphan(store, "r", 2)
    assert await counted() == (2, 2)
    await requeue(store, "r")  # somebody gives it a new chance
    assert await counted() == (0, 0)


async def test_a_drain_is_no_new_chance(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r", 2)
    tail = await latest(store, "r")
    drained = tail.next(
        event="queued", status="queued", executor_id=tail.executor_id, timestamp=datetime.now(UTC), process=None
    )
    await store.write(drained)
    await orphan(store, "r", 1)
    counted = await setbacks(await latest(store, "r"), lambda step: store.read_at_step("r", step))
    assert counted.deaths == 2


async def test_a_process_that_resumes_its_own_run_has_not_died(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    await orphan(store, "r", 1)
    await orphan(store, "r", 1)
    counted = await setbacks(await latest(store, "r"), lambda step: store.read_at_step("r", step))
    assert counted.deaths == 1


async def test_a_drain_leaves_runs_to_other_workers(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(3)])
    BLOCKED["r0"] = asyncio.Event()  # which outlasts the grace
    at_work = worker(store, until_idle=False, concurrency=1, grace=0.05)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r0/second" in EFFECTS)
    at_work.drain()
    await running
    record = await latest(store, "r0")
    assert (record.event, record.status, record.process) == ("queued", "queued", None)
    assert await store.processes() == []
    BLOCKED.clear()
    await worker(store).run()
    assert set((await statuses(store)).values()) == {"done"}
    assert EFFECTS.count("r0/first") == 1


async def test_a_node_ends_within_the_grace(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    BLOCKED["r"] = asyncio.Event()
    at_work = worker(store, until_idle=False, grace=20.0)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r/second" in EFFECTS)
    at_work.drain()
    BLOCKED["r"].set()
    await running
    assert (await latest(store, "r")).status == "done"


async def test_a_cancelled_worker_frees_its_runs(store: MemoryCheckpointer) -> None:
    await graph.enqueue(store, {"n": 1}, run_id="r")
    BLOCKED["r"] = asyncio.Event()
    running = asyncio.ensure_future(worker(store, until_idle=False, grace=0).run())
    await until(lambda: "r/second" in EFFECTS)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    BLOCKED.clear()
    assert (await worker(store).run()).executions == {"done": 1}


async def test_runs_go_to_the_version_that_they_fit(store: MemoryCheckpointer) -> None:
    old, new = build(), build(more=True)
    await old.enqueue(store, {"n": 1}, run_id="old")
    await new.enqueue(store, {"n": 1}, run_id="new")
    metrics = await worker(store, new).run()
    assert (metrics.executions, metrics.stranded) == ({"done": 1}, 1)
    assert await statuses(store) == {"old": "queued", "new": "done"}
    await old.enqueue(store, {"n": 1}, run_id="old2")
    assert (await worker(store, [new, old]).run()).executions == {"done": 2}
    assert (await latest(store, "old")).state["n"] == 20
    assert (await latest(store, "new")).state["n"] == 200


async def test_other_versions_are_executed_if_that_is_accepted(store: MemoryCheckpointer) -> None:
    await build().enqueue(store, {"n": 1}, run_id="r")
    assert (await worker(store, build(more=True), accept=("graph", "runtime")).run()).executions == {"done": 1}
    assert (await latest(store, "r")).state["n"] == 200


async def test_stranded_runs_are_found_with_the_reason(store: MemoryCheckpointer) -> None:
    await build("lonely").enqueue(store, {"n": 1}, run_id="r")
    assert [(each.run.run_id, each.reason) for each in await stranded_runs(store, after=0)] == [
        ("r", "no worker lives")
    ]
    assert await stranded_runs(store) == []  # it has not waited for long
    BLOCKED["busy"] = asyncio.Event()
    await graph.enqueue_many(store, [RunRequest(inputs={"n": 1}, run_id=run_id) for run_id in ("busy", "next")])
    at_work = worker(store, concurrency=1)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "busy/second" in EFFECTS)
    found = await stranded_runs(store, after=0)
    assert [each.run.run_id for each in found] == ["r"]
    assert found[0].reason == "no living worker serves graph 'lonely'"
    BLOCKED["busy"].set()
    await running


async def test_a_worker_says_what_it_serves_and_what_it_refuses(store: MemoryCheckpointer) -> None:
    old, new = build(), build(more=True)
    await old.enqueue(store, {"n": 1}, run_id="old")
    await new.enqueue(store, {"n": 1}, run_id="mail", queue="mail")
    at_work = worker(store, new, until_idle=False, silent_after=0.3)
    running = asyncio.ensure_future(at_work.run())

    async def found() -> dict[str, str]:
        return {each.run.run_id: each.reason for each in await stranded_runs(store, after=0)}

    reason = f"the living workers have other versions of graph {new.id!r}: "
    async with asyncio.timeout(20):
        while not (await found()).get("old", "").startswith(reason):
            await asyncio.sleep(0.02)
    (process,) = [each.process for each in await store.processes()]
    assert isinstance(process, WorkerInfo)
    assert (process.queues, process.serves) == (("default",), (GraphVersion(new.id, new.graph_hash, new.runtime_hash),))
    assert [each.version.graph_hash for each in process.refuses] == [old.graph_hash]
    assert (await found())["mail"] == "no living worker serves queue 'mail'"
    at_work.drain()
    await running


class Flaky(MemoryCheckpointer):
    """A store that cannot be reached while it is `down`."""

    down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailableError("it is down", reason="unreachable")

    async def write(self, checkpoint: Checkpoint) -> None:
        self._check()
        await super().write(checkpoint)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._check()
        await super().write_many(checkpoints)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._check()
        return await super().read_latest(run_id)

    async def beat(self, process: ProcessInfo) -> None:
        self._check()
        await super().beat(process)

    async def claimable(self, *arguments: Any, **options: Any) -> list[RunSummary]:
        self._check()
        return await super().claimable(*arguments, **options)


async def test_an_outage_is_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    store = Flaky()
    await store.bootstrap()
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}") for n in range(3)])
    BLOCKED["r0"] = asyncio.Event()
    at_work = worker(store, concurrency=2)
    running = asyncio.ensure_future(at_work.run())
    await until(lambda: "r0/second" in EFFECTS and "r2/second" in EFFECTS)
    store.down = True
    BLOCKED["r0"].set()
    await until(lambda: at_work.metrics.outage_since is not None)
    store.down = False
    await running
    assert set((await statuses(store)).values()) == {"done"}
    assert EFFECTS.count("r0/first") == 1
    assert "the store cannot be reached (unreachable); the worker waits for it" in caplog.text
    assert "the store can be reached again" in caplog.text
    assert at_work.metrics.isolated == 0


async def test_a_run_that_cannot_be_executed_does_not_hold_up_the_others(store: MemoryCheckpointer) -> None:
    await graph.enqueue_many(store, [RunRequest(inputs={"n": n}, run_id=f"r{n}", priority=-n) for n in range(3)])
    child = await latest(store, "r0")
    broken = child.next(
        event="queued",
        status="queued",
        executor_id="1" * 32,
        timestamp=datetime.now(UTC),
        state={"n": "no number", "answer": None},
    )
    await store.write(broken)
    metrics = await worker(store, concurrency=1).run()
    assert metrics.executions == {"refused": 1, "done": 2}
    assert (await latest(store, "r0")).step == broken.step


async def test_the_endpoint_tells_how_it_is(store: MemoryCheckpointer) -> None:
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
    at_work.metrics.heartbeat -= 3600
    assert (await asyncio.to_thread(get, "/health"))[0] == 503
    at_work.drain()
    assert (await asyncio.to_thread(get, "/ready"))[0] == 503
    BLOCKED["r"].set()
    await running


async def test_a_store_without_queues_is_refused() -> None:
    class Plain:
        """The least that a store can do."""

        def __init__(self) -> None:
            inner = MemoryCheckpointer()
            for name in ("bootstrap", "write", "read_latest", "read_at_step", "list_runs"):
                setattr(self, name, getattr(inner, name))

    with pytest.raises(CheckpointError, match="has no queues") as refused:
        await worker(Plain()).run()  # type: ignore[arg-type]
    assert refused.value.reason == "not-supported"


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"queues": ()}, {"queues": "default"}, {"poll": 0}, {"poison_after": 2}, {"grace": -1}],
    ids=str,
)
async def test_bad_numbers_are_refused(store: MemoryCheckpointer, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        worker(store, **wrong)


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
    hour = timedelta(hours=1)
    observer = QueueObserver(store, ("default", "mail"), metrics, now=lambda: datetime.now(UTC) + hour)
    await observer.look()
    assert (metrics.queue_ages, metrics.queues[0].running) == ({"default": 0}, 1)
    await graph.enqueue_many(store, [RunRequest(inputs={"n": 1}, run_id=run_id) for run_id in ("first", "next")])
    await graph.enqueue(store, {"n": 1}, queue="other")
    await observer.look()
    assert metrics.queue_ages.keys() == {"default"}
    assert 3600 <= metrics.queue_ages["default"] < 3600 + 60
    # A queue at its limit hands nothing out: what waited then waits still.
    await store.set_limits("default", QueueLimits(concurrency=0))
    hour *= 2
    await observer.look()
    assert 7200 <= metrics.queue_ages["default"] < 7200 + 60
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
