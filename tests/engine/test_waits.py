"""Waits for a time: stored with their due time, without a process, and gone on with by whoever resumes the run then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.loop_clock import LoopClock
from support.memory import Killed, MemoryCheckpointer
from support.places import Place

from stargraph.checkpoint.protocol import Checkpoint, QueueEntry
from stargraph.engine import _due_times, _engine
from stargraph.errors import CheckpointError, GraphError, StateError, StoreUnavailableError
from stargraph.graph import Context, Graph, GraphBuilder, Run, RunResult
from stargraph.graph._control import pause
from stargraph.graph._queue import queued_again
from stargraph.graph._resume_checks import until_due
from stargraph.ir import parse_graph
from stargraph.replay import Overlay

CALLS: list[str] = []
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


class Clock:
    """The time that the engine and the run see; it passes by hand."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._stopped: datetime | None = None

    def pass_(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)

    def stop(self) -> datetime:
        """Let only pass what passes by hand, and return the time."""
        self._stopped = datetime.now(UTC)
        return self.now(UTC)

    def now(self, tz: Any) -> datetime:
        return (self._stopped or datetime.now(UTC)).astimezone(tz) + self._ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return clock.now(tz)

    monkeypatch.setattr(_due_times, "datetime", Shifted)
    monkeypatch.setattr(_engine, "datetime", Shifted)
    monkeypatch.setattr("stargraph.graph._resume_checks.datetime", Shifted)
    return clock


async def until_told(state: Any) -> None:
    CALLS.append("begun")
    while "may end" not in CALLS:
        await asyncio.sleep(0.01)


async def immediate(state: Any) -> dict[str, Any]:
    CALLS.append("begun")
    return {"n": state.n + 1}


async def once(state: Any, ctx: Context) -> dict[str, Any]:
    CALLS.append("before")
    await ctx.sleep(HOUR)
    CALLS.append("after")
    return {"n": state.n + 1}


async def in_a_loop(state: Any, ctx: Context) -> dict[str, Any]:
    for _ in range(3):
        await ctx.sleep(HOUR)
    return {"n": 3}


async def side_by_side(state: Any, ctx: Context) -> dict[str, Any]:
    async def nap(seconds: float) -> float:
        await ctx.sleep(seconds)
        return seconds

    return {"n": int(sum(await asyncio.gather(nap(HOUR), nap(2 * HOUR), nap(HOUR))))}


def in_a_thread(state: Any, ctx: Context) -> dict[str, Any]:
    ctx.sleep(HOUR)
    return {"n": 1}


async def until(state: Any, ctx: Context) -> dict[str, Any]:
    await ctx.sleep(until=datetime(2020, 1, 1, tzinfo=UTC))
    return {"n": 1}


async def with_a_call(state: Any, ctx: Context) -> dict[str, Any]:
    async def charge() -> int:
        CALLS.append("charge")
        return 5

    paid = await ctx.call("charge", charge)
    await ctx.sleep(HOUR)
    return {"n": paid}


async def with_a_question(state: Any, ctx: Context) -> dict[str, Any]:
    async def ask() -> Any:
        return ctx.interrupt("Sooner?")

    async def nap() -> None:
        await ctx.sleep(HOUR)

    answer, _ = await asyncio.gather(ask(), nap())
    return {"n": answer}


async def slow(state: Any, ctx: Context) -> dict[str, Any]:
    while "after" not in CALLS:
        await asyncio.sleep(0.005)
    return {"n": 9}


NO_TIMES: list[dict[str, Any]] = [
    {},
    {"seconds": -1},
    {"seconds": "3"},
    {"seconds": True},
    {"seconds": float("inf")},
    {"until": datetime(2020, 1, 1)},  # noqa: DTZ001
    {"until": "2020-01-01"},
    {"seconds": 1, "until": datetime(2020, 1, 1, tzinfo=UTC)},
]


async def bad(state: Any, ctx: Context) -> dict[str, Any]:
    for wrong in NO_TIMES:
        try:
            await ctx.sleep(**wrong)
        except StateError as error:
            CALLS.append(str(error.reason))
    return {}


