"""Middleware: what it stands around, in which order, and what becomes of what it raises, sets and changes."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import calling_nodes
from support.calling_nodes import EFFECTS, do, do_async, fail
from support.graphs import SEQUENCE, everything, graph
from support.loop_clock import LoopClock
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.memory import MemoryCheckpointer as Store
from stargraph.errors import CallError, StoreUnavailableError
from stargraph.graph import CallInfo, Context, Middleware, NodeInfo, RunInfo, StoreInfo

ASYNC = "play"
SYNC = "play_in_a_thread"

CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("CURRENT", default="nothing")


@pytest.fixture(autouse=True)
def _nodes() -> Iterator[None]:
    calling_nodes.reset()
    yield
    calling_nodes.reset()


def playing(kind: str, keys: str = "") -> str:
    fields = "state_schema: {x: {type: any, default: null}}\n"
    return f'{fields}nodes: [{{id: a, kind: "support.calling_nodes:{kind}"{keys}}}]'


class Noting(Middleware):
    """Notes what it stands around, with what was current then, and is current inside."""

    def __init__(self, name: str = "", notes: list[str] | None = None) -> None:
        self.name = name
        self.notes: list[str] = [] if notes is None else notes

    @asynccontextmanager
    async def _around(self, what: str) -> AsyncIterator[None]:
        self.notes.append(f"{self.name}> {what} in {CURRENT.get()}")
        token = CURRENT.set(what)
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            CURRENT.reset(token)
            self.notes.append(f"{self.name}< {what}: {outcome}")

    def node(self, node: NodeInfo) -> Any:
        return self._around(f"{node.node}.{node.attempt}")

    def call(self, call: CallInfo) -> Any:
        return self._around(f"{call.node}/{call.name}")


class Everything(Noting):
    def run(self, run: RunInfo) -> Any:
        return self._around(run.action)

    def store(self, store: StoreInfo) -> Any:
        return self._around(store.operation)


async def test_the_first_one_is_the_outermost(store: MemoryCheckpointer) -> None:
    notes: list[str] = []
    text = playing(ASYNC)
    run = await graph(text).start(checkpointer=store, middleware=[Noting("1", notes), Noting("2", notes)])
    assert (await run.start()).status == "done"
    assert notes == ["1> a.1 in nothing", "2> a.1 in a.1", "2< a.1: done", "1< a.1: done"]


async def made(context: Context, kind: str, function: Callable[..., Any], *args: Any) -> Any:
    return await context.call("c", function, *args) if kind == ASYNC else context.call_sync("c", function, *args)


def set_script(kind: str, body: Callable[[Any], Any], seen: list[str] | None = None) -> None:
    """Have the node make a call of `body`, and return what that returns as `x`."""
    if kind == ASYNC:

        async def script(state: Any, context: Context) -> Any:
            return {"x": await context.call("c", body, CURRENT.get())}

        calling_nodes.script = script
    else:
        calling_nodes.sync_script = lambda state, context: {"x": context.call_sync("c", body, CURRENT.get())}


@pytest.mark.parametrize("kind", [ASYNC, SYNC])
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_it_sets_is_seen_inside(store: MemoryCheckpointer, kind: str, is_async: bool) -> None:
    def function(of_the_node: str) -> str:
        return f"{of_the_node}, {CURRENT.get()}"

    async def coroutine(of_the_node: str) -> str:
        return f"{of_the_node}, {CURRENT.get()}"

    set_script(kind, coroutine if is_async else function)
    noting = Noting()
    run = await graph(playing(kind)).start(checkpointer=store, middleware=[noting])
    assert (await run.start()).status == "done"
    assert noting.notes == ["> a.1 in nothing", "> a/c in a.1", "< a/c: done", "< a.1: done"]
    assert run.state is not None
    assert run.state["x"] == "a.1, a/c"


async def test_it_stands_around_runs_and_the_store(tmp_path: Path) -> None:
    everything_noted = Everything()
    async with Store() as store:
        run = await everything(tmp_path).start(checkpointer=store, run_id="r", middleware=[everything_noted])
        summary = await run.start()
        while summary.status == "awaiting_input":
            for question in run.questions:
                await run.answer(question.id, "yes")
            summary = await run.resume()
        assert summary.status == "done"
    begun = [note[2:] for note in everything_noted.notes if note.startswith(">")]
    ended = [note[2:] for note in everything_noted.notes if note.startswith("<")]
    assert len(begun) == len(ended)
    assert begun[:3] == ["start in nothing", "write in start", "first.1 in start"]
    assert {
        "resume in nothing",
        "read_latest in nothing",
        "write in resume",
        "start in sub.1",
        "begin.1 in start",
    } <= set(begun)
    assert {note.partition(":")[2] for note in ended} == {" done"}, "a question is no failure"


@pytest.mark.parametrize("kind", [ASYNC, SYNC])
async def test_a_failed_call_and_node_are_thrown_in_and_recorded_as_without(
    store: MemoryCheckpointer, kind: str
) -> None:
    def body(_: str) -> None:
        raise LookupError("not there")

    set_script(kind, body)
    noting = Noting()
    text = playing(kind, ", retry: {attempts: 2, initial_delay: 0, on: [LookupError]}")
    plain = await graph(text).start(checkpointer=store, run_id="plain")
    run = await graph(text).start(checkpointer=store, run_id="r", middleware=[noting])
    (expected, summary) = (await plain.start(), await run.start())
    assert summary.error is not None
    assert expected.error is not None
    assert summary.error.model_dump() == expected.error.model_dump()
    assert [note for note in noting.notes if note.startswith("<")][:2] == ["< a/c: LookupError", "< a.1: CallError"]


async def test_a_retry_is_another_attempt(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> None:
        if context.attempt < 3:
            raise ConnectionError

    calling_nodes.script = script
    noting = Noting()
    text = playing(ASYNC, ", retry: {attempts: 3, initial_delay: 0, on: [ConnectionError]}")
    run = await graph(text).start(checkpointer=store, middleware=[noting])
    assert (await run.start()).status == "done"
    assert [note for note in noting.notes if note.startswith("<")] == [
        "< a.1: ConnectionError",
        "< a.2: ConnectionError",
        "< a.3: done",
    ]


async def test_a_question_is_no_failure(store: MemoryCheckpointer) -> None:
    waits: list[bool] = []

    class Waiting(Noting):
        @asynccontextmanager
        async def node(self, node: NodeInfo) -> AsyncIterator[None]:
            yield
            waits.append(node.waits)

    async def script(state: Any, context: Context) -> Any:
        return {"x": context.interrupt("Well?")}

    calling_nodes.script = script
    run = await graph(playing(ASYNC)).start(checkpointer=store, middleware=[Waiting()])
    assert (await run.start()).status == "awaiting_input"
    (question,) = run.questions
    await run.answer(question.id, 1)
    assert (await run.resume()).status == "done"
    assert waits == [True, False]


class Refusing(Middleware):
    def __init__(self, hook: str, when: str) -> None:
        self.hook, self.when = hook, when
        self.count = 0

    @asynccontextmanager
    async def _refuse(self, hook: str) -> AsyncIterator[None]:
        refuses = hook == self.hook
        if refuses and self.when == "before":
            raise PermissionError(hook)
        yield
        if refuses and self.when == "after":
            raise PermissionError(hook)

    def run(self, run: RunInfo) -> Any:
        return self._refuse("run")

    def node(self, node: NodeInfo) -> Any:
        return self._refuse("node")

    def call(self, call: CallInfo) -> Any:
        return self._refuse("call")

    def store(self, store: StoreInfo) -> Any:
        self.count += 1
        return self._refuse("store" if self.count > 1 else "")


@pytest.mark.parametrize("kind", [ASYNC, SYNC])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_it_raises_around_a_call_is_the_outcome_of_the_call(
    store: MemoryCheckpointer, kind: str, when: str
) -> None:
    set_script(kind, lambda _: do("it", 1))
    run = await graph(playing(kind)).start(checkpointer=store, run_id="r", middleware=[Refusing("call", when)])
    summary = await run.start()
    assert summary.error is not None
    assert (summary.error.type, EFFECTS) == (f"{CallError.__module__}.CallError", ["it"] if when == "after" else [])
    (call,) = next(checkpoint.calls for checkpoint in store.runs["r"] if checkpoint.event == "called")
    assert call.error is not None
    assert call.error.type == "PermissionError"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_it_raises_around_a_node_fails_the_node(store: MemoryCheckpointer, when: str) -> None:
    async def script(state: Any, context: Context) -> None:
        do("ran")

    calling_nodes.script = script
    run = await graph(playing(ASYNC)).start(checkpointer=store, middleware=[Refusing("node", when)])
    summary = await run.start()
    assert summary.error is not None
    assert (summary.status, summary.error.type, summary.error.node) == ("failed", "PermissionError", "a")
    assert (["ran"] if when == "after" else []) == EFFECTS


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_it_raises_around_the_store_ends_the_execution_as_a_fault_of_the_store_does(
    store: MemoryCheckpointer, when: str
) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", middleware=[Refusing("store", when)])
    with pytest.raises(PermissionError):
        await run.start()
    assert store.runs["r"][-1].status == "running"
    assert (await (await graph(SEQUENCE).start(checkpointer=store)).resume("r")).status == "done"


async def test_what_it_raises_before_a_run_leaves_nothing(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", middleware=[Refusing("run", "before")])
    with pytest.raises(PermissionError):
        await run.start()
    assert store.runs == {}


class Swallowing(Middleware):
    @asynccontextmanager
    async def _swallow(self, call: CallInfo | None = None) -> AsyncIterator[None]:
        try:
            yield
        except Exception:
            if call is not None:
                call.result = "instead"

    def run(self, run: RunInfo) -> Any:
        return self._swallow()

    def node(self, node: NodeInfo) -> Any:
        return self._swallow()

    def call(self, call: CallInfo) -> Any:
        return self._swallow(call)

    def store(self, store: StoreInfo) -> Any:
        return self._swallow()


async def test_a_failed_write_never_seems_to_have_succeeded(store: MemoryCheckpointer) -> None:
    def unreachable(_: object) -> None:
        raise StoreUnavailableError("gone", reason="unavailable")

    store.before_write = unreachable
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", middleware=[Swallowing()])
    with pytest.raises(StoreUnavailableError):
        await run.start()


async def test_a_node_that_failed_has_failed(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> None:
        raise LookupError

    calling_nodes.script = script
    run = await graph(playing(ASYNC)).start(checkpointer=store, middleware=[Swallowing()])
    assert (await run.start()).status == "failed"


@pytest.mark.parametrize("kind", [ASYNC, SYNC])
async def test_a_call_may_be_given_another_result(store: MemoryCheckpointer, kind: str) -> None:
    set_script(kind, lambda _: fail("it", ConnectionError()))
    run = await graph(playing(kind)).start(checkpointer=store, run_id="r", middleware=[Swallowing()])
    assert (await run.start()).status == "done"
    (call,) = next(checkpoint.calls for checkpoint in store.runs["r"] if checkpoint.event == "called")
    assert (call.result, call.error) == ("instead", None)
    assert run.state == {"x": "instead"}


@pytest.mark.parametrize("kind", [ASYNC, SYNC])
async def test_another_function_may_be_called_instead(store: MemoryCheckpointer, kind: str) -> None:
    class Instead(Middleware):
        @asynccontextmanager
        async def call(self, call: CallInfo) -> AsyncIterator[None]:
            assert isinstance(call.function, partial)
            given = call.function.args
            call.function = lambda: f"instead of {given}"
            yield

    set_script(kind, lambda _: do("it"))
    run = await graph(playing(kind)).start(checkpointer=store, middleware=[Instead()])
    assert (await run.start()).status == "done"
    assert (run.state, EFFECTS) == ({"x": "instead of ('nothing',)"}, [])


async def test_a_recorded_call_is_not_made(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> None:
        await context.call("c", do_async, "it")
        if context.attempt == 1:
            raise ConnectionError

    calling_nodes.script = script
    noting = Noting()
    text = playing(ASYNC, ", retry: {attempts: 2, initial_delay: 0, on: [ConnectionError]}")
    run = await graph(text).start(checkpointer=store, middleware=[noting])
    assert (await run.start()).status == "done"
    assert [note for note in noting.notes if "/" in note] == ["> a/c in a.1", "< a/c: done"]


async def test_a_limit_holds_nodes_back_and_not_their_timeouts(store: MemoryCheckpointer) -> None:
    busy: list[int] = [0, 0]
    clock = LoopClock()

    class OneAtATime(Middleware):
        def __init__(self) -> None:
            self._lock = asyncio.Lock()

        @asynccontextmanager
        async def node(self, node: NodeInfo) -> AsyncIterator[None]:
            async with self._lock:
                yield

    async def script(state: Any, context: Context) -> None:
        busy[0] += 1
        busy[1] = max(busy)
        clock.pass_(40)  # those that wait for their turn wait for longer than their timeout
        await asyncio.sleep(0.02)
        busy[0] -= 1

    calling_nodes.script = script
    text = """
