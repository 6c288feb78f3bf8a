"""Graphs for the tests of the engine."""

from __future__ import annotations

from pathlib import Path

from stargraph.graph import Graph
from stargraph.ir import parse_graph


def graph(text: str, folder: Path | None = None) -> Graph:
    """A graph from YAML; `id` may be left out."""
    named = "id:" in text.split("nodes:", maxsplit=1)[0]
    return Graph(parse_graph(text if named else f"id: test\n{text}"), folder=folder)


PATH = 'state_schema: {path: {type: "list[str]", reduce: append, default: []}}\n'

SEQUENCE = f"""
id: sequence
{PATH}
nodes:
  - {{id: a, kind: "support.nodes:step"}}
  - {{id: b, kind: "support.nodes:step"}}
  - {{id: c, kind: "support.nodes:step"}}
"""

CHILD = """
id: child
state_schema:
  numbers: list[int]
  path: {type: "list[str]", reduce: append, default: []}
  squares: {type: "list[int]", reduce: append, default: []}
  who: {type: "str | None", default: null}
nodes:
  - {id: begin, kind: "support.nodes:step"}
  - {id: square, kind: "support.nodes:square"}
  - {id: ask, kind: interrupt, prompt: "Who checks {squares}?", into: who}
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "state.numbers", target: square, join: ask, max_concurrency: 2}]
"""

EVERYTHING = """
id: everything
state_schema:
  n: {type: int, default: 0}
  path: {type: "list[str]", reduce: append, default: []}
  squares: {type: "list[int]", reduce: append, default: []}
  approval: {type: "str | None", default: null}
  who: {type: "str | None", default: null}
nodes:
  - {id: first, kind: "support.nodes:step"}
  - {id: loop, kind: "support.nodes:count"}
  - {id: left, kind: "support.nodes:step"}
  - {id: right, kind: "support.nodes:sync_step"}
  - {id: meet, kind: "support.nodes:step"}
  - {id: square, kind: "support.nodes:square"}
  - {id: approve, kind: interrupt, prompt: "Is {squares} right?", into: approval}
  - id: sub
    kind: subgraph
    graph: child.yaml
    inputs: {numbers: "state.squares"}
    outputs: {squares: "state.squares", who: "state.who"}
  - {id: last, kind: "support.nodes:step"}
rules:
  - {id: again, when: {node: loop, if: "state.n < 3"}, then: [{kind: goto, target: loop}]}
  - {id: both, when: {node: loop}, then: [{kind: parallel, targets: [left, right], join: meet}]}
  - id: each
    when: {node: meet}
    then: [{kind: map, over: "[1, 2, 3, 4, 5]", target: square, join: approve, max_concurrency: 2}]
  - {id: end, when: {node: last}, then: [{kind: halt, reason: finished}]}
"""
"""Sequence, loop, parallel, map, a question, and a subgraph with a map and a question of its own."""


def everything(folder: Path) -> Graph:
    """The graph EVERYTHING, with its child in a folder."""
    (folder / "child.yaml").write_text(CHILD)
    return graph(EVERYTHING, folder)


CALLS = """
id: calls
state_schema:
  bills: {type: "list[str]", reduce: append, default: []}
  moment: {type: str, default: ""}
nodes:
  - {id: first, kind: "support.calling_nodes:pay"}
  - {id: left, kind: "support.calling_nodes:pay"}
  - {id: right, kind: "support.calling_nodes:ship"}
  - {id: meet, kind: "support.calling_nodes:unlucky", retry: {attempts: 2, initial_delay: 0, on: [ConnectionError]}}
  - {id: pay, kind: "support.calling_nodes:pay"}
  - {id: confirm, kind: "support.calling_nodes:confirm"}
  - {id: sub, kind: subgraph, graph: calls_child.yaml, outputs: {bills: "state.bills"}}
rules:
  - {id: both, when: {node: first}, then: [{kind: parallel, targets: [left, right], join: meet}]}
  - id: each
    when: {node: meet}
    then: [{kind: map, over: "[1, 2, 3]", target: pay, join: confirm, max_concurrency: 2}]
"""
"""Nodes with calls: in sequence, side by side, in a map, around a question, one that fails first, and in a subgraph."""

CALLS_CHILD = """
id: calls_child
state_schema: {bills: {type: "list[str]", reduce: append, default: []}}
nodes:
  - {id: begin, kind: "support.calling_nodes:ship"}
  - {id: end, kind: "support.calling_nodes:pay"}
"""


def calling(folder: Path) -> Graph:
    """The graph CALLS, with its child in a folder."""
    (folder / "calls_child.yaml").write_text(CALLS_CHILD)
    return graph(CALLS, folder)
