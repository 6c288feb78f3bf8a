"""Sync nodes have threads of their own, a timeout acts when it expires, and a process is killed by it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from support import nodes
from support.graphs import graph
from support.loop_clock import LoopClock
from support.memory import MemoryCheckpointer
from support.processes import is_gone

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.engine import NodePools
from stargraph.errors import GraphError
from stargraph.graph import Context

ONE = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: a, kind: "support.nodes:sync_x", KEYS}]
"""

MAP = """
state_schema: {x: {type: "list[any]", reduce: append, default: []}}
nodes: [{id: begin, kind: echo}, {id: a, kind: "support.nodes:appends_x", timeout: 60}, {id: end, kind: echo}]
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]", target: a, join: end}]
"""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What blocked threads wait for; opened at the end."""
    event = threading.Event()
    yield event
    event.set()


async def test_as_many_run_at_once_as_the_graph_allows(store: MemoryCheckpointer) -> None:
    before = set(threading.enumerate())
    meeting = threading.Barrier(16)
    nodes.before = lambda ctx: meeting.wait(60)
    run = await graph(MAP).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "done"
    left = set(threading.enumerate()) - before
    assert not [each for each in left if each.name.startswith("stargraph-node") and not each.daemon]


async def finished(store: SQLiteCheckpointer) -> bool:
    """Whether a branch is stored as completed."""
    tail = await store.read_latest("r")
    return tail is not None and tail.event == "completed" and tail.last_node == "a"


async def test_blocked_nodes_hold_up_neither_the_store_nor_the_default_executor(tmp_path: Any) -> None:
    meeting = threading.Barrier(16)

    async def elsewhere() -> str:
        return await asyncio.to_thread(lambda: "thread")

    def body(ctx: Context) -> Any:
        if ctx.item == 0:
            return "first"
        meeting.wait(60)
        return ctx.call_sync("there", elsewhere)

    nodes.before = body
    async with SQLiteCheckpointer(tmp_path / "run.sqlite") as store:
        run = await graph(MAP).start(checkpointer=store, run_id="r")
        work = asyncio.ensure_future(run.start())
        while not await finished(store):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(meeting.wait, 60)
        assert (await work).status == "done"
    assert run.state == {"x": ["first", *["thread"] * 15]}


class CountingPool(ThreadPoolExecutor):
    """Counts what it was given."""

    submitted = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)


async def test_the_time_of_a_node_begins_when_it_begins(store: MemoryCheckpointer, gate: threading.Event) -> None:
    clock = LoopClock()
    with CountingPool(2) as pool:
        for _ in range(2):
            pool.submit(gate.wait)
        run = await graph(MAP).start(checkpointer=store, run_id="r", executor=pool)
        work = asyncio.ensure_future(run.start())
        while pool.submitted < 2 + 16 and not work.done():
            await asyncio.sleep(0.01)
        clock.pass_(180)  # three times the timeout
        await asyncio.sleep(0.1)
        gate.set()
        assert (await work).status == "done"


async def test_a_timeout_ends_the_run_when_it_expires(store: MemoryCheckpointer, gate: threading.Event) -> None:
    late: list[str] = []

    def body(ctx: Context) -> Any:
        gate.wait()
        for late_use in (partial(ctx.call_sync, "late", len, ""), partial(ctx.interrupt, "late?")):
            try:
                late_use()
            except Exception as error:
                late.append(str(getattr(error, "reason", error)))

    nodes.before = body
    run = await graph(ONE.replace("KEYS", "timeout: 0.1")).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert not gate.is_set()
    assert summary.error is not None
    assert summary.error.message == (
        "the node took longer than its timeout of 0.1 s; its thread cannot be stopped and goes on"
    )
    gate.set()
    while len(late) < 2:
        await asyncio.sleep(0.01)
    assert late == ["node-ended", "node-ended"]


@pytest.mark.parametrize("resumed", [False, True])
async def test_no_attempt_runs_beside_a_thread_that_goes_on(
    store: MemoryCheckpointer, gate: threading.Event, resumed: bool
) -> None:
    entered = threading.Event()

    def body(ctx: Context) -> bool:
        entered.set()
        return gate.wait()

    nodes.before = body
    retry = "" if resumed else "retry: {attempts: 3, initial_delay: 0}, "
    run = await graph(ONE.replace("KEYS", f"{retry}timeout: 0.05, max_overrun: 0.1")).start(
        checkpointer=store, run_id="r"
    )
    summary = await run.start()
    if resumed:
        assert summary.error is not None
        assert summary.error.type == "TimeoutError"
        summary = await run.resume()
    assert summary.error is not None
    assert summary.error.reason == "still-running"
    assert await asyncio.to_thread(entered.wait, 60)
    assert nodes.LEDGER == ["a"]
    gate.set()
    patient = await graph(ONE.replace("KEYS", "timeout: 60, max_overrun: 60")).start(checkpointer=store, run_id="r")
    assert (await patient.resume()).status == "done"
    assert nodes.LEDGER == ["a", "a"]


async def test_a_call_that_ends_late_is_recorded_for_the_next_attempt(
    store: MemoryCheckpointer, gate: threading.Event
) -> None:
    made: list[int] = []
    entered = threading.Event()
    clock = LoopClock()

    def effect() -> int:
        made.append(1)
        entered.set()
        gate.wait()
        return len(made)

    nodes.before = lambda ctx: ctx.call_sync("effect", effect)
    text = ONE.replace("KEYS", "timeout: 60, max_overrun: 1000000, retry: {attempts: 2, initial_delay: 0}")
    run = await graph(text).start(checkpointer=store, run_id="r")

    async def let_the_time_of_the_first_attempt_pass() -> None:
        await asyncio.to_thread(entered.wait)
        while not gate.is_set():  # its timeout may begin a turn later than the call
            clock.pass_(60)
            await asyncio.sleep(0.01)

    passing = asyncio.ensure_future(let_the_time_of_the_first_attempt_pass())
    async for event in run.stream():
        if event.type == "attempt_failed":
            gate.set()
    gate.set()
    await passing
    assert run.summary is not None
    assert run.summary.status == "done", run.summary.error
    assert (made, run.state) == ([1], {"x": 1})


ISOLATED = 'nodes: [{id: a, kind: "support.process_nodes:NODE", isolation: process, timeout: 60}]'


@pytest.mark.parametrize(
    ("node", "error", "reason"),
    [
        ("hangs", "TimeoutError", None),
        ("dies", "stargraph.errors.NodeError", "process-died"),
        ("unpicklable", "support.process_nodes.UnpicklableError", None),
        ("unloadable", "support.process_nodes.UnloadableError", None),
        ("asks", "stargraph.errors.NodeError", "detached-node"),
        ("exits", "stargraph.errors.NodeError", "node-exited"),
    ],
)
async def test_a_node_in_a_process_fails_alone(
    store: MemoryCheckpointer, node: str, error: str, reason: str | None
) -> None:
    text = ISOLATED.replace("NODE", node).replace("60", "1.5" if node == "hangs" else "60")
    run = await graph(text).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.error is not None
    assert (summary.status, summary.error.type, summary.error.reason) == ("failed", error, reason)


async def test_a_node_in_a_process_returns_its_update_and_is_retried_by_class(store: MemoryCheckpointer) -> None:
    text = """id: test
