"""LangGraph's serialized values as JSON that people can read, and back to the very same bytes.

LangGraph's own serializer writes msgpack. What msgpack and JSON share is stored as it is. The rest is an object with
the member `$`, which says what it stands for:

    {"$": "ext", "code": 5, "value": […]}      an extension, such as a message: module, class, fields
    {"$": "bytes", "base64": "…"}
    {"$": "float", "hex": "7ff8000000000000"}  a float that is not finite: its eight bytes
    {"$": "int", "text": "9223372036854775808"}  an integer above 2**63 - 1
    {"$": "map", "items": [[key, value], …]}   an object with keys that are not text, or with the key `$`
    {"$": "typed", "type": "…", "base64": "…"}  anything else: another serializer, encrypted values, pickles

Nothing is unpickled or imported here. Only the serializer that the user chose makes objects of what is stored.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
import ormsgpack

from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import MAX_DEPTH, EncodedValue, check_json, trimmed
from stargraph.errors import StateError

Typed: TypeAlias = tuple[str, bytes]
"""What a serializer of LangGraph returns: the name of the form, and the bytes."""

_OPTIONS: Final = ormsgpack.OPT_NON_STR_KEYS
_LARGEST: Final = 2**63 - 1
_ARRAY_32: Final = b"\xdd"

# Msgpack of what JSON cannot say and orjson does not refuse: floats that are not finite, and the key `$`.
_UNSAFE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xa1\$|\xcf[\x80-\xff]")


class _Extension:
    """An extension of msgpack; no dataclass, which both libraries would write out themselves.

    Args:
        value: what the payload says, if it is msgpack too.
        is_msgpack: whether it is.
    """

    __slots__ = ("code", "is_msgpack", "payload", "value")

    def __init__(self, code: int, payload: bytes, value: Any, *, is_msgpack: bool) -> None:
        self.code = code
        self.payload = payload
        self.value = value
        self.is_msgpack = is_msgpack


class Former(NamedTuple):
    """A value that was encoded before, and what it was encoded from."""

    encoded: EncodedValue
    typed: Typed


def encode_value(typed: Typed, former: Former | None = None) -> EncodedValue:
    """Return a serialized value as JSON.

    Args:
        typed: what the serializer returned.
        former: an earlier value. If the value is that list with more items appended, the cost follows those.
    """
    kind, data = typed
    if kind == "null" and not data:
        return _NULL
    if kind == "msgpack":
        data = bytes(data)
        encoded = _grown(data, former) if former is not None and former.typed[0] == kind else None
        encoded = encoded or _from_msgpack(data)
        if encoded is not None:
            return encoded
    return EncodedValue.of_checked(_typed_json(kind, bytes(data)))


def _grown(data: bytes, former: Former) -> EncodedValue | None:
    """Return a list as another one with more items appended, or None if it is not."""
    before = former.typed[1]
    count, start = _array(data)
    former_count, former_start = _array(before)
    end = start + len(before) - former_start
    if (
        not 0 < former_count < count
        or data[start:end] != before[former_start:]
        or type(former.encoded.value) is not list
    ):
        return None
    more = _from_msgpack(_ARRAY_32 + (count - former_count).to_bytes(4) + data[end:], canonical=False)
    return None if more is None else former.encoded.extended(more)


def _array(data: bytes) -> tuple[int, int]:
    """Return how many items an array of msgpack has and where they begin; no items if it is no array."""
    first = data[0] if data else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F, 1
    if first == 0xDC:
        return int.from_bytes(data[1:3]), 3
    if first == 0xDD:
        return int.from_bytes(data[1:5]), 5
    return 0, 0


def decode_value(value: JsonValue) -> Typed:
    """Return what `encode_value` was given.

    Args:
        value: the JSON value.

    Raises:
        ValueError: it is not one that `encode_value` returns.
    """
    if value is None:
        return "null", b""
    if type(value) is dict and value.get("$") == "typed":
        kind, text = value["type"], value["base64"]
        if not isinstance(kind, str) or not isinstance(text, str):
            raise ValueError("a typed value has neither a type nor bytes")
        return kind, base64.b64decode(text, validate=True)
    return "msgpack", ormsgpack.packb(_to_msgpack(value), option=_OPTIONS)


def _from_msgpack(data: bytes, *, canonical: bool = True) -> EncodedValue | None:
    """Return msgpack as JSON, or None if it would not come back byte by byte.

    Args:
        data: the msgpack.
        canonical: its outermost header is the shortest one; else it is an array whose header has five bytes.
    """
    try:
        value = ormsgpack.unpackb(data, ext_hook=_extension, option=_OPTIONS)
        packed = ormsgpack.packb(value, default=_packed, option=_OPTIONS)
        if value is None or (packed != data if canonical else packed[_array(packed)[1] :] != data[5:]):
            return None
        if not _is_unsafe(data):
            try:
                text = orjson.dumps(value, default=_tagged)
                return _of_json(orjson.loads(text), text)
            except (TypeError, orjson.JSONEncodeError):
                pass  # keys that are not text
        walked = _walk(value)
        return _of_json(walked, orjson.dumps(walked))
    except (ValueError, TypeError, RecursionError, StateError):
        return None


def _is_unsafe(data: bytes) -> bool:
    """Return whether msgpack may hold what JSON cannot say and orjson does not refuse."""
    # Most have nothing that a match begins with, which takes a hundredth of the time to see.
    may_match = b"\xcb" in data or b"\xa1$" in data or b"\xcf" in data
    return may_match and _UNSAFE.search(data) is not None


def _of_json(value: JsonValue, text: bytes) -> EncodedValue:
    """Return a value that came from msgpack by way of orjson: if it is not JSON, it only nests too deep."""
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:  # also those in texts: few values have so many
        check_json(value, "value")
    return EncodedValue(value, trimmed(text))


def _extension(code: int, payload: bytes) -> _Extension:
    try:
        value = ormsgpack.unpackb(payload, ext_hook=_extension, option=_OPTIONS)
        is_msgpack = ormsgpack.packb(value, default=_packed, option=_OPTIONS) == payload
    except ValueError:
        value, is_msgpack = None, False
    return _Extension(code, payload, value, is_msgpack=is_msgpack)


def _packed(extension: _Extension) -> ormsgpack.Ext:
    return ormsgpack.Ext(extension.code, extension.payload)


def _tagged(value: Any) -> dict[str, Any]:
    """Return the object that stands for what JSON has not; its inside may hold more of it."""
    if isinstance(value, _Extension):
        if value.is_msgpack:
            return {"$": "ext", "code": value.code, "value": value.value}
        return {"$": "ext", "code": value.code, "base64": base64.b64encode(value.payload).decode()}
    if isinstance(value, bytes):
        return {"$": "bytes", "base64": base64.b64encode(value).decode()}
    raise TypeError


def _walk(value: Any) -> JsonValue:
    """Do as `_tagged` for everything inside of a value, also where keys or numbers are not those of JSON."""
    if isinstance(value, (_Extension, bytes)):
        tagged = _tagged(value)
        return {name: _walk(item) if name == "value" else item for name, item in tagged.items()}
    if isinstance(value, (list, tuple)):
        return [_walk(item) for item in value]
    if isinstance(value, dict):
        if "$" in value or not all(isinstance(key, str) for key in value):
            return {"$": "map", "items": [[_walk(key), _walk(item)] for key, item in value.items()]}
        return {key: _walk(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$": "float", "hex": struct.pack(">d", value).hex()}
    if type(value) is int and value > _LARGEST:
        return {"$": "int", "text": str(value)}
    return value


def _to_msgpack(value: JsonValue) -> Any:
    if type(value) is list:
        return [_to_msgpack(item) for item in value]
    if type(value) is not dict:
        return value
    tag = value.get("$")
    if tag is None:
        return {key: _to_msgpack(item) for key, item in value.items()}
    read = _READERS.get(tag) if isinstance(tag, str) else None
    if read is None:
        raise ValueError(f"{tag!r} is no tag of a stored value")
    return read(value)


def _read_extension(value: dict[str, Any]) -> ormsgpack.Ext:
    if "value" in value:
        return ormsgpack.Ext(value["code"], ormsgpack.packb(_to_msgpack(value["value"]), option=_OPTIONS))
    return ormsgpack.Ext(value["code"], _read_bytes(value))


def _read_bytes(value: dict[str, Any]) -> bytes:
    return base64.b64decode(value["base64"], validate=True)


def _read_float(value: dict[str, Any]) -> float:
    number: float = struct.unpack(">d", bytes.fromhex(value["hex"]))[0]
    return number


def _read_int(value: dict[str, Any]) -> int:
    return int(value["text"])


def _read_map(value: dict[str, Any]) -> dict[Any, Any]:
    return {_hashable(_to_msgpack(key)): _to_msgpack(item) for key, item in value["items"]}


def _hashable(key: Any) -> Any:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


_READERS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "ext": _read_extension,
    "bytes": _read_bytes,
    "float": _read_float,
    "int": _read_int,
    "map": _read_map,
}

_NULL: Final = EncodedValue.of_checked(None)


def _typed_json(kind: str, data: bytes) -> dict[str, JsonValue]:
    return {"$": "typed", "type": kind, "base64": base64.b64encode(data).decode()}
