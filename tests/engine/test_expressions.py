"""Conditions: what the engine decides without the CEL library is what the library decides."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

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
