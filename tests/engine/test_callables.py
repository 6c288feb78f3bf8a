"""Nodes are called by the names of their parameters, in every shape that a callable can have."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from support import called_nodes, calling_nodes
from support.called_nodes import CONTEXTS, REFUSED, WITHOUT_CONTEXT
from support.calling_nodes import do
from support.graphs import graph
from support.memory import MemoryCheckpointer

from stargraph.errors import GraphError
from stargraph.graph import Context


@pytest.fixture(autouse=True)
def _scripts() -> Iterator[None]:
    yield
    calling_nodes.reset()


async def ran(store: MemoryCheckpointer, node: str, *, keys: str = "", **options: Any) -> Any:
    text = (
        f'state_schema: {{x: {{type: any, default: 0}}}}\nnodes: [{{id: a, kind: "support.called_nodes:{node}"{keys}}}]'
    )
    run = await graph(text).start(checkpointer=store, run_id="r", **options)
    summary = await asyncio.wait_for(run.start(), 60)
    assert summary.status == "done", summary.error
    assert run.state is not None
    return run.state["x"]


@pytest.mark.parametrize("node", CONTEXTS)
async def test_the_context_is_given_by_name_or_annotation(store: MemoryCheckpointer, node: str) -> None:
    assert await ran(store, node) == "a"


@pytest.mark.parametrize("node", WITHOUT_CONTEXT)
async def test_nothing_else_takes_the_context(store: MemoryCheckpointer, node: str) -> None:
    assert await ran(store, node) == WITHOUT_CONTEXT[node]


@pytest.mark.parametrize("node", REFUSED)
def test_what_cannot_be_called_is_refused_with_the_graph(node: str) -> None:
    with pytest.raises(GraphError) as refused:
        graph(f'nodes: [{{id: a, kind: "support.called_nodes:{node}"}}]')
    assert refused.value.reason in ("wrong-signature", "node-class-failed", "not-callable")
    assert f"support.called_nodes:{node}" in refused.value.message
    assert refused.value.hint


async def test_what_a_sync_wrapper_returns_is_awaited_within_the_timeout(store: MemoryCheckpointer) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    calling_nodes.sync_script = never
    text = 'nodes: [{id: a, kind: "support.calling_nodes:play_in_a_thread", timeout: 0.05}]'
    run = await graph(text).start(checkpointer=store, run_id="r")
    summary = await asyncio.wait_for(run.start(), 60)
    assert summary.error is not None
    assert summary.error.type.endswith("TimeoutError")


async def test_what_a_sync_wrapper_returns_too_late_is_closed(store: MemoryCheckpointer) -> None:
    may_return = threading.Event()

    async def never() -> None:
        await asyncio.Event().wait()

    returned = never()

    def late(*_: object) -> object:
        may_return.wait(60)
        return returned

    calling_nodes.sync_script = late
    text = 'nodes: [{id: a, kind: "support.calling_nodes:play_in_a_thread", timeout: 0.05}]'
    summary = await (await graph(text).start(checkpointer=store, run_id="r")).start()
    assert summary.error is not None
    assert summary.error.type.endswith("TimeoutError")
    may_return.set()
    async with asyncio.timeout(60):
        while inspect.getcoroutinestate(returned) != inspect.CORO_CLOSED:
            await asyncio.sleep(0.01)


async def test_what_a_sync_wrapper_returns_is_awaited_in_another_process(store: MemoryCheckpointer) -> None:
    with ProcessPoolExecutor(1) as processes:
        assert await ran(store, "wrapped_async", executor=processes) == "a"


def keyed(key: str = "default") -> str:
    return key


def with_anything(**values: Any) -> dict[str, Any]:
    return values


def keyword_by_position(key: str, /) -> str:
    return key


async def played(store: MemoryCheckpointer, script: Any) -> Any:
    calling_nodes.script = script
    run = await graph('nodes: [{id: a, kind: "support.calling_nodes:play"}]').start(
        checkpointer=store, run_id="r", inputs={"r": None}
    )
    summary = await run.start()
    if summary.error is not None:
        return summary.error
    assert run.state is not None
    return run.state["r"]


@pytest.mark.parametrize("function", [keyed, with_anything, max])
@pytest.mark.parametrize("key", ["user:1", None])
async def test_an_option_that_the_function_may_take_is_refused(
    store: MemoryCheckpointer, function: Any, key: str | None
) -> None:
    async def script(state: Any, ctx: Context) -> Any:
        return {"r": await ctx.call("get", function, key=key)}

    error = await played(store, script)
    assert error.reason == "ambiguous-option"
    assert "'get'" in error.message
    assert "'key'" in error.message
    assert "with_options" in error.message


async def test_options_and_arguments_of_one_name_go_where_they_are_sent(store: MemoryCheckpointer) -> None:
    async def script(state: Any, ctx: Context) -> Any:
        options = ctx.with_options(key="option", repeatable=False)
        return {
            "r": [
                await ctx.with_options().call("get", keyed, key="argument"),
                await options.call("get", keyed, key="argument"),
                await options.call("get", keyed),
                await asyncio.to_thread(ctx.with_options(key="thread").call_sync, "get", with_anything, key=1),
                await ctx.call("get", keyword_by_position, "position", key="plain option"),
            ]
        }

    assert await played(store, script) == ["argument", "argument", "default", {"key": 1}, "position"]
    keys = [call.key for checkpoint in store.runs["r"] for call in checkpoint.calls]
    assert keys == [None, "option", "option", "thread", "plain option"]


async def test_the_plain_options_still_work(store: MemoryCheckpointer) -> None:
    async def script(state: Any, ctx: Context) -> Any:
        return {"r": await asyncio.gather(*(ctx.call("do", do, str(n), n, key=str(n)) for n in range(3)))}

    assert await played(store, script) == [0, 1, 2]


def test_the_names_of_the_cases_are_all_there() -> None:
    for name in (*CONTEXTS, *WITHOUT_CONTEXT, *REFUSED):
        assert name.partition(".")[0] in vars(called_nodes)
