"""Calls: recorded before they return, never made again once they succeeded, with the same outcome ever after."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from support import calling_nodes
from support.call_runs import PLAY, PLAY_IN_A_THREAD, calls, play, resume, start
from support.calling_nodes import EFFECTS, do, do_async, fail
from support.graphs import graph
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CallError, NodeError, StateError
from stargraph.graph import Context, Graph


@pytest.fixture(autouse=True)
def effects() -> None:
    calling_nodes.reset()


async def test_a_call_is_recorded_before_it_returns(store: MemoryCheckpointer) -> None:
    stored: list[list[str]] = []

    async def script(state: Any, context: Context) -> Any:
        first = await context.call("first", do, "one", {"n": 1})
        stored.append(store.events("r"))
        second = await context.call("second", do_async, "two", returned=[1.0, None])
        stored.append(store.events("r"))
        return {"x": [first, second]}

    play(script)
    assert (await start(store)).status == "done"
    assert stored == [["started", "called a"], ["started", "called a", "called a"]]
    assert store.events("r") == ["started", "called a", "called a", "completed a"]
    assert calls(store) == [("first", None, 0, {"n": 1}), ("second", None, 0, [1.0, None])]
    assert store.runs["r"][-1].state == {"x": [{"n": 1}, [1.0, None]]}
    called = store.runs["r"][1]
    assert called.frontier[0].calls[0].first == 1  # type: ignore[union-attr]
    assert called.task_id == called.calls[0].task_id == called.frontier[0].id  # type: ignore[union-attr]


async def test_a_function_runs_on_the_loop_or_beside_it(store: MemoryCheckpointer) -> None:
    async def on_the_loop() -> str:
        return threading.current_thread().name

    async def script(state: Any, context: Context) -> Any:
        loop = await context.call("loop", on_the_loop)
        thread = await context.call("thread", lambda: threading.current_thread().name)
        both = await context.call("both", lambda: on_the_loop())  # noqa: PLW0108  # returns an awaitable
        return {"x": [loop, thread, both]}

    play(script)
    assert (await start(store)).status == "done"
    here = threading.current_thread().name
    loop, thread, both = store.runs["r"][-1].state["x"]
    assert loop == both == here
    assert thread != here


async def test_what_a_caller_does_to_a_result_is_not_recorded(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        result = await context.call("list", do, "list", [1])
        result.append(2)
        if len(store.runs["r"]) == 2:
            raise Killed
        return {"x": result}

    play(script)
    with pytest.raises(Killed):
        await start(store)
    assert (await resume(store)).status == "done"
    assert calls(store) == [("list", None, 0, [1])]
    assert store.runs["r"][-1].state == {"x": [1, 2]}


@pytest.mark.parametrize("text", [PLAY, PLAY_IN_A_THREAD])
@pytest.mark.parametrize("last", [1, 2])
async def test_a_recorded_call_is_not_made_again_after_a_crash(store: MemoryCheckpointer, text: str, last: int) -> None:
    def die(checkpoint: Checkpoint) -> None:
        if checkpoint.step == last:
            store.after_write = lambda checkpoint: None
            raise Killed

    async def script(state: Any, context: Context) -> Any:
        return {"x": [await context.call("f", do, f"f {n}", n) for n in range(3)]}

    play(script)
    calling_nodes.sync_script = lambda state, context: {
        "x": [context.call_sync("f", do, f"f {n}", n) for n in range(3)]
    }
    store.after_write = die
    with pytest.raises(Killed):
        await start(store, text)
    assert (await resume(store, text)).status == "done"
    assert EFFECTS == ["f 0", "f 1", "f 2"]
    assert store.runs["r"][-1].state == {"x": [0, 1, 2]}
    assert [occurrence for _, _, occurrence, _ in calls(store)] == [0, 1, 2]


async def test_a_failed_call_raises_the_same_after_a_crash(store: MemoryCheckpointer) -> None:
    shown: list[tuple[str, str, str, str]] = []
    causes: list[BaseException | None] = []

    async def script(state: Any, context: Context) -> Any:
        try:
            await context.call("f", fail, "f", KeyError("lost"))
        except CallError as error:
            shown.append((str(error), error.call, error.error_type, error.error_message))
            causes.append(error.__cause__)
        if len(shown) == 1:
            raise Killed
        return {"x": "handled"}

    play(script)
    with pytest.raises(Killed):
        await start(store)
    assert (await resume(store)).status == "done"
    assert EFFECTS == ["f"]
    assert shown == [("call 'f' failed: KeyError: 'lost'", "f", "KeyError", "'lost'")] * 2
    # The exception itself is at hand only where it has just happened.
    assert [type(cause) for cause in causes] == [KeyError, type(None)]


async def test_a_retry_makes_a_failed_call_anew_and_keeps_what_succeeded(store: MemoryCheckpointer) -> None:
    attempts: list[int] = []

    async def script(state: Any, context: Context) -> Any:
        attempts.append(context.attempt)
        good = await context.call("good", do, "good", len(attempts))
        if EFFECTS.count("bad") < 2:
            await context.call("bad", fail, "bad", ConnectionRefusedError(f"number {len(attempts)}"))
        return {"x": [good, await context.call("bad", do, "bad", "at last")]}

    play(script)
    assert (await start(store)).status == "done"
    assert attempts == [1, 2, 3]
    assert EFFECTS == ["good", "bad", "bad", "bad"]
    assert store.runs["r"][-1].state == {"x": [1, "at last"]}
    assert calls(store) == [
        ("good", None, 0, 1),
        ("bad", None, 0, "ConnectionRefusedError"),
        ("bad", None, 0, "ConnectionRefusedError"),
        ("bad", None, 0, "at last"),
    ]


async def test_a_crash_between_attempts_repeats_none(store: MemoryCheckpointer) -> None:
    """The second process is told the failure of the first attempt, then makes the call of the second."""
    attempts: list[int] = []

    async def script(state: Any, context: Context) -> Any:
        attempts.append(context.attempt)
        if len(attempts) == 2:
            raise Killed
        if EFFECTS:
            return {"x": await context.call("f", do, "f", "good")}
        return {"x": await context.call("f", fail, "f", ConnectionError("no luck"))}

    play(script)
    with pytest.raises(Killed):
        await start(store)
    assert EFFECTS == ["f"]
    assert (await resume(store)).status == "done"
    assert attempts == [1, 2, 1, 2]
    assert EFFECTS == ["f", "f"]


async def test_a_resume_after_a_failure_makes_the_failed_call_anew(store: MemoryCheckpointer) -> None:
    lucky = False

    async def script(state: Any, context: Context) -> Any:
        good = await context.call("good", do, "good", 1)
        bad = await context.call("bad", *((do, "bad", 2) if lucky else (fail, "bad", ValueError("no"))))
        return {"x": [good, bad]}

    play(script)
    summary = await start(store)
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.message == "call 'bad' failed: ValueError: no"
    assert EFFECTS == ["good", "bad"]
    assert (await resume(store)).status == "failed"
    lucky = True
    assert (await resume(store)).status == "done"
    assert EFFECTS == ["good", "bad", "bad", "bad"]


async def test_calls_at_once_need_keys(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        return {"x": await asyncio.gather(*(context.call("f", do_async, str(n), n) for n in range(3)))}

    play(script)
    summary = await start(store)
    assert summary.error is not None
    assert (summary.status, summary.error.reason) == ("failed", "concurrent-calls")
    # What the first attempt has recorded must not let the same mistake pass.
    assert (await resume(store)).status == "failed"


async def forgets(context: Context) -> Any:
    context.call("f", do_async, "f")  # type: ignore[unused-coroutine]
    return {"x": 1}


async def returns_the_call(context: Context) -> Any:
    return {"x": context.call("f", do_async, "f")}


async def forgets_the_stored_value(context: Context) -> Any:
    context.emit(1, stored=True)
    return {"x": 1}


@pytest.mark.parametrize("node", [forgets, returns_the_call, forgets_the_stored_value])
async def test_a_node_that_forgets_to_await_a_call_fails(store: MemoryCheckpointer, node: Any) -> None:
    play(lambda state, context: node(context))
    summary = await start(store)
    assert summary.error is not None
    assert (summary.status, summary.error.reason) == ("failed", "call-not-awaited")
    assert "ctx.call('" in summary.error.message
    assert EFFECTS == []


async def test_a_call_that_is_given_up_or_whose_node_fails_needs_no_await(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        context.call("closed", do_async, "closed").close()
        asyncio.create_task(context.call("cancelled", do_async, "cancelled")).cancel()
        call = context.call("made", do_async, "made")
        if context.attempt == 1:
            raise ConnectionError
        return {"x": await call}

    play(script)
    assert (await start(store)).status == "done"
    assert EFFECTS == ["made"]


IN_TASKS = """
id: g
nodes:
  - {id: a, kind: "support.calling_nodes:play"}
  - {id: b, kind: "support.calling_nodes:play", timeout: 60}
