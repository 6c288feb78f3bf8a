"""Graphs for tests: one with everything in it, and random ones."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

UNHURRIED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Settings of tests whose time says nothing."""

EVERYTHING = """\
ir_version: "1.0.0"
id: triage
state_schema:                      # a field is its type, or a mapping
  message: str
  severity: {type: int, default: 0}
  notes: {type: "list[str]", reduce: append}
  approval: {type: "str | None", default: null}
nodes:
  - id: classify
    kind: my_pkg.nodes:classify
    retry: {attempts: 3, initial_delay: 0.5, max_delay: 30, on: [TimeoutError]}   # seconds
    timeout: 20
  - id: ask
    kind: interrupt
    prompt: "Severity {severity}: page somebody?"
    into: approval
  - id: enrich
    kind: subgraph
    graph: ./enrich.yaml
    inputs: {text: "state.message"}
    outputs: {notes: "state.notes"}
  - {id: summarize, kind: "my_pkg.nodes:summarize"}
  - {id: report, kind: "my_pkg.nodes:report"}
rules:
  - id: urgent
    when: {node: classify, if: "state.severity >= 4"}
    then: [{kind: goto, target: ask}]
  - id: fan-out
    when: {node: classify}
    then: [{kind: map, over: "state.notes", target: summarize, join: report, max_concurrency: 8}]
  - id: end
    when: {node: report}
    then: [{kind: halt, reason: "reported"}]
"""
"""A graph that is right, with most keys."""

_names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: not name.startswith("model_"))
_ids = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
_callables = st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,2}:[a-z]{1,5}", fullmatch=True)
_words = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}\x85\u2028\u2029"), max_size=20)
# No CEL begins with a colon, and what dumps YAML in flow style forgets to quote one there.
_expressions = _words.filter(lambda text: text.strip() and not text.lstrip().startswith(":"))
_typed_defaults: list[tuple[str, st.SearchStrategy[Any]]] = [
    ("str", _words),
    ("int", st.integers(-(2**63), 2**63 - 1)),
    ("float", st.floats(allow_nan=False, allow_infinity=False)),
    ("bool", st.booleans()),
    ("None", st.none()),
    ("list[int] | None", st.none() | st.lists(st.integers(-9, 9), max_size=3)),
    ("dict[str, list[str]]", st.dictionaries(_words, st.lists(_words, max_size=2), max_size=2)),
    ('Literal["a", 1, None]', st.sampled_from(["a", 1, None])),
    ("any", st.recursive(st.none() | st.booleans() | _words, lambda inner: st.lists(inner, max_size=3), max_leaves=5)),
]


@st.composite
def _fields(draw: st.DrawFn) -> Any:
    text, values = draw(st.sampled_from(_typed_defaults))
    if draw(st.booleans()):
        return text
    field: dict[str, Any] = {"type": text}
    if draw(st.booleans()):
        field["default"] = draw(values)
    if draw(st.booleans()):
        field["reduce"] = draw(st.just("replace") | _callables)
    if draw(st.booleans()):
        field["description"] = draw(_words)
    return field


@st.composite
def graph_values(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what the file of a graph that is right says, as plain values."""
    fields = draw(st.dictionaries(_names, _fields(), min_size=1, max_size=4))
    field = st.sampled_from(sorted(fields))
    prompts = st.builds("{}{{{}}}{{{{{}".format, _words, field, _words)
    node_ids = draw(st.lists(_ids, min_size=1, max_size=5, unique=True))
    node = st.sampled_from(node_ids)

    def step(node_id: str) -> dict[str, Any]:
        kind = draw(st.sampled_from(["echo", "halt", "interrupt", "subgraph", "code"]))
        keys: dict[str, Any] = {"id": node_id, "kind": draw(_callables) if kind == "code" else kind}
        if kind == "interrupt":
            keys |= {"prompt": draw(prompts), "into": draw(field)}
        if kind == "subgraph":
            keys["graph"] = draw(_expressions)
            keys["inputs"] = draw(st.dictionaries(_names, _expressions, max_size=2))
            keys["outputs"] = draw(st.dictionaries(field, _expressions, max_size=2))
        if kind == "halt" and draw(st.booleans()):
            keys["reason"] = draw(_words)
        tried = kind not in ("interrupt", "subgraph")
        if tried and draw(st.booleans()):
            keys["timeout"] = draw(st.floats(0.001, 1e6) | st.integers(1, 100))
        if tried and draw(st.booleans()):
            keys["retry"] = {"attempts": draw(st.integers(1, 1000)), "on": ["OSError", draw(_callables)]}
        return keys

    def route() -> list[dict[str, Any]]:
        action: dict[str, Any] = draw(
            st.one_of(
                st.builds(lambda target: {"kind": "goto", "target": target}, node),
                st.builds(lambda reason: {"kind": "halt", "reason": reason}, _words),
                st.builds(
                    lambda targets, join: {"kind": "parallel", "targets": targets, "join": join},
                    st.lists(node, min_size=1, unique=True),
                    node,
                ),
                st.builds(
                    lambda over, target, join: {"kind": "map", "over": over, "target": target, "join": join},
                    _expressions,
                    node,
                    node,
                ),
            )
        )
        question = {"kind": "interrupt", "prompt": draw(prompts), "into": draw(field)}
        return draw(st.sampled_from([[action], [question], [question, action]]))

    def rule(rule_id: str) -> dict[str, Any]:
        when = {"node": draw(node)}
        if draw(st.booleans()):
            when["if"] = draw(_expressions)
        return {"id": rule_id, "when": when, "then": route()}

    return {
        "id": draw(_ids),
        "state_schema": fields,
        "nodes": [step(node_id) for node_id in node_ids],
        "rules": [rule(rule_id) for rule_id in draw(st.lists(_ids, max_size=4, unique=True))],
        "max_steps": draw(st.integers(1, 10**6)),
    }
