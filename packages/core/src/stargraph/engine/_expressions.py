"""Conditions and lists in CEL, the Common Expression Language, by cel-expr-python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from stargraph.checkpoint.protocol import JsonValue
from stargraph.errors import GraphError, StateError

_STATE_USE: Final = re.compile(r"\bstate\b(?:\.([A-Za-z_]\w*))?")


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
        fields = self._fields
        seen = state if fields is None else {key: state[key] for key in fields if key in state}
        value = self._program.eval(data={"state": seen, "node": node})
        if value.type().name() == "ERROR":
            raise StateError(
                f"{self.text!r} cannot be evaluated: {value.value()}",
                reason="expression-failed",
                hint="Guard a field that may be missing with has(state.field).",
            )
        return value.plain_value()

    def test(self, state: Mapping[str, JsonValue], node: Mapping[str, JsonValue]) -> bool:
        """Return the value of a condition.

        Args:
            state: the state.
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


@lru_cache(maxsize=1)
def _environment() -> Any:
    from cel_expr_python import cel

    return cel.NewEnv(variables={"state": cel.Type.DYN, "node": cel.Type.DYN})


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: <input>:").strip()
