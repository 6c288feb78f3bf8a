"""Conditions and lists in CEL, the Common Expression Language, by cel-expr-python.

The usual condition compares a field with a constant. That is done here: the library takes as long to be handed a state
as the rest of a step's decision does.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from stargraph.checkpoint.protocol import JsonValue
from stargraph.errors import GraphError, StateError

_STATE_USE: Final = re.compile(r"\bstate\b(?:\.([A-Za-z_]\w*))?")

_COMPARISON: Final = re.compile(
    r"""state\.([A-Za-z_][A-Za-z_0-9]*) *(==|!=|<=|>=|<|>) *(?:(-?[0-9]{1,18})|'([ -&(-\[\]-~]*)'|(true|false))"""
)
"""A field, an operator, and a whole number, a text of plain ASCII, or true or false."""

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Expression:
    """A compiled CEL expression over `state` and `node`.

    Args:
        text: the expression.

    Raises:
        GraphError: it does not compile (`reason="bad-expression"`).
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._program = _environment().compile(text)
        except RuntimeError as error:
            raise GraphError(
                f"{text!r} is not CEL: {_first_line(error)}",
                reason="bad-expression",
                hint="It may use `state` and `node`, as in: state.severity >= 4 && node.id == 'classify'",
            ) from None
        self._comparison = _comparison(text)
        uses = _STATE_USE.findall(text)
        # Handing over a large state costs more than the evaluation: only the fields that are named go.
        self._fields: frozenset[str] | None = None if "" in uses else frozenset(uses)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, state: Mapping[str, JsonValue], node: Mapping[str, JsonValue]) -> JsonValue:
        """Return the value as plain data.

        Args:
            state: the state; it is not changed.
            node: the id and the update of the node that has just completed.

        Raises:
            StateError: it cannot be evaluated over this state (`reason="expression-failed"`).
        """
        if self._comparison is not None:
            field, compare, constant = self._comparison
            found = state.get(field)
            # Of one type: what CEL makes of others is its own affair.
            if type(found) is type(constant) and (type(found) is not str or _is_simple(found)):
                return compare(found, constant)
        fields = self._fields
        seen = state if fields is None else {key: state[key] for key in fields if key in state}
        value = self._program.eval(data={"state": seen, "node": node})
        if value.type().name() == "ERROR":
            raise StateError(
                f"{self.text!r} cannot be evaluated: {value.value()}",
                reason="expression-failed",
                hint="It must fit every state that it may see: has(state.field) and size(state.list) ask first."
                " `stargraph validate` checks it against the types of the fields.",
            )
        return value.plain_value()

    def test(self, state: Mapping[str, JsonValue], node: Mapping[str, JsonValue]) -> bool:
        """Return the value of a condition.

        Args:
            node: the node that has just completed.

        Raises:
            StateError: it cannot be evaluated, or is not true or false.
        """
        value = self.evaluate(state, node)
        if not isinstance(value, bool):
            raise StateError(
                f"{self.text!r} is {value!r:.80}, not true or false",
                reason="expression-failed",
                hint="Compare it with something, as in: state.count > 0",
            )
        return value


def _comparison(text: str) -> tuple[str, Callable[[Any, Any], bool], int | str | bool] | None:
    """Return the field, the operator and the constant of an expression that is no more than their comparison."""
    match = _COMPARISON.fullmatch(text.strip(" "))
    if match is None:
        return None
    field, sign, number, word, truth = match.groups()
    constant = int(number) if number is not None else word if word is not None else truth == "true"
    return field, _OPERATORS[sign], constant


def _is_simple(text: str) -> bool:
    """Tell that a text is compared alike by everybody: the library takes a NUL for the end of it."""
    return text.isascii() and "\0" not in text


@lru_cache(maxsize=1)
def _environment() -> Any:
    from cel_expr_python import cel

    return cel.NewEnv(variables={"state": cel.Type.DYN, "node": cel.Type.DYN})


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: <input>:").strip()
