"""Retries and timeouts of nodes, and where sync nodes run."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from support import nodes
from support.graphs import PATH, graph
from support.memory import MemoryCheckpointer

from stargraph.errors import NodeError
from stargraph.graph import Context


async def test_a_node_is_retried_for_what_it_names(store: MemoryCheckpointer, ledger: list[str]) -> None:
    attempts: list[int] = []

    def fail_twice(context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) < 3:
            raise ConnectionError("down")

    nodes.before = fail_twice
    retried = (
        f'{PATH}nodes: [{{id: a, kind: "support.nodes:step", retry: {{attempts: 3, initial_delay: 0, on: [OSError]}}}}]'
    )
    run = await graph(retried).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "done"
    assert attempts == [1, 2, 3]
    assert store.events("r") == ["started", "completed a"]


async def test_each_attempt_is_given_a_state_of_its_own(store: MemoryCheckpointer) -> None:
    retried = f'{PATH}nodes: [{{id: a, kind: "support.nodes:mutate_and_fail_once", retry: {{initial_delay: 0}}}}]'
    run = await graph(retried).start(checkpointer=store)
    assert (await run.start()).status == "done"
    assert run.state == {"path": ["mutated"]}


async def test_a_node_is_not_retried_for_anything_else(store: MemoryCheckpointer, ledger: list[str]) -> None:
    retried = 'nodes: [{id: a, kind: "support.nodes:fail", retry: {attempts: 5, initial_delay: 0, on: [OSError]}}]'
    run = await graph(retried).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "failed"
    assert ledger == ["a"]


@pytest.mark.parametrize("kind", ["step", "sync_step"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
async def test_what_ends_the_run_is_not_retried(
    store: MemoryCheckpointer, ledger: list[str], error: BaseException, kind: str
) -> None:
    made: list[int] = []

    def end(context: Context) -> None:
        made.append(context.attempt)
        raise error

    nodes.before = end
    retried = f'{PATH}nodes: [{{id: a, kind: "support.nodes:{kind}", retry: {{attempts: 3, initial_delay: 0}}}}]'
    run = await graph(retried).start(checkpointer=store, run_id="r")
    assert ((await run.start()).status, made) == ("failed", [1])


@pytest.mark.parametrize(
    ("members", "on", "attempts"),
    [
        ([ConnectionError("a"), BrokenPipeError("b")], "OSError", 2),
        ([ExceptionGroup("inner", [ConnectionError("a")]), TimeoutError("b")], "ConnectionError, TimeoutError", 2),
        ([ConnectionError("a"), ValueError("b")], "OSError", 1),
        ([ExceptionGroup("inner", [ConnectionError("a"), ValueError("b")])], "OSError", 1),
        ([ValueError("a")], "ExceptionGroup", 2),
        ([ConnectionError("a"), NodeError("a mistake", reason="question-lost")], "Exception", 1),
    ],
)
async def test_a_group_is_retried_if_each_exception_in_it_is(
    store: MemoryCheckpointer, members: list[Exception], on: str, attempts: int
) -> None:
    made: list[int] = []

    def fail_once(context: Context) -> None:
        made.append(context.attempt)
        if context.attempt == 1:
            raise ExceptionGroup("many", members)

    nodes.before = fail_once
    retried = f'nodes: [{{id: a, kind: "support.nodes:step", retry: {{attempts: 2, initial_delay: 0, on: [{on}]}}}}]'
    summary = await (await graph(f"{PATH}{retried}").start(checkpointer=store)).start()
    assert len(made) == attempts
    assert summary.status == ("done" if attempts == 2 else "failed")


async def test_what_one_task_of_a_task_group_raises_is_retried(store: MemoryCheckpointer) -> None:
    retried = (
        'nodes: [{id: a, kind: "support.nodes:calls_in_a_task_group",'
        " retry: {attempts: 2, initial_delay: 0, on: [ConnectionError]}}]"
    )
    nodes.before = _refuse_first
    summary = await (await graph(f"{PATH}{retried}").start(checkpointer=store)).start()
    assert (summary.status, summary.error) == ("done", None)


def _refuse_first(context: Context) -> None:
    if context.attempt == 1:
        raise ConnectionError("down")


@pytest.mark.parametrize("node", ["slow", "held"])
async def test_a_timeout_fails_the_node(store: MemoryCheckpointer, ledger: list[str], node: str) -> None:
    timed = f'{PATH}nodes: [{{id: a, kind: "support.nodes:{node}", timeout: 0.02}}]'
    summary = await (await graph(timed).start(checkpointer=store, run_id="r")).start()
    assert summary.error is not None
    assert summary.error.type == "TimeoutError"
    assert "0.02 s" in summary.error.message


async def test_a_retry_waits_for_the_thread_of_the_attempt_before(store: MemoryCheckpointer, ledger: list[str]) -> None:
    timed = (
        f'{PATH}nodes: [{{id: a, kind: "support.nodes:held", timeout: 0.02, retry: {{attempts: 2, initial_delay: 0}}}}]'
    )
    run = await graph(timed).start(checkpointer=store, run_id="r")
    async with asyncio.timeout(60):
        async for event in run.stream():
            if event.type == "attempt_failed" and event.attempt == 1:
                await asyncio.sleep(0.1)  # for an attempt that would not wait
                assert "a ended" not in ledger
                assert ledger.count("a") <= 1
                nodes.release()
        while len(ledger) < 3:  # the second attempt has begun, and may be over as soon
            await asyncio.sleep(0.01)
    assert ledger[:3] == ["a", "a ended", "a"]


async def test_sync_nodes_run_in_the_executor_that_was_given(store: MemoryCheckpointer) -> None:
    import threading

    names: list[str] = []
    nodes.before = lambda context: names.append(threading.current_thread().name)
    with ThreadPoolExecutor(1, thread_name_prefix="ours") as executor:
        text = f'{PATH}nodes: [{{id: a, kind: "support.nodes:sync_step"}}]'
        run = await graph(text).start(checkpointer=store, executor=executor)
        assert (await run.start()).status == "done"
    assert names[0].startswith("ours")


REMOTE = f"""{PATH}
nodes:
  - {{id: begin, kind: echo}}
  - {{id: elsewhere, kind: "support.process_nodes:where"}}
  - {{id: end, kind: echo}}
