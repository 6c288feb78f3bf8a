"""Taking runs up: at the frontier, after a failure, against a rival, with a changed graph."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import nodes
from support.graphs import PATH, SEQUENCE, everything, graph
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError, CheckpointNotFoundError, HashMismatchError
from stargraph.graph import Context, Graph


async def started_and_killed(store: MemoryCheckpointer, text: str, in_node: str) -> None:
    def kill(context: Context) -> None:
        if context.node == in_node:
            raise Killed

    nodes.before = kill
    run = await graph(text).start(checkpointer=store, run_id="r")
    with pytest.raises(Killed):
        await run.start()
    nodes.before = lambda context: None


async def test_a_resume_goes_on_at_the_frontier(store: MemoryCheckpointer, ledger: list[str]) -> None:
    await started_and_killed(store, SEQUENCE, "c")
    run = await graph(SEQUENCE).start(checkpointer=store)
    summary = await run.resume(run_id="r")
    assert summary.status == "done"
    assert ledger == ["a", "b", "c", "c"]
    assert store.events("r") == ["started", "completed a", "completed b", "resumed", "completed c"]
    assert len({checkpoint.executor_id for checkpoint in store.runs["r"]}) == 2


async def test_a_task_keeps_its_id_and_key_over_a_resume(store: MemoryCheckpointer) -> None:
    seen: list[tuple[str, str]] = []
    await started_and_killed(store, SEQUENCE, "b")
    nodes.before = lambda context: seen.append((context.task_id, context.idempotency_key))
    tail = store.runs["r"][-1]
    run = await graph(SEQUENCE).start(checkpointer=store)
    await run.resume("r")
    assert seen[0][0] == tail.frontier[0].id  # type: ignore[union-attr]
    assert len(set(seen)) == 2


async def test_resuming_a_done_run_returns_its_summary_and_writes_nothing(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    done = await run.start()
    again = await (await graph(SEQUENCE).start(checkpointer=store)).resume("r")
    assert again == done
    assert len(store.runs["r"]) == 4


async def test_a_run_that_is_not_there(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store)
    with pytest.raises(CheckpointNotFoundError, match="holds no run 'nope'"):
        await run.resume("nope")


async def test_a_resume_that_names_no_run_says_so(store: MemoryCheckpointer) -> None:
    run = await graph(SEQUENCE).start(checkpointer=store)
    with pytest.raises(CheckpointNotFoundError) as caught:
        await run.resume()
    assert "resume(run_id=…)" in (caught.value.hint or "")
    await run.start()
    assert (await run.resume()).status == "done"
    renamed = await graph(SEQUENCE).start(checkpointer=store)
    for run_id in ("nope", None):
        with pytest.raises(CheckpointNotFoundError, match="'nope'") as caught:
            await renamed.resume(run_id)
        assert "resume(run_id=…)" not in (caught.value.hint or "")
    named = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    with pytest.raises(CheckpointNotFoundError) as caught:
        await named.resume()
    assert "resume(run_id=…)" not in (caught.value.hint or "")


async def test_a_failed_node_is_retried_by_a_resume(store: MemoryCheckpointer, ledger: list[str]) -> None:
    def fail_once(context: Context) -> None:
        if context.node == "b" and ledger.count("b") == 1:
            raise RuntimeError("no luck")

    nodes.before = fail_once
    run = await graph(SEQUENCE).start(checkpointer=store, run_id="r")
    summary = await run.start()
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.type == "RuntimeError"
    assert summary.error.traceback is not None
    assert "fail_once" in summary.error.traceback
    summary = await run.resume()
    assert summary.status == "done"
    assert summary.error is None
    assert ledger == ["a", "b", "b", "c"]
    assert store.events("r") == ["started", "completed a", "failed b", "resumed", "completed b", "completed c"]


async def test_of_two_resumes_exactly_one_gets_past_its_resumed(store: MemoryCheckpointer, ledger: list[str]) -> None:
    for _ in range(20):
        store.wipe()
        await started_and_killed(store, SEQUENCE, "b")
        ledger.clear()
        runs = [await graph(SEQUENCE).start(checkpointer=store) for _ in range(2)]
        outcomes = await asyncio.gather(*(run.resume("r") for run in runs), return_exceptions=True)
        won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [summary.status for summary in won] == ["done"]
        assert [type(error) for error in lost] == [CheckpointConflictError]
        assert ledger == ["b", "c"]


async def test_a_former_executor_is_refused_at_its_next_write(store: MemoryCheckpointer, ledger: list[str]) -> None:
    graph_of_slow = f'{PATH}nodes: [{{id: a, kind: "support.nodes:slow"}}, {{id: b, kind: "support.nodes:step"}}]'
    old = await graph(graph_of_slow).start(checkpointer=store, run_id="r")
    work = asyncio.create_task(old.start())
    while ledger != ["a"]:
        await asyncio.sleep(0.001)
    new = await graph(graph_of_slow).start(checkpointer=store)
    assert (await new.resume("r")).status == "done"
    before = dict(store.records)
    with pytest.raises(CheckpointConflictError):
        await work
    assert store.records == before
    assert ledger.count("b") == 1


async def test_only_if_idle(store: MemoryCheckpointer) -> None:
    await started_and_killed(store, SEQUENCE, "b")
    run = await graph(SEQUENCE).start(checkpointer=store)
    with pytest.raises(CheckpointError) as caught:
        await run.resume("r", only_if_idle=60)
    assert caught.value.reason == "not-idle"
    assert store.events("r") == ["started", "completed a"]
    assert (await run.resume("r", only_if_idle=0)).status == "done"


async def test_a_clock_that_was_set_back_makes_no_run_busy(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SetBack(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) - timedelta(seconds=5)

    await started_and_killed(store, SEQUENCE, "b")
    monkeypatch.setattr("stargraph.graph._resume_checks.datetime", SetBack)
    run = await graph(SEQUENCE).start(checkpointer=store)
    assert (await run.resume("r", only_if_idle=0)).status == "done"


async def test_a_crash_loop_fails_the_run(store: MemoryCheckpointer) -> None:
    await started_and_killed(store, SEQUENCE, "b")

    def kill(context: Context) -> None:
        raise Killed

    nodes.before = kill
    for _ in range(3):
        with pytest.raises(Killed):
            await (await graph(SEQUENCE).start(checkpointer=store)).resume("r", max_resumes=3)
    summary = await (await graph(SEQUENCE).start(checkpointer=store)).resume("r", max_resumes=3)
    assert summary.status == "failed"
    assert summary.error is not None
    assert summary.error.reason == "crash-loop"
    nodes.before = lambda context: None
    assert (await (await graph(SEQUENCE).start(checkpointer=store)).resume("r", max_resumes=9)).status == "done"


RULED = """
state_schema: {n: {type: int, default: 0}}
nodes: [{id: a, kind: "support.nodes:count"}, {id: b, kind: "support.nodes:count"}]
rules: [{id: urgent, when: {node: a, if: "state.n >= 4"}, then: [{kind: halt}]}]
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("state.n >= 4", "state.n >= 3", "urgent"),
        ("{type: int, default: 0}", "{type: float, default: 0}", "'n'"),
        ("support.nodes:count", "support.nodes:step", "'a'"),
    ],
)
async def test_a_changed_graph_is_refused_and_told(
    store: MemoryCheckpointer, old: str, new: str, expected: str
) -> None:
    await started_and_killed(store, RULED, "b")
    changed = graph(RULED.replace(old, new, 1))
    with pytest.raises(HashMismatchError) as caught:
        await (await changed.start(checkpointer=store)).resume("r")
    error = caught.value
    assert error.reason == "graph-hash"
    assert expected in error.changes[0]
    assert error.stored == graph(RULED).graph_hash
    assert error.loaded == changed.graph_hash
    assert error.stored in str(error)
    assert error.loaded in str(error)
    assert store.events("r") == ["started", "completed a"]