"""


async def test_a_task_of_a_call_is_made_or_cancelled_though_its_node_returns_at_once(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        _, cancelled = [
            asyncio.create_task(context.call(name, do_async, context.node)) for name in ("left", "cancelled")
        ]
        cancelled.cancel()
        return {}

    play(script)
    run = await graph(IN_TASKS).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "done"
    assert EFFECTS == ["a", "b"]
    assert store.events("r") == ["started", "called a", "completed a", "called b", "completed b"]


@pytest.mark.parametrize("retried", [True, False])
async def test_a_call_that_its_node_does_not_wait_for_is_recorded_all_the_same(
    store: MemoryCheckpointer, retried: bool
) -> None:
    """One of two things that are done at once fails; the other is done, and must not be done again."""
    tries = 0

    async def slow() -> int:
        await asyncio.sleep(0.02)
        return do("slow", 1)  # type: ignore[no-any-return]

    async def fail_once() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionError("no luck") if retried else ValueError("no luck")

    async def script(state: Any, context: Context) -> Any:
        result, _ = await asyncio.gather(context.call("slow", slow), fail_once())
        return {"x": result}

    play(script)
    if not retried:
        assert (await start(store)).status == "failed"
        assert store.events("r") == ["started", "called a", "failed a"]
    summary = await (start(store) if retried else resume(store))
    assert summary.status == "done"
    assert EFFECTS == ["slow"]
    assert calls(store) == [("slow", None, 0, 1)]


async def test_calls_at_once_with_keys_are_told_in_the_order_of_the_log(store: MemoryCheckpointer) -> None:
    orders: list[list[int]] = []
    turns = [asyncio.Event() for _ in range(4)]
    turns[3].set()

    async def after_the_next(n: int) -> int:
        await turns[n + 1].wait()
        turns[n].set()
        return n

    async def script(state: Any, context: Context) -> Any:
        together = [context.call("f", after_the_next, n, key=str(n)) for n in range(3)]
        order = [await done for done in asyncio.as_completed(together)]
        orders.append(order)
        if len(orders) == 1:
            raise Killed
        return {"x": order}

    play(script)
    with pytest.raises(Killed):
        await start(store)
    assert (await resume(store)).status == "done"
    assert orders == [[2, 1, 0], [2, 1, 0]]


class Receipt(BaseModel):
    number: int
    at: datetime


async def test_a_model_is_recorded_as_json(store: MemoryCheckpointer) -> None:
    receipt = Receipt(number=7, at=datetime(2026, 1, 31, tzinfo=UTC))

    async def script(state: Any, context: Context) -> Any:
        return {"x": await context.call("f", do, "f", {"receipts": [receipt]})}

    play(script)
    assert (await start(store)).status == "done"
    assert store.runs["r"][-1].state == {"x": {"receipts": [{"number": 7, "at": "2026-01-31T00:00:00Z"}]}}


@pytest.mark.parametrize("returned", [{1, 2}, (1,), float("nan"), {"a": [0, object()]}, "\ud800", 2**64])
async def test_a_call_whose_result_is_not_json_is_never_made_again(store: MemoryCheckpointer, returned: Any) -> None:
    async def script(state: Any, context: Context) -> Any:
        return {"x": await context.call("f", do, "f", returned)}

    play(script)
    summary = await start(store)
    assert summary.error is not None
    assert (summary.status, summary.error.reason) == ("failed", "result-not-storable")
    assert summary.error.message.startswith("call 'f' was made and will not be repeated")
    assert "the result of call 'f'" in summary.error.message
    assert store.events("r") == ["started", "called a", "failed a"]
    assert (await resume(store)).status == "failed"
    assert len(EFFECTS) == 1
    assert not (await (await graph(PLAY).start(checkpointer=store)).replay("r")).differences
    assert ("[1]" in summary.error.message) == isinstance(returned, dict)


@pytest.mark.parametrize(
    "arguments",
    [("", do), (None, do), (3, do), ("f", None), ("f", 5)],
)
async def test_a_call_that_cannot_be_made_says_how(store: MemoryCheckpointer, arguments: tuple[Any, ...]) -> None:
    async def script(state: Any, context: Context) -> Any:
        await context.call(*arguments)

    play(script)
    summary = await start(store)
    assert summary.error is not None
    assert summary.error.reason == "bad-call"
    assert EFFECTS == []


async def test_a_name_that_is_not_text_is_refused_before_anything_happens(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        await context.call("f", do, "f", key="\ud800")

    play(script)
    summary = await start(store)
    assert summary.error is not None
    assert summary.error.reason == "not-json"
    assert EFFECTS == []


async def test_each_kind_of_node_has_its_own_form(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        context.call_sync("f", do, "f")

    play(script)
    calling_nodes.sync_script = lambda state, context: context.call("f", do, "f")
    for run_id, text in (("async", PLAY), ("sync", PLAY_IN_A_THREAD)):
        run = await graph(text).start(checkpointer=store, run_id=run_id)
        summary = await run.start()
        assert summary.error is not None
        assert summary.error.reason == "wrong-thread"
    assert EFFECTS == []


async def test_a_call_after_the_end_of_its_node_is_refused(store: MemoryCheckpointer) -> None:
    late: list[asyncio.Future[Any]] = []
    is_over = asyncio.Event()

    async def call_late(context: Context) -> None:
        await is_over.wait()
        await context.call("f", do, "f")

    async def script(state: Any, context: Context) -> Any:
        late.append(asyncio.ensure_future(call_late(context)))

    play(script)
    assert (await start(store)).status == "done"
    is_over.set()
    with pytest.raises(NodeError) as raised:
        await late[0]
    assert raised.value.reason == "node-ended"
    assert EFFECTS == []


async def test_a_call_in_another_process_is_refused(store: MemoryCheckpointer) -> None:
    text = 'nodes: [{id: a, kind: "support.calling_nodes:ship"}]'
    with ProcessPoolExecutor(1) as pool:
        summary = await start(store, text, executor=pool)
    assert summary.error is not None
    assert summary.error.reason == "detached-node"
    assert "ctx.call_sync()" in summary.error.message


async def test_branches_have_their_own_calls(store: MemoryCheckpointer) -> None:
    text = """