def graph(*nodes: Any) -> Graph:
    builder = GraphBuilder("g").state(n=(int, 0))
    for node in nodes:
        builder.node(node)
    return Graph(builder)


async def opened(loaded: Graph, store: Any, run_id: str = "r") -> Run:
    return await loaded.start(checkpointer=store, run_id=run_id)


async def resumed(loaded: Graph, store: Any) -> RunResult[Any]:
    return await (await opened(loaded, store)).resume()


async def test_a_run_that_waits_is_stored_with_its_due_time(place: Place, clock: Clock) -> None:
    loaded = graph(once)
    async with place.open() as store:
        before = clock.stop()
        summary = await (await opened(loaded, store)).start()
        assert summary.due_at is not None
        assert (summary.status, summary.questions) == ("awaiting_input", ())
        assert summary.due_at == before + timedelta(seconds=HOUR)
        (listed,) = await store.list_runs()
        assert listed == summary
        assert listed.due_at == summary.due_at
    async with place.open() as store:
        early = await resumed(loaded, store)
        assert early == summary, "a resume before the time writes nothing, and says when it comes"
        clock.pass_(HOUR + 1)
        done = await resumed(loaded, store)
        assert (done.status, done.state, done.due_at) == ("done", {"n": 1}, None)
        assert (await store.list_runs())[0].due_at is None
        run = await opened(loaded, store)
        assert not (await run.replay()).differences
    assert [*["before"], *["before", "after"], *["before"], *["before", "after"]] == CALLS, "the replay does both again"


@pytest.mark.parametrize(
    ("node", "waits", "n"),
    [(in_a_loop, 3, 3), (side_by_side, 2, 4 * 3600), (in_a_thread, 1, 1), (until, 0, 1)],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_ways_to_wait(store: MemoryCheckpointer, clock: Clock, node: Any, waits: int, n: int) -> None:
    loaded = graph(node)
    summary = await (await opened(loaded, store)).start()
    for _ in range(waits):
        assert summary.status == "awaiting_input"
        assert await resumed(loaded, store) == summary
        clock.pass_(HOUR + 1)
        summary = await resumed(loaded, store)
    assert (summary.status, summary.state) == ("done", {"n": n})
    assert not (await (await opened(loaded, store)).replay()).differences


async def test_the_earliest_time_counts(store: MemoryCheckpointer, clock: Clock) -> None:
    summary = await (await opened(graph(side_by_side), store)).start()
    dues = sorted(each.due_at for each in store.runs["r"][-1].interrupts if each.due_at)
    assert len(dues) == 3
    assert summary.due_at == dues[0]


async def test_calls_before_a_wait_are_not_made_again(store: MemoryCheckpointer, clock: Clock) -> None:
    loaded = graph(with_a_call)
    await (await opened(loaded, store)).start()
    clock.pass_(HOUR + 1)
    assert (await resumed(loaded, store)).state == {"n": 5}
    assert CALLS == ["charge"]


async def test_a_process_may_wait_itself(store: MemoryCheckpointer) -> None:
    builder = GraphBuilder("g").state(n=(int, 0))
    builder.add_node("wait", "wait", seconds=0.05)
    builder.node(once)
    run = await Graph(builder).start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start(wait=True))
    while "before" not in CALLS:
        await asyncio.sleep(0.005)
    assert store.events("r")[:3] == ["started", "asked wait", "answered wait"]
    await run.cancel(grace=0)
    assert (await work).status == "cancelled"


async def test_a_wait_that_is_over_meanwhile_goes_on_beside_others(store: MemoryCheckpointer) -> None:
    document = f"""
id: g
state_schema: {{n: {{type: "list[int]", reduce: append, default: []}}}}
nodes:
  - {{id: begin, kind: echo}}
  - {{id: nap, kind: "{__name__}:naps"}}
  - {{id: slow, kind: "{__name__}:waits_for_nap"}}
  - {{id: end, kind: echo}}
rules:
  - {{id: both, when: {{node: begin}}, then: [{{kind: parallel, targets: [nap, slow], join: end}}]}}
"""
    run = await Graph(parse_graph(document)).start(checkpointer=store, run_id="r")
    async with asyncio.timeout(60):
        summary = await run.start()
    assert (summary.status, sorted(summary.state["n"])) == ("done", [1, 2])


