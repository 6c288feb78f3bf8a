"""Graphs written in Python: types, edges as code, and what is refused at the user's line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from support.cli import Folder

from stargraph.errors import GraphError
from stargraph.graph import GraphBuilder, add, append, merge
from stargraph.ir import Goto, Map


@dataclass
class State:
    n: int = 0


def keep(old: Any, new: Any) -> Any:
    return new


TYPES: list[tuple[Any, str, str]] = [
    (float, "float", "replace"),
    (list[str], "list[str]", "replace"),
    (str | None, "str | None", "replace"),
    (Optional[int], "int | None", "replace"),  # noqa: UP045
    (dict[str, list[int]], "dict[str, list[int]]", "replace"),
    (Literal["a", 1], "Literal['a', 1]", "replace"),
    (Any, "any", "replace"),
    (list, "list", "replace"),
    ("list[bool]", "list[bool]", "replace"),
    (Annotated[list[str], append], "list[str]", "append"),
    (Annotated[dict[str, Any], merge], "dict[str, any]", "merge"),
    (Annotated[int, "metres", add], "int", "add"),
    (Annotated[int, keep], "int", f"{__name__}:keep"),
]


@pytest.mark.parametrize(("annotation", "text", "reducer"), TYPES)
def test_real_types_are_those_of_a_file(annotation: Any, text: str, reducer: str) -> None:
    builder = GraphBuilder("g").state(x=annotation, y=(annotation, None)).add_node("a", "echo")
    schema = builder._fields
    assert schema["x"] == {"type": text, **({"reduce": reducer} if reducer != "replace" else {})}
    assert schema["y"] == {**schema["x"], "default": None}


@pytest.mark.parametrize("annotation", [datetime, tuple[int, ...], dict[int, str], set, list[datetime], State])
def test_another_type_is_refused(annotation: Any) -> None:
    with pytest.raises(GraphError, match=r"the field 'x' has the type .*, which a declared field cannot have"):
        GraphBuilder("g").state(x=annotation)
    with pytest.raises(GraphError, match="more than one reducer"):
        GraphBuilder("g").state(x=Annotated[list[int], append, add])


def test_edges_become_rules() -> None:
    builder = GraphBuilder("g", State)
    builder.node(keep_it)
    builder.add_node("b", "echo").add_node("c", "halt")
    builder.after(keep_it, when="state.n > 1").ask("Go on?", into="n").goto("c")
    builder.after(keep_it, when="state.n > 0").map("[state.n]", "b", join="c", max_concurrency=3)
    builder.after(keep_it, id="own", description="the rest").parallel("b", keep_it, join="c")
    builder.after("b").ask("Well?", into="n")
    rules = builder.build().rules
    assert [rule.id for rule in rules] == ["after-keep_it", "after-keep_it-2", "own", "after-b"]
    assert [[action.kind for action in rule.then] for rule in rules] == [
        ["interrupt", "goto"],
        ["map"],
        ["parallel"],
        ["interrupt"],
    ]
    assert rules[0].then[1] == Goto(target="c")
    assert rules[1].then[0] == Map(over="[state.n]", target="b", join="c", max_concurrency=3)
    assert rules[2].description == "the rest"


def keep_it(state: State) -> None: ...


def other(state: State) -> None: ...


def test_what_cannot_be_an_edge_is_told_where_it_stands() -> None:
    builder = GraphBuilder("g", State)
    builder.node(keep_it)
    with pytest.raises(GraphError, match=r"test_builder.py:\d+: other is not a node of the graph 'g'"):
        builder.after(keep_it).goto(other)
    builder = GraphBuilder("g", State)
    builder.node(id="a")(keep_it)
    builder.node(id="b")(keep_it)
    with pytest.raises(GraphError, match="keep_it is the code of 2 nodes: 'a', 'b'"):
        builder.after(keep_it)
    builder.after("a")
    with pytest.raises(GraphError, match=r"test_builder.py:\d+: after\('a'\) does not say what follows") as caught:
        builder.build()
    assert caught.value.file == __file__
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert lines[(caught.value.line or 0) - 1].strip() == 'builder.after("a")'
    with pytest.raises(GraphError, match="is not a class of states"):
        GraphBuilder("g", State())  # type: ignore[call-overload]


FAULTS = [
    ("graph.node(lambda state: None)", "a lambda has no name"),
    ("graph.state(x=set)", "the field 'x' has the type set"),
    ("graph.after(print).halt()", "print is not a node of the graph 'g'"),
    ("graph.add_node('b', 'ech').build()", "nodes[1].kind: unknown kind 'ech'; did you mean 'echo'?"),
    ("graph.after('a').goto('nowhere'); graph.build()", "there is no node 'nowhere'"),
    ("graph.add_node('b', 'no_such:thing'); Graph(graph)", "there is no module 'no_such'"),
    ("graph.rule('r', 'a'); graph.build()", "after('a') does not say what follows"),
]


@pytest.mark.parametrize(("line", "message"), FAULTS)
def test_the_command_line_names_the_line_of_the_fault(folder: Folder, line: str, message: str) -> None:
    head = "from stargraph.graph import Graph, GraphBuilder\n\ngraph = GraphBuilder('g').add_node('a', 'echo')\n\n"
    folder.write("flow.py", f"{head}{line}\n")
    answer = folder.call("validate", "flow.py:graph")
    assert answer.code == 2
    assert answer.err.startswith(f"error: {folder.path / 'flow.py'}:5: "), answer.err
    assert message in answer.err


def test_a_library_between_is_not_the_place(folder: Folder) -> None:
    folder.write(
        "flow.py", "import json\nfrom functools import reduce\n\nreduce(lambda a, b: json.loads(b), ['', '{'])\n"
    )
    assert f"{folder.path / 'flow.py'}:4: JSONDecodeError" in folder.call("validate", "flow.py:graph").err


def test_a_condition_that_is_code_is_refused_by_its_type() -> None:
    builder = GraphBuilder("g").add_node("a", "echo")
    builder.after("a", when=lambda state: True).halt()  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"rules\[0\].when.if: must be text, not an object of the type function"):
        builder.build()
