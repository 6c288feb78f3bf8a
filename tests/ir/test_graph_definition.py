"""What shapes execution: its hash, and what changed, in words."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from support.graph_texts import EVERYTHING

from stargraph.ir import comparable_schema, definition_changes, definition_of, graph_hash, parse_graph


def definition(*replacements: tuple[str, str]) -> dict[str, Any]:
    text = EVERYTHING
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return definition_of(parse_graph(text))


UNSEEN = {
    "comment and quotes": [("- id: classify", "- id: 'classify'  # first")],
    "key order": [('{node: classify, if: "state.severity >= 4"}', '{"if": "state.severity >= 4", "node": classify}')],
    "space around an expression": [('"state.severity >= 4"', '" state.severity >= 4\\n"')],
    "description": [("    timeout: 20", "    description: does it\n    timeout: 20")],
    "timeout": [("timeout: 20", "timeout: 2")],
    "no timeout": [("    timeout: 20\n", "")],
    "retry": [("attempts: 3", "attempts: 30")],
    "prompt": [("page somebody?", "wake somebody?")],
    "reason": [('reason: "reported"', 'reason: "all is said"')],
    "max_concurrency": [(", max_concurrency: 8", "")],
    "max_steps": [("id: triage\n", "id: triage\nmax_steps: 5\n")],
    "minor version of the form": [('ir_version: "1.0.0"', 'ir_version: "1.7.3"')],
    "no version of the form": [('ir_version: "1.0.0"', "")],
    "spelling of a type": [("str | None", "None|str")],
    "the default reducer": [("{type: int, default: 0}", "{type: int, default: 0, reduce: replace}")],
    "long form of a field": [("message: str", "message: {type: str, description: what came in}")],
}


@pytest.mark.parametrize("replacements", UNSEEN.values(), ids=UNSEEN)
def test_what_does_not_shape_execution_leaves_the_hash(replacements: list[tuple[str, str]]) -> None:
    assert graph_hash(definition(*replacements)) == graph_hash(definition())
    assert definition_changes(definition(), definition(*replacements)) == ()


SEEN = {
    "rule 'urgent': if was `state.severity >= 4`, is `state.severity >= 3`": [(">= 4", ">= 3")],
    "rule 'urgent': if was `state.severity >= 4`, is absent": [(', if: "state.severity >= 4"', "")],
    "rule 'urgent': node was classify, is enrich": [("{node: classify, if", "{node: enrich, if")],
    "rule 'urgent': goto: target was ask, is enrich": [("target: ask", "target: enrich")],
    "rule 'urgent': then was goto (target ask), is halt": [("{kind: goto, target: ask}", "{kind: halt}")],
    "rule 'fan-out': map: over was `state.notes`, is `state.notes + ['']`": [
        ('over: "state.notes"', "over: \"state.notes + ['']\"")
    ],
    "rule 'fan-out': map: join was report, is ask": [("join: report", "join: ask")],
    "rule 'new' was added": [("rules:\n", "rules:\n  - {id: new, when: {node: ask}, then: [{kind: halt}]}\n")],
    "rule 'end' was removed": [
        ('  - id: end\n    when: {node: report}\n    then: [{kind: halt, reason: "reported"}]\n', "")
    ],
    "the order of the rules was urgent, fan-out, end, is fan-out, urgent, end": [
        ("urgent", "u"),
        ("fan-out", "urgent"),
        ("id: u\n", "id: fan-out\n"),
        ('when: {node: classify, if: "state.severity >= 4"}\n    then: [{kind: goto, target: ask}]', "when: SECOND"),
        (
            (
                'when: {node: classify}\n    then: [{kind: map, over: "state.notes", target: summarize, join: report,'
                " max_concurrency: 8}]"
            ),
            'when: {node: classify, if: "state.severity >= 4"}\n    then: [{kind: goto, target: ask}]',
        ),
        (
            "when: SECOND",
            'when: {node: classify}\n    then: [{kind: map, over: "state.notes", target: summarize, join: report}]',
        ),
    ],
    "node 'extra' was added": [("nodes:\n", "nodes:\n  - {id: extra, kind: echo}\n")],
    "node 'classify': kind was my_pkg.nodes:classify, is my_pkg.nodes:sort": [("nodes:classify", "nodes:sort")],
    "node 'ask': into was approval, is message": [("into: approval", "into: message")],
    "node 'enrich': graph was ./enrich.yaml, is ./other.yaml": [("./enrich", "./other")],
    "node 'enrich': inputs: text was `state.message`, is `state.notes[0]`": [('"state.message"', '"state.notes[0]"')],
    "node 'enrich': inputs: more was absent, is `1`": [("{text: ", '{more: "1", text: ')],
    "state field 'severity': default was 0, is 1": [("default: 0", "default: 1")],
    "state field 'message': default was absent, is \"0\"": [("message: str", "message: {type: str, default: '0'}")],
    "state field 'notes': reduce was append, is replace": [("reduce: append", "reduce: replace")],
    "state field 'more' was added": [("  message: str", "  more: str\n  message: str")],
    "graph: id was triage, is sort": [("id: triage", "id: sort")],
}


@pytest.mark.parametrize(("sentence", "replacements"), SEEN.items(), ids=SEEN)
def test_what_shapes_execution_changes_the_hash_and_is_reported(
    sentence: str, replacements: list[tuple[str, str]]
) -> None:
    assert graph_hash(definition(*replacements)) != graph_hash(definition())
    assert definition_changes(definition(), definition(*replacements)) == (sentence,)


def test_the_order_of_nodes_shapes_execution() -> None:
    moved = definition(
        ('  - {id: report, kind: "my_pkg.nodes:report"}\n', ""),
        ("  - id: ask\n", '  - {id: report, kind: "my_pkg.nodes:report"}\n  - id: ask\n'),
    )
    assert graph_hash(moved) != graph_hash(definition())
    assert definition_changes(definition(), moved) == (
        (
            "the order of the nodes was classify, ask, enrich, summarize, report, is classify, report, ask, enrich,"
            " summarize"
        ),
    )


def test_a_type_and_its_default_change_together() -> None:
    assert definition_changes(definition(), definition(("{type: int", "{type: float"))) == (
        "state field 'severity': type was int, is float",
        "state field 'severity': default was 0, is 0.0",
    )


def test_long_values_are_not_shown() -> None:
    changed = definition((">= 4", f">= {'4' * 200}"))
    assert definition_changes(definition(), changed) == ("rule 'urgent': if changed",)


def test_the_hash_is_the_sha256_of_canonical_json() -> None:
    plain = definition()
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert graph_hash(plain) == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_of_a_definition_is_pinned() -> None:
    # A changed hash keeps every stored run from being resumed: change it only with a new major version of the form.
    assert graph_hash(definition()) == "38bc9d5939171e6ec293cbac2951afd5271ea179e871238130569460dbf54e0b"


def test_a_state_class_is_compared_field_by_field() -> None:
    class Before(BaseModel):
        """A state."""

        title: str = Field(description="what people call it")
        severity: int = 1
        old: str

    class After(BaseModel):
        """Another wording."""

        title: str = Field(description="its name", examples=["x"])
        severity: float = 1
        new: str = ""

    before, after = ({"state_class_schema": comparable_schema(model.model_json_schema())} for model in (Before, After))
    assert definition_changes(before, after) == (
        "state field 'old' was removed",
        "state field 'severity': type was integer, is number",
        "state field 'new' was added",
    )
    assert set(before["state_class_schema"]["properties"]) == {"title", "severity", "old"}
    assert graph_hash(before) != graph_hash(after)


def test_wording_in_a_state_class_is_left_out() -> None:
    def schema(words: str) -> dict[str, Any]:
        class Inner(BaseModel):
            description: str = Field(default="kept", description=words)

        class State(BaseModel):
            inner: Inner = Field(description=words, title=words)
            by_name: dict[str, Inner] | None = Field(default=None, examples=[words])
            plain: dict[str, str] = {"title": "a value, not words"}

        State.__doc__ = words
        return comparable_schema(State.model_json_schema())

    assert schema("one") == schema("two")
    assert schema("one")["properties"]["plain"]["default"] == {"title": "a value, not words"}
    assert schema("one")["$defs"]["Inner"]["properties"]["description"] == {"default": "kept", "type": "string"}


def test_a_field_of_a_state_class_that_becomes_required_is_reported() -> None:
    class State(BaseModel):
        a: int = 1

    before = {"state_class_schema": comparable_schema(State.model_json_schema())}
    after = json.loads(json.dumps(before))
    after["state_class_schema"]["required"] = ["a"]
    assert definition_changes(before, after) == ("state field 'a' was not required, is",)
    assert definition_changes(after, before) == ("state field 'a' was required, is not",)


def test_a_type_of_a_state_class_that_changes_is_named_in_short() -> None:
    class Row(BaseModel):
        n: int

    class Before(BaseModel):
        note: str = ""
        rows: list[Row] = []
        level: Literal["low", "high"] = "low"
        when: str = ""
        size: Annotated[int, Field(ge=0)] = 0

    class After(BaseModel):
        note: str | None = ""
        rows: dict[str, Row] = {}
        level: Literal["low", 2] = "low"
        when: datetime | str = ""
        size: Annotated[int, Field(ge=1)] = 0

    before, after = ({"state_class_schema": comparable_schema(model.model_json_schema())} for model in (Before, After))
    assert definition_changes(before, after) == (
        "state field 'note': type was string, is string | null",
        "state field 'rows': type was array of Row, is object of Row",
        "state field 'rows': default was [], is {}",
        """state field 'level': type was "low" | "high", is "low" | 2""",
        "state field 'when': type was string, is string (date-time) | string",
        "state field 'size': minimum was 0, is 1",
    )