async def naps(state: Any, ctx: Context) -> dict[str, Any]:
    await ctx.sleep(0.02)
    CALLS.append("after")
    return {"n": [1]}


async def waits_for_nap(state: Any, ctx: Context) -> dict[str, Any]:
    await slow(state, ctx)
    return {"n": [2]}


async def test_a_question_beside_a_wait(store: MemoryCheckpointer, clock: Clock) -> None:
    loaded = graph(with_a_question)
    run = await opened(loaded, store)
    summary = await run.start()
    (question,) = run.questions
    wait = next(each for each in store.runs["r"][-1].interrupts if each.due_at)
    with pytest.raises(CheckpointError) as caught:
        await run.answer(wait.id, None)
    assert caught.value.reason == "no-such-question"
    await run.answer(question, 4)
    again = await run.resume()
    assert (again.status, again.due_at, again.questions) == ("awaiting_input", summary.due_at, ())
    clock.pass_(HOUR + 1)
    assert (await run.resume()).state == {"n": 4}
    assert not (await run.replay()).differences


async def test_a_crash_around_the_end_of_a_wait(store: MemoryCheckpointer, clock: Clock) -> None:
    loaded = graph(once)
    await (await opened(loaded, store)).start()
    clock.pass_(HOUR + 1)

    def die(checkpoint: Checkpoint) -> None:
        if checkpoint.event in dying:
            dying.remove(checkpoint.event)
            raise Killed

    dying = ["answered", "completed"]
    store.before_write = die
    for _ in range(2):
        with pytest.raises(Killed):
            await resumed(loaded, store)
    assert (await resumed(loaded, store)).state == {"n": 1}
    assert not (await (await opened(loaded, store)).replay()).differences


async def test_the_time_counts_from_the_first_record(store: MemoryCheckpointer, clock: Clock) -> None:
    loaded = graph(once)
    first = await (await opened(loaded, store)).start()
    run = await opened(loaded, store)
    work = asyncio.ensure_future(run.resume(wait=True))
    while store.events("r")[-1] != "resumed":
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    run.pause(grace=0)
    assert (await work).due_at == first.due_at


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        (lambda run: run.pause(), "paused"),
        (lambda run: run.pause(requeue=True), "queued"),
        (lambda run: run.cancel(), "cancelled"),
    ],
    ids=["pause", "requeue", "cancel"],
)
async def test_a_queued_run_that_waits_here_for_its_time_is_stopped(
    store: MemoryCheckpointer, stop: Callable[[Run], Awaitable[object] | None], status: str
) -> None:
    loaded = graph(once)
    await loaded.enqueue(store, run_id="r", not_before=datetime.now(UTC) + timedelta(hours=1))
    run = await loaded.start(checkpointer=store)
    work = asyncio.ensure_future(run.resume("r", wait=True))
    while run._executor is None:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    stopping = stop(run)
    if stopping is not None:
        await stopping
    assert (await asyncio.wait_for(work, 60)).status == status
    assert store.runs["r"][-1].status == status
    assert CALLS == []


@pytest.mark.parametrize(
    "stop", [lambda run: run.pause(grace=1000), lambda run: run.cancel(grace=1000)], ids=["pause", "cancel"]
)
async def test_whoever_executes_a_queued_run_meanwhile_has_time_to_stop(
    store: MemoryCheckpointer, stop: Callable[[Run], Awaitable[object] | None]
) -> None:
    loaded = graph(until_told)
    due = datetime.now(UTC) + timedelta(hours=1)
    await loaded.enqueue(store, run_id="r", not_before=due)
    run = await loaded.start(checkpointer=store)
    waiting = asyncio.ensure_future(run.resume("r", wait=True))
    executing = asyncio.ensure_future((await loaded.start(checkpointer=store, watch=0.01)).resume("r", as_of=due))
    while "begun" not in CALLS:
        await asyncio.sleep(0.01)
    clock = LoopClock()
    stopping = asyncio.ensure_future(stop(run) or asyncio.sleep(0))
    while store.events("r")[-1] == "resumed":
        await asyncio.sleep(0.01)
    clock.pass_(100)
    if "pause_requested" in store.events("r"):  # a cancel ends the node
        CALLS.append("may end")
    results = await asyncio.wait_for(asyncio.gather(executing, waiting, stopping), 60)
    assert {each.status for each in results[:2]} == {store.runs["r"][-1].status}
    resumed, asked = store.runs["r"][1:3]
    assert asked.event in ("pause_requested", "cancel_requested")
    assert store.runs["r"][-1].executor_id == resumed.executor_id


