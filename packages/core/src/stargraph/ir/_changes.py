"""What differs between two definitions, in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from stargraph.checkpoint.values import canonical
from stargraph.ir._schema_values import schema_type

_SHORT: Final = 160
_ABSENT: Final = object()
_EXPRESSIONS: Final = frozenset({"if", "over"})
_TYPE_KEYS: Final = ("type", "anyOf", "$ref", "enum", "const", "format", "items", "additionalProperties")
_PARTS: Final = ("state_schema", "state_class_schema", "nodes", "rules")


def definition_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what changed from one definition to another, one sentence for each part.

    Args:
        old: what `definition_of` returned for one graph.
        new: the same for the other.

    Returns:
        Sentences such as "rule 'urgent': if was `state.severity >= 4`, is `state.severity >= 3`"; none if
        the two are equal.
    """
    return (
        *_key_changes("graph", _without(old, _PARTS), _without(new, _PARTS)),
        *_named_changes("state field", old.get("state_schema"), new.get("state_schema"), _key_changes),
        *_class_changes(old.get("state_class_schema"), new.get("state_class_schema")),
        *_list_changes("node", old.get("nodes"), new.get("nodes"), _key_changes),
        *_list_changes("rule", old.get("rules"), new.get("rules"), _rule_changes),
    )


def _named_changes(
    noun: str,
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    compare: Callable[[str, Mapping[str, Any], Mapping[str, Any]], Iterator[str]],
) -> Iterator[str]:
    old, new = old or {}, new or {}
    for name in old:
        if name not in new:
            yield f"{noun} {name!r} was removed"
    for name, value in new.items():
        if name not in old:
            yield f"{noun} {name!r} was added"
        else:
            yield from compare(f"{noun} {name!r}", old[name], value)


def _list_changes(
    noun: str,
    old: Sequence[Mapping[str, Any]] | None,
    new: Sequence[Mapping[str, Any]] | None,
    compare: Callable[[str, Mapping[str, Any], Mapping[str, Any]], Iterator[str]],
) -> Iterator[str]:
    before = {str(part["id"]): part for part in old or ()}
    after = {str(part["id"]): part for part in new or ()}
    yield from _named_changes(noun, before, after, compare)
    kept_before = [name for name in before if name in after]
    kept_after = [name for name in after if name in before]
    if kept_before != kept_after:
        orders = f"was {', '.join(kept_before)}, is {', '.join(kept_after)}"
        yield f"the order of the {noun}s {orders if len(orders) <= _SHORT else 'changed'}"


def _rule_changes(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _key_changes(where, old.get("when") or {}, new.get("when") or {})
    then_before, then_after = old.get("then") or [], new.get("then") or []
    if [action.get("kind") for action in then_before] != [action.get("kind") for action in then_after]:
        yield f"{where}: then was {_actions(then_before)}, is {_actions(then_after)}"
        return
    for before, after in zip(then_before, then_after, strict=True):
        yield from _key_changes(f"{where}: {before.get('kind')}", before, after)


def _class_changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[str]:
    """Compare the JSON schemas of a state class field by field."""
    if old is None or new is None:
        return
    noun = "state field"
    yield from _named_changes(noun, old.get("properties"), new.get("properties"), _property_changes)
    required_before, required_after = old.get("required") or [], new.get("required") or []
    both = [name for name in old.get("properties") or {} if name in (new.get("properties") or {})]
    for name in both:
        if name in required_before and name not in required_after:
            yield f"{noun} {name!r} was required, is not"
        if name not in required_before and name in required_after:
            yield f"{noun} {name!r} was not required, is"
    yield from _named_changes("type in the state class", old.get("$defs"), new.get("$defs"), _property_changes)
    rest = ("properties", "required", "$defs")
    yield from _key_changes("state class", _without(old, rest), _without(new, rest))


def _property_changes(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        was, now = schema_type(old), schema_type(new)
        if was == now:
            yield from _key_changes(where, old, new)
        else:
            yield f"{where}: type was {was}, is {now}"
            yield from _key_changes(where, _without(old, _TYPE_KEYS), _without(new, _TYPE_KEYS))
    elif not _equal(old, new):
        yield f"{where} was {_shown('', old)}, is {_shown('', new)}"


def _key_changes(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if _equal(before, after):
            continue
        if key in ("inputs", "outputs") and isinstance(before, Mapping) and isinstance(after, Mapping):
            for name, change in _expression_changes(before, after):
                yield f"{where}: {key}: {name} {change}"
            continue
        was, now = _shown(key, before), _shown(key, after)
        if len(was) > _SHORT or len(now) > _SHORT:
            yield f"{where}: {key} changed"
        else:
            yield f"{where}: {key} was {was}, is {now}"


def _expression_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys([*old, *new]):
        was, now = (_shown("if", side.get(name, _ABSENT)) for side in (old, new))
        if was != now:
            yield name, f"was {was}, is {now}"


def _equal(old: Any, new: Any) -> bool:
    if old is _ABSENT or new is _ABSENT:
        return old is new
    return canonical(old) == canonical(new)


def _shown(key: str, value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, str) and key != "default":
        return f"`{value}`" if key in _EXPRESSIONS else value
    return json.dumps(value, ensure_ascii=False)


def _actions(actions: Iterable[Mapping[str, Any]]) -> str:
    return " and ".join(_action(action) for action in actions)


def _action(action: Mapping[str, Any]) -> str:
    inner = ", ".join(f"{key} {_shown(key, value)}" for key, value in action.items() if key != "kind")
    return f"{action.get('kind')} ({inner})" if inner else str(action.get("kind"))


def _without(mapping: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
