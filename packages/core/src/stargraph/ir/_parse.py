"""The form of a document: plain values to the data model, and what pydantic says in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from stargraph.ir._models import (
    Ask,
    FieldSpec,
    Goto,
    Halt,
    IRDocument,
    Map,
    MigrationSpec,
    NodeSpec,
    Parallel,
    RetrySpec,
    RuleSpec,
    WhenSpec,
)
from stargraph.ir._positions import NO_SOURCE, Fault, Path, Source, did_you_mean, one_of, show_value

ACTIONS: Final[dict[str, type[BaseModel]]] = {
    "goto": Goto,
    "halt": Halt,
    "parallel": Parallel,
    "map": Map,
    "interrupt": Ask,
}
"""The actions of a rule by their kind."""


def read_document(value: object, *, source: Source = NO_SOURCE) -> IRDocument:
    """Turn plain values, as a file has them, into a document.

    Args:
        source: where they come from.

    Raises:
        GraphError: the form is wrong; each fault with its position.
    """
    if not isinstance(value, dict):
        # Not quoted: a file that is no graph may be one with a key or a password.
        described = "text" if isinstance(value, str) else _described(value)
        fault = Fault(f"a graph is a mapping with 'id' and 'nodes', not {described}")
        raise source.error([fault], reason="invalid-graph")
    try:
        return IRDocument.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        faults = [_fault(detail) for detail in error.errors(include_url=False) if not _is_echo(detail)]
        raise source.error(faults, reason="invalid-graph") from None


def keys_of(model: type[BaseModel]) -> dict[str, str]:
    """Return the keys that a part of the file may have, and the attribute of each."""
    return {str(field.validation_alias or name): name for name, field in model.model_fields.items()}


def _is_echo(detail: Mapping[str, Any]) -> bool:
    """Return whether a list only counts as too short since its items are wrong, which has a fault of its own."""
    return bool(detail["type"] == "too_short" and len(detail["input"]) > detail["ctx"]["actual_length"])


def _fault(detail: Mapping[str, Any]) -> Fault:
    path, action = _path(detail["loc"])
    kind = detail["type"]
    value = detail["input"]
    if kind == "extra_forbidden":
        return Fault(_unknown_key(path, action), path, key=True)
    if kind == "missing":
        return Fault(f"needs {path[-1]!r}", path[:-1])
    if path and path[-1] == "[key]":
        return Fault(_bad_name(value, dots=False), path[:-1], key=True)
    if kind == "union_tag_not_found":
        return Fault(f"needs 'kind': {one_of(tuple(ACTIONS))}", path)
    if kind == "union_tag_invalid":
        tag = value.get("kind")
        unknown = f"unknown kind of action {show_value(tag)}{did_you_mean(str(tag), ACTIONS)}"
        return Fault(f"{unknown} (an action is {one_of(tuple(ACTIONS))})", (*path, "kind"))
    if kind == "value_error":
        return Fault(str(detail["ctx"]["error"]), path)
    if kind == "string_pattern_mismatch":
        if path == ("ir_version",):
            return Fault(f'this is the form {value!r}; this software reads the forms 1.x.y, as in "1.0.0"', path)
        if path[0] == "migrate" and path[-1] == "from":
            return Fault(
                f"{show_value(value)} is not a graph_hash: give its 64 digits of 0-9 and a-f, or the first 12 or more",
                path,
            )
        return Fault(_bad_name(value, dots=path[-1] != "into"), path)
    if kind in _TYPES:
        return Fault(f"must be {_TYPES[kind]}, not {_described(value)}{_quotes(kind, value)}", path)
    if kind in _LIMITS:
        return Fault(_LIMITS[kind](detail["ctx"]), path)
    return Fault(f"{detail['msg'][:1].lower()}{detail['msg'][1:]}", path)


_TYPES: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}
_LIMITS: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "too_short": lambda limit: f"must have at least {limit['min_length']}, not {limit['actual_length']}",
    "too_long": lambda limit: f"must have at most {limit['max_length']}, not {limit['actual_length']}",
    "greater_than": lambda limit: f"must be more than {limit['gt']:g}",
    "greater_than_equal": lambda limit: f"must be at least {limit['ge']:g}",
    "less_than_equal": lambda limit: f"must be at most {limit['le']:g}",
}


def _path(loc: tuple[str | int, ...]) -> tuple[Path, str]:
    """Take out of a path the kind of the action, which pydantic puts after `then[i]`."""
    if len(loc) > 4 and loc[0] == "rules" and loc[2] == "then":
        return loc[:4] + loc[5:], str(loc[4])
    return loc, ""


def _unknown_key(path: Path, action: str) -> str:
    name = str(path[-1])
    if name == "<<":
        return "merge keys (<<) are not part of YAML 1.2; write the keys out, or use an alias for a whole value"
    keys = keys_of(ACTIONS[action]) if action in ACTIONS else _keys_at(path[:-1])
    return f"unknown key {show_value(name)}" + (did_you_mean(name, keys) or f" (known keys: {', '.join(keys)})")


def _keys_at(path: Path) -> dict[str, str]:
    match path:
        case ("nodes", _):
            return keys_of(NodeSpec)
        case ("nodes", _, "retry"):
            return keys_of(RetrySpec)
        case ("state_schema", _):
            return keys_of(FieldSpec)
        case ("rules", _):
            return keys_of(RuleSpec)
        case ("rules", _, "when"):
            return keys_of(WhenSpec)
        case ("migrate", _):
            return keys_of(MigrationSpec)
    return keys_of(IRDocument)


def _bad_name(value: object, *, dots: bool) -> str:
    more = "letters, digits, '_', '.' and '-'" if dots else "letters, digits and '_'"
    first = "a letter or '_'" if dots else "a letter"
    return f"{show_value(value)} is not a name: up to 100 of {more}, first {first}"


def _described(value: object) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return f"the {'text' if isinstance(value, str) else 'number'} {show_value(value)}"
    return f"an object of the type {type(value).__qualname__}"


def _quotes(kind: str, value: object) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "; put it in quotes"
    return ""