async def test_a_comment_the_key_order_and_the_operational_knobs_do_not_matter(store: MemoryCheckpointer) -> None:
    await started_and_killed(store, RULED, "b")
    same = """
id: test  # a comment
rules: [{then: [{kind: halt}], when: {if: "state.n >= 4", node: a}, id: urgent, description: now told}]
nodes: [{kind: "support.nodes:count", id: a, timeout: 5}, {id: b, kind: "support.nodes:count", retry: {attempts: 2}}]
max_steps: 77
state_schema: {n: {default: 0, type: int}}
"""
    summary = await (await graph(same).start(checkpointer=store)).resume("r")
    assert summary.status == "done", summary.error


async def test_changed_code_is_refused_told_and_may_be_accepted(
    store: MemoryCheckpointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = 'state_schema: {n: {type: int, default: 0}}\nnodes: [{id: a, kind: "changing:node"}, {id: b, kind: echo}]'

    def load(body: str) -> Graph:
        import sys

        (tmp_path / "changing.py").write_text(body)
        sys.modules.pop("changing", None)
        import importlib
        import linecache

        importlib.invalidate_caches()
        linecache.clearcache()
        return graph(text)

    first = load("def node(state):\n    return {'n': 1}\n")
    commented = load("def node(state):\n    '''Told.'''\n    # why\n    return {'n':   1}\n")
    assert commented.runtime_hash == first.runtime_hash
    run = await first.start(checkpointer=store, run_id="r")
    store.after_write = lambda checkpoint: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        await run.start()
    store.after_write = lambda checkpoint: None
    changed = load("def node(state):\n    return {'n': 22}\n")
    again = await changed.start(checkpointer=store)
    with pytest.raises(HashMismatchError) as caught:
        await again.resume("r")
    assert caught.value.reason == "runtime-hash"
    assert caught.value.changes == ("the code of node 'a' changed",)
    assert (await again.resume("r", accept=("runtime",))).status == "done"
    assert store.events("r") == ["started", "resumed", "completed a", "completed b"]
    assert store.runs["r"][1].runtime_hash == changed.runtime_hash
    assert store.runs["r"][1].definition is not None


async def test_cancelled_at_random_moments_every_resume_finishes(tmp_path: Path) -> None:
    rng = random.Random(20_261_123)
    whole = everything(tmp_path)
    for _ in range(100):
        store = MemoryCheckpointer()
        await store.bootstrap()

        async def slow_write(checkpoint: Checkpoint, write: object = store.write) -> None:
            await asyncio.sleep(0)
            await write(checkpoint)  # type: ignore[operator]
            await asyncio.sleep(0)

        store.write = slow_write  # type: ignore[method-assign]
        run = await whole.start(checkpointer=store, run_id="r")
        work = asyncio.create_task(run.start())
        for _ in range(rng.randrange(120)):
            await asyncio.sleep(0)
        work.cancel()
        outcome = (await asyncio.gather(work, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError) or outcome.status == "awaiting_input"  # type: ignore[union-attr]
        for run_id, step in store.records:
            assert await store.read_at_step(run_id, step) is not None
        if "r" not in store.runs:
            continue
        summary = await (await whole.start(checkpointer=store)).resume("r")
        assert summary.status == "awaiting_input"
        assert store.runs["r"][-1].state["squares"] == [1, 4, 9, 16, 25]
