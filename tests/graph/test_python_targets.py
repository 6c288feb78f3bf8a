"""Graphs in Python code, by the names that people type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Folder

from stargraph.errors import GraphError
from stargraph.graph import Graph
from stargraph.ir import definition_of, load_graph
from stargraph.ir import graph_hash as hash_of

IMPORTS = "from stargraph.graph import Graph, GraphBuilder"

FLOW = """\
from dataclasses import dataclass, field
from typing import Annotated

from stargraph.graph import Context, Graph, GraphBuilder, append


@dataclass
class State:
    count: int
    notes: Annotated[list[str], append] = field(default_factory=list)


builder = GraphBuilder("flow", State)


@builder.node
def first(state: State, ctx: Context):
    return {"count": state.count + 1}


@builder.node
def last(state: State):
    return {"notes": [f"count is {state.count}"]}


builder.after(first, when="state.count > 10").halt("enough")
graph = Graph(builder)
"""


@pytest.mark.parametrize("name", ["flow.py", "my-flow.py", "01-flow.py", "pkg/flow.py"])
@pytest.mark.parametrize("attribute", ["", ":graph", ":builder"])
def test_a_graph_in_a_file_runs_and_resumes(folder: Folder, name: str, attribute: str) -> None:
    (folder.path / "pkg").mkdir()
    folder.write(name, FLOW)
    answer = folder.call("run", f"{name}{attribute}", "-i", "count=1", "--run-id", "r", "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["state"] == {"count": 2, "notes": ["count is 2"]}
    assert folder.call("replay", f"{name}{attribute}").code == 0
    assert folder.call("resume", "r", f"{name}{attribute}", "-q").code == 0
    assert "flowchart" in folder.call("graph", f"{name}{attribute}").out


def test_all_ways_to_name_a_graph_have_one_hash(folder: Folder) -> None:
    folder.write("flow.py", FLOW)
    targets = ["flow.py", "flow.py:graph", "flow.py:builder", "flow:graph", str(folder.path / "flow.py:graph")]
    hashes = {(each := Graph.load(target, code=[folder.path])).graph_hash: each.runtime_hash for target in targets}
    assert len(hashes) == 1
    folder.write("flow.py", FLOW + "print(graph.graph_hash, graph.runtime_hash)\n")
    ran = subprocess.run([sys.executable, "flow.py"], capture_output=True, text=True, check=True, cwd=folder.path)
    assert ran.stdout.split() == [*hashes, *hashes.values()]


def test_a_file_of_a_package_is_a_part_of_it(folder: Folder) -> None:
    (folder.path / "shop").mkdir()
    folder.write("shop/__init__.py", "")
    folder.write("shop/prices.py", "BASE = 41\n")
    folder.write(
        "shop/flow.py",
        FLOW.replace("class State:", "class State:\n    price = BASE").replace(
            "from typing", "from .prices import BASE\nfrom typing"
        ),
    )
    by_file, by_module = Graph.load("shop/flow.py:graph"), Graph.load("shop.flow:graph", code=[folder.path])
    assert by_file.graph_hash == by_module.graph_hash
    assert by_file.ir.nodes[0].kind == "shop.flow:first"


@pytest.mark.parametrize(
    ("target", "reason", "message"),
    [
        ("flow.py:grpah", "name-not-found", "flow.py has no 'grpah'; did you mean 'graph'?"),
        ("flow.py:", "name-not-found", "'flow.py:' names no attribute"),
        ("flow.py:first", "not-a-graph", "'flow.py:first' is the function first(), not a graph"),
        ("flow.py:State", "not-a-graph", "'flow.py:State' is the class State, not a graph"),
        ("flow.py:State.count", "name-not-found", "flow.py has no 'State.count'"),
        ("nothere.py:graph", "unreadable-file", "nothere.py: there is no such file"),
        ("no_such_module:graph", "module-not-found", "there is no module 'no_such_module'"),
        ("two.py", "several-graphs", "two.py has 2 graphs: one, two"),
        ("steps.py", "name-not-found", "steps.py has no graph"),
        ("my flow.py", "unreadable-file", "'my flow.py' cannot be the name of a module"),
        ("exits.py:graph", "import-failed", "importing 'exits.py' ended in sys.exit(3)"),
        ("empty.py:graph", "invalid-graph", "empty.py:3: the graph 'e' has no nodes"),
    ],
)
def test_what_names_no_graph_is_refused(folder: Folder, target: str, reason: str, message: str) -> None:
    folder.write("flow.py", FLOW)
    folder.write("my flow.py", FLOW)
    folder.write("exits.py", "import sys\nsys.exit(3)\n")
    folder.write(
        "empty.py",
        "from stargraph.graph import Graph, GraphBuilder\n\nbuilder = GraphBuilder('e')\ngraph = Graph(builder)\n",
    )
    folder.write(
        "two.py", FLOW + "other = GraphBuilder('o').add_node('x', 'echo')\none, two = graph, Graph(other)\ndel graph\n"
    )
    with pytest.raises(GraphError) as caught:
        Graph.load(target, code=[folder.path])
    assert caught.value.reason == reason
    assert message in str(caught.value)
    assert folder.call("run", target).code == 2


def test_a_failing_import_names_the_line_of_the_user(folder: Folder) -> None:
    folder.write("broken.py", "import json\n\n\njson.loads('{')\n")
    answer = folder.call("run", "broken.py:graph")
    assert answer.code == 2
    assert f"importing 'broken.py' failed at {folder.path / 'broken.py'}:4: JSONDecodeError" in answer.err
    folder.write("unclosed.py", "x = 1\ngraph = (\n")
    assert f"{folder.path / 'unclosed.py'}:2: SyntaxError" in folder.call("run", "unclosed.py:graph").err
    folder.write("needs.py", "x = 1\nimport no_such_library\n")
    assert f"{folder.path / 'needs.py'}:2: ModuleNotFoundError" in folder.call("run", "needs.py").err


def test_a_name_without_an_attribute_is_a_file(folder: Folder) -> None:
    answer = folder.call("run", "graph")
    assert answer.code == 2
    assert "graph: there is no such file" in answer.err


def test_a_graph_has_the_hash_of_its_yaml(folder: Folder) -> None:
    folder.write(
        "approve.yaml",
        (
            "id: approve\nstate_schema:\n  amount: float\n  tags: {type: 'list[str]', reduce: append, default: []}\n"
            "  approval: {type: 'str | None', default: null}\n"
            "nodes: [{id: check, kind: echo}, {id: audit, kind: echo}, {id: book, kind: echo}]\n"
            "rules:\n"
            "  - id: large\n    when: {node: check, if: 'state.amount > 1000.0'}\n"
            "    then: [{kind: interrupt, prompt: 'Approve {amount}?', into: approval}, "
            "{kind: parallel, targets: [audit], join: book}]\n"
            "  - {id: each, when: {node: check}, then: [{kind: map, over: state.tags, target: audit, join: book}]}\n"
            "  - {id: end, when: {node: book}, then: [{kind: halt}]}\n"
        ),
    )
    folder.write(
        "approve.py",
        (
            "from typing import Annotated, Optional\nfrom stargraph.graph import GraphBuilder, append\n"
            "graph = GraphBuilder('approve')\n"
            "graph.state(amount=float, tags=(Annotated[list[str], append], []), approval=(Optional[str], None))\n"
            "for node in ('check', 'audit', 'book'): graph.add_node(node, 'echo')\n"
            "graph.after('check', when='state.amount > 1000.0', id='large').ask('Approve {amount}?', into='approval')"
            ".parallel('audit', join='book')\n"
            "graph.after('check', id='each').map('state.tags', 'audit', join='book')\n"
            "graph.after('book', id='end').halt()\n"
        ),
    )
    assert Graph.load("approve.py").graph_hash == hash_of(definition_of(load_graph("approve.yaml")))


def test_a_python_file_is_no_graph_file(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("graph = None\n")
    with pytest.raises(GraphError, match="a graph in Python is not read as a graph file") as caught:
        Graph.from_file(tmp_path / "flow.py")
    assert "Graph.load(" in str(caught.value.hint)
