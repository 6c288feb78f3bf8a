"""Two runs side by side: steps find each other, and what differs is told once and where it begins."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from support import calling_nodes, nodes
from support.graphs import everything, graph
from support.history_cursors import CursorStore
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointNotFoundError
from stargraph.graph import Context, Graph, Run
from stargraph.replay import Overlay, RunDiff, compare_runs, diff_runs

LOOP = """
state_schema: {n: {type: int, default: 0}, most: {type: int, default: 3}, x: {type: any, default: null}}
nodes: [{id: loop, kind: "support.nodes:count"}, {id: play, kind: "support.calling_nodes:play"}, {id: end, kind: echo}]
rules: [{id: again, when: {node: loop, if: "state.n < state.most"}, then: [{kind: goto, target: loop}]}]
"""


async def ran(loaded: Graph, store: Checkpointer, run_id: str, **inputs: Any) -> Run:
    run = await loaded.start(checkpointer=store, run_id=run_id, inputs=inputs)
    await run.start()
    return run


def steps(difference: RunDiff) -> list[tuple[int | None, int | None, list[str]]]:
    return [(pair.a, pair.b, pair.diff.lines()) for pair in difference.pairs if not pair.same]


async def test_two_alike(store: MemoryCheckpointer) -> None:
    a, b = [await ran(graph(LOOP), store, name) for name in "ab"]
    difference = await diff_runs(a, b)
    assert not difference
    assert difference.lines() == [
        "A a           │  B b",
        "steps 0 to 5  │  steps 0 to 5: alike",
        "ends done     │  ends done",
    ]
    assert difference.as_json()["same"] is True


async def test_loops_find_each_other_round_by_round(store: MemoryCheckpointer) -> None:
    a = await ran(graph(LOOP), store, "a")
    b = await ran(graph(LOOP), store, "b", most=5)
    difference = await diff_runs(a, b)
    assert difference
    assert [(pair.a, pair.b) for pair in difference.pairs] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (None, 4),
        (None, 5),
        (4, 6),
        (5, 7),
    ]
    assert steps(difference) == [
        (0, 0, ["+ update.most: 5", "~ state.most: 3 → 5"]),
        (3, 3, ['~ next[0]: "play" → "loop"']),
        (None, 4, []),
        (None, 5, []),
        (4, 6, ["~ state.n: 3 → 5"]),
    ]


async def test_the_histories_are_closed_at_the_end() -> None:
    async with CursorStore() as store:
        a = await ran(graph(LOOP), store, "a")
        b = await ran(graph(LOOP), store, "b", most=5)
        for difference in (await diff_runs(a, b), await compare_runs(store, "a", "b")):
            assert difference.pairs[-1].same  # so it is not read
            assert store.open == 0


async def test_calls_errors_and_questions_are_compared(store: MemoryCheckpointer) -> None:
    values = itertools.count()

    async def script(state: Any, context: Context) -> Any:
        value = await context.call("value", lambda: next(values))
        assert context.now.tzinfo is not None
        if value > 1:
            raise ValueError(f"value {value}")
        context.interrupt(f"{value}?")

    calling_nodes.script = script
    a, b, c = [await ran(graph(LOOP), store, name) for name in "abc"]
    ids = [run[5].interrupts[0].id for run in (store.runs["a"], store.runs["b"])]
    assert steps(await diff_runs(a, b)) == [
        (4, 4, ["~ calls[0].result: 0 → 1"]),
        (5, 5, [f'~ interrupts[0].id: "{ids[0]}" → "{ids[1]}"', '~ interrupts[0].prompt: "0?" → "1?"']),
    ]
    failed = await diff_runs(b, c)
    assert failed.statuses == ("awaiting_input", "failed")
    assert steps(failed)[1:] == [(5, None, []), (None, 5, [])]
    assert failed.lines()[-1] == "ends awaiting_input  │  ends failed"


async def test_a_fork_from_either_side(store: MemoryCheckpointer) -> None:
    run = await ran(graph(LOOP), store, "a")
    fork = await run.fork(2, Overlay(state={"n": 9}), run_id="b")
    await fork.start()
    for a, b, shared in ((run, fork, 2), (fork, run, None)):
        difference = await diff_runs(a, b)
        assert difference.shared == shared
        steps = [(2, 0), (3, 1), (4, 2), (5, 3)]
        assert [(pair.a, pair.b) for pair in difference.pairs] == (
            steps if a is run else [(two, one) for one, two in steps]
        )
        assert [bool(pair.diff) for pair in difference.pairs] == [True, True, False, False]


async def test_rounds_of_a_loop_are_paired_by_their_tasks(store: MemoryCheckpointer) -> None:
    run = await ran(graph(LOOP), store, "a")
    first, second = [await run.fork(step, run_id=f"from-{step}") for step in (1, 2)]
    for fork in (first, second):
        await fork.start()
    pairs = [(pair.a, pair.b) for pair in (await diff_runs(first, second)).pairs]
    assert pairs == [(0, 0), (1, None), (2, 1), (3, 2), (4, 3)], "the second round is in the first run alone"


async def test_a_fork_that_took_branches_over(store: MemoryCheckpointer, tmp_path: Path) -> None:
    loaded = everything(tmp_path)
    run = await ran(loaded, store, "a")
    step = max(record.step for record in store.runs["a"] if record.frontier and record.frontier[0].kind == "fan_out")
    fork = await run.fork(step, run_id="b")
    await fork.start()
    difference = await diff_runs(run, fork)
    assert not difference
    assert difference.shared == step


async def test_a_changed_item_of_a_long_state_is_reported_where_it_changes(store: MemoryCheckpointer) -> None:
    def change(context: Context) -> dict[str, Any]:
        rows = [{"id": n, "text": "x" * 100} for n in range(5_000)]
        if context.run_id == "b" and context.node != "first":
            rows[777]["text"] = "y"
        return {"rows": rows}

    nodes.before = change
    text = "nodes:\n" + "".join(
        f'  - {{id: {name}, kind: "support.nodes:returns_x"}}\n' for name in ("first", "second", "third")
    )
    a, b = [await ran(graph(text), store, name) for name in "ab"]
    difference = await diff_runs(a, b)
    (second, third) = steps(difference)
    assert second[2][1].startswith("~ state.rows[777].text: ")
    assert len(third[2]) == 1, "the state differs as it did before"
    assert max(map(len, difference.lines())) < 200


async def test_runs_of_two_stores(store: MemoryCheckpointer, tmp_path: Path) -> None:
    a = await ran(graph(LOOP), store, "a")
    async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as other:
        b = await graph(LOOP).start(checkpointer=other, run_id="b")
        await b.start()
        assert not await diff_runs(a, b)
        with pytest.raises(CheckpointNotFoundError):
            await diff_runs(a, await graph(LOOP).start(checkpointer=other, run_id="nobody"))