async def _cancel(store: MemoryCheckpointer, other: Run, due: datetime) -> None:
    await other.cancel()


async def _pause(store: MemoryCheckpointer, other: Run, due: datetime) -> None:
    await pause(store, "r")


async def _execute(store: MemoryCheckpointer, other: Run, due: datetime) -> None:
    await other.resume(as_of=due)


@pytest.mark.parametrize(("act", "status"), [(_cancel, "cancelled"), (_pause, "paused"), (_execute, "done")])
async def test_what_another_process_does_to_a_queued_run_ends_the_wait_for_its_time(
    store: MemoryCheckpointer, act: Callable[[MemoryCheckpointer, Run, datetime], Awaitable[None]], status: str
) -> None:
    loaded = graph(immediate)
    due = datetime.now(UTC) + timedelta(hours=1)
    await loaded.enqueue(store, run_id="r", not_before=due)
    run = await loaded.start(checkpointer=store, run_id="r", watch=0.01)
    waiting = asyncio.ensure_future(run.resume(wait=True))
    while run._executor is None:
        await asyncio.sleep(0)
    await act(store, await loaded.start(checkpointer=store, run_id="r"), due)
    assert (await asyncio.wait_for(waiting, 60)).status == status
    assert (store.runs["r"][-1].status, len(CALLS)) == (status, status == "done")


async def test_a_run_that_is_queued_again_meanwhile_is_begun_at_its_new_time(store: MemoryCheckpointer) -> None:
    loaded = graph(immediate)
    await loaded.enqueue(store, run_id="r", not_before=datetime.now(UTC) + timedelta(hours=1))
    run = await loaded.start(checkpointer=store, run_id="r", watch=0.01)
    waiting = asyncio.ensure_future(run.resume(wait=True))
    while run._executor is None:
        await asyncio.sleep(0)
    tail = store.runs["r"][-1]
    assert tail.queue is not None
    now = QueueEntry.model_validate({**tail.queue.model_dump(), "not_before": datetime.now(UTC)})
    store.append_unseen(queued_again(tail, now, executor_id="f" * 32))
    assert (await asyncio.wait_for(waiting, 60)).status == "done"
    assert store.events("r")[:3] == ["started", "queued", "resumed"]


async def test_a_stop_during_a_look_counts_although_the_time_has_come_meanwhile(store: MemoryCheckpointer) -> None:
    await graph(immediate).enqueue(store, run_id="r", not_before=datetime.now(UTC) + timedelta(hours=1))
    tail, stopped = store.runs["r"][-1], asyncio.Event()
    assert tail.queue is not None
    over = QueueEntry.model_validate({**tail.queue.model_dump(), "not_before": datetime.now(UTC)})

    async def look() -> None:
        stopped.set()
        tail.__dict__["queue"] = over

    assert await asyncio.wait_for(until_due(tail, stopped, look=look, seconds=0.01), 60) is None


async def test_the_wait_for_its_time_outlives_an_outage_of_the_store(store: MemoryCheckpointer) -> None:
    loaded = graph(immediate)
    await loaded.enqueue(store, run_id="r", not_before=datetime.now(UTC) + timedelta(hours=1))
    away = AwayStore(store)
    run = await loaded.start(checkpointer=away, run_id="r", watch=0.01)
    waiting = asyncio.ensure_future(run.resume(wait=True))
    while run._executor is None:
        await asyncio.sleep(0)
    away.is_away = True
    while away.refused < 3:
        await asyncio.sleep(0.01)
    away.is_away = False
    await (await loaded.start(checkpointer=store, run_id="r")).cancel()
    assert (await asyncio.wait_for(waiting, 60)).status == "cancelled"


