"""The graphs that the fleet executes, and how their runs end when nothing disturbs them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.engine import Durability
from stargraph.graph import Graph, Run

_STATE: Final = """
state_schema:
  n: {type: int, default: 0}
  path: {type: "list[str]", reduce: append, default: []}
  squares: {type: "list[int]", reduce: append, default: []}
  answer: {type: "str | None", default: null}
  who: {type: "str | None", default: null}
nodes:
"""

_TEXTS: Final = {
    "sequence": _STATE
    + """
  - {id: a, kind: "stargraph_torture.nodes:step"}
  - {id: loop, kind: "stargraph_torture.nodes:count"}
  - {id: b, kind: "stargraph_torture.nodes:sync_step"}
rules:
  - {id: again, when: {node: loop, if: "state.n < 60"}, then: [{kind: goto, target: loop}]}
""",
    "map": _STATE
    + """
  - {id: begin, kind: "stargraph_torture.nodes:step"}
  - {id: square, kind: "stargraph_torture.nodes:square"}
  - {id: left, kind: "stargraph_torture.nodes:step"}
  - {id: right, kind: "stargraph_torture.nodes:sync_step"}
  - {id: beside, kind: "stargraph_torture.nodes:step"}
  - {id: meet, kind: "stargraph_torture.nodes:step"}
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]", target: square, join: left}]
  - {id: both, when: {node: left}, then: [{kind: parallel, targets: [right, beside], join: meet}]}
""",
    "questions": _STATE
    + """
  - {id: before, kind: "stargraph_torture.nodes:step"}
  - {id: ask, kind: interrupt, prompt: "Is {n} right?", into: answer}
  - {id: confirm, kind: "stargraph_torture.nodes:confirm"}
  - {id: loop, kind: "stargraph_torture.nodes:count"}
rules:
  - {id: again, when: {node: loop, if: "state.n < 30"}, then: [{kind: goto, target: loop}]}
""",
    "retry": _STATE
    + """
  - id: flaky
    kind: "stargraph_torture.nodes:flaky"
    retry: {attempts: 3, initial_delay: 0.001, max_delay: 0.002, on: [ConnectionError]}
  - {id: count, kind: "stargraph_torture.nodes:count"}
rules:
  - {id: again, when: {node: count, if: "state.n < 15"}, then: [{kind: goto, target: flaky}]}
""",
    "family": _STATE
    + """
  - {id: begin, kind: "stargraph_torture.nodes:step"}
  - id: sub
    kind: subgraph
    graph: child.yaml
    outputs: {squares: "state.squares", who: "state.who"}
  - {id: last, kind: "stargraph_torture.nodes:step"}
""",
}

_CHILD: Final = (
    "id: child\n"
    + _STATE
    + """
  - {id: begin, kind: "stargraph_torture.nodes:step"}
  - {id: square, kind: "stargraph_torture.nodes:square"}
  - {id: ask, kind: interrupt, prompt: "Who checks {squares}?", into: who}
  - {id: end, kind: "stargraph_torture.nodes:step"}
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "[5, 4, 3, 2, 1]", target: square, join: ask, max_concurrency: 3}]
"""
)

NAMES: Final = tuple(_TEXTS)


def write_graphs(folder: Path) -> None:
    """Put the graphs' files into a folder.

    Args:
        folder: where.
    """
    for name, text in _TEXTS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}")
    (folder / "child.yaml").write_text(_CHILD)


def load_graphs(folder: Path) -> dict[str, Graph]:
    """Return the graphs of a folder by their names.

    Args:
        folder: where `write_graphs` has put them.
    """
    return {name: Graph.from_file(folder / f"{name}.yaml") for name in NAMES}


def run_ids(count: int) -> list[str]:
    """Return the names of runs, of each graph in turn.

    Args:
        count: how many.
    """
    return [f"{NAMES[number % len(NAMES)]}-{number:05}" for number in range(count)]


def graph_of(run_id: str) -> str:
    """Return the name of the graph that a run is of."""
    return run_id.partition("-")[0]


def durability_of(run_id: str) -> Durability:
    """Return how a run is written: mostly before anything goes on."""
    choices: tuple[Durability, ...] = ("sync", "sync", "sync", "async", "async", "exit")
    return choices[zlib.crc32(run_id.encode()) % len(choices)]


async def answer_all(run: Run, latest: Checkpoint) -> None:
    """Answer every open question of a run, always in the same way.

    Args:
        latest: its latest checkpoint.
    """
    for interrupt in latest.interrupts:
        await run.answer(interrupt.id, f"yes to {interrupt.prompt}")


async def undisturbed(graphs: dict[str, Graph]) -> dict[str, dict[str, JsonValue]]:
    """Return the state that each graph's run ends in when nothing happens to it.

    Args:
        graphs: the graphs by their names.
    """
    ends: dict[str, dict[str, JsonValue]] = {}
    for name, graph in graphs.items():
        store = MemoryCheckpointer()
        await store.bootstrap()
        run = await graph.start(checkpointer=store, run_id=name)
        summary = await run.start()
        while summary.status == "awaiting_input":
            latest = await store.read_latest(name)
            assert latest is not None
            await answer_all(run, latest)
            summary = await run.resume()
        assert summary.status == "done", summary.error
        ends[name] = summary.stored_state
        for run_id, log in store.runs.items():
            if run_id != name:
                ends[log[0].graph_id] = log[-1].fresh_state()
    return ends
