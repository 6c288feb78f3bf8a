"""Graphs written in Python."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from support.graph_texts import EVERYTHING

from stargraph.errors import GraphError
from stargraph.ir import (
    Ask,
    FieldSpec,
    Goto,
    GraphBuilder,
    Halt,
    IRDocument,
    Map,
    RetrySpec,
    callable_path,
    definition_of,
    graph_hash,
    parse_graph,
)


class State(BaseModel):
    message: str


def classify(state: Any, ctx: Any) -> dict[str, Any]:
    return {}


def summarize(state: Any, ctx: Any) -> dict[str, Any]:
    return {}


class Report:
    def execute(self, state: Any, ctx: Any) -> None: ...


def triage() -> GraphBuilder:
    graph = GraphBuilder("triage", description="Built in Python.")
    graph.state(message="str", severity=FieldSpec(type="int", default=0))
    graph.state(
        notes=FieldSpec(type="list[str]", reducer="append"), approval=FieldSpec(type="None | str", default=None)
    )
    graph.node(retry=RetrySpec(attempts=3), timeout=20)(classify)
    graph.add_node("ask", "interrupt", prompt="{severity}?", into="approval")
    graph.add_node(
        "enrich", "subgraph", graph="./enrich.yaml", inputs={"text": "state.message"}, outputs={"notes": "state.notes"}
    )
    graph.node(summarize)
    graph.node(id="report")(Report)
    graph.rule("urgent", "classify", Goto(target="ask"), condition="state.severity >= 4")
    graph.rule("fan-out", "classify", Map(over="state.notes", target="summarize", join="report"))
    graph.rule("end", "report", Halt(reason="reported"))
    return graph


def test_an_equal_graph_has_an_equal_hash() -> None:
    text = EVERYTHING.replace("my_pkg.nodes", __name__).replace(":report", ":Report")
    assert definition_of(triage().build()) == definition_of(parse_graph(text))
    assert graph_hash(definition_of(triage().build())) == graph_hash(definition_of(parse_graph(text)))


def test_a_graph_survives_being_dumped() -> None:
    document = triage().build()
    for dumped in (document.model_dump_json(by_alias=True), document.model_dump_json()):
        again = IRDocument.model_validate_json(dumped)
        assert again == document
        assert definition_of(again) == definition_of(document)
    assert definition_of(parse_graph(document.model_dump_json(by_alias=True))) == definition_of(document)
    assert "default" not in json.loads(document.model_dump_json())["state_schema"]["message"]


def test_decorated_code_stays_what_it_is() -> None:
    graph = GraphBuilder("g")
    assert graph.node(classify) is classify
    assert graph.node(timeout=1)(Report) is Report
    assert [(node.id, node.kind, node.timeout) for node in graph.build().nodes] == [
        ("classify", f"{__name__}:classify", None),
        ("Report", f"{__name__}:Report", 1),
    ]


def test_a_state_class_is_named() -> None:
    document = GraphBuilder("g", state_class=State, max_steps=7).add_node("a", "echo").build()
    assert (document.state_class, document.max_steps, document.state_schema) == (f"{__name__}:State", 7, None)


def test_faults_are_reported_by_their_paths() -> None:
    with pytest.raises(GraphError) as caught:
        GraphBuilder("a b").add_node("x", "echo", tiemout=3).rule("r", "x", Halt()).build()
    line = caught.value.line
    named = "up to 100 of letters, digits, '_', '.' and '-', first a letter or '_'"
    assert str(caught.value).splitlines() == [
        f"{__file__}:{line}: id: 'a b' is not a name: {named}",
        f"{__file__}:{line}: nodes[0].tiemout: unknown key 'tiemout'; did you mean 'timeout'?",
    ]
    with pytest.raises(GraphError) as caught:
        GraphBuilder("g").add_node("x", "echo").rule("r", "y", Ask(prompt="{", into="x"), Halt()).build()
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "rules[0].when.node",
        "rules[0].then[0].prompt",
    ]
    with pytest.raises(GraphError, match=r"test_graph_builder.py:\d+: the graph 'g' has no nodes"):
        GraphBuilder("g").build()


def inner() -> Any:
    def local(state: Any, ctx: Any) -> None: ...

    return local


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (lambda state, ctx: None, "a lambda has no name"),
        (inner(), "'inner.<locals>.local' is defined inside a function"),
        (Report().execute, "'Report.execute' is bound to an object"),
        (functools.partial(classify, 1), "is an object without a name of its own"),
        (Report(), "is an object without a name of its own"),
    ],
)
def test_code_that_no_other_process_could_import_is_refused(code: Any, complaint: str) -> None:
    with pytest.raises(GraphError) as caught:
        GraphBuilder("g").node(code)
    assert complaint in caught.value.message
    assert caught.value.reason == "not-importable"
    assert caught.value.hint is not None
    assert "imports its code by name" in caught.value.hint


def test_code_at_the_top_of_a_module_is_named() -> None:
    assert callable_path(math.sqrt) == "math:sqrt"
    assert callable_path(Report.execute) == f"{__name__}:Report.execute"


class Base:
    @classmethod
    def of_class(cls, state: Any) -> dict[str, Any]:
        return {"x": cls.__name__}


class Derived(Base):
    pass


def test_an_inherited_class_method_is_named_by_the_class_it_is_taken_from() -> None:
    assert callable_path(Derived.of_class) == f"{__name__}:Derived.of_class"
    document = GraphBuilder("g")
    document.node(Derived.of_class)
    document.build()


def test_two_functions_of_one_name_are_refused() -> None:
    graph = GraphBuilder("g")
    graph.node(classify)
    twin = types.FunctionType(classify.__code__, globals(), "classify")
    twin.__qualname__ = "classify"
    with pytest.raises(GraphError, match="two functions have the name"):
        graph.node(id="b")(twin)


def test_a_name_that_stands_for_something_else_by_now_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GraphBuilder("g")
    graph.node(classify)

    @functools.wraps(classify)
    def wrapper(state: Any, ctx: Any) -> Any: ...

    monkeypatch.setitem(globals(), "classify", wrapper)
    graph.build()
    monkeypatch.setitem(globals(), "classify", math.sqrt)
    with pytest.raises(GraphError, match="is the name of something else by now"):
        graph.build()
    monkeypatch.delitem(globals(), "classify")
    graph.build()


SCRIPT = """
from stargraph.ir import GraphBuilder

