"""The fields of a state: what they take, how they are stored, and how updates reach them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, Protocol

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from stargraph.checkpoint.values import EncodedValue, JsonValue
from stargraph.engine._fidelity import difference
from stargraph.engine._reducers import BUILTIN, Reducer, reducer_name, update_annotation
from stargraph.engine._state_class import StateClass, does_not_fit, would_be_lost
from stargraph.errors import GraphError, StateError


class StateField(Protocol):
    """One declared field.

    Attributes:
        name: its name.
        annotation: its type.
        reducer: the name of its reducer.
        custom: its reducer, if it is a user-defined one.
    """

    name: str
    annotation: Any
    reducer: str
    custom: Reducer | None

    def check(self, value: object, path: str, *, from_json: bool = True) -> JsonValue:
        """Return a value as JSON, checked against the type.

        Args:
            path: where it is, for the error.
            from_json: whether the value is JSON; if not, it is what Python has.

        Raises:
            StateError: it does not fit, or would not come back as it is.
        """

    def record(self, value: object, path: str, *, from_json: bool = True) -> JsonValue:
        """Return an update as JSON, checked against the type of what the reducer takes.

        Args:
            value: what a node returned for the field.
            path: where it is, for the error.
            from_json: as for `check`.

        Raises:
            StateError: it does not fit, or would not come back as it is.
        """

    def reduce(self, old: EncodedValue | None, updates: Sequence[EncodedValue], path: str) -> EncodedValue:
        """Return what the field holds after updates, applied one after the other.

        Args:
            old: what it held before, if anything.
            updates: what `record` returned for each.
            path: where it is, for the error.

        Raises:
            StateError: the reducer failed, or what it returned does not fit.
        """


class SchemaField:
    """A field of a `state_schema`, whose types are those of JSON: what fits them is stored as it is.

    Args:
        annotation: its type.
        reducer: the name of its reducer.
        custom: its reducer, if it is a user-defined one.
    """

    def __init__(self, name: str, annotation: Any, *, reducer: str, custom: Reducer | None) -> None:
        self.name = name
        self.annotation = annotation
        self.reducer = reducer
        self.custom = custom
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True))

    def check(self, value: object, path: str, *, from_json: bool = True) -> JsonValue:
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            raise does_not_fit(error, path) from None

    def record(self, value: object, path: str, *, from_json: bool = True) -> JsonValue:
        # What a user-defined reducer takes may have any type.
        return self.check(value, path) if self.custom is None else value

    def reduce(self, old: EncodedValue | None, updates: Sequence[EncodedValue], path: str) -> EncodedValue:
        if self.reducer == "replace":
            return updates[-1]
        if self.custom is not None:
            # It may change what it is given.
            value = None if old is None else old.fresh()
            for update in updates:
                value = self.check(reduced(self.custom, value, update.fresh(), path), path)
            return EncodedValue.of(value, path)
        encoded = updates if old is None else (old, *updates)
        if self.reducer == "append":
            return _appended(encoded)
        present = [each.value for each in encoded if each.value is not None]
        if self.reducer == "merge":
            return EncodedValue.of_checked({key: item for value in present for key, item in value.items()})
        # A sum of numbers that JSON can say may be one that it cannot.
        return EncodedValue.of(functools.reduce(operator.add, present), path)


class ClassField:
    """A field of a `state_class`; its reducer is given what the class makes of what is stored.

    Args:
        state: the class.
    """

    def __init__(self, state: StateClass, name: str, reducer: Reducer) -> None:
        self.name = name
        self.annotation = state.annotations[name]
        self.reducer = reducer_name(reducer)
        self.custom = None if self.reducer in BUILTIN else reducer
        self._function = reducer
        self._class = state
        self._update = None if self.custom is None else _update_adapter(reducer, f"state field {name!r}")

    def check(self, value: object, path: str, *, from_json: bool = True) -> JsonValue:
        return self._class.stored(self.name, self._class.checked(self.name, value, path, from_json=from_json), path)

    def record(self, value: object, path: str, *, from_json: bool = True) -> JsonValue:
        if self._update is not None:
            return _through(self._update, value, path, from_json=from_json)
        try:
            return self.check(value, path, from_json=from_json)
        except StateError as error:
            if self.custom is None or error.reason != "wrong-type":
                raise
        # The reducer does not declare what it takes: JSON, as it is.
        return _through(_ANYTHING, value, path, from_json=from_json)

    def reduce(self, old: EncodedValue | None, updates: Sequence[EncodedValue], path: str) -> EncodedValue:
        if self.reducer == "replace":
            return updates[-1]
        if self.reducer == "append" and self._class.is_plain_list(self.name):
            return _appended(updates if old is None else (old, *updates))
        plain: JsonValue = None
        for update in updates:
            value = None if old is None else self._class.load_field(self.name, old.encoded, path)
            value = reduced(self._function, value, self._loaded_update(update, path), path)
            plain = self.check(value, path, from_json=False)
            old = EncodedValue.of(plain, path)
        assert old is not None
        return old

    def _loaded_update(self, update: EncodedValue, path: str) -> Any:
        if self._update is not None:
            return self._update.validate_json(update.encoded, by_alias=False, by_name=True)
        try:
            return self._class.load_field(self.name, update.encoded, path)
        except StateError:
            if self.custom is None:
                raise
        return update.fresh()


_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(defer_build=True))


def reduced(reducer: Reducer, value: Any, update: Any, path: str) -> Any:
    """Return what a reducer makes of a value and an update.

    Args:
        reducer: the function.
        value: what the field holds.
        path: where the field is, for the error.

    Raises:
        StateError: the reducer failed (`reason="reducer-failed"`).
    """
    try:
        return reducer(value, update)
    except Exception as error:
        raise StateError(
            f"{path}: the reducer {reducer_name(reducer)!r} failed: {type(error).__name__}: {error}",
            reason="reducer-failed",
            path=path,
        ) from error


def _appended(encoded: Sequence[EncodedValue]) -> EncodedValue:
    lists = [each for each in encoded if each.value is not None]
    return lists[0].extended(*lists[1:]) if lists else EncodedValue.of_checked([])


def _update_adapter(reducer: Reducer, owner: str) -> TypeAdapter[Any] | None:
    annotation = update_annotation(reducer)
    if annotation is None:
        return None
    try:
        return TypeAdapter(annotation)
    except Exception as error:
        named = f"{owner}: its reducer {reducer_name(reducer)!r}"
        raise GraphError(f"{named} takes {annotation!r}, not a type of values: {error}", reason="bad-type") from error


def _through(adapter: TypeAdapter[Any], value: object, path: str, *, from_json: bool) -> JsonValue:
    """Return a value as JSON by an adapter that gives it back."""
    try:
        checked = adapter.validate_json(orjson.dumps(value)) if from_json else adapter.validate_python(value)
    except ValidationError as error:
        raise does_not_fit(error, path) from None
    try:
        text = adapter.dump_json(checked, by_alias=False, round_trip=True, warnings=False)
        back = adapter.validate_json(text, by_alias=False, by_name=True)
    except (ValidationError, ValueError, TypeError) as error:
        raise StateError(
            f"{path}: it cannot be stored as JSON: {error}",
            reason="not-json",
            hint="Give its type a serializer and a validator of Pydantic that belong together.",
            path=path,
        ) from error
    found = difference(checked, back)
    if found is not None:
        raise would_be_lost(path, found)
    return orjson.loads(text)


_: tuple[type[StateField], ...] = (SchemaField, ClassField)