rules: [{{id: each, when: {{node: begin}}, then: [{{kind: map, over: "['x', 'y']", target: elsewhere, join: end}}]}}]
"""


async def test_sync_nodes_run_in_other_processes(store: MemoryCheckpointer) -> None:
    import multiprocessing

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        run = await graph(REMOTE).start(checkpointer=store, executor=executor, run_id="r")
        summary = await run.start()
        assert summary.status == "done", summary.error
        assert run.state is not None
        items, pids = zip(*(line.split() for line in run.state["path"]), strict=True)
        assert items == ("x", "y")
        assert str(os.getpid()) not in pids

        asking = f'{PATH}nodes: [{{id: a, kind: "support.process_nodes:asks"}}]'
        summary = await (await graph(asking).start(checkpointer=store, executor=executor)).start()
        assert summary.error is not None
        assert summary.error.reason == "detached-node"


async def test_a_node_that_exits_or_cancels_itself_fails(store: MemoryCheckpointer) -> None:
    for error, shown in ((SystemExit(3), "sys.exit(3)"), (asyncio.CancelledError(), "cancelled from inside")):

        def raise_it(context: Context, error: BaseException = error) -> None:
            raise error

        nodes.before = raise_it
        run = await graph(f'{PATH}nodes: [{{id: a, kind: "support.nodes:step"}}]').start(checkpointer=store)
        summary = await run.start()
        assert summary.status == "failed"
        assert summary.error is not None
        assert shown in summary.error.message
