"""A serializer for moves: what it loads it writes back as it was, without any class of the application that stored it.

LangGraph's own serializer imports those classes. Where they cannot be imported, as in a command, it returns their data
instead of the objects, which a copy would then store.
"""

from __future__ import annotations

from typing import Any, Final

import ormsgpack

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import EXT_DELTA_SNAPSHOT, JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from stargraph.errors import CheckpointError
from stargraph.langgraph._values import Typed

_OPTIONS: Final = ormsgpack.OPT_NON_STR_KEYS
_LANGGRAPH: Final = JsonPlusSerializer()
_PLAIN: Final = frozenset({"null", "bytes", "bytearray"})
"""Forms that hold no classes of an application."""


class Opaque:
    """Something that is not looked into, equal to whatever has the same bytes.

    Args:
        form: the code of an extension of msgpack, or the name of a serializer's form.
        data: the bytes.
    """

    __slots__ = ("data", "form")

    def __init__(self, form: int | str, data: bytes) -> None:
        self.form = form
        self.data = bytes(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and (self.form, self.data) == (other.form, other.data)

    def __hash__(self) -> int:
        return hash((self.form, self.data))


class OpaqueSerializer(SerializerProtocol):
    """Loads containers and plain values, and leaves objects and the forms of other serializers as they are."""

    def loads_typed(self, data: Typed) -> Any:
        """Return a value that `dumps_typed` makes the same of."""
        form, payload = data
        if form == "msgpack":
            return ormsgpack.unpackb(payload, ext_hook=_extension, option=_OPTIONS)
        if form == "json":  # an old checkpoint, which nobody writes in that form any more
            return self.loads_typed(_LANGGRAPH.dumps_typed(_LANGGRAPH.loads_typed(data)))
        return _LANGGRAPH.loads_typed(data) if form in _PLAIN else Opaque(form, payload)

    def dumps_typed(self, obj: Any) -> Typed:
        """Return what a value was loaded from.

        Raises:
            CheckpointError: a form of another serializer is inside of it (`reason="unknown-serializer"`).
        """
        if isinstance(obj, Opaque) and isinstance(obj.form, str):
            return obj.form, obj.data
        if obj is None or isinstance(obj, bytes | bytearray):
            return _LANGGRAPH.dumps_typed(obj)
        inside: list[Opaque] = []

        def packed(value: Any) -> ormsgpack.Ext:
            value = value.value if isinstance(value, _DeltaSnapshot) else value
            if not isinstance(value, Opaque):
                raise TypeError
            if isinstance(value.form, str):
                inside.append(value)
                raise TypeError
            return ormsgpack.Ext(value.form, value.data)

        try:
            return "msgpack", ormsgpack.packb(obj, default=packed, option=_OPTIONS)
        except (TypeError, ormsgpack.MsgpackEncodeError):
            if inside:
                raise unreadable_error(str(inside[0].form)) from None
            raise


def _extension(code: int, data: bytes) -> Any:
    # LangGraph's saver for PostgreSQL marks the snapshots of delta channels, which it knows by their class.
    return _DeltaSnapshot(Opaque(code, data)) if code == EXT_DELTA_SNAPSHOT else Opaque(code, data)


def unreadable_error(form: str) -> CheckpointError:
    """Return the error of values that only another serializer can read."""
    return CheckpointError(
        f"a checkpoint was written by another serializer, in the form {form!r}",
        reason="unknown-serializer",
        hint="Call stargraph.langgraph.copy_threads with two savers that have its serializer.",
    )
