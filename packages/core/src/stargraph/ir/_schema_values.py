"""Values against a JSON Schema, as far as a graph records it of the class of its state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from stargraph.checkpoint.protocol import JsonValue

_MAX_DEPTH: Final = 50
_PYTHON: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def fits_schema(value: JsonValue, schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> bool:
    """Return whether a value has the types, the choices and the fields that a JSON Schema asks for.

    Only what decides about types is looked at, as pydantic writes it: `$ref`, `anyOf`, `oneOf`, `allOf`, `type`,
    `enum`, `const`, `items`, `properties`, `required` and `additionalProperties`. The rest, such as `pattern` and
    `minimum`, is left to the class.

    Args:
        definitions: its `$defs`.
        depth: how many levels of the value are around this one.
    """
    if depth > _MAX_DEPTH:
        return True
    if "$ref" in schema:
        schema = definitions.get(str(schema["$ref"]).removeprefix("#/$defs/"), {})
        return fits_schema(value, schema, definitions, depth + 1)
    for key, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        if key in schema and not enough(fits_schema(value, each, definitions, depth + 1) for each in schema[key]):
            return False
    if "const" in schema and not _is_same(value, schema["const"]):
        return False
    if "enum" in schema and not any(_is_same(value, each) for each in schema["enum"]):
        return False
    kinds = schema.get("type")
    if kinds is not None and not any(_is_of(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if isinstance(value, list):
        items = schema.get("items")
        return not isinstance(items, dict) or all(fits_schema(item, items, definitions, depth + 1) for item in value)
    if isinstance(value, dict):
        return _has_fields(value, schema, definitions, depth)
    return True


def _has_fields(
    value: Mapping[str, JsonValue], schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int
) -> bool:
    properties: Mapping[str, Any] = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    if any(name not in value for name in schema.get("required", ()) if "default" not in properties.get(name, {})):
        return False
    for name, item in value.items():
        inner = properties.get(name, others)
        if inner is False or (isinstance(inner, dict) and not fits_schema(item, inner, definitions, depth + 1)):
            return False
    return True


def _is_of(value: JsonValue, kind: str) -> bool:
    # In Python, True is a number.
    return isinstance(value, _PYTHON.get(kind, (object,))) and (not isinstance(value, bool) or kind == "boolean")


def _is_same(value: JsonValue, other: JsonValue) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def schema_type(schema: Any, definitions: Mapping[str, Any] | None = None) -> str:
    """Return the type that a JSON Schema declares, in short, as in `array of integer | null`; two may look the same.

    Args:
        schema: the schema.
        definitions: its `$defs`, if the choices of its enumerations are wanted, not their names.
    """
    if not isinstance(schema, Mapping):
        return "any"
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(schema_type(each, definitions) for each in schema["anyOf"]))
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        choices = (definitions or {}).get(name, {})
        return schema_type(choices) if "enum" in choices else name
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema.get("enum", [schema.get("const")]))
    name = str(schema.get("type", "any"))
    if "format" in schema:
        return f"{name} ({schema['format']})"
    inner = schema.get("items") if name == "array" else schema.get("additionalProperties")
    return f"{name} of {schema_type(inner, definitions)}" if isinstance(inner, Mapping) else name
