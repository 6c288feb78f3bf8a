"""The labels of a drawn graph can be read: none lies over another one, or over a node."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import pytest

from stargraph.ir import definition_of, parse_graph
from stargraph.ui._graph_labels import SIZE, Box
from stargraph.ui._graph_svg import Progress, draw_graph

APPROVAL = """\
id: approval
state_schema: {amount: int, manager: {type: "bool | None", default: null}, finance: {type: str, default: ""}}
nodes:
  - {id: ask_manager, kind: interrupt, prompt: "Pay {amount}?", into: manager}
  - {id: ask_finance, kind: interrupt, prompt: "Pay {amount}?", into: finance}
  - {id: pay, kind: echo}
  - {id: refuse, kind: echo}
rules:
  - {id: no, when: {node: ask_manager, if: "state.manager == false"}, then: [{kind: goto, target: refuse}]}
  - {id: small, when: {node: ask_manager, if: "state.amount < 2000"}, then: [{kind: goto, target: pay}]}
  - {id: late, when: {node: ask_finance, if: "state.finance == 'no'"}, then: [{kind: goto, target: refuse}]}
  - {id: paid, when: {node: pay}, then: [{kind: halt}]}
"""
EACH = """\
id: each
state_schema: {notes: {type: "list[str]", default: []}, n: {type: int, default: 0}}
nodes: [{id: read, kind: echo}, {id: ask, kind: echo}, {id: sum, kind: echo}, {id: report, kind: echo}]
rules:
  - {id: urgent, when: {node: read, if: "state.n >= 4"}, then: [{kind: goto, target: ask}]}
  - {id: each, when: {node: read}, then: [{kind: map, over: "state.notes", target: sum, join: report}]}
  - {id: asked, when: {node: ask}, then: [{kind: goto, target: report}]}
  - {id: again, when: {node: report, if: "state.n < 9"}, then: [{kind: goto, target: read}]}
"""


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (APPROVAL, {"state.manager == false", "state.amount &lt; 2000", "state.finance == 'no'", "else"}),
        (EACH, {"state.n &gt;= 4", "for each of state.notes", "state.n &lt; 9", "else"}),
    ],
    ids=["approval", "each"],
)
def test_no_label_covers_another_or_a_node(graph: str, words: set[str]) -> None:
    drawing = draw_graph(definition_of(parse_graph(graph)), Progress(), standalone=True)
    assert drawing is not None
    (shift, width) = (
        float(re.findall(pattern, drawing)[0]) for pattern in (r"translate\(([\d.]+)", r'viewBox="0 0 ([\d.]+)')
    )
    labels = {}
    for x, y, text in re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)"[^>]*paint-order[^>]*>([^<]*)<', drawing):
        text = text.replace("&#x27;", "'")
        left, bottom = float(x), float(y) + 1.5
        shown = re.sub("&.t;", "<", text)
        labels[text] = Box(left, bottom - SIZE, left + 5 * len(shown), bottom)
    assert set(labels) == words
    nodes = [
        Box(float(x), float(y), float(x) + float(w), float(y) + float(h))
        for x, y, w, h in re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawing)
    ]
    assert len(nodes) == 6
    for (one, box), (other, its) in combinations(labels.items(), 2):
        assert box.shared_with(its) == 0, (one, other)
    for text, box in labels.items():
        assert not any(box.shared_with(node) for node in nodes), text
        assert box.left + shift >= 0, text
        assert box.right + shift <= width, text


def test_labels_of_a_large_graph_are_compared_with_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"id": f"n{at}", "kind": "echo"} for at in range(80)]
    rules = [
        {
            "id": f"r{at}_{step}",
            "when": {"node": f"n{at}", "if": f"state.n > {step}"},
            "then": [{"kind": "goto", "target": f"n{min(at + step, 79)}"}],
        }
        for at in range(79)
        for step in (1, 9)
    ]
    graph = {"id": "large", "state_schema": {"n": {"type": "int", "default": 0}}, "nodes": nodes, "rules": rules}
    definition = definition_of(parse_graph(json.dumps(graph)))
    compared: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., object]:
        method = getattr(Box, name)

        def call(*given: object) -> object:
            compared[name] += 1
            return method(*given)

        return call

    for name in ("holds", "shared_with"):
        monkeypatch.setattr(Box, name, counted(name))
    assert draw_graph(definition, Progress()) is not None
    assert 0 < compared["holds"] < 100_000, "each with each would be millions"
    assert 0 < compared["shared_with"] < 100_000
