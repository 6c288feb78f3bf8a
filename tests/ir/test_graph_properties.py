"""What holds for any graph, and for any text."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from support.graph_texts import EVERYTHING, UNHURRIED, graph_values

from stargraph.errors import GraphError
from stargraph.ir import (
    IRDocument,
    check_document,
    definition_changes,
    definition_of,
    draw_graph,
    graph_hash,
    parse_graph,
)


def yaml_text(values: Any, *, flow: bool) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = flow
    stream = io.StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()


def shuffled(value: Any, shuffle: Any) -> Any:
    """Return the value with the keys of its mappings in another order, and lists as they are."""
    if isinstance(value, dict):
        keys = list(value)
        shuffle(keys)
        return {key: shuffled(value[key], shuffle) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, shuffle) for item in value]
    return value


def commented(text: str) -> str:
    """Put a comment before every line that does not begin inside a value."""
    return "# before\n" + text + "# after\n"


@UNHURRIED
@given(graph_values(), st.booleans(), st.randoms(use_true_random=False))
def test_any_graph_survives_yaml_json_key_order_and_comments(values: dict[str, Any], flow: bool, random: Any) -> None:
    document = IRDocument.model_validate(values)
    check_document(document)
    definition = definition_of(document)
    other = shuffled(values, random.shuffle)
    # Inside brackets ruamel.yaml writes `?x` and `:x` without quotes, and cannot read that.
    flow = flow and not re.search(r'\?|":[^ ]', json.dumps(values))
    for text in (
        json.dumps(values),
        json.dumps(other, ensure_ascii=False, indent=1),
        commented(yaml_text(other, flow=flow)),
        document.model_dump_json(by_alias=True),
    ):
        read = definition_of(parse_graph(text))
        assert read == definition
        assert graph_hash(read) == graph_hash(definition)
        assert definition_changes(definition, read) == ()
    assert json.loads(json.dumps(definition)) == definition


@UNHURRIED
@given(graph_values(), graph_values())
def test_two_definitions_have_one_hash_exactly_if_nothing_changed(first: Any, second: Any) -> None:
    old, new = (definition_of(IRDocument.model_validate(values)) for values in (first, second))
    assert (graph_hash(old) == graph_hash(new)) == (definition_changes(old, new) == ())


@UNHURRIED
@given(graph_values())
def test_any_graph_can_be_drawn(values: dict[str, Any]) -> None:
    assert draw_graph(IRDocument.model_validate(values)).startswith("flowchart TD\n")


def read_or_refuse(text: str) -> None:
    refused: GraphError | None = None
    try:
        definition_of(parse_graph(text, file="any.yaml"))
    except GraphError as error:
        refused = error
    if refused is not None:
        assert all(line.startswith(("any.yaml:", "…")) for line in str(refused).splitlines())
        assert refused.line is not None
        assert 1 <= refused.line <= text.count("\n") + text.count("\r") + 2
        assert refused.column is not None
        assert "pydantic" not in str(refused) or "pydantic" in text
        assert refused.reason in ("invalid-yaml", "invalid-graph")


@settings(UNHURRIED, max_examples=200)
@given(st.text(max_size=200))
def test_any_text_is_a_graph_or_a_graph_error(text: str) -> None:
    read_or_refuse(text)


@settings(UNHURRIED, max_examples=200)
@given(st.text(alphabet=list("{}[]:,-?!&*#|>@%`'\"\\ \n\tab1.~<=uUx0"), max_size=120))
def test_any_text_of_yaml_marks_is_a_graph_or_a_graph_error(text: str) -> None:
    read_or_refuse(text)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = EVERYTHING
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(
            st.text(alphabet=list("{}[]:,-?!&*#|>@%`'\"\\ \n\tab1.~<="), max_size=6)
            | st.sampled_from(
                ["null", "true", "[]", "{}", "-1", "1e400", "&a ", "*a", "!!int ", "<<: ", "\n", "\r", "é"]
            )
        )
        text = text[:start] + piece + text[stop:]
    return text


@settings(UNHURRIED, max_examples=300)
@given(mutated())
def test_a_mutated_graph_is_a_graph_or_a_graph_error(text: str) -> None:
    read_or_refuse(text)


values_of_any_kind = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@UNHURRIED
@given(graph_values(), st.data())
def test_a_value_of_another_kind_anywhere_is_a_graph_or_a_graph_error(values: Any, data: st.DataObject) -> None:
    holder = values
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(holder[key], dict | list) and holder[key]) or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(values_of_any_kind)
    read_or_refuse(json.dumps(values))
