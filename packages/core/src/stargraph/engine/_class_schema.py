"""The core schema of a state's class: the one module that knows how pydantic lays it out."""

from __future__ import annotations

import dataclasses
import inspect
from collections import deque
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaValidator, core_schema

from stargraph.checkpoint.values import JsonValue, canonical
from stargraph.errors import GraphError

Schema = Mapping[str, Any]

_FUNCTIONS: Final = ("function-before", "function-after", "function-wrap")
_FIELDS: Final = ("model-fields", "dataclass-args", "typed-dict")
_KINDS: Final = "a pydantic model, a dataclass or a TypedDict"


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What a class's core schema says of its fields.

    Attributes:
        fields: the schema of each field, with its aliases and flags.
        inner: the schema of the fields together, without what the class does as a whole.
        definitions: the schemas that the others refer to.
        config: the class's config.
        has_hooks: whether the class validates or changes its values as a whole.
    """

    fields: dict[str, Schema]
    inner: Schema
    definitions: list[Any]
    config: Any
    has_hooks: bool

    def part(self, schema: Schema) -> SchemaValidator:
        """Return the validator of a part of the schema.

        Args:
            schema: the part.
        """
        whole: Any = schema
        if self.definitions:
            whole = core_schema.definitions_schema(whole, self.definitions)
        return SchemaValidator(whole, self.config)


def shape_of(schema: Schema, path: str) -> Shape:
    """Read the core schema of a class.

    Args:
        schema: the `core_schema` of a `TypeAdapter`.
        path: names the class, for errors.

    Raises:
        GraphError: a state cannot be of this class.
    """
    definitions: dict[str, Any] = {}
    config: Any = None
    has_hooks = False
    while schema["type"] not in _FIELDS:
        if "serialization" in schema:
            raise GraphError(
                f"state_class: {path} serializes itself as a whole, and a state is stored field by field",
                reason="bad-state-class",
                hint="Give the fields serializers of their own (pydantic.field_serializer).",
            )
        match schema["type"]:
            case "definitions":
                definitions = {each["ref"]: each for each in schema["definitions"]}
                schema = schema["schema"]
            case "definition-ref":
                schema = definitions[schema["schema_ref"]]
            case "model" if not schema.get("root_model"):
                has_hooks = has_hooks or bool(schema.get("post_init") or schema.get("custom_init"))
                config, schema = schema.get("config"), schema["schema"]
            case "dataclass":
                has_hooks = has_hooks or bool(schema.get("post_init"))
                config, schema = schema.get("config"), schema["schema"]
            case kind if kind in _FUNCTIONS:
                has_hooks, schema = True, schema["schema"]
            case _:
                raise not_a_state_class(path)
    if schema["type"] == "typed-dict":
        config = schema.get("config")
    found = schema["fields"]
    fields = dict(found) if isinstance(found, dict) else {field["name"]: field for field in found}
    return Shape(fields, schema, list(definitions.values()), config, has_hooks)


def not_a_state_class(path: str) -> GraphError:
    """Return the error of what `state_class` names and cannot be one.

    Args:
        path: what it names.
    """
    return GraphError(
        f"state_class: {path!r} is not {_KINDS}",
        reason="not-a-model",
        hint=f"Name {_KINDS}, or declare the fields under state_schema.",
    )


def refuse_lossy(path: str, name: str, field: Schema) -> None:
    """Refuse a field that the class does not write, or does not take back.

    Args:
        path: names the class.
        name: the field.
        field: its schema.

    Raises:
        GraphError: its values would be lost.
    """
    lost: str | None = None
    hint = "A state holds what every later node needs; leave what is not stored to the nodes."
    if field.get("serialization_exclude") or "serialization_exclude_if" in field:
        lost = "is excluded from what is stored"
        hint = "Take exclude away; a node can make again what is not to be stored."
    elif field.get("init_only"):
        lost = "is given to __post_init__ alone (InitVar), and is not stored"
    elif field.get("init") is False:
        lost = "cannot be given when the state is read back (init=False)"
        hint = "Make it a property, or let the state give it."
    if lost is not None:
        raise GraphError(f"state_class: the field {name!r} of {path} {lost}", reason="bad-state-class", hint=hint)


def is_required(field: Schema) -> bool:
    """Return whether an input must give a field.

    Args:
        field: its schema.
    """
    if field["type"] == "typed-dict-field":
        return bool(field.get("required", True))
    kind: str = field["schema"]["type"]
    return kind != "default"


def aliases_of(field: Schema) -> tuple[list[str], list[str]]:
    """Return the aliases of a field, and the first steps of those that are paths into the input.

    Args:
        field: its schema.
    """
    alias = field.get("validation_alias")
    if alias is None:
        return [], []
    if isinstance(alias, str):
        return [alias], []
    paths = alias if alias and isinstance(alias[0], list) else [alias]
    named = [str(steps[0]) for steps in paths if len(steps) == 1]
    return named, [str(steps[0]) for steps in paths if len(steps) > 1]


def reads_others(name: str, field: Schema, names: Collection[str]) -> bool:
    """Return whether the serializer of a field reads other fields of the object.

    Args:
        name: the field.
        field: its schema.
        names: all fields.
    """
    serialization = field["schema"].get("serialization") or {}
    code = getattr(inspect.unwrap(serialization.get("function") or print), "__code__", None)
    return bool(serialization.get("is_field_serializer") and code and (set(names) - {name}) & set(code.co_names))


def takes_info(schema: object) -> bool:
    """Return whether a validator of a field asks for what validates it, and so for the other fields.

    Args:
        schema: the schema of the field's values.
    """
    if isinstance(schema, list):
        return any(map(takes_info, schema))
    if not isinstance(schema, dict) or schema.get("type") in ("model", "dataclass", "typed-dict", "definition-ref"):
        return False
    function = schema.get("function")
    if isinstance(function, dict) and function.get("type") == "with-info":
        return True
    return any(takes_info(part) for key, part in schema.items() if key not in ("serialization", "metadata"))


def mentions(schema: object, kinds: tuple[str, ...]) -> bool:
    """Return whether a schema has a part of a kind."""
    if isinstance(schema, (list, tuple)):
        return any(mentions(part, kinds) for part in schema)
    if not isinstance(schema, dict):
        return False
    if schema.get("type") in kinds:
        return True
    return any(mentions(part, kinds) for key, part in schema.items() if key not in ("default", "metadata"))


def is_plain_list(schema: Schema) -> bool:
    """Return whether a list stays valid whatever valid items are appended.

    Args:
        schema: the schema of the field's values.
    """
    while schema["type"] == "default" and not schema.get("validate_default"):
        if "serialization" in schema:
            return False
        schema = schema["schema"]
    kind: str = schema["type"]
    return kind == "list" and not any(key in schema for key in ("min_length", "max_length", "serialization"))


def in_order(value: object, plain: JsonValue) -> JsonValue:
    """Return JSON in which the items of sets are in one order, whatever the seed of their hashes.

    Args:
        plain: what its serializer made of it.
    """
    if isinstance(value, AbstractSet) and isinstance(plain, list):
        return sorted(plain) if all(type(item) is str for item in plain) else sorted(plain, key=canonical)
    if isinstance(value, BaseModel):
        # A `RootModel`, whose import would build a validator, by what it says of itself.
        if value.__pydantic_root_model__:
            return in_order(value.__dict__["root"], plain)
        value = value.__dict__
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping) and isinstance(plain, dict) and len(value) == len(plain):
        return {key: in_order(item, plain[key]) for key, item in zip(plain, value.values(), strict=True)}
    elif isinstance(value, (list, tuple, deque)) and isinstance(plain, list) and len(value) == len(plain):
        return [in_order(before, item) for before, item in zip(value, plain, strict=True)]
    if isinstance(value, dict) and isinstance(plain, dict):
        return {key: in_order(value.get(key), item) for key, item in plain.items()}
    return plain


class ClassJsonSchema(GenerateJsonSchema):
    """The JSON Schema of a class, the same in every process, also of what JSON Schema cannot say."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        pass

    def encode_default(self, dft: Any) -> Any:
        return in_order(dft, super().encode_default(dft))

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Any:
        return {}
