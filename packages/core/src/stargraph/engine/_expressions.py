"""Conditions and values in CEL, the Common Expression Language, by cel-expr-python.

The usual condition compares a field with a constant. That is done here: the library takes as long to be handed a state
as the rest of a step's decision does. So is the usual value, a field or a member of one: it stays exactly what it is.
The library does not keep the order of an object's keys, and takes a NUL for the end of a text.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import copy_json
from stargraph.errors import GraphError, StateError

_STATE_USE: Final = re.compile(r"\bstate\b(?:\.([A-Za-z_]\w*))?")

_COMPARISON: Final = re.compile(
    r"""state\.([A-Za-z_][A-Za-z_0-9]*) *(==|!=|<=|>=|<|>) *(?:(-?[0-9]{1,18})|'([ -&(-\[\]-~]*)'|(true|false))"""
)
"""A field, an operator, and a whole number, a text of plain ASCII, or true or false."""

_SELECTION: Final = re.compile(r"(state|node)((?:\.[A-Za-z_][A-Za-z_0-9]*)+)")

_STAND_INS: Final = [chr(code) for code in (*range(1, 8), *range(14, 32))]
"""Control characters that hardly any text contains: in the order of texts they stand where a NUL does."""

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
        self._selection = _SELECTION.fullmatch(text.strip(" "))
        uses = _STATE_USE.findall(text)
        # Handing over a large state costs more than the evaluation: only the fields that are named go.
        self._fields: frozenset[str] | None = None if "" in uses else frozenset(uses)
        self._sees_node = "node" in text

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
            # Of one type, and texts that compare like their bytes: what CEL makes of others is its own affair.
            if type(found) is type(constant) and (type(found) is not str or found.isascii()):
                return compare(found, constant)
        if self._selection is not None:
            found = _selected(state if self._selection[1] == "state" else node, self._selection[2])
            if found is not _NOTHING:
                return copy_json(found)
        fields = self._fields
        seen = {**state} if fields is None else {key: state[key] for key in fields if key in state}
        data: dict[str, JsonValue] = {"state": seen, "node": {**node} if self._sees_node else {}}
        stand_in = _stand_in_for_nul(data, self.text)
        if stand_in is not None:
            data = _replaced(data, "\0", stand_in)
        value = self._program.eval(data=data)
        if value.type().name() == "ERROR":
            raise StateError(
                f"{self.text!r} cannot be evaluated: {value.value()}",
                reason="expression-failed",
                hint="It must fit every state that it may see: has(state.field) and size(state.list) ask first."
                " `stargraph validate` checks it against the types of the fields.",
            )
        # The keys of an object come in any order, another one in each process.
        plain = _in_order(value.plain_value())
        return plain if stand_in is None else _replaced(plain, stand_in, "\0")

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


_NOTHING: Final = object()


def _selected(value: object, path: str) -> object:
    """Return the member that a path such as `.a.b` leads to; `_NOTHING` if the library is to say what is wrong."""
    for key in path.split(".")[1:]:
        if not isinstance(value, Mapping) or key not in value:
            return _NOTHING
        value = value[key]
    return value


def _stand_in_for_nul(data: JsonValue, text: str) -> str | None:
    """Return what the library is given for each NUL in some data, or None if there is no NUL in them."""
    written = orjson.dumps(data)
    if rb"\u0000" not in written:
        return None
    for stand_in in _STAND_INS:
        if orjson.dumps(stand_in)[1:-1] not in written:
            return stand_in
    raise StateError(
        f"{text!r} cannot be evaluated over text that contains every control character",
        reason="expression-failed",
        hint="Take the NUL out of the text.",
    )


def _replaced(value: JsonValue, old: str, new: str) -> Any:
    """Return plain data with a character in each of its texts and keys replaced."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    if isinstance(value, Mapping):
        return {_replaced(key, old, new): _replaced(item, old, new) for key, item in value.items()}
    return value


def _in_order(value: JsonValue) -> JsonValue:
    """Return plain data with the keys of each object in alphabetical order."""
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value, key=str)}
    return value


@lru_cache(maxsize=1)
def _environment() -> Any:
    from cel_expr_python import cel

    return cel.NewEnv(variables={"state": cel.Type.DYN, "node": cel.Type.DYN})


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: <input>:").strip()
