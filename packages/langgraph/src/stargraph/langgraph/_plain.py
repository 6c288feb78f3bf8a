"""What is no value of the user: ids, versions and metadata, as JSON."""

from __future__ import annotations

from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from stargraph.checkpoint.values import EncodedValue
from stargraph.errors import StateError
from stargraph.langgraph._values import decode_value, encode_value

_SERDE: Final = JsonPlusSerializer()
_STRICT: Final = JsonPlusSerializer(allowed_msgpack_modules=None)
"""Makes objects of those classes alone that LangGraph calls safe."""

_TAG: Final = b'"$":'
"""Stands in the text of every value that is more than JSON, and in that of few others."""


def dump_plain(value: Any) -> EncodedValue:
    """Return data as JSON; what JSON has not is written as LangGraph's serializer writes it."""
    try:
        encoded = EncodedValue.of(value, "value")
    except StateError:
        encoded = None
    return encode_value(_SERDE.dumps_typed(value)) if encoded is None or _TAG in encoded.encoded else encoded


def load_plain(value: EncodedValue, serde: SerializerProtocol | None = None) -> Any:
    """Return what `dump_plain` was given, as an object that the caller may change.

    Args:
        serde: the serializer of the saver. If it is LangGraph's, its list of allowed classes holds here too; else, and
            if None, no class of an application is imported.
    """
    if _TAG not in value.encoded:
        return value.fresh()
    inner = serde.serde if isinstance(serde, EncryptedSerializer) else serde
    return (inner if isinstance(inner, JsonPlusSerializer) else _STRICT).loads_typed(decode_value(value.value))


def peek_plain(value: EncodedValue) -> Any:
    """Return what `dump_plain` was given, without the classes of an application; it must not be changed."""
    return load_plain(value) if _TAG in value.encoded else value.value