graph = GraphBuilder("g")

@graph.node
def work(state, ctx): ...

print(graph.build().nodes[0].kind)
"""


def run(*args: str, folder: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=folder, input=text, check=False)


def test_code_of_a_script_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "triage.py").write_text(SCRIPT)
    assert run("triage.py", folder=tmp_path).stdout.strip() == "triage:work"
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "jobs.py").write_text(SCRIPT)
    assert run("-m", "pkg.jobs", folder=tmp_path).stdout.strip() == "pkg.jobs:work"


def test_code_that_no_file_holds_belongs_to_the_session(tmp_path: Path) -> None:
    assert run("-", folder=tmp_path, text=SCRIPT).stdout.strip() == "__main__:work"
    result = run("-", folder=tmp_path, text=SCRIPT + "from stargraph.graph import Graph\nGraph(graph)\n")
    assert result.returncode == 0
    assert "'work': defined in this session, so only this session can resume the runs of this graph" in result.stderr


MIGRATED_TWICE = """
def carry(state): return state
graph.migrate("f" * 12, carry)
def carry(state): return dict(state)
graph.migrate("f" * 12, carry).migrate("e" * 12, "__main__:carry")
print(graph.code["__main__:carry"] is carry)
"""


def test_a_migration_of_a_session_is_replaced_and_never_a_node(tmp_path: Path) -> None:
    assert run("-", folder=tmp_path, text=SCRIPT + MIGRATED_TWICE).stdout.split() == ["__main__:work", "True"]
    taken = 'def work(state): return state\ngraph.migrate("f" * 12, work)\n'
    assert "two functions have the name '__main__:work'" in run("-", folder=tmp_path, text=SCRIPT + taken).stderr


def test_a_script_may_have_hyphens_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "my-script.py").write_text(SCRIPT)
    assert run("my-script.py", folder=tmp_path).stdout.strip() == "my-script:work"
