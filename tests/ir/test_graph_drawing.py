"""Graphs as Mermaid flowcharts."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from support.graph_texts import EVERYTHING, UNHURRIED

from stargraph.ir import (
    Ask,
    Goto,
    Halt,
    IRDocument,
    Map,
    NodeSpec,
    Parallel,
    RuleSpec,
    WhenSpec,
    draw_graph,
    parse_graph,
)

SAFE_LABEL = re.compile(r'"(?:[\w .,?!/…-]|#\d+;)*"')


def drawing(document: IRDocument) -> list[str]:
    return [line.strip() for line in draw_graph(document).splitlines()]


def test_a_graph_with_everything() -> None:
    assert drawing(parse_graph(EVERYTHING)) == [
        "flowchart TD",
        'start(["start"])',
        'n0["classify"]',
        'n1{{"ask"}}',
        'n2[["enrich"]]',
        'n3["summarize"]',
        'n4["report"]',
        'done(["done"])',
        "start --> n0",
        'n0 -->|"state.severity #62;#61; 4"| n1',
        'subgraph b1["for each of state.notes"]',
        'b1n0["summarize"]',
        "end",
        "n0 --> b1",
        "b1 --> n4",
        "n1 --> n2",
        "n2 --> n3",
        "n3 --> n4",
        'n4 -->|"reported"| done',
    ]


def test_a_node_that_is_only_a_branch_stands_only_in_its_box() -> None:
    nodes = tuple(NodeSpec(id=name, kind="echo") for name in ("a", "b", "c", "d"))
    document = IRDocument(
        id="g",
        nodes=nodes,
        rules=(RuleSpec(id="r", when=WhenSpec(node="a"), then=(Parallel(targets=("b", "c"), join="d"),)),),
    )
    assert drawing(document)[1:] == [
        'start(["start"])',
        'n0["a"]',
        'n3["d"]',
        'done(["done"])',
        "start --> n0",
        'subgraph b1["side by side"]',
        'b1n0["b"]',
        'b1n1["c"]',
        "end",
        "n0 --> b1",
        "b1 --> n3",
        "n3 --> done",
    ]


def test_questions_stand_between_and_rules_after_an_unconditional_one_are_left_out() -> None:
    document = IRDocument(
        id="g",
        nodes=(NodeSpec(id="a", kind="echo"), NodeSpec(id="b", kind="halt", reason="enough")),
        rules=(
            RuleSpec(
                id="asks",
                when=WhenSpec(node="a", condition="x"),
                then=(Ask(prompt="Sure?", into="y"), Goto(target="a")),
            ),
            RuleSpec(id="asks-only", when=WhenSpec(node="a"), then=(Ask(prompt="And?", into="y"),)),
            RuleSpec(id="never", when=WhenSpec(node="a"), then=(Halt(),)),
        ),
    )
    assert drawing(document)[5:] == [
        "start --> n0",
        'b1{{"Sure?"}}',
        'n0 -->|"x"| b1',
        "b1 --> n0",
        'b2{{"And?"}}',
        "n0 --> b2",
        "b2 --> n1",
        'n1 -->|"enough"| done',
    ]


def test_where_no_rule_decides_for_sure_the_declared_order_is_drawn() -> None:
    document = IRDocument(
        id="g",
        nodes=(NodeSpec(id="a", kind="echo"), NodeSpec(id="b", kind="echo")),
        rules=(RuleSpec(id="r", when=WhenSpec(node="a", condition="x"), then=(Halt(reason="why"),)),),
    )
    assert drawing(document)[5:] == ["start --> n0", 'n0 -->|"x / why"| done', 'n0 -->|"else"| n1', "n1 --> done"]


@settings(UNHURRIED, max_examples=200)
@given(st.text(max_size=120), st.text(max_size=120))
def test_no_text_can_break_out_of_its_label(first: str, second: str) -> None:
    document = IRDocument(
        id="g",
        nodes=(NodeSpec(id="end", kind="echo"), NodeSpec(id="b", kind="halt", reason=first)),
        rules=(
            RuleSpec(
                id="r",
                when=WhenSpec(node="end", condition=second),
                then=(Ask(prompt=first, into="x"), Map(over=second, target="end", join="b")),
            ),
        ),
    )
    for line in draw_graph(document).splitlines():
        assert SAFE_LABEL.sub("", line).isascii()
        assert line.count('"') in (0, 2)
        assert line.count('"') == 2 * len(SAFE_LABEL.findall(line))
