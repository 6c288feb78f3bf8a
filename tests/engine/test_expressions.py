"""Conditions: what the engine decides without the CEL library is what the library decides."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.graphs import graph
from support.memory import MemoryCheckpointer
from support.runs import stored

from stargraph.engine._expressions import Expression
from stargraph.errors import StateError

CONSTANTS = ["0", "-3", "007", "999999999999999999", "'a'", "'b c'", "''", "true", "false"]
VALUES: list[Any] = [
    *(0, -3, 7, 2**63 - 1, -(2**63), 0.0, -3.0, 7.5, True, False, None),
    *("a", "b c", "", "a\0", "\0", "á", "a\u0301", "\U00010000", "\n"),
    *([1], {"a": 1}),
]


def outcome(expression: Expression, state: dict[str, Any]) -> object:
    try:
        return expression.test(state, {})
    except StateError as error:
        return str(error)


@pytest.mark.parametrize("sign", ["==", "!=", "<", "<=", ">", ">="])
def test_a_comparison_is_that_of_the_library(sign: str) -> None:
    states = [{"x": value} for value in VALUES] + [{}]
    decided_here = 0
    for constant, space in product(CONSTANTS, ["", " "]):
        quick, slow = (Expression(f"state.x{space}{sign}{space}{constant}") for _ in range(2))
        slow._comparison = None
        decided_here += quick._comparison is not None
        for state in states:
            assert outcome(quick, state) == outcome(slow, state), (quick, state)
    assert decided_here == 2 * len(CONSTANTS)


@pytest.mark.parametrize(
    "text",
    [
        "state.x == 1.0",
        "state.x == null",
        r"state.x == 'a\tb'",
        "state.x == 'á'",
        'state.x == "a"',
        "state.x == 1 && state.x == 2",
        "state.x.y == 1",
        "node.id == 'a'",
        "1 == state.x",
        "state.x",
    ],
)
def test_everything_else_is_left_to_the_library(text: str) -> None:
    assert Expression(text)._comparison is None


EXACT: dict[str, Any] = {
    "a NUL": "a\0b",
    "a NUL in a key": {"a\0b": 1, "a": 2},
    "the order of keys": {str(number): number for number in reversed(range(20))},
    "of an inner object": [{"b": {"d": 1, "c": 2}, "a": 3}],
    "numbers": [0.0, -0.0, 1, 1.0, 2**63 - 1, -(2**63), 5e-324, True, None],
    "empty": {"a": [], "b": {}, "c": ""},
    "what stands for a NUL": ["\0\x01", "\x01\x02", "\\u0000", "\\\0"],
}


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("text", ["state.x", " state.x ", "state.y.z", "node.item", "node.item.z"])
def test_a_field_that_is_selected_stays_what_it_is(case: str, text: str) -> None:
    value = EXACT[case]
    item = {"z": value} if text == "node.item.z" else value
    found = Expression(text).evaluate({"x": value, "y": {"z": value}}, {"item": item})
    assert repr(found) == repr(value)
    assert found is not value or isinstance(value, str)


@pytest.mark.parametrize("text", ["state.x", "state.x.y", "state.a.b", "node.b"])
def test_what_is_not_there_is_told_by_the_library(text: str) -> None:
    with pytest.raises(StateError, match=r"cannot be evaluated: (NOT_FOUND|INVALID_ARGUMENT)"):
        Expression(text).evaluate({"a": "text"}, {"id": "n"})


@pytest.mark.parametrize("case", EXACT)
def test_what_is_computed_has_the_order_of_the_alphabet(case: str) -> None:
    (found,) = Expression("[state.x].filter(each, true)").evaluate({"x": EXACT[case]}, {})
    assert repr(found) == repr(sorted_by_key(EXACT[case]))


def sorted_by_key(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_by_key(value[key]) for key in sorted(value)}
    return [sorted_by_key(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("size(state.x)", 3),
        ("state.x == 'a'", False),
        ("state.x != 'a'", True),
        ("state.x < 'a '", True),
        ("state.x > 'a'", True),
        ("state.x.contains('b')", True),
        ("state.x.endsWith('b')", True),
        ("state.x + state.x", "a\0ba\0b"),
        ("{'k': [state.x]}", {"k": ["a\0b"]}),
        ("node.update.x == state.x", True),
    ],
)
def test_a_nul_is_a_character_like_any_other(text: str, wanted: object) -> None:
    assert Expression(text).evaluate({"x": "a\0b"}, {"update": {"x": "a\0b"}}) == wanted


def test_text_that_leaves_nothing_to_stand_for_a_nul_is_refused() -> None:
    every = "".join(map(chr, range(32)))
    with pytest.raises(StateError, match="every control character"):
        Expression("size(state.x)").evaluate({"x": every}, {})
    assert Expression("state.x").evaluate({"x": every}, {}) == every


async def test_items_and_child_runs_get_what_the_state_holds(store: MemoryCheckpointer, tmp_path: Path) -> None:
    value = {"text": "a\0b", "order": {"z": 1, "a": 2}}
    (tmp_path / "child.yaml").write_text("id: child\nstate_schema: {x: any}\nnodes: [{id: a, kind: echo}]\n")
    body = """
state_schema: {x: any, y: {type: any, default: null}, seen: {type: list, reduce: append, default: []}}
nodes:
  - {id: first, kind: echo}
  - {id: item, kind: "support.nodes:returns_its_item"}
  - {id: sub, kind: subgraph, graph: child.yaml, inputs: {x: state.x}, outputs: {y: state.x}}
rules: [{id: each, when: {node: first}, then: [{kind: map, over: state.x, target: item, join: sub}]}]
"""
    run = await graph(body, tmp_path).start(checkpointer=store, inputs={"x": [value]})
    (await run.start()).raise_for_status()
    state = stored(run)
    assert repr((state["seen"], state["y"])) == repr(([value], [value]))
