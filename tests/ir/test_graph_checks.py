"""What must hold between the parts of a graph, from a file or made in Python."""

from __future__ import annotations

from typing import Any

import pytest
from support.graph_texts import EVERYTHING

from stargraph.errors import GraphError
from stargraph.ir import (
    Ask,
    FieldSpec,
    Goto,
    Halt,
    IRDocument,
    Map,
    NodeSpec,
    Parallel,
    RetrySpec,
    RuleSpec,
    WhenSpec,
    check_document,
    parse_graph,
    prompt_fields,
)

A, B = NodeSpec(id="a", kind="echo"), NodeSpec(id="b", kind="echo")


def graph(*, nodes: tuple[NodeSpec, ...] = (A, B), then: tuple[Any, ...] = (), **keys: Any) -> IRDocument:
    rules = (RuleSpec(id="r", when=WhenSpec(node="a"), then=then),) if then else ()
    return IRDocument(id="g", nodes=nodes, rules=keys.pop("rules", rules), **keys)


STATE: dict[str, Any] = {"state_schema": {"note": FieldSpec(type="str"), "notes": FieldSpec(type="list[str]")}}

WRONG = [
    (graph(nodes=(A, A)), "nodes[1].id: the node id 'a' is already taken by nodes[0]"),
    (
        graph(rules=tuple(RuleSpec(id="r", when=WhenSpec(node="a"), then=(Halt(),)) for _ in range(2))),
        "rules[1].id: the rule id 'r' is already taken by rules[0]",
    ),
    (
        graph(rules=(RuleSpec(id="r", when=WhenSpec(node="aa"), then=(Halt(),)),)),
        "rules[0].when.node: there is no node 'aa'; did you mean 'a'?",
    ),
    (
        graph(rules=(RuleSpec(id="r", when=WhenSpec(node="a", condition=" "), then=(Halt(),)),)),
        "rules[0].when.if: the expression is empty",
    ),
    (graph(then=(Goto(target="z"),)), "rules[0].then[0].target: there is no node 'z'"),
    (graph(then=(Parallel(targets=("a", "z"), join="b"),)), "rules[0].then[0].targets[1]: there is no node 'z'"),
    (graph(then=(Parallel(targets=("a",), join="z"),)), "rules[0].then[0].join: there is no node 'z'"),
    (graph(then=(Parallel(targets=("a", "a"), join="b"),)), "rules[0].then[0].targets[1]: 'a' is already a target"),
    (graph(then=(Map(over="x", target="z", join="b"),)), "rules[0].then[0].target: there is no node 'z'"),
    (graph(then=(Map(over="x", target="a", join="z"),)), "rules[0].then[0].join: there is no node 'z'"),
    (graph(then=(Map(over="", target="a", join="b"),)), "rules[0].then[0].over: the expression is empty"),
    (
        graph(then=(Ask(prompt="?", into="nota"), Halt()), **STATE),
        "rules[0].then[0].into: the state has no field 'nota'; did you mean 'note'?",
    ),
    (
        graph(then=(Ask(prompt="{x}", into="note"), Halt()), **STATE),
        "rules[0].then[0].prompt: the state has no field 'x'",
    ),
    (
        graph(then=(Goto(target="a"), Halt())),
        "rules[0].then: takes one action, before which an interrupt may stand, not goto and halt",
    ),
    (
        graph(then=(Ask(prompt="?", into="x"), Ask(prompt="?", into="x"))),
        "rules[0].then: takes one action, before which an interrupt may stand, not interrupt and interrupt",
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="interrupt", prompt="?", into="x"),), **STATE),
        "nodes[0].into: the state has no field 'x'",
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="subgraph", graph="c.yaml", outputs={"x": "state.y"}),), **STATE),
        "nodes[0].outputs.x: the state has no field 'x'",
    ),
    (graph(nodes=(NodeSpec(id="a", kind="subgraph", graph=" "),)), "nodes[0].graph: names no file"),
    (
        graph(nodes=(NodeSpec(id="a", kind="subgraph", graph="c.yaml", inputs={"x": ""}),)),
        "nodes[0].inputs.x: the expression is empty",
    ),
    (graph(nodes=(NodeSpec(id="a", kind="subgraph"),)), "nodes[0]: a node of kind subgraph needs 'graph'"),
    (
        graph(nodes=(NodeSpec(id="a", kind="subgraph", graph="c.yaml", retry=RetrySpec()),)),
        "nodes[0].retry: a node of kind subgraph has no code of its own",
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="interrupt", prompt="?", into="x", timeout=5),)),
        "nodes[0].timeout: a node of kind interrupt has no code of its own",
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="echo", prompt="?"),)),
        "nodes[0].prompt: belongs to a node of kind interrupt, not echo",
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="my_pkg.nodes.classify"),)),
        (
            "nodes[0].kind: unknown kind 'my_pkg.nodes.classify'; did you mean 'my_pkg.nodes:classify'? (use echo,"
            " halt, interrupt, subgraph or wait, or package.module:callable)"
        ),
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="os:system('x')"),)),
        (
            "nodes[0].kind: unknown kind \"os:system('x')\" (use echo, halt, interrupt, subgraph or wait, or"
            " package.module:callable)"
        ),
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="echo", retry=RetrySpec(on=("TimeoutEror",))),)),
        "nodes[0].retry.on[0]: 'TimeoutEror' is not a builtin exception; did you mean 'TimeoutError'?",
    ),
    (
        graph(nodes=(NodeSpec(id="a", kind="echo", retry=RetrySpec(on=("OSError", "KeyboardInterrupt"))),)),
        (
            "nodes[0].retry.on[1]: 'KeyboardInterrupt' is meant for the process, and no attempt follows it;"
            " name an Exception"
        ),
    ),
    (
        graph(state_schema={"a": FieldSpec(type="strng")}),
        "state_schema.a.type: 'strng' is not a type: unknown name 'strng'; did you mean 'str'?",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="int", default="1")}),
        "state_schema.a.default: the default: '1' is not of type int",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="str", default=None)}),
        "state_schema.a.default: the default: None is not of type str",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="any", default=[{1}])}),
        "state_schema.a.default: the default[0]: a value of type set is not JSON",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="any", default=float("nan"))}),
        "state_schema.a.default: the default: NaN is not JSON",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="str", reducer="append")}),
        "state_schema.a.reduce: the reducer 'append' needs a field of type list, not str",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="list | None", reducer="append")}),
        "state_schema.a.reduce: the reducer 'append' needs a field of type list, not list | None",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="list", reducer="merge")}),
        "state_schema.a.reduce: the reducer 'merge' needs a field of type dict, not list",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="bool", reducer="add")}),
        "state_schema.a.reduce: the reducer 'add' needs a field of type int, float, str or list, not bool",
    ),
    (
        graph(state_schema={"a": FieldSpec(type="list", reducer="apend")}),
        (
            "state_schema.a.reduce: unknown reducer 'apend'; did you mean 'append'? (use replace, append, merge or add,"
            " or package.module:callable)"
        ),
    ),
    (
        graph(state_schema={"model_config": FieldSpec(type="str")}),
        "state_schema.model_config: 'model_config' is a name that pydantic uses itself; choose another",
    ),
    (graph(state_class="State"), "state_class: 'State' does not name a class; write package.module:Class"),
    (
        graph(state_class="my_pkg:State", state_schema={}),
        "state_class: give state_schema or state_class, not both",
    ),
]


