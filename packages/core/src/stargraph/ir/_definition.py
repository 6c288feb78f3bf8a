"""The part of a graph that shapes execution, and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import canonical, check_json
from stargraph.errors._arguments import check_type
from stargraph.ir._models import Action, FieldSpec, IRDocument, NodeSpec, RuleSpec
from stargraph.ir._types import field_type, validate_value

_FOR_PEOPLE: Final = ("title", "description", "examples")
_NAMED_SCHEMAS: Final = ("properties", "$defs", "patternProperties")
_VALUES: Final = ("default", "const", "enum", "required")


def definition_of(document: IRDocument) -> dict[str, Any]:
    """Return what shapes the execution of a graph, as plain JSON with defaults filled in.

    The wording of prompts, descriptions and reasons is left out, and so are retries, timeouts, `max_steps` and
    `max_concurrency`: changing them keeps stored runs resumable. The order of nodes and of rules matters, that of
    keys does not. A type has one spelling, so `str|None` and `None | str` are the same.

    Args:
        document: a graph that `check_document` accepts.

    Raises:
        GraphError: the type of a field is wrong.
        StateError: the default of a field does not fit its type.
    """
    check_type(document, "document", IRDocument, "a graph, as parse_graph(…) returns it")
    definition: dict[str, Any] = {
        "ir_version": document.ir_version.partition(".")[0],
        "id": document.id,
        "nodes": [_node(node) for node in document.nodes],
        "rules": [_rule(rule) for rule in document.rules],
    }
    if document.state_schema is not None:
        definition["state_schema"] = {name: _field(name, field) for name, field in document.state_schema.items()}
    if document.state_class is not None:
        definition["state_class"] = document.state_class
    return definition


def graph_hash(definition: Mapping[str, JsonValue]) -> str:
    """Return the hash of a definition: SHA-256 of its canonical JSON, as 64 hex digits.

    Args:
        definition: what `definition_of` returns; the engine adds the schema of a `state_class`.
    """
    check_type(definition, "definition", Mapping, "what definition_of(…) returns")
    plain = dict(definition)
    check_json(plain, "definition")
    return hashlib.sha256(canonical(plain)).hexdigest()


def comparable_schema(schema: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return the JSON Schema of a state class without what is for people: titles, descriptions and examples.

    Args:
        schema: what the class's `model_json_schema` returns.

    Returns:
        What the engine puts into the definition as `state_class_schema`, so that a changed field changes the hash
        and a reworded docstring does not.
    """
    bare: dict[str, Any] = _bare_schema(dict(schema))
    return bare


def _bare_schema(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bare_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    bare: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS:
            bare[key] = {name: _bare_schema(inner) for name, inner in value.items()}
        elif key in _VALUES:
            bare[key] = value
        elif key not in _FOR_PEOPLE:
            bare[key] = _bare_schema(value)
    return bare


def _field(name: str, field: FieldSpec) -> dict[str, Any]:
    plain = {"type": field_type(field.type).text, "reduce": field.reducer}
    if not field.required:
        plain["default"] = validate_value(field.type, field.default, f"state_schema.{name}.default")
    return plain


def _node(node: NodeSpec) -> dict[str, Any]:
    plain: dict[str, Any] = {"id": node.id, "kind": node.kind}
    match node.kind:
        case "interrupt":
            plain["into"] = node.into
        case "subgraph":
            plain["graph"] = node.graph
            plain["inputs"] = _expressions(node.inputs)
            plain["outputs"] = _expressions(node.outputs)
    return plain


def _rule(rule: RuleSpec) -> dict[str, Any]:
    when = {"node": rule.when.node}
    if rule.when.condition is not None:
        when["if"] = rule.when.condition.strip()
    return {"id": rule.id, "when": when, "then": [_action(action) for action in rule.then]}


def _action(action: Action) -> dict[str, Any]:
    match action.kind:
        case "goto":
            return {"kind": "goto", "target": action.target}
        case "halt":
            return {"kind": "halt"}
        case "parallel":
            return {"kind": "parallel", "targets": list(action.targets), "join": action.join}
        case "map":
            return {"kind": "map", "over": action.over.strip(), "target": action.target, "join": action.join}
        case "interrupt":
            return {"kind": "interrupt", "into": action.into}


def _expressions(expressions: Mapping[str, str] | None) -> dict[str, str]:
    return {name: expression.strip() for name, expression in (expressions or {}).items()}