nodes:
  - {id: begin, kind: echo}
  - {id: a, kind: "support.calling_nodes:play", timeout: 100}
  - {id: end, kind: echo}
rules: [{id: all, when: {node: begin}, then: [{kind: map, over: "[1, 2, 3, 4]", target: a, join: end}]}]
"""
    run = await graph(text).start(checkpointer=store, middleware=[OneAtATime()])
    assert (await run.start()).status == "done"
    assert busy[1] == 1


async def test_a_cancellation_is_thrown_in(store: MemoryCheckpointer) -> None:
    begun = asyncio.Event()

    async def script(state: Any, context: Context) -> None:
        begun.set()
        await asyncio.Event().wait()

    calling_nodes.script = script
    noting = Everything()
    run = await graph(playing(ASYNC)).start(checkpointer=store, run_id="r", middleware=[noting])
    work = asyncio.ensure_future(run.start())
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert {"< a.1: CancelledError", "< start: CancelledError"} <= set(noting.notes)


async def test_a_run_may_be_given_tags_before_it_starts(store: MemoryCheckpointer) -> None:
    class Tagging(Middleware):
        def __init__(self) -> None:
            self.seen: dict[str, Any] = {}

        @asynccontextmanager
        async def run(self, run: RunInfo) -> AsyncIterator[None]:
            if run.action == "start":
                run.metadata["request"] = "7"
            yield
            self.seen = {"action": run.action, "status": run.status, "step": run.step, **run.metadata}

    tagging = Tagging()
    run = await graph(playing(ASYNC)).start(checkpointer=store, run_id="r", middleware=[tagging])
    summary = await run.start()
    assert summary.metadata == {"request": "7"}
    assert tagging.seen == {"action": "start", "status": "done", "step": 1, "request": "7"}


async def test_a_fork_has_the_middleware_of_its_run(store: MemoryCheckpointer) -> None:
    noting = Everything()
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", middleware=[noting])
    await run.start()
    noting.notes.clear()
    fork = await run.fork(1, run_id="f")
    noting.notes.clear()
    await fork.start()
    assert next(note for note in noting.notes if "write" in note) == "> write in start"
    assert sum("> b.1" in note for note in noting.notes) == 1
    assert not any(note.endswith("in write") for note in noting.notes), "the store has its hooks once"


async def test_a_replay_has_none(store: MemoryCheckpointer) -> None:
    noting = Everything()
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r", middleware=[noting])
    await run.start()
    noting.notes.clear()
    assert await run.replay()
    assert noting.notes == []


async def test_what_is_no_middleware_is_refused(store: MemoryCheckpointer) -> None:
    for wrong in (object(), Noting):
        with pytest.raises(TypeError, match="Middleware"):
            await graph(SEQUENCE).start(checkpointer=store, middleware=[wrong])  # type: ignore[list-item]
