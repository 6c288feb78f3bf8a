"""What is wrong with an expression, seen from the state that a graph declares; nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from stargraph.checkpoint.protocol import JsonValue
from stargraph.engine._faults import Faults
from stargraph.engine._state import StateSpec
from stargraph.ir import IRDocument, Map, canonical_type, did_you_mean

Wanted = Literal["condition", "list", "value"]

_STRING: Final = re.compile(
    r"""[rRbB]{0,2}(?:\"\"\".*?\"\"\"|'''.*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL
)
_COMMENT: Final = re.compile(r"//[^\n]*")
_USE: Final = re.compile(r"(?<![\w.])(state|node)\s*\.\s*([A-Za-z_]\w*)(\s*\()?")
_INDEX: Final = re.compile(r"""(?<![\w.])(state|node)\s*\[\s*(["'])([A-Za-z_]\w*)\2\s*\]""")
_AFTER: Final = ("id", "update")
"""What a rule sees of the node that has completed."""

_BEFORE_CHILD: Final = ("id", "item", "index")
"""What the inputs of a subgraph see of its node."""

_AFTER_CHILD: Final = ("id",)
"""What its outputs see."""

_NO_OVERLOAD: Final = re.compile(r"found no matching overload for '(.+?)' applied to '\((.*)\)'")
_ALWAYS_DEFINED: Final = ("_==_", "_!=_", "@in")
"""Operators that give false for values of different types, and no error."""

_ORDER: Final = ("_<_", "_<=_", "_>_", "_>=_")
_NUMBERS: Final = frozenset({"int", "uint", "double"})
_WANTED: Final[dict[Wanted, tuple[tuple[str, ...], str]]] = {
    "condition": (("bool", "dyn"), "true or false"),
    "list": (("list", "dyn"), "a list"),
}
_KINDS: Final = {"str": "STRING", "int": "INT", "float": "DOUBLE", "bool": "BOOL", "list": "LIST", "dict": "MAP"}
_JSON_KINDS: Final = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}


class ExpressionChecks:
    """Checks expressions over the state of one graph.

    Args:
        document: the graph.
    """

    def __init__(self, document: IRDocument, state: StateSpec) -> None:
        self._fields = None if state.fields is None else tuple(state.fields)
        self._types = _types_of(document, state)
        self._env: Any = None

    def fault(self, text: str, wanted: Wanted = "value", node: tuple[str, ...] = _AFTER) -> str | None:
        """Return what is wrong with an expression, or None.

        Args:
            text: the expression, which compiles.
            wanted: what it must give.
            node: what `node` has where it is evaluated.
        """
        return self._unknown_name(text, node) or self._wrong_type(text, wanted)

    def _unknown_name(self, text: str, node: tuple[str, ...]) -> str | None:
        bare = _COMMENT.sub(_blank, _STRING.sub(_blank, text))
        uses = [(found[1], found[2]) for found in _USE.finditer(bare) if found[3] is None]
        uses += [(found[1], found[3]) for found in _INDEX.finditer(text) if bare[found.start(1)] != " "]
        for variable, name in uses:
            known = self._fields if variable == "state" else node
            # In a macro, as in state.rows.all(node, …), the name may stand for an item.
            if known is None or name in known or re.search(rf"\(\s*{variable}\s*,", bare):
                continue
            return f"{variable} has no {name!r}{did_you_mean(name, known) or f'; it has {_listed(known)}'}"
        return None

    def _wrong_type(self, text: str, wanted: Wanted) -> str | None:
        # A declared type takes the place of the whole `state.field`, of which has() asks for a part.
        if re.search(r"\bhas\s*\(", text):
            return None
        try:
            kind = self._environment().compile(text).return_type().name().partition("<")[0].lower()
        except RuntimeError as error:
            return _told(str(error))
        kinds, said = _WANTED.get(wanted, ((kind,), ""))
        return None if kind in kinds else f"it gives a value of type {kind}, not {said}"

    def _environment(self) -> Any:
        if self._env is None:
            from cel_expr_python import cel

            known = {f"state.{name}": _cel_type(cel.Type, kind) for name, kind in self._types.items()}
            dynamic = {"state": cel.Type.DYN, "node": cel.Type.DYN}
            self._env = cel.NewEnv(variables={**dynamic, **known, "node.id": cel.Type.STRING})
        return self._env


def check_expressions(
    document: IRDocument,
    state: StateSpec,
    children: Mapping[str, tuple[IRDocument, StateSpec]],
    faults: Faults,
) -> None:
    """Check all expressions of a graph against the states that they are evaluated over.

    Args:
        document: the graph.
        children: the graphs of its subgraph nodes and their states, by the ids of the nodes.
        faults: takes what is wrong.
    """
    checks = ExpressionChecks(document, state)
    for index, rule in enumerate(document.rules):
        if rule.when.condition is not None:
            faults.add(checks.fault(rule.when.condition, "condition"), "rules", index, "when", "if")
        for place, action in enumerate(rule.then):
            if isinstance(action, Map):
                faults.add(checks.fault(action.over, "list"), "rules", index, "then", place, "over")
    for index, node in enumerate(document.nodes):
        if node.id not in children:
            continue
        child, inner = children[node.id]
        for name, text in (node.inputs or {}).items():
            path = ("nodes", index, "inputs", name)
            if inner.fields is not None and inner.field(name) is None:
                faults.add(f"the state of {child.id!r} has no {name!r}{did_you_mean(name, inner.fields)}", *path)
            faults.add(checks.fault(text, node=_BEFORE_CHILD), *path)
        over_child = ExpressionChecks(child, inner)
        for name, text in (node.outputs or {}).items():
            faults.add(over_child.fault(text, node=_AFTER_CHILD), "nodes", index, "outputs", name)


def _told(complaint: str) -> str | None:
    """Return what the type checker complains about if it would fail in every run, else None."""
    found = _NO_OVERLOAD.search(complaint)
    if found is None:
        return None
    operator, operands = found[1], [operand.strip() for operand in found[2].split(",")]
    if operator in _ALWAYS_DEFINED or (operator in _ORDER and _NUMBERS.issuperset(operands)):
        return None
    is_mixed = len(operands) == 2 and operands[0] != operands[1] and _NUMBERS.issuperset(operands)
    hint = "; write a whole number as 2.0, or convert by double(…)" if is_mixed else ""
    return f"{_plain(operator)} is not defined for {' and '.join(operands)}{hint}"


def _plain(operator: str) -> str:
    return operator.strip("_").replace("_", " ").strip() or operator


def _types_of(document: IRDocument, state: StateSpec) -> dict[str, str]:
    """Return the types of the fields that have one that CEL knows, as a graph file writes them."""
    if document.state_schema is not None:
        return {name: canonical_type(field.type) for name, field in document.state_schema.items()}
    properties: Any = (state.class_schema or {}).get("properties", {})
    return {name: _of_json_schema(schema) for name, schema in properties.items()}


def _of_json_schema(schema: Mapping[str, JsonValue]) -> str:
    kind = schema.get("type")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list[{_of_json_schema(schema['items'])}]"
    return _JSON_KINDS.get(str(kind), "any")


def _cel_type(types: Any, text: str) -> Any:
    outer, _, inner = text.partition("[")
    if outer == "list" and inner and "|" not in text:
        return types.List(_cel_type(types, inner.removesuffix("]")))
    return getattr(types, _KINDS.get(text, "DYN"))


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + ("…" if len(names) > 8 else "") if names else "no fields"
