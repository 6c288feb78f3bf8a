"""Values that are checked, encoded and digested once, and shared by the checkpoints that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

from stargraph.checkpoint.values._json import (
    MAX_BYTES,
    JsonValue,
    canonical_of,
    check_json,
    check_members,
    decode,
    encode,
    too_large,
)


class EncodedValue:
    """One checked JSON value with its text and the digest of its canonical bytes.

    A run's next checkpoint shares the values that did not change, so that the cost of a step follows
    the change and not the state.

    Args:
        value: the value; not to be changed.
        encoded: its JSON text, keys in their own order.

    Attributes:
        value: the value.
        encoded: its JSON text.
        digest: of its canonical bytes, in hex.
        grown_from: the text of the list that `extended` has added to, for a codec, which then sets it to None.
    """

    __slots__ = ("_open_hash", "digest", "encoded", "grown_from", "value")

    def __init__(
        self,
        value: JsonValue,
        encoded: bytes,
        _open_hash: hashlib._Hash | None = None,
        _grown_from: bytes | None = None,
        _digest: str | None = None,
    ) -> None:
        self.value: Final = value
        self.encoded: Final = encoded
        self.grown_from = _grown_from
        # Of a list, all but the closing bracket hashed: what is appended later is hashed after it.
        self._open_hash: Final = _open_hash or (
            hashlib.sha256(memoryview(canonical_of(value, encoded))[:-1]) if type(value) is list else None
        )
        if _digest is None:
            if self._open_hash is None:
                closed = hashlib.sha256(canonical_of(value, encoded))
            else:
                closed = self._open_hash.copy()
                closed.update(b"]")
            _digest = closed.hexdigest()
        self.digest: Final = _digest

    def __reduce__(self) -> tuple[type[EncodedValue], tuple[JsonValue, bytes]]:
        return EncodedValue, (self.value, self.encoded)

    @classmethod
    def of(cls, value: JsonValue, path: str) -> EncodedValue:
        """Check a value and take a copy of it that shares nothing with the caller's object.

        Args:
            path: where it is, as an error names it.

        Raises:
            StateError: the value is not JSON.
        """
        check_json(value, path)
        return cls.of_checked(value)

    @classmethod
    def of_checked(cls, value: JsonValue) -> EncodedValue:
        """Like `of`, for a value that is known to be JSON."""
        encoded = encode(value)
        owned = decode(encoded) if type(value) is list or type(value) is dict else value
        return cls(owned, encoded)

    @classmethod
    def of_stored(cls, encoded: bytes) -> EncodedValue:
        """Return the value of a text that `encoded` held when it was stored.

        Raises:
            ValueError: it is not JSON.
        """
        return cls(decode(encoded), encoded)

    def extended(self, *others: EncodedValue) -> EncodedValue:
        """Return this list with the items of others appended; only those are digested."""
        first, *more = [each for each in (self, *others) if each.value] or [self]
        if not more:
            return first
        open_hash = first._open_hash
        assert open_hash is not None
        for each in more:
            open_hash = _with_items(open_hash, each.value, each.encoded)
        # Joined once: with one after the other, a map of many branches would copy the list for each of them.
        items = first.value.copy()  # an iterator over both takes several times as long for a list of thousands
        texts: list[bytes | memoryview] = [memoryview(first.encoded)[:-1]]
        for each in more:
            items += each.value
            texts += (b",", memoryview(each.encoded)[1:-1])
        encoded = b"".join([*texts, b"]"])
        return EncodedValue(items, encoded, open_hash, first.encoded)

    def grown_to(self, encoded: bytes) -> EncodedValue | None:
        """Return the value of a longer text if it is this list with more items appended; the cost follows those.

        Args:
            encoded: a text that `encoded` held when it was stored.

        Raises:
            ValueError: it is not JSON.
        """
        end = len(self.encoded) - 1
        if self._open_hash is None or encoded[end : end + 1] != b"," or not encoded.startswith(self.encoded[:end]):
            return None
        text = b"[" + encoded[end + 1 :]
        more = decode(text)
        if not more:
            raise ValueError("a comma of a list is followed by nothing")
        return EncodedValue([*self.value, *more], encoded, _with_items(self._open_hash, more, text))

    def fresh(self) -> JsonValue:
        """Return a copy that its receiver may change."""
        return decode(self.encoded) if type(self.value) is list or type(self.value) is dict else self.value

    def compact(self) -> CompactValue | EncodedValue:
        """Return this value without its list or object, which takes several times the memory of the text."""
        if type(self.value) is list or type(self.value) is dict:
            return CompactValue(self.encoded, self.digest, self._open_hash)
        return self


class CompactValue(NamedTuple):
    """The text and the digest of a list or an object that was checked; nobody can change it."""

    encoded: bytes
    digest: str
    open_hash: hashlib._Hash | None

    def parsed(self) -> EncodedValue:
        """Return the value, parsed once more and not digested again; it shares no list or object."""
        return EncodedValue(decode(self.encoded), self.encoded, self.open_hash, _digest=self.digest)


def _with_items(open_hash: hashlib._Hash, items: JsonValue, encoded: bytes) -> hashlib._Hash:
    """Return the open hash of a list that has more items appended, given as a list and its text; it is not empty."""
    longer = open_hash.copy()
    longer.update(b",")
    longer.update(memoryview(canonical_of(items, encoded))[1:-1])
    return longer


def join_encoded(members: Mapping[str, EncodedValue]) -> bytes:
    """Return the JSON text of an object from the texts of its members.

    Args:
        members: the members, in order.
    """
    return orjson.dumps({key: orjson.Fragment(value.encoded) for key, value in members.items()})


def encode_members(members: Mapping[str, JsonValue], path: str) -> dict[str, EncodedValue]:
    """Check an object, and return its members encoded, in its order.

    Args:
        members: the object.
        path: where it is, as an error names it.

    Raises:
        StateError: the object, or a value inside it, is not JSON, or all of it is too large.
    """
    check_members(members, path)
    encoded = {key: EncodedValue.of_checked(item) for key, item in members.items()}
    check_size(encoded, path)
    return encoded


def check_size(members: Mapping[str, EncodedValue], path: str) -> None:
    """Refuse an object whose JSON text is larger than `MAX_BYTES`.

    Args:
        members: the members of the object.
        path: where it is, as the error names it.

    Raises:
        StateError: it is too large.
    """
    size = sum([len(value.encoded) for value in members.values()])
    if size > MAX_BYTES:
        largest = max(members, key=lambda key: len(members[key].encoded))
        raise too_large(path, size, f"; the largest field is {largest!r}")
