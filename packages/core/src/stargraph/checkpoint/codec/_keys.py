"""Keys as people write them: named secrets in one line of text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from stargraph.errors._arguments import check_type

SHORTEST_SECRET: Final = 16
"""Bytes of a secret at least."""


def parse_keys(text: str) -> dict[str, bytes]:
    """Read keys written as `key_id:secret`, several of them separated by commas.

    Args:
        text: the keys; a secret alone gets a key id made from its fingerprint.

    Raises:
        ValueError: a key is too short or stands in quotes, a key id is empty, not printable or given twice, or there is
            no key.
    """
    check_type(text, "text", str, "keys as text, as in key_id:secret")
    keys: dict[str, bytes] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part[0] in "'\"":  # docker --env-file keeps them, and a shell does not
            raise ValueError("a key stands in quotes, which would be a part of it")
        key_id, colon, secret = part.partition(":")
        # Bytes of the environment that are not UTF-8 arrive as surrogates, and an encoding error would quote them.
        secret_bytes = (secret if colon else part).encode("utf-8", "surrogateescape")
        if not colon:
            key_id = hashlib.sha256(b"stargraph key id" + secret_bytes).hexdigest()[:8]
        if not key_id or not key_id.isprintable() or key_id in keys:
            raise ValueError("a key id is empty, not printable, or given twice")
        keys[key_id] = secret_bytes
    return checked_keys(keys)


def checked_keys(keys: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return keys that can be used.

    Args:
        keys: secrets by their key ids.

    Raises:
        TypeError: they are no dict from text to bytes.
        ValueError: there is none, or one is too short.
    """
    check_type(keys, "keys", Mapping, "a dict of secrets by their key ids; parse(…) reads the text of keys")
    for key_id, secret in keys.items():
        check_type(key_id, "a key id", str, "text")
        check_type(secret, "a secret", (bytes, bytearray), "bytes")
    if not keys:
        raise ValueError("a keyring holds at least one key")
    weak = [number for number, secret in enumerate(keys.values(), 1) if len(secret) < SHORTEST_SECRET]
    if weak:
        # Not by its id: of a key that is written the wrong way round, that is the secret.
        raise ValueError(f"the secret of key {weak[0]} is shorter than {SHORTEST_SECRET} bytes")
    return dict(keys)
