"""`stargraph graph` and `stargraph schema`."""

from __future__ import annotations

from pathlib import Path

from stargraph.cli._options import GraphArgument


def graph(graph: GraphArgument) -> None:
    """Draw GRAPH as a Mermaid flowchart, for Markdown pages and editors that render it."""
    from stargraph.cli._output import print_lines
    from stargraph.graph import load_document
    from stargraph.ir import draw_graph

    print_lines([draw_graph(load_document(graph, code=(Path.cwd(),))).rstrip("\n")])


def schema() -> None:
    """Print the JSON Schema of a graph file, for editors that check and complete YAML."""
    from stargraph.cli._output import print_json
    from stargraph.ir import graph_json_schema

    print_json(graph_json_schema())
