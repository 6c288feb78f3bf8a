"""The definition of a graph by the name that people type, for those who only look at it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from stargraph.engine import Expression
from stargraph.graph._graph import Graph
from stargraph.graph._targets import load_object, python_target, target_text
from stargraph.ir import GraphBuilder, IRDocument, check_document, load_graph
from stargraph.runtime._given import as_folders


def load_document(target: str | os.PathLike[str], *, code: Sequence[str | os.PathLike[str]] = ()) -> IRDocument:
    """Return the definition of a graph that `Graph.load` loads; the code of the nodes in a graph file is not imported.

    Args:
        target: the graph, as the command line names it, or the path of a file.
        code: as for `Graph.load`.

    Raises:
        GraphError: there is no such graph, or its definition is wrong.
    """
    name = target_text(target)
    python = python_target(name)
    if python is None:
        return load_graph(name, compile_expression=Expression)
    found = load_object(python, as_folders(code), Graph)
    if isinstance(found, Graph):
        return found.ir
    document: IRDocument = found.build() if isinstance(found, GraphBuilder) else found
    check_document(document, compile_expression=Expression)
    return document
