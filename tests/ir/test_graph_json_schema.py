"""The JSON Schema of graph files, against what loading accepts and refuses."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from support.graph_texts import EVERYTHING, UNHURRIED, graph_values

from stargraph.errors import GraphError
from stargraph.ir import graph_json_schema, parse_graph

SCHEMA = graph_json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def plain(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(io.StringIO(text))


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for inner in schema.values():
            yield from parts(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from parts(inner)


def test_it_is_a_json_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_graph_with_everything_is_valid() -> None:
    assert list(VALIDATOR.iter_errors(plain(EVERYTHING))) == []


@UNHURRIED
@given(graph_values())
def test_graphs_that_are_right_are_valid(values: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(values)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("id: triage", "name: triage"),
        ("id: triage", "id: tri age"),
        ('"1.0.0"', '"2.0.0"'),
        ('"1.0.0"', "1.0"),
        ("message: str", "message: 5"),
        ("message: str", "me ssage: str"),
        ("message: str", "message: {}"),
        ("{type: int, default: 0}", "{type: int, dflt: 0}"),
        ("reduce: append", "reduce: apend"),
        ("reduce: append", "reducer: append"),
        ("state_schema:", "state_class: 'a:B'\nstate_schema:"),
        ("kind: my_pkg.nodes:classify", "kind: my_pkg.nodes.classify"),
        ("    kind: my_pkg.nodes:classify\n", ""),
        ("attempts: 3", "attempts: 0"),
        ("attempts: 3", "attempts: 2.5"),
        ("attempts: 3", "atempts: 3"),
        ("on: [TimeoutError]", "on: TimeoutError"),
        ("timeout: 20", "timeout: 0"),
        ("timeout: 20", "timeout: soon"),
        ("timeout: 20", "prompt: x"),
        ("timeout: 20", "reason: x"),
        ("    into: approval\n", ""),
        ('    prompt: "Severity {severity}: page somebody?"\n', ""),
        ("    graph: ./enrich.yaml\n", ""),
        ("inputs: {text: ", "inputs: {te xt: "),
        ("when: {node: classify, if", "when: {node: classify, condition"),
        ("when: {node: report}", "when: {if: 'true'}"),
        ("when: {node: report}", "when: (node report)"),
        ("{kind: goto, target: ask}", "{target: ask}"),
        ("{kind: goto, target: ask}", "{kind: gto, target: ask}"),
        ("{kind: goto, target: ask}", "{kind: goto, targets: ask}"),
        ("{kind: goto, target: ask}", "{kind: goto, target: ask}, {kind: halt}"),
        ("[{kind: goto, target: ask}]", "[]"),
        ("[{kind: goto, target: ask}]", "{kind: goto, target: ask}"),
        ("max_concurrency: 8", "max_concurrency: 0"),
    ],
)
def test_what_loading_refuses_in_one_part_is_invalid(old: str, new: str) -> None:
    assert old in EVERYTHING
    text = EVERYTHING.replace(old, new, 1)
    with pytest.raises(GraphError):
        parse_graph(text)
    assert list(VALIDATOR.iter_errors(plain(text)))


def test_every_key_and_part_has_words_for_people() -> None:
    documented = [part for part in parts(SCHEMA) if part.get("type") == "object" and "properties" in part]
    assert len(documented) == 12
    for part in documented:
        assert part["description"].endswith(".")
        assert "Attributes" not in part["description"]
        assert part["additionalProperties"] is False
        for key, known in part["properties"].items():
            assert known["description"].endswith("."), key
    field = SCHEMA["$defs"]["FieldSpec"]["properties"]["reduce"]
    assert field["description"].endswith("`append`, `merge`, `add` or `module:callable`.")