state_schema: {pid: int, n: {type: int, default: 0}}
nodes:
  - {id: a, kind: "support.process_nodes:fails_once", isolation: process,
     retry: {attempts: 2, initial_delay: 0, on: [LookupError]}}
"""
    run = await graph(text).start(checkpointer=store, run_id="r", inputs={"pid": os.getpid()})
    assert (await run.start()).status == "done"
    assert run.state is not None
    assert run.state["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("names", "status"), [(["ConnectionError", "BrokenPipeError"], "done"), (["ConnectionError", "KeyError"], "failed")]
)
async def test_a_node_in_a_process_is_retried_for_a_group_if_each_exception_in_it_is_named(
    store: MemoryCheckpointer, names: list[str], status: str
) -> None:
    text = """id: test
state_schema: {names: "list[str]"}
nodes:
  - {id: a, kind: "support.process_nodes:fails_in_a_group_once", isolation: process,
     retry: {attempts: 2, initial_delay: 0, on: [OSError]}}
"""
    run = await graph(text).start(checkpointer=store, inputs={"names": names})
    assert (await run.start()).status == status


async def test_a_process_is_killed_by_a_cancellation(store: MemoryCheckpointer, tmp_path: Any) -> None:
    text = f"state_schema: {{path: str}}\n{ISOLATED.replace('NODE', 'goes_on')}"
    path = tmp_path / "pid"
    run = await graph(text).start(checkpointer=store, run_id="r", inputs={"path": str(path)})
    work = asyncio.ensure_future(run.start())
    while not (path.exists() and path.read_text()):
        await asyncio.sleep(0.02)
    assert (await run.cancel()).status == "cancelled"
    await work
    while not is_gone(int(path.read_text())):
        await asyncio.sleep(0.02)


async def test_a_dying_pool_of_the_users_is_a_failure_of_the_node(store: MemoryCheckpointer) -> None:
    with ProcessPoolExecutor(1) as pool:
        text = ISOLATED.replace("NODE", "dies").replace("isolation: process, ", "")
        run = await graph(text).start(checkpointer=store, run_id="r", executor=pool)
        summary = await run.start()
    assert summary.error is not None
    assert summary.error.type == "concurrent.futures.process.BrokenProcessPool"


@pytest.mark.parametrize("keys", ["isolation: processes", "max_overrun: -1"])
def test_a_wrong_key_is_refused(keys: str) -> None:
    with pytest.raises(GraphError):
        graph(ONE.replace("KEYS", keys))


STUBBORN = 'nodes: [{id: a, kind: "support.nodes:awaits_x", KEYS}]\nstate_schema: {x: {type: any, default: null}}'


@pytest.mark.parametrize("ends", ["timeout", "cancel", "pause"])
async def test_an_async_node_that_catches_its_cancellation_holds_nothing_up(
    store: MemoryCheckpointer, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("_attempts", "_engine"):
        monkeypatch.setattr(f"stargraph.engine.{module}.CANCEL_SECONDS", 0.05)
    running, is_over = asyncio.Event(), asyncio.Event()

    async def body(ctx: Context) -> Any:
        running.set()
        while not is_over.is_set():
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue
        return await ctx.call("late", lambda: None)

    nodes.before = body
    keys = "timeout: 0.05, max_overrun: 0.05" if ends == "timeout" else "max_overrun: 0.05"
    run = await graph(STUBBORN.replace("KEYS", keys)).start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start())
    await running.wait()
    if ends == "cancel":
        await run.cancel()
    elif ends == "pause":
        run.pause(grace=0)
    async with asyncio.timeout(60):
        summary = await work
    assert summary.status == {"timeout": "failed", "cancel": "cancelled", "pause": "paused"}[ends]
    if ends != "cancel":
        summary = await run.resume()
        assert summary.error is not None
        assert summary.error.reason == "still-running"
    is_over.set()
    await asyncio.sleep(0.1)
    assert "called a" not in store.events("r")


class LostExecutor(Executor):
    """Begins a call, and says long after its timeout that it was lost, as a pool does whose process was killed."""

    def __init__(self) -> None:
        self.call: Future[Any] = Future()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.call.set_running_or_notify_cancel()
        return self.call


async def test_a_call_that_was_given_up_may_fail_unseen() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    executor = LostExecutor()
    pools = NodePools(executor)
    with pytest.raises(TimeoutError):
        await pools.run_remotely(print, owner="r/t", seconds=0.01)
    assert not await pools.wait_for_strays("r/t", 0.01)
    executor.call.set_exception(RuntimeError("the process was killed"))
    assert await pools.wait_for_strays("r/t", 0.01)
    del executor.call  # it holds those that have waited for it
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert reported == []