@pytest.mark.parametrize(("document", "message"), WRONG, ids=[message[:60] for _, message in WRONG])
def test_parts_that_do_not_fit_are_refused_with_their_path(document: IRDocument, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        check_document(document)
    assert str(caught.value) == message
    assert (caught.value.reason, caught.value.file, caught.value.line) == ("invalid-graph", None, None)


RIGHT = [
    graph(),
    graph(then=(Ask(prompt="?", into="anything"),)),
    graph(then=(Ask(prompt="{note} {{}}", into="note"), Parallel(targets=("a", "b"), join="b")), **STATE),
    graph(nodes=(NodeSpec(id="a", kind="pkg.mod:Outer.inner", retry=RetrySpec(on=("TimeoutError", "x.y:Z"))),)),
    graph(nodes=(A, NodeSpec(id="unreachable", kind="halt"))),
    graph(state_class="my_pkg.state:State"),
    graph(
        state_schema={
            "a": FieldSpec(type="list[int]", reducer="append", default=[1]),
            "b": FieldSpec(type="dict[str, int]", reducer="merge", default={"x": 1}),
            "c": FieldSpec(type="float", reducer="add", default=0),
            "d": FieldSpec(type="str", reducer="add"),
            "e": FieldSpec(type="str", reducer="my_pkg:reduce"),
            "model": FieldSpec(type="any", default=None),
        }
    ),
]


@pytest.mark.parametrize("document", RIGHT)
def test_parts_that_fit_are_accepted(document: IRDocument) -> None:
    check_document(document)


def test_an_interrupt_may_be_the_target_of_a_map() -> None:
    question = NodeSpec(id="q", kind="interrupt", prompt="?", into="x")
    check_document(graph(nodes=(A, question, B), then=(Map(over="state.x", target="q", join="b"),)))


def test_several_faults_have_a_line_each() -> None:
    text = (
        EVERYTHING.replace("target: ask}", "target: aks}")
        .replace("into: approval", "into: aproval")
        .replace("{severity}", "{severity.real}")
        .replace("id: report,", "id: ask,")
    )
    with pytest.raises(GraphError) as caught:
        parse_graph(text, file="g.yaml")
    assert str(caught.value).splitlines() == [
        (
            "g.yaml:15:13: nodes[1].prompt: {severity.real} is not the name of a field; write {{ and }} for braces that"
            " are text"
        ),
        "g.yaml:16:11: nodes[1].into: the state has no field 'aproval'; did you mean 'approval'?",
        "g.yaml:23:10: nodes[4].id: the node id 'ask' is already taken by nodes[1]",
        "g.yaml:27:33: rules[0].then[0].target: there is no node 'aks'; did you mean 'ask'?",
        "g.yaml:30:70: rules[1].then[0].join: there is no node 'report'",
        "g.yaml:32:18: rules[2].when.node: there is no node 'report'",
    ]


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [("", ()), ("plain", ()), ("{a} {b} {a}", ("a", "b")), ("{{x}} {y_1}", ("y_1",)), ("50 % \\ ü", ())],
)
def test_prompts_name_their_fields(prompt: str, fields: tuple[str, ...]) -> None:
    assert prompt_fields(prompt) == fields


@pytest.mark.parametrize(
    "prompt",
    [
        "{",
        "}",
        "{}",
        "{0}",
        "{a.b}",
        "{a[0]}",
        "{a!r}",
        "{a:>5}",
        "{a:{b}}",
        "{ a }",
        "{a b}",
        "{_a}",
        "{a",
        "a}",
        "{é}",
    ],
)
def test_prompts_that_reach_into_objects_or_do_not_parse_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"\{"):
        prompt_fields(prompt)
