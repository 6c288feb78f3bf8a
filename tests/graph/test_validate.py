"""What `stargraph validate` finds before a run does."""

from __future__ import annotations

import pytest
from support.cli import Folder

HEAD = """\
id: demo
state_schema:
  {n: int, share: {type: float, default: 0.5}, name: {type: str, default: ""}, maybe: "str | None", words: "list[str]"}
nodes:
  - {id: a, kind: echo}
  - {id: b, kind: echo}
"""


def rule(condition: str, then: str = "{kind: goto, target: b}") -> str:
    return f"{HEAD}rules:\n  - id: r\n    when: {{node: a, if: {condition!r}}}\n    then: [{then}]\n"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("state.nn > 1", "state has no 'nn'; did you mean 'n'?"),
        ("state['shre'] > 1.0", "state has no 'shre'; did you mean 'share'?"),
        ("has(state.nam)", "state has no 'nam'; did you mean 'name'?"),
        ("node.updat.n == 1", "node has no 'updat'; did you mean 'update'?"),
        ("state.n > 'x'", "> is not defined for int and string"),
        ("state.share * 2 > state.share", "* is not defined for double and int; write a whole number as 2.0"),
        ("state.name.size()", "it gives a value of type int, not true or false"),
        ("state.words[0] > 3", "> is not defined for string and int"),
    ],
)
def test_an_expression_is_checked_against_the_state(folder: Folder, condition: str, message: str) -> None:
    folder.write("g.yaml", rule(condition))
    answer = folder.call("validate", "g.yaml")
    assert answer.code == 2
    assert answer.err.startswith(f"error: g.yaml:9:25: rules[0].when.if: {message}"), answer.err
    inputs = ("-i", "n=1", "-i", "maybe=x", "-i", "words=[]")
    assert folder.call("run", "g.yaml", *inputs).err == answer.err
    assert not (folder.path / ".stargraph").exists()


@pytest.mark.parametrize(
    "condition",
    [
        "state.share > 1",
        "state.n == 1.0",
        "state.maybe != null && state.maybe == 'x'",
        "has(state.maybe) && state.n > 1",
        "state.words.exists(state, state.size() > 3)",
        "state.words.exists(word, word == 'state.foo')",
        'node.id == "a" && size(node.update) == 0',
        "size(state.words) > 2 && state.name.startsWith('x') // state.comment",
        "'x' in state.words",
        "state.size() > 2",
    ],
)
def test_what_a_run_can_evaluate_is_valid(folder: Folder, condition: str) -> None:
    folder.write("g.yaml", rule(condition))
    answer = folder.call("validate", "g.yaml")
    assert (answer.code, answer.err) == (0, "")
    run = folder.call("run", "g.yaml", "-i", "n=1", "-i", "maybe=x", "-i", "words=[]", "-q")
    assert run.code == 0, run.err


def test_a_map_goes_over_a_list(folder: Folder) -> None:
    folder.write("g.yaml", rule("true", "{kind: map, over: state.n, target: b, join: a}"))
    assert "rules[0].then[0].over: it gives a value of type int, not a list" in folder.call("validate", "g.yaml").err


def test_everything_is_reported_at_once_with_its_line(folder: Folder) -> None:
    folder.write(
        "g.yaml",
        "id: g\nstate_schema: {n: {type: int, reduce: 'steps:nope'}}\nnodes:\n  - {id: a, kind: 'stepps:increase'}\n"
        "  - {id: b, kind: 'steps:nothere'}\n  - {id: c, kind: subgraph, graph: child.yaml}\n",
    )
    lines = folder.call("validate", "g.yaml").err.splitlines()
    assert [line.removeprefix("error: ").partition(": ")[0] for line in lines if "yaml:" in line] == [
        "g.yaml:2:15",
        "g.yaml:4:19",
        "g.yaml:5:19",
        "g.yaml:6:36",
    ]
    assert "there is no module 'stepps'" in lines[1]
    assert "child.yaml: there is no such file" in lines[3]


