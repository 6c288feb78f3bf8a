"""Results of recorded calls: JSON, or what the called function is declared to return."""

from __future__ import annotations

import functools
import inspect
import types
import typing
import warnings
from collections.abc import Callable, Hashable
from typing import Any, Final, Literal, Union

import orjson
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import PydanticSerializationError

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import MAX_DEPTH, check_json, copy_json
from stargraph.engine._fidelity import difference, dropped
from stargraph.errors import NodeError, StateError

_JSON: Final = frozenset({str, int, float, bool, type(None), None, list, dict, Any, object})

_NO_SCHEMA: Final = (
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    NameError,
    TypeError,
)


class ResultType:
    """What a call returns, and how it is stored.

    A value is stored only if what is stored gives it back, in value and type.

    Args:
        declared: a type, or None for JSON, into which pydantic models are turned.
    """

    def __init__(self, declared: Any = None) -> None:
        self._declared = declared
        self._adapter = None if declared is None else _adapter(declared)

    @classmethod
    def of(cls, function: Callable[..., Any], returns: Any, node: str) -> ResultType:
        """Return the type of a call's result.

        Args:
            function: what is called; its return annotation counts if nothing else is given.
            returns: the type that was given, or None.
            node: the node, for errors.

        Raises:
            NodeError: `returns` is no type that pydantic knows (`reason="bad-call"`).
        """
        declared = returns if returns is not None else _annotation(function)
        if _is_json(declared):
            return PLAIN
        try:
            return _typed(declared) if isinstance(declared, Hashable) else cls(declared)
        except _NO_SCHEMA:
            if returns is None:
                return PLAIN
        raise NodeError(
            f"returns={returns!r:.200} of a call is not a type whose values pydantic can store",
            reason="bad-call",
            hint="Give a pydantic model, a dataclass, a TypedDict, or another type that pydantic knows.",
            node=node,
        )

    def store(self, value: object, path: str) -> JsonValue:
        """Return a result as JSON; what is in it may be the caller's own, and `RecordedCall` takes a copy.

        Args:
            value: the result.
            path: names it, for errors.

        Raises:
            StateError: it is not JSON, or would not come back as it is.
        """
        if self._adapter is None:
            plain: JsonValue = _plain(value)
            check_json(plain, path)
            return plain
        try:
            text = self._adapter.dump_json(value, warnings="error", round_trip=True)
            again = self._adapter.validate_json(text)
        except (ValidationError, PydanticSerializationError, UnicodeEncodeError) as error:
            raise self._does_not_fit(path, str(error).partition("\n")[0]) from None
        found = difference(value, again)
        if found is not None:
            raise self._does_not_fit(path + found.path, found.what)
        stored: JsonValue = orjson.loads(text)
        check_json(stored, path)
        return stored

    def load(self, stored: JsonValue, path: str) -> Any:
        """Return a result as it was, from its JSON.

        Args:
            stored: what `store` returned; it is not changed.
            path: names it, for errors.

        Raises:
            StateError: it does not fit the type, which has changed since, or the type would drop a part of it.
        """
        if self._adapter is None:
            return copy_json(stored)
        try:
            result, kept = self._read(self._adapter, stored)
        except ValidationError as error:
            complaint = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise self._is_other_now(path, complaint) from None
        except PydanticSerializationError as error:
            raise self._is_other_now(path, str(error)) from None
        adapter = self._adapter
        lost = dropped(stored, kept, lambda other: self._read(adapter, other)[1])
        if lost is not None:
            raise self._is_other_now(path, f"it has no {lost.removeprefix('.')!r}")
        return result

    @staticmethod
    def _read(adapter: TypeAdapter[Any], stored: JsonValue) -> tuple[Any, JsonValue]:
        """Return what the type makes of a stored value, and what would be stored of that."""
        result = adapter.validate_json(orjson.dumps(stored))
        return result, orjson.loads(adapter.dump_json(result, warnings=False, round_trip=True))

    def _is_other_now(self, path: str, why: str) -> StateError:
        return StateError(
            f"{path}, as it is recorded, is no {_shown(self._declared)} any more: {why}",
            reason="wrong-type",
            hint="Declare the return type that the function had when the call was made.",
            path=path,
        )

    def _does_not_fit(self, path: str, why: str) -> StateError:
        return StateError(
            f"{path} does not come back as the {_shown(self._declared)} that is declared: {why}", path=path
        )


PLAIN: Final = ResultType()
"""JSON."""


def _annotation(function: Callable[..., Any]) -> Any:
    """Return what a callable is declared to return, or None if nothing is known."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        return None
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True).get("return")
    except Exception:  # noqa: BLE001  # an annotation is code, and may raise whatever it likes
        return None


def _is_json(declared: Any) -> bool:
    """Return whether a type says no more than that its values are JSON; those are stored as they are."""
    if isinstance(declared, Hashable) and declared in _JSON:
        return True
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is Literal:
        return all(type(value) in _JSON for value in arguments)
    if origin in (list, dict, Union, types.UnionType):
        return all(map(_is_json, arguments))
    return isinstance(declared, (typing.TypeVar, str))


def _adapter(declared: Any) -> TypeAdapter[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TypeAdapter(declared)


@functools.lru_cache(maxsize=256)
def _typed(declared: Any) -> ResultType:
    return ResultType(declared)


def _shown(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else f"{kind!r:.80}"


def _plain(value: object, depth: int = 0) -> object:
    """Return a value with the models in it as JSON objects."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if depth > MAX_DEPTH:
        return value
    if type(value) is list:
        return [_plain(item, depth + 1) for item in value]
    if type(value) is dict:
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    return value
