"""Reading graph files: what is read, and where each fault is said to be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.graph_texts import EVERYTHING

from stargraph.errors import GraphError
from stargraph.ir import Map, definition_of, load_graph, parse_graph

SMALL = "id: x\nnodes: [{id: a, kind: echo}]\n"


def refusal(text: str) -> GraphError:
    with pytest.raises(GraphError) as caught:
        parse_graph(text, file="g.yaml")
    return caught.value


def test_a_graph_with_everything_is_read() -> None:
    document = parse_graph(EVERYTHING)
    assert document.id == "triage"
    assert document.state_schema is not None
    assert document.state_schema["message"].required
    assert not document.state_schema["approval"].required
    assert document.state_schema["notes"].reducer == "append"
    classify = document.nodes[0]
    assert classify.retry is not None
    assert (classify.timeout, classify.retry.on) == (20, ("TimeoutError",))
    assert document.rules[0].when.condition == "state.severity >= 4"
    assert document.rules[1].then == (Map(over="state.notes", target="summarize", join="report", max_concurrency=8),)


def test_the_form_of_older_files_is_read() -> None:
    text = """\
ir_version: "1.0.0"
id: older
nodes: [{id: hello, kind: echo}, {id: stop, kind: halt}]
rules: [{id: r, when: {node: hello}, then: [{kind: goto, target: stop}]}]
"""
    assert [node.kind for node in parse_graph(text).nodes] == ["echo", "halt"]


def test_a_clips_rule_is_refused_with_the_cel_way() -> None:
    error = refusal(
        'id: x\nnodes: [{id: a, kind: echo}]\nrules:\n  - id: r\n    when: "?n <- (node (id a))"\n'
        "    then: [{kind: halt}]\n"
    )
    assert (error.line, error.column) == (5, 11)
    assert 'when: {node: NODE_ID, if: "state.severity >= 4"}' in error.message


def test_json_is_read(tmp_path: Path) -> None:
    value = {
        "id": "x",
        "state_schema": {
            "face": {"type": "str", "default": "\U0001f600/\t"},
            "n": {"type": "float", "default": -1.5e3},
        },
        "nodes": [{"id": "a", "kind": "echo"}],
    }
    for name, text in {
        "plain.json": json.dumps(value),
        "tabs.json": json.dumps(value, indent="\t"),
        "raw.json": json.dumps(value, ensure_ascii=False),
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        document = load_graph(tmp_path / name)
        assert document.state_schema is not None
        assert document.state_schema["face"].default == "\U0001f600/\t"
        assert document.state_schema["n"].default == -1500.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("True", True),
        ("~", None),
        ("", None),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("-5", -5),
        ("-9223372036854775808", -(2**63)),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ('!!int "5"', 5),
        ("!!float 5", 5.0),
        ("!!seq [1]", [1]),
        ("|\n     5\n", "5\n"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ('"\\u2028"', "\u2028"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    document = parse_graph(f"{SMALL}state_schema:\n f:\n  type: any\n  default: {text}\n")
    assert document.state_schema is not None
    default = document.state_schema["f"].default
    assert default == value
    assert type(default) is type(value)


def test_aliases_give_values_of_their_own() -> None:
    document = parse_graph(
        f"{SMALL}state_schema:\n  a: {{type: list, default: &d [1]}}\n  b: {{type: list, default: *d}}\n"
    )
    assert document.state_schema is not None
    first, second = document.state_schema["a"].default, document.state_schema["b"].default
    assert first == second == [1]
    assert first is not second


def test_every_fault_has_its_place_and_they_are_in_the_order_of_the_file() -> None:
    error = refusal(
        """\
ir_version: 1.0
naem: x
max_steps: "3"
state_schema: {x: {type: int, dflt: 3}, "y z": int}
nodes:
  - id: [classify]
    retry: {on: TimeoutError, atempts: 3, attempts: true}
    <<: {}
    timeout: 0
  - 7
rules:
  - id: r
    when: {nod: x}
    then: [{kind: gto}, {target: x}]
  - id: r
    when: {node: a}
    then: [{kind: goto, targets: x}]
  - {id: z, when: {node: x}, then: {kind: halt}}
