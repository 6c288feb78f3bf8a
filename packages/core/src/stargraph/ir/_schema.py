"""The JSON Schema of a graph file, for editors."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

from pydantic import BaseModel

from stargraph.ir._check import KIND_KEYS
from stargraph.ir._models import (
    BUILTIN_KINDS,
    BUILTIN_REDUCERS,
    CALLABLE_PATTERN,
    FieldSpec,
    IRDocument,
    MigrationSpec,
    NodeSpec,
    RetrySpec,
    RuleSpec,
    WhenSpec,
)
from stargraph.ir._parse import ACTIONS, keys_of

_MODELS: Final[tuple[type[BaseModel], ...]] = (
    IRDocument,
    FieldSpec,
    MigrationSpec,
    NodeSpec,
    RetrySpec,
    RuleSpec,
    WhenSpec,
    *ACTIONS.values(),
)
_ATTRIBUTE: Final = re.compile(r"^ {4}(\w+): (.+?)(?=^ {4}\w|\Z)", re.MULTILINE | re.DOTALL)


def graph_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a graph file.

    What concerns one part of a file is in it. Whether targets and fields exist, types and prompts parse and
    expressions compile is not: `load_graph` checks that.
    """
    schema = IRDocument.model_json_schema(by_alias=True)
    parts = {"IRDocument": schema, **schema["$defs"]}
    for model in _MODELS:
        _describe(parts[model.__name__], model)
    _close_mappings(schema)
    _name_a_callable(parts["NodeSpec"]["properties"]["kind"], BUILTIN_KINDS)
    _name_a_callable(parts["FieldSpec"]["properties"]["reduce"], BUILTIN_REDUCERS)
    for action in ACTIONS.values():
        parts[action.__name__]["required"] = ["kind", *parts[action.__name__].get("required", ())]
    _require_by_kind(parts["NodeSpec"])
    _allow_short_fields(schema)
    _refuse_two_states(schema)
    question_first = {"prefixItems": [{"$ref": "#/$defs/Ask"}, {"not": {"$ref": "#/$defs/Ask"}}]}
    parts["RuleSpec"]["properties"]["then"]["anyOf"] = [{"maxItems": 1}, question_first]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Stargraph graph", **schema}


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Give a schema and its properties the words of the model's docstring."""
    summary, _, attributes = (inspect.getdoc(model) or "").partition("Attributes:\n")
    words = {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(attributes)}
    del schema["title"]
    schema["description"] = summary.strip()
    for key, name in keys_of(model).items():
        known = schema["properties"][key]
        known.pop("title", None)
        if known.get("default", "") is None:
            del known["default"]
        known["description"] = words.get(name, "")


def _close_mappings(schema: Any) -> None:
    """Refuse names that do not fit their pattern."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema["additionalProperties"] = False
        for inner in schema.values():
            _close_mappings(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _close_mappings(inner)


def _name_a_callable(schema: dict[str, Any], builtin: tuple[str, ...]) -> None:
    schema["anyOf"] = [{"enum": list(builtin)}, {"pattern": f"^{CALLABLE_PATTERN}$"}]


def _require_by_kind(schema: dict[str, Any]) -> None:
    schema["allOf"] = []
    for kind, keys in KIND_KEYS.items():
        needed = [key for key, is_needed in keys.items() if is_needed]
        schema["allOf"].append(
            {
                "if": {"properties": {"kind": {"const": kind}}},
                "then": {"required": needed, "properties": {key: {"not": {"type": "null"}} for key in needed}},
                "else": {"properties": {key: {"type": "null"} for key in keys}},
            }
        )


def _allow_short_fields(schema: dict[str, Any]) -> None:
    """Allow `message: str` beside `message: {type: str}`."""
    for form in schema["properties"]["state_schema"]["anyOf"]:
        for pattern, field in form.get("patternProperties", {}).items():
            short = {"type": "string", "description": "The type of the field."}
            form["patternProperties"][pattern] = {"anyOf": [short, field]}


def _refuse_two_states(schema: dict[str, Any]) -> None:
    both = {"state_schema": {"type": "object"}, "state_class": {"type": "string"}}
    schema["not"] = {"properties": both, "required": list(both)}
