"""JSON values: what may be stored, its text, and its canonical bytes.

The canonical form is specified to the byte in docs/digest.md. It is not RFC 8785, which writes 1 and
1.0 alike: a value that came back as another type must have another digest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson

from stargraph.errors import StateError

JsonValue: TypeAlias = Any
"""None, bool, int (64-bit signed), float (finite), str, list and dict with str keys, nested."""

MAX_DEPTH: Final = 60
"""How deep lists and objects may nest inside one field of the state."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""How large the JSON text of a whole state may be, in bytes."""

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_SHOWN: Final = 60  # characters of a key in a path
_PATH_ESCAPES: Final = {'"': '\\"', "\\": "\\\\"}
_CONVERT: Final = (
    "Convert it first, for example by str(), float(), list() or isoformat(), or declare a state class whose field says"
    " how it is stored."
)
REPLACE_SURROGATES: Final = 'Replace it: text.encode(errors="replace").decode().'
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _NotJson(Exception):
    """Travels up from the value that is not JSON and collects the path to it."""

    def __init__(self, complaint: str, hint: str) -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self.hint = hint
        self.path: list[str | int] = []

    def as_error(self, path: str) -> StateError:
        """Return the error of the whole value, whose place is `path`."""
        where = path + "".join(map(path_part, reversed(self.path)))
        return StateError(f"{where}: {self.complaint}", reason="not-json", hint=self.hint, path=where)


def check_json(value: JsonValue, path: str) -> None:
    """Refuse what JSON cannot say exactly.

    Args:
        value: the value to check.
        path: its place, as an error names it.

    Raises:
        StateError: the value, or one inside it, is not JSON; `path` in the error leads to it.
    """
    try:
        _check(value, 0)
    except _NotJson as fault:
        raise fault.as_error(path) from None


def is_json(value: object) -> bool:
    """Return whether a value is JSON, so that it can be stored as it is."""
    try:
        check_json(value, "")
    except StateError:
        return False
    return True


def _check(value: JsonValue, depth: int) -> None:
    kind = type(value)
    if kind is str:
        _check_text(value)
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise _NotJson("an integer outside 64 bits cannot be stored exactly", "Store it as text: str(number).")
    elif kind is float:
        if not math.isfinite(value):
            raise _NotJson(f"{_name_of(value)} is not JSON", "Store None, or text, instead.")
    elif kind is list or kind is dict:
        if depth >= MAX_DEPTH:
            raise _NotJson(f"nested deeper than {MAX_DEPTH} levels", "Store it as text: json.dumps(value).")
        if kind is list:
            _check_list(value, depth + 1)
        else:
            _check_dict(value, depth + 1)
    elif value is not None and kind is not bool:
        raise _NotJson(f"{_name_of(value)} is not JSON", _CONVERT)


def _check_list(items: list[JsonValue], depth: int) -> None:
    index = 0
    try:
        for item in items:
            _check(item, depth)
            index += 1  # enumerate costs a third more here
    except _NotJson as fault:
        fault.path.append(index)
        raise


def _check_dict(members: dict[str, JsonValue], depth: int) -> None:
    key = ""
    try:
        for key, item in members.items():
            if type(key) is not str:
                raise _NotJson(f"a key is {_name_of(key)}, and only text can be a key in JSON", "Use str(key).")
            _check_text(key)
            _check(item, depth)
    except _NotJson as fault:
        if type(key) is str:
            fault.path.append(key)
        raise


def _check_text(text: str) -> None:
    if not is_text(text):
        code = next(ord(char) for char in text if "\ud800" <= char <= "\udfff")
        raise _NotJson(f"a lone surrogate (U+{code:04X}) is not text that JSON can carry", REPLACE_SURROGATES)