class AwayStore:
    """A store that cannot be reached for a while."""

    def __init__(self, store: MemoryCheckpointer) -> None:
        self._store = store
        self.is_away = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        if self.is_away:
            self.refused += 1
            raise StoreUnavailableError("away", reason="unreachable")
        return await self._store.read_at_step(run_id, step)


async def test_a_child_run_waits(store: MemoryCheckpointer, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        "id: child\nstate_schema: {n: {type: int, default: 0}}\nnodes:\n  - {id: nap, kind: wait, seconds: 3600}\n"
        f'  - {{id: once, kind: "{__name__}:adds"}}\n'
    )
    text = (
        "id: g\nstate_schema: {n: {type: int, default: 0}}\nnodes:\n"
        "  - {id: sub, kind: subgraph, graph: child.yaml, outputs: {n: state.n}}\n"
    )
    (tmp_path / "g.yaml").write_text(text)
    loaded = Graph.from_file(tmp_path / "g.yaml")
    summary = await (await opened(loaded, store)).start()
    assert (summary.status, summary.questions) == ("awaiting_input", ())
    assert summary.due_at is not None
    assert await resumed(loaded, store) == summary
    clock.pass_(HOUR + 1)
    done = await resumed(loaded, store)
    assert (done.status, done.state) == ("done", {"n": 1})
    assert not (await (await opened(loaded, store)).replay()).differences


def adds(state: Any) -> dict[str, Any]:
    return {"n": state.n + 1}


async def test_a_fork_of_a_run_that_waits(store: MemoryCheckpointer, clock: Clock) -> None:
    loaded = graph(once)
    run = await opened(loaded, store)
    first = await run.start()
    fork = await run.fork(None, Overlay(state={"n": 10}), run_id="f")
    waiting = await fork.start()
    assert waiting.status == "awaiting_input"
    clock.pass_(HOUR + 1)
    assert (await fork.resume()).state == {"n": 11}
    assert first.due_at is not None


@pytest.mark.parametrize(
    ("text", "moment"), [("2020-01-01T00:00:00Z", True), ("{when}", True), ("tomorrow", False), ("2020-01-01", False)]
)
async def test_a_node_waits_until_a_time_of_the_state(store: MemoryCheckpointer, text: str, moment: bool) -> None:
    document = (
        'id: g\nstate_schema: {when: {type: str, default: "2020-01-01T00:00:00+01:00"}}\n'
        f'nodes: [{{id: nap, kind: wait, until: "{text}"}}]\n'
    )
    summary = await (await opened(Graph(parse_graph(document)), store)).start()
    assert summary.status == ("done" if moment else "failed")
    if summary.error is not None:
        assert summary.error.reason == "bad-time"


@pytest.mark.parametrize("keys", ["", ", seconds: 1, until: '2020-01-01T00:00:00Z'", ", seconds: -1", ", until: '{x}'"])
def test_a_wait_node_says_how_long(keys: str) -> None:
    with pytest.raises(GraphError):
        parse_graph(f"id: g\nstate_schema: {{n: int}}\nnodes: [{{id: nap, kind: wait{keys}}}]\n")


async def test_what_is_no_time_is_refused(store: MemoryCheckpointer) -> None:
    assert (await (await opened(graph(bad), store)).start()).status == "done"
    assert ["bad-time"] * len(NO_TIMES) == CALLS


async def test_the_clock_is_read_once_without_a_wait(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    class Counting(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            reads.append(tz)
            return datetime.now(tz)

    monkeypatch.setattr(_due_times, "datetime", Counting)
    assert (await (await opened(graph(adds, once_more), store)).start()).status == "done"
    assert len(reads) == 1


def once_more(state: Any) -> dict[str, Any]:
    return {"n": state.n + 1}
