"""Encryption at rest: the last thing that is done to a record, and the first that is undone."""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from stargraph.checkpoint.codec._keys import checked_keys, parse_keys
from stargraph.errors import CheckpointCorruptedError, CheckpointError
from stargraph.errors._arguments import check_flags

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ENCRYPTION_VARIABLE: Final = "STARGRAPH_ENCRYPTION_KEY"
"""The environment variable that holds the keys, as `Cipher.parse` reads them."""

KEYS_FROM: Final = ContextVar("keys_from", default=ENCRYPTION_VARIABLE)
"""What the user wrote the keys into that are in the environment now; errors name it."""

_ALLOW_PLAIN: Final = "STARGRAPH_ENCRYPTION_ALLOW_PLAIN"

_NONCE: Final = 12


class Cipher:
    """The keys that encrypt records, with AES-256-GCM.

    Each run is encrypted with a key of its own, derived from the key and the run id by HMAC-SHA256, so that the random
    nonces of one key never become too many. A record is bound to its run, its step and the steps that it is
    decoded from: moved elsewhere it is refused.

    The last key also makes the keyed fingerprints that stand for digests outside of records. To change keys, put the
    new one first and leave the others where they are.

    Args:
        keys: the secrets by their key ids, each from 16 random bytes or more; the first one encrypts, all of them
            decrypt.
        allow_plain: read records that are not encrypted too, while a store is moved to encryption.

    Raises:
        ValueError: there is no key, or one is too short.
        CheckpointError: the package `cryptography` is not installed (`reason="no-cryptography"`).
    """

    def __init__(self, keys: Mapping[str, bytes], *, allow_plain: bool = False) -> None:
        check_flags(allow_plain=allow_plain)
        _aesgcm()
        self._keys = checked_keys(keys)
        if any(len(key_id.encode()) > 255 for key_id in keys):
            raise ValueError("a key id is longer than 255 bytes")
        self._current = next(iter(self._keys))
        self._fingerprint_key = hmac.digest(list(self._keys.values())[-1], b"stargraph fingerprint", "sha256")
        self._for_run = lru_cache(maxsize=1024)(self._make_for_run)
        self._source: str | None = None
        self.allow_plain = allow_plain

    def __repr__(self) -> str:
        return f"Cipher({', '.join(self._keys)})"

    @classmethod
    def parse(cls, text: str, *, allow_plain: bool = False) -> Cipher:
        """Read keys written as `key_id:secret`, several of them separated by commas, the current one first.

        Args:
            text: the keys; a secret alone gets a key id made from its fingerprint.
            allow_plain: read records that are not encrypted too.

        Raises:
            ValueError: a key is too short, a key id is empty, not printable or given twice, or there is no key.
        """
        return cls(parse_keys(text), allow_plain=allow_plain)

    @classmethod
    def from_environment(cls) -> Cipher | None:
        """Return the keys of `STARGRAPH_ENCRYPTION_KEY`, or None if it is not set.

        A variable that is set but empty is an error: it was set in order to encrypt.
        `STARGRAPH_ENCRYPTION_ALLOW_PLAIN=1` reads records that are not encrypted too.

        Raises:
            CheckpointError: the keys cannot be used (`reason="invalid-encryption-key"`).
        """
        text, source = os.environ.get(ENCRYPTION_VARIABLE), KEYS_FROM.get()
        if text is None:
            return None
        if not text.strip():
            raise CheckpointError(
                f"{source} is set, but empty",
                reason="invalid-encryption-key",
                hint="Set it to key_id:secret, or leave it out to store runs readable.",
            )
        try:
            cipher = cls.parse(text, allow_plain=os.environ.get(_ALLOW_PLAIN) == "1")
        except ValueError as error:
            raise CheckpointError(
                f"{source}: {error}",
                reason="invalid-encryption-key",
                hint="Write key_id:secret, the secret of 16 random bytes or more, as `openssl rand -base64 32` makes.",
            ) from None
        cipher._source = source
        return cipher

    def encrypt(self, body: bytes, *, run_id: str, step: int, header: bytes) -> bytes:
        """Return what is stored instead of a body: key id, nonce, ciphertext.

        Args:
            header: the bytes before the body, which name the records that it is decoded from.
        """
        key_id = self._current.encode()
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._for_run(self._current, run_id).encrypt(nonce, body, _bound_to(run_id, step, header))
        return b"".join((bytes((len(key_id),)), key_id, nonce, sealed))

    def decrypt(self, stored: bytes, *, run_id: str, step: int, header: bytes) -> bytes:
        """Return the body that `encrypt` was given.

        Args:
            stored: what it returned.
            header: the bytes before it.

        Raises:
            CheckpointCorruptedError: it was encrypted with a key that is not here
                (`reason="unknown-encryption-key"`), or it is not what was stored in this place, or the key has
                another secret (`reason="undecipherable"`).
        """
        from cryptography.exceptions import InvalidTag

        end = 1 + (stored[0] if stored else 0)
        key_id = stored[1:end].decode("utf-8", "replace")
        if key_id not in self._keys:
            what = f"it is encrypted with the key {key_id!r:.40}, which is not here"
            raise _unreadable(run_id, step, "unknown-encryption-key", what, self._hint)
        nonce, sealed = stored[end : end + _NONCE], stored[end + _NONCE :]
        try:
            return self._for_run(key_id, run_id).decrypt(nonce, sealed, _bound_to(run_id, step, header))
        except (InvalidTag, ValueError):
            what = f"it was altered or moved, or the key {key_id!r:.40} has another secret"
            raise _unreadable(run_id, step, "undecipherable", what, self._hint) from None

    def fingerprint(self, digest: bytes) -> bytes:
        """Return what stands for a digest outside of records: equal for equal digests, and telling nothing else."""
        return hmac.digest(self._fingerprint_key, digest, "sha256")

    @property
    def _hint(self) -> str:
        source = "the Cipher that this program gave to the store" if self._source is None else self._source
        return f"Check {source}: it must hold the key that the record was written with."

    def not_encrypted(self, run_id: str, step: int) -> CheckpointCorruptedError:
        """Return the error of a plain record in a store that is read with these keys."""
        allow = "make the Cipher with allow_plain=True" if self._source is None else f"set {_ALLOW_PLAIN}=1"
        return CheckpointCorruptedError(
            f"run {run_id!r}, step {step}: the record is not encrypted",
            reason="not-encrypted",
            hint=f"Somebody wrote it without the keys. For a store from before encryption, {allow}.",
            run_id=run_id,
            step=step,
        )

    def _make_for_run(self, key_id: str, run_id: str) -> AESGCM:
        return _aesgcm()(hmac.digest(self._keys[key_id], b"stargraph record\n" + run_id.encode(), "sha256"))


def no_keys(run_id: str, step: int) -> CheckpointCorruptedError:
    """Return the error of an encrypted record in a store that is read without keys."""
    hint = (
        f"Give the key that it was written with: in {ENCRYPTION_VARIABLE}, in the file of --encryption-keys, as"
        " encryption_keys of open_checkpointer, or as encryption of the driver."
    )
    return _unreadable(run_id, step, "no-encryption-key", "it is encrypted, and no key was given", hint)


def _bound_to(run_id: str, step: int, header: bytes) -> bytes:
    return b"%b\n%d\n%b" % (run_id.encode(), step, header)


def _unreadable(run_id: str, step: int, reason: str, complaint: str, hint: str) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the stored record cannot be decrypted: {complaint}",
        reason=reason,
        hint=hint,
        run_id=run_id,
        step=step,
    )


def _aesgcm() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise CheckpointError(
            "encryption needs the package `cryptography`, which is not installed",
            reason="no-cryptography",
            hint="pip install 'stargraph-core[encryption]'",
        ) from None
    return AESGCM