def test_expressions_of_subgraphs_are_checked_on_both_sides(folder: Folder) -> None:
    folder.write("child.yaml", "id: child\nstate_schema: {x: int}\nnodes: [{id: a, kind: echo}]\n")
    folder.write(
        "g.yaml",
        "id: g\nstate_schema: {n: int}\nnodes:\n  - id: c\n    kind: subgraph\n    graph: child.yaml\n"
        "    inputs: {x: state.m, y: '1'}\n    outputs: {n: state.n}\n",
    )
    errors = folder.call("validate", "g.yaml").err.splitlines()
    assert [line.removeprefix("error: ") for line in errors] == [
        "g.yaml:7:17: nodes[0].inputs.x: state has no 'm'; it has n",
        "g.yaml:7:29: nodes[0].inputs.y: the state of 'child' has no 'y'",
        "g.yaml:8:18: nodes[0].outputs.n: state has no 'n'; it has x",
    ]


def test_what_never_runs_is_a_warning(folder: Folder) -> None:
    folder.write(
        "g.yaml",
        "id: g\nnodes: [{id: a, kind: echo}, {id: lost, kind: echo}, {id: b, kind: echo}, {id: w, kind: echo}]\n"
        "rules:\n  - {id: always, when: {node: a}, then: [{kind: parallel, targets: [w], join: b}]}\n"
        "  - {id: never, when: {node: a, if: 'true'}, then: [{kind: halt}]}\n"
        "  - {id: branch, when: {node: w}, then: [{kind: halt}]}\n"
        "  - {id: end, when: {node: b}, then: [{kind: halt}]}\n",
    )
    answer = folder.call("validate", "g.yaml")
    assert (answer.code, answer.err) == (2, "")
    assert answer.out.splitlines() == [
        "warning: g.yaml:2:35: nodes[1].id: nothing leads to this node, so it never runs",
        "warning: g.yaml:5:10: rules[1].id: this rule never applies, since 'always' before it always does",
        "warning: g.yaml:6:10: rules[2].id: 'w' runs only as a branch, after which the join follows and no rule",
        "g.yaml: 3 warnings; graph 'g', 4 nodes, 4 rules",
    ]
    run = folder.call("run", "g.yaml", "-q")
    assert run.code == 0
    assert run.err.splitlines() == answer.out.splitlines()[:3]


def test_python_is_checked_at_its_lines(folder: Folder) -> None:
    folder.write(
        "flow.py",
        "from pydantic import BaseModel\nfrom stargraph.graph import GraphBuilder\n\n"
        "class State(BaseModel):\n    total: int = 0\n\n"
        "builder = GraphBuilder('g', State)\n\n@builder.node\ndef work(state): ...\n\n"
        "builder.after(work, when='state.totl > 3').halt()\n",
    )
    error = folder.call("validate", "flow.py").err
    assert (
        error == f"error: {folder.path / 'flow.py'}:12: rules[0].when.if: state has no 'totl'; did you mean 'total'?\n"
    )


def test_a_type_that_would_be_lost_is_refused_at_its_line(folder: Folder) -> None:
    folder.write(
        "flow.py",
        "from pydantic import BaseModel, SecretStr\nfrom stargraph.graph import Graph, GraphBuilder\n\n"
        "class State(BaseModel):\n    key: SecretStr\n\n"
        "builder = GraphBuilder('g', State)\nbuilder.add_node('a', 'echo')\n",
    )
    error = folder.call("validate", "flow.py").err
    assert error.startswith(f"error: {folder.path / 'flow.py'}:7: state_class: flow:State.key"), error


def test_valid_in_json(folder: Folder) -> None:
    answer = folder.call("validate", "graph.yaml", "--json")
    assert answer.code == 0
    assert (answer.json["valid"], answer.json["graph"], answer.json["warnings"]) == (True, "demo", [])
