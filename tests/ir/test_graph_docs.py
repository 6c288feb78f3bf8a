"""The graphs in docs/graphs.md load."""

from __future__ import annotations

from pathlib import Path

from support.documents import blocks_of

from stargraph.ir import parse_graph

PAGE = Path(__file__).parents[2] / "docs" / "graphs.md"


def test_every_graph_of_the_reference_loads() -> None:
    graphs = [block for block in blocks_of(PAGE.read_text(encoding="utf-8")) if block.language == "yaml"]
    assert [parse_graph(block.text, file=f"{PAGE}:{block.line}").id for block in graphs] == [
        "triage",
        "approve",
        "orders",
    ]