"""
    )
    assert (error.reason, error.file, error.line, error.column) == ("invalid-graph", "g.yaml", 1, 1)
    assert str(error).splitlines() == [
        "g.yaml:1:1: needs 'id'",
        "g.yaml:1:13: ir_version: must be text, not the number 1.0; put it in quotes",
        (
            "g.yaml:2:1: naem: unknown key 'naem' (known keys: ir_version, id, description, state_schema, state_class,"
            " nodes, rules, migrate, max_steps)"
        ),
        "g.yaml:3:12: max_steps: must be a whole number, not the text '3'",
        "g.yaml:4:31: state_schema.x.dflt: unknown key 'dflt'; did you mean 'default'?",
        "g.yaml:4:41: state_schema['y z']: 'y z' is not a name: up to 100 of letters, digits and '_', first a letter",
        "g.yaml:6:5: nodes[0]: needs 'kind'",
        "g.yaml:6:9: nodes[0].id: must be text, not a list",
        "g.yaml:7:17: nodes[0].retry.on: must be a list, not the text 'TimeoutError'",
        "g.yaml:7:31: nodes[0].retry.atempts: unknown key 'atempts'; did you mean 'attempts'?",
        "g.yaml:7:53: nodes[0].retry.attempts: must be a whole number, not true",
        (
            "g.yaml:8:5: nodes[0]['<<']: merge keys (<<) are not part of YAML 1.2; write the keys out, or use an alias"
            " for a whole value"
        ),
        "g.yaml:9:14: nodes[0].timeout: must be more than 0",
        "g.yaml:10:5: nodes[1]: must be a mapping (key: value), not the number 7",
        "g.yaml:13:11: rules[0].when: needs 'node'",
        "g.yaml:13:12: rules[0].when.nod: unknown key 'nod'; did you mean 'node'?",
        (
            "g.yaml:14:19: rules[0].then[0].kind: unknown kind of action 'gto'; did you mean 'goto'? (an action is"
            " goto, halt, parallel, map or interrupt)"
        ),
        "g.yaml:14:25: rules[0].then[1]: needs 'kind': goto, halt, parallel, map or interrupt",
        "g.yaml:17:12: rules[1].then[0]: needs 'target'",
        "g.yaml:17:25: rules[1].then[0].targets: unknown key 'targets'; did you mean 'target'?",
        "g.yaml:18:36: rules[2].then: must be a list, not a mapping",
    ]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "1:1", "the file is empty"),
        ("# nothing\n", "1:1", "the file is empty"),
        ("---\n", "1:1", "the file is empty"),
        ("- id: x\n", "1:1", "a graph is a mapping with 'id' and 'nodes', not a list"),
        ("triage", "1:1", "a graph is a mapping with 'id' and 'nodes', not text"),
        ("{}", "1:1", "needs 'id'"),
        ("id: x\nnodes: []\n", "2:8", "nodes: must have at least 1, not 0"),
        (
            f"{SMALL}rules: [{{id: r, when: {{node: a}}, then: [{', '.join(['{kind: halt}'] * 3)}]}}]\n",
            "3:40",
            "at most 2",
        ),
        ("id: x\nnodes:\n", "2:1", "nodes: must be a list, not nothing (null)"),
        ("id: x\n nodes: []\n", "2:7", "not valid YAML: mapping values are not allowed here"),
        ("id: [\n", "2:1", "not valid YAML: expected the node content, but found '<stream end>'"),
        ("id: 'x\n", "2:1", "not valid YAML: found unexpected end of stream, while scanning a quoted scalar"),
        ("a: 1\nid: x\nid: y\n", "3:1", "the key 'id' is given twice; it is first given at line 2"),
        ("id: x\nnodes: [{id: a, id: b, kind: echo}]\n", "2:17", "the key 'id' is given twice"),
        ("5: x\n", "1:1", "a key must be text, not 5; put it in quotes"),
        ("true: x\n", "1:1", "a key must be text, not True; put it in quotes"),
        ("? [a]\n: x\n", "1:3", "a key must be text, not a list or a mapping"),
        ("id: .nan\n", "1:5", "'.nan' is not a number that JSON has"),
        ("id: -.Inf\n", "1:5", "'-.Inf' is not a number that JSON has"),
        ("id: 1e999\n", "1:5", "'1e999' is not a number that JSON has"),
        ("id: 9223372036854775808\n", "1:5", "'9223372036854775808' does not fit 64 bits"),
        (f"id: {'9' * 10_000}\n", "1:5", "does not fit 64 bits"),
        (f"id: 0x{'f' * 10_000}\n", "1:5", "does not fit 64 bits"),
        ('id: "\\ud800"\n', "1:5", "half of a surrogate pair is not text"),
        ('id: "\\U99999999"\n', "1:1", "not valid YAML: an escape after here names no character"),
        ("id: x\u2028\n", "1:6", "U+2028 is a line break to some readers"),
        ("id: x\n# \x00\n", "2:3", "the character U+0000 must be written as an escape"),
        ("id: \ud800\n", "1:5", "the character U+D800 must be written as an escape"),
        ("id: !!python/object:os.system x\n", "1:5", "the tag 'tag:yaml.org,2002:python/object:os.system' is not"),
        ("id: !mine [x]\n", "1:5", "the tag '!mine' is not supported"),
        ("id: !!int x\n", "1:5", "'x' is not a value of the tag !!int"),
        ("id: *a\n", "1:5", "this alias has no anchor before it"),
        ("id: &a [*a]\n", "1:9", "the alias *a stands inside the value that it stands for"),
        ("%YAML 1.1\n---\nid: x\n", "2:1", "the file says %YAML 1.1; graphs are YAML 1.2"),
        ("id: x\n---\nid: y\n", "2:1", "a second document begins here; a file holds one graph"),
        ("[" * 5000, "1:101", "nested deeper than 100 levels"),
        ("- " * 5000, "1:201", "nested deeper than 100 levels"),
        (
            "ir_version: '2.0.0'\n" + SMALL,
            "1:13",
            "ir_version: this is the form '2.0.0'; this software reads the forms",
        ),
    ],
)
def test_what_is_no_graph_is_refused_with_its_place(text: str, place: str, message: str) -> None:
    first = str(refusal(text)).splitlines()[0]
    assert first.startswith(f"g.yaml:{place}: ")
    assert message in first


def test_aliases_cannot_multiply_without_bound() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    error = refusal("\n".join(lines))
    assert "more than 100,000 values, aliases written out" in error.message
    assert error.line == 5


def test_aliases_cannot_nest_without_bound() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [[[*a{n - 1}]]]" for n in range(1, 40))]
    assert "nested deeper than 100 levels, aliases written out" in refusal("\n".join(lines)).message


def test_faults_beyond_fifty_are_counted() -> None:
    text = SMALL + "".join(f"k{n}: 1\n" for n in range(80))
    lines = str(refusal(text)).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "… and 30 more"


def test_unreadable_files(tmp_path: Path) -> None:
    cases: list[tuple[Path, str]] = [(tmp_path, "a directory"), (tmp_path / "none.yaml", "there is no such file")]
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"id: x\nnodes: \xe9\n")
    cases.append((latin, "not UTF-8 text: the byte 0xe9"))
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (4 * 2**20 + 1))
    cases.append((large, "larger than the 4 MiB"))
    for path, message in cases:
        with pytest.raises(GraphError, match=message) as caught:
            load_graph(path)
        assert caught.value.reason == "unreadable-file"
        assert caught.value.file == str(path)
    with pytest.raises(GraphError) as caught:
        load_graph(latin)
    assert (caught.value.line, caught.value.column) == (2, 8)
    with pytest.raises(GraphError, match="cannot be read"):
        load_graph("a\0b")


def test_a_file_is_read_with_a_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    path = tmp_path / "dos.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + EVERYTHING.replace("\n", "\r\n").encode())
    assert definition_of(load_graph(path)) == definition_of(parse_graph(EVERYTHING))
    path.write_bytes("\ufeffid: x\u2028".encode())
    with pytest.raises(GraphError) as caught:
        load_graph(path)
    assert (caught.value.line, caught.value.column) == (1, 6)
    path.write_bytes(b"\xef\xbb\xbfid: x\r\nnodes: 5\r\n")
    with pytest.raises(GraphError) as caught:
        load_graph(str(path))
    assert (caught.value.line, caught.value.column) == (2, 8)


def test_expressions_are_compiled_by_the_hook() -> None:
    seen: list[str] = []

    def compile_expression(text: str) -> Any:
        seen.append(text)
        if "severity" in text:
            raise ValueError("no severity")
        if "notes" in text:
            raise GraphError("no notes", hint="use words")

    with pytest.raises(GraphError) as caught:
        parse_graph(EVERYTHING, file="g.yaml", compile_expression=compile_expression)
    assert set(seen) == {"state.severity >= 4", "state.notes", "state.message"}
    assert str(caught.value).splitlines() == [
        "g.yaml:21:22: nodes[2].outputs.notes: no notes (use words)",
        "g.yaml:26:32: rules[0].when.if: 'state.severity >= 4' is not a CEL expression: no severity",
        "g.yaml:30:30: rules[1].then[0].over: no notes (use words)",
    ]


def test_importing_the_package_does_not_import_the_yaml_parser() -> None:
    code = "import sys, stargraph.ir; print(sorted(m for m in sys.modules if 'ruamel' in m or 'cel' in m))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