state_schema: {bills: {type: "list[str]", default: [], reduce: append}}
nodes: [{id: a, kind: echo}, {id: pay, kind: "support.calling_nodes:pay"}, {id: end, kind: echo}]
rules: [{id: each, when: {node: a}, then: [{kind: map, over: "[1, 2, 3]", target: pay, join: end}]}]
"""
    assert (await start(store, text)).status == "done"
    assert len(EFFECTS) == len(set(EFFECTS)) == 6
    assert len(calls(store)) == 6


async def test_time_chance_and_names_are_those_of_the_task(store: MemoryCheckpointer) -> None:
    seen: list[tuple[Any, ...]] = []

    async def script(state: Any, context: Context) -> Any:
        draw = (context.random.random(), context.random.random(), str(context.uuid()), str(context.uuid()))
        seen.append((*draw, context.idempotency_key))
        moment = context.now
        await asyncio.sleep(0.002)
        assert context.now is moment
        if len(seen) == 1:
            raise ConnectionError
        if len(seen) == 2:
            raise Killed
        return {"x": moment.isoformat(timespec="microseconds")}

    play(script)
    with pytest.raises(Killed):
        await start(store)
    assert (await resume(store)).status == "done"
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert len(set(seen[0])) == 5
    last = store.runs["r"][-1]
    ((name, _, _, recorded),) = calls(store, "now")
    assert (name, recorded) == ("now", datetime.fromisoformat(last.state["x"]).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    run = await graph(PLAY).start(checkpointer=store, run_id="other")
    await run.start()
    assert set(seen[0]) & set(seen[-1]) == set()


async def test_the_time_of_a_node_in_another_process_is_recorded(store: MemoryCheckpointer) -> None:
    text = 'nodes: [{id: a, kind: "support.gated_nodes:tell_the_time"}]'
    with ProcessPoolExecutor(1) as pool:
        assert (await start(store, text, executor=pool)).status == "done"
    ((_, _, _, recorded),) = calls(store, "now")
    assert recorded == store.runs["r"][-1].state["now"]


async def test_a_child_run_records_its_own_calls(store: MemoryCheckpointer, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        'id: child\nstate_schema: {bills: {type: "list[str]", default: [], reduce: append}}\n'
        'nodes: [{id: pay, kind: "support.calling_nodes:pay"}, {id: ship, kind: "support.calling_nodes:ship"}]\n'
    )
    text = (
        'state_schema: {bills: {type: "list[str]", default: []}}\n'
        "nodes: [{id: sub, kind: subgraph, graph: child.yaml, outputs: {bills: state.bills}}]"
    )
    parent: Graph = graph(text, tmp_path)
    run = await parent.start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "done"
    (child,) = (run_id for run_id in store.runs if run_id != "r")
    assert store.events(child) == [
        "started",
        "called pay",
        "called pay",
        "completed pay",
        "called ship",
        "completed ship",
    ]
    assert len(EFFECTS) == 3


async def test_a_stream_shows_calls(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        await context.call("f", do, "f")

    play(script)
    run = await graph(PLAY).start(checkpointer=store, run_id="r")
    assert [event.type async for event in run.stream()] == ["started", "node_started", "called", "completed"]


async def test_a_call_error_is_a_node_error() -> None:
    assert issubclass(CallError, NodeError)
    assert not issubclass(CallError, StateError)
