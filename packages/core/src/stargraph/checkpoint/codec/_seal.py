"""Seals: with a key, every record proves who wrote it."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from typing import Final

from stargraph.checkpoint.codec._keys import checked_keys, parse_keys
from stargraph.checkpoint.protocol import Checkpoint, Seal
from stargraph.errors import CheckpointCorruptedError
from stargraph.errors._arguments import check_flags

KEY_VARIABLE: Final = "STARGRAPH_INTEGRITY_KEY"
"""The environment variable that holds the keys, as `Keyring.parse` reads them."""


class Keyring:
    """The keys that seal and check records.

    Args:
        keys: the secrets by their key ids; the first one seals, all of them check.
        allow_unsealed: accept records without a seal too, while a store is moved to sealed records.
    """

    def __init__(self, keys: Mapping[str, bytes], *, allow_unsealed: bool = False) -> None:
        check_flags(allow_unsealed=allow_unsealed)
        self._keys = checked_keys(keys)
        self._current = next(iter(keys))
        self._allow_unsealed = allow_unsealed
        self._is_from_environment = False

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys)})"

    @classmethod
    def parse(cls, text: str, *, allow_unsealed: bool = False) -> Keyring:
        """Read keys written as `key_id:secret`, several of them separated by commas, the current one first.

        Args:
            text: the keys; a secret alone gets a key id made from its fingerprint.
            allow_unsealed: accept records without a seal too.

        Raises:
            ValueError: a key is too short, a key id is empty, not printable or given twice, or there is no key.
        """
        return cls(parse_keys(text), allow_unsealed=allow_unsealed)

    @classmethod
    def from_environment(cls) -> Keyring | None:
        """Return the keys of `STARGRAPH_INTEGRITY_KEY`, or None if it is not set.

        `STARGRAPH_INTEGRITY_ALLOW_UNSEALED=1` accepts records without a seal too.

        Raises:
            ValueError: it is set but empty, or a key is too short.
        """
        text = os.environ.get(KEY_VARIABLE)
        if text is None:
            return None
        if not text.strip():
            raise ValueError("the variable is set, but empty; unset it to store runs without seals")
        keyring = cls.parse(text, allow_unsealed=os.environ.get("STARGRAPH_INTEGRITY_ALLOW_UNSEALED") == "1")
        keyring._is_from_environment = True
        return keyring

    @property
    def source(self) -> str:
        """Where the keys come from, in the words of a hint."""
        return KEY_VARIABLE if self._is_from_environment else "the Keyring that this program gave as integrity_key"

    def seal(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint, sealed with the current key.

        Args:
            checkpoint: what will be written.
        """
        return checkpoint.sealed(self.sign(checkpoint.digest))

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuse a record that no key of this ring sealed.

        Args:
            checkpoint: what was read.

        Raises:
            CheckpointCorruptedError: `reason` is `unsealed`, `unknown-key` or `wrong-seal`.
        """
        refusal = self.refusal(checkpoint.seal, checkpoint.digest)
        if refusal is not None:
            raise self._refused(checkpoint, *refusal)

    def sign(self, digest: str) -> Seal:
        """Return the seal of a digest, made with the current key.

        Args:
            digest: SHA-256, in hex.
        """
        return Seal(key_id=self._current, mac=self._mac(self._current, digest))

    def refusal(self, seal: Seal | None, digest: str) -> tuple[str, str] | None:
        """Return why a seal is refused, as a `reason` and in words; None if it is accepted.

        Args:
            seal: what was found.
            digest: what it is to be the seal of, in hex.
        """
        if seal is None:
            return None if self._allow_unsealed else ("unsealed", "it has no seal")
        if seal.key_id not in self._keys:
            return "unknown-key", f"it is sealed with the key {seal.key_id!r}, which is not here"
        if not hmac.compare_digest(seal.mac, self._mac(seal.key_id, digest)):
            return "wrong-seal", "its seal does not fit"
        return None

    def _mac(self, key_id: str, digest: str) -> str:
        return hmac.digest(self._keys[key_id], bytes.fromhex(digest), "sha256").hex()

    def _refused(self, checkpoint: Checkpoint, reason: str, complaint: str) -> CheckpointCorruptedError:
        by_variable = self._is_from_environment
        allow = "set STARGRAPH_INTEGRITY_ALLOW_UNSEALED=1" if by_variable else "make it with allow_unsealed=True"
        return CheckpointCorruptedError(
            f"run {checkpoint.run_id!r}, step {checkpoint.step}: {complaint}",
            reason=reason,
            hint=f"Check {self.source}; for a store from before seals, {allow}.",
            run_id=checkpoint.run_id,
            step=checkpoint.step,
        )
