"""Random graphs lose their process at random moments; they and their forks end in the state of an undisturbed run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import nodes
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, RunSummary
from stargraph.graph import Context, Graph, Run
from stargraph.ir import IRDocument

pytestmark = pytest.mark.thorough


@dataclass(frozen=True)
class Segment:
    """A stretch of a random graph; the next one follows it."""

    kind: str
    width: int


SEGMENTS = st.builds(
    Segment,
    kind=st.sampled_from(["step", "sync_step", "loop", "parallel", "map", "interrupt"]),
    width=st.integers(1, 4),
)


def document_of(segments: list[Segment]) -> IRDocument:
    """The graph of some segments: each is one node, or a fork with its join."""
    graph_nodes: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for number, segment in enumerate(segments):
        name, width = f"s{number}", segment.width
        kind = f"support.nodes:{segment.kind}"
        if segment.kind == "interrupt":
            graph_nodes.append({"id": name, "kind": "interrupt", "prompt": "?", "into": "answer"})
        elif segment.kind in ("step", "sync_step"):
            graph_nodes.append({"id": name, "kind": kind})
        elif segment.kind == "loop":
            graph_nodes.append({"id": name, "kind": "support.nodes:step"})
            enough = f"state.path.filter(p, p == '{name}').size() < {width}"
            rules.append(
                {"id": f"r{name}", "when": {"node": name, "if": enough}, "then": [{"kind": "goto", "target": name}]}
            )
        else:
            join = f"{name}join"
            branches = [f"{name}b{branch}" for branch in range(width if segment.kind == "parallel" else 1)]
            graph_nodes.append({"id": name, "kind": "echo"})
            graph_nodes += [{"id": branch, "kind": "support.nodes:step"} for branch in branches]
            graph_nodes.append({"id": join, "kind": "echo"})
            action = (
                {"kind": "parallel", "targets": branches, "join": join}
                if segment.kind == "parallel"
                else {
                    "kind": "map",
                    "over": str(list(range(width))),
                    "target": branches[0],
                    "join": join,
                    "max_concurrency": 2,
                }
            )
            rules.append({"id": f"r{name}", "when": {"node": name}, "then": [action]})
    return IRDocument.model_validate(
        {
            "id": "random",
            "state_schema": {
                "path": {"type": "list[str]", "reduce": "append", "default": []},
                "answer": {"type": "any", "default": None},
            },
            "nodes": graph_nodes,
            "rules": rules,
        }
    )


async def to_the_end(graph: Graph, store: MemoryCheckpointer) -> dict[str, JsonValue]:
    """Start or resume the run, and answer its questions, until it is done."""
    run = await graph.start(checkpointer=store, run_id="r")
    return await answered(run, store, await (run.resume("r") if "r" in store.runs else run.start()))


async def answered(run: Run, store: MemoryCheckpointer, summary: RunSummary) -> dict[str, JsonValue]:
    """Answer the questions of a run, until it is done."""
    while summary.status == "awaiting_input":
        for interrupt in store.runs[run.run_id][-1].interrupts:
            await run.answer(interrupt.id, "yes")
        summary = await run.resume()
    assert summary.status == "done", summary.error
    assert run.state is not None
    return dict(run.state)


@settings(max_examples=60, deadline=None)
@given(
    segments=st.lists(SEGMENTS, min_size=1, max_size=5),
    deaths=st.lists(st.tuples(st.sampled_from(["before", "after", "node"]), st.integers(0, 30)), max_size=4),
    fork=st.integers(0, 60),
)
async def test_random_graphs(segments: list[Segment], deaths: list[tuple[str, int]], fork: int) -> None:
    graph = Graph(document_of(segments))
    calm = MemoryCheckpointer()
    await calm.bootstrap()
    nodes.reset()
    expected = await to_the_end(graph, calm)
    executions = Counter(nodes.LEDGER)

    store = MemoryCheckpointer()
    await store.bootstrap()
    nodes.reset()
    in_flight = 0
    for when, moment in deaths:
        seen = 0

        def die(what: Checkpoint | Context, at: int = moment) -> None:
            nonlocal seen
            seen += 1
            if seen == at + 1:
                raise Killed

        store.before_write = die if when == "before" else lambda checkpoint: None
        store.after_write = die if when == "after" else lambda checkpoint: None
        nodes.before = die if when == "node" else lambda context: None
        try:
            await to_the_end(graph, store)
        except Killed:
            in_flight += max(segment.width for segment in segments)
    store.before_write = store.after_write = lambda checkpoint: None
    nodes.before = lambda context: None
    assert await to_the_end(graph, store) == expected
    assert not executions - Counter(nodes.LEDGER)
    assert sum((Counter(nodes.LEDGER) - executions).values()) <= in_flight
    log = store.runs["r"]
    assert [checkpoint.step for checkpoint in log] == list(range(len(log)))
    run = await graph.start(checkpointer=store, run_id="r")
    report = await run.replay()
    assert report.differences == ()
    assert report.compared == len(log)
    # A fork at any step ends likewise, although its parent is gone when it begins.
    forked = await run.fork(fork % (len(log) - 1), run_id="f")
    store.wipe()
    assert await answered(forked, store, await forked.start()) == expected