def is_text(text: str) -> bool:
    """Return whether UTF-8 can carry a string: a lone surrogate is not text."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name_of(value: object) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"


def path_part(part: str | int) -> str:
    """Return one step of a path into a value, as messages show it: `.name`, `["a name"]` or `[3]`.

    Args:
        part: the key, or the index.
    """
    if isinstance(part, int):
        return f"[{part}]"
    if len(part) <= _SHOWN and _PLAIN_KEY.fullmatch(part):
        return f".{part}"
    shown = part if len(part) <= _SHOWN else part[:_SHOWN] + "…"
    quoted = "".join(
        _PATH_ESCAPES.get(char) or (char if char.isprintable() else f"\\u{ord(char):04x}") for char in shown
    )
    return f'["{quoted}"]'


def encode(value: JsonValue) -> bytes:
    """Return the JSON text of a checked value, the keys in the order that they have."""
    return trimmed(orjson.dumps(value))


def trimmed(text: bytes) -> bytes:
    """Return a text that is kept, in memory of its own size: orjson leaves it in 4 KB or more that it reserved."""
    return b"".join((text, b""))


def decode(text: bytes) -> JsonValue:
    """Return a fresh value from JSON text."""
    return orjson.loads(text)


def canonical(value: JsonValue, *, plain: Callable[[Any], JsonValue] | None = None) -> bytes:
    """Return the canonical bytes of a checked value: equal values, and only they, have equal bytes.

    Args:
        value: a value that `check_json` accepts, or that `plain` turns into one.
        plain: turns anything else in the value into JSON.

    Returns:
        UTF-8 text as docs/digest.md specifies it.
    """
    if _FAST_IS_CANONICAL:
        return orjson.dumps(value, default=plain, option=_CANONICAL)
    return _slow_canonical(value, plain).encode()


_CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME


def _fast_canonical(value: JsonValue) -> bytes:
    return orjson.dumps(value, option=_CANONICAL)


def _slow_canonical(value: JsonValue, plain: Callable[[Any], JsonValue] | None = None) -> str:
    """The specification in plain Python: what `_fast_canonical` must agree with."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return _canonical_text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _canonical_float(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_slow_canonical(item, plain) for item in value) + "]"
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: member[0].encode())
        texts = (f"{_canonical_text(key)}:{_slow_canonical(item, plain)}" for key, item in members)
        return "{" + ",".join(texts) + "}"
    assert plain is not None
    return _slow_canonical(plain(value), plain)


_ESCAPES: Final = {
    **{code: f"\\u{code:04x}" for code in range(0x20)},
    0x08: "\\b",
    0x09: "\\t",
    0x0A: "\\n",
    0x0C: "\\f",
    0x0D: "\\r",
    0x22: '\\"',
    0x5C: "\\\\",
}


def _canonical_text(text: str) -> str:
    return '"' + text.translate(_ESCAPES) + '"'


def _canonical_float(number: float) -> str:
    """Shortest digits that read back; positional from 1e-5 up to 1e16, else with an exponent."""
    sign = "-" if math.copysign(1.0, number) < 0 else ""
    mantissa, _, exponent_text = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    if fraction == "0":
        fraction = ""
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent_text or 0)
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if not digits:
        return f"{sign}0.0"
    exponent = point - 1
    if -5 <= exponent < 16:
        if point <= 0:
            return f"{sign}0.{'0' * -point}{digits}"
        padded = digits.ljust(point, "0")
        return f"{sign}{padded[:point]}.{padded[point:] or '0'}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'+' if exponent > 0 else ''}{exponent}"


_CANARY: Final[JsonValue] = {
    "é": [1e15, 1e16, 1.5e300, 1e-5, 1e-6, 2.5e-7, 5e-324, 0.1, -0.0, 123456789012345.6, 1e21, 1e22],
    "a": ['\x00\x08\t\n\x0c\r\x1f\x7f"\\/\u2028\U0001f600', 2**63 - 1, -(2**63), True, None, {}, [], 1.0, 1],
}

_FAST_IS_CANONICAL: Final = _fast_canonical(_CANARY) == _slow_canonical(_CANARY).encode()
"""The library writes canonical bytes today; should a later version write numbers in another way, the
digests of what is already stored must not change, and the plain form takes over."""


def own_json(value: JsonValue, path: str) -> JsonValue:
    """Check a value and return a copy of it that shares nothing with the caller's object.

    Args:
        path: its place, as an error names it.

    Raises:
        StateError: the value is not JSON, or its text is larger than `MAX_BYTES`.
    """
    check_json(value, path)
    text = orjson.dumps(value)
    if len(text) > MAX_BYTES:
        raise too_large(path, len(text))
    return decode(text)


def copy_json(value: JsonValue) -> JsonValue:
    """Return a copy of a checked value that its receiver may change."""
    return decode(orjson.dumps(value)) if type(value) is list or type(value) is dict else value


def canonical_of(value: JsonValue, encoded: bytes) -> bytes:
    """Return the canonical bytes of a checked value whose JSON text is known."""
    # Without keys to sort, the text of the fast form is canonical as it is.
    return encoded if _FAST_IS_CANONICAL and type(value) not in (list, dict) else canonical(value)


def check_members(members: object, path: str) -> None:
    """Refuse an object that is not JSON, as `check_json` does, or that nests deeper than one field may."""
    if type(members) is not dict:
        raise StateError(
            f"{path}: {_name_of(members)} is not a JSON object",
            reason="not-json",
            hint="Give a dict whose keys are text.",
            path=path,
        )
    try:
        _check_dict(members, 0)
    except _NotJson as fault:
        raise fault.as_error(path) from None


def too_large(path: str, size: int, detail: str = "") -> StateError:
    """Return the error of a text that is larger than `MAX_BYTES`."""
    return StateError(
        f"{path}: {size / 2**20:.1f} MiB of JSON, more than the {MAX_BYTES // 2**20} MiB that a checkpoint holds"
        f"{detail}",
        reason="too-large",
        hint="Keep large data in a file or an object store, and its address in the state.",
        path=path,
    )
