"""Seals: with a key, every record proves who wrote it."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from typing import Final

from stargraph.checkpoint.codec._keys import checked_keys, parse_keys
from stargraph.checkpoint.protocol import Checkpoint, Seal
from stargraph.errors import CheckpointCorruptedError

KEY_VARIABLE: Final = "STARGRAPH_INTEGRITY_KEY"
"""The environment variable that holds the keys, as `Keyring.parse` reads them."""


class Keyring:
    """The keys that seal and check records.

    Args:
        keys: the secrets by their key ids; the first one seals, all of them check.
        allow_unsealed: accept records without a seal too, while a store is moved to sealed records.
    """

    def __init__(self, keys: Mapping[str, bytes], *, allow_unsealed: bool = False) -> None:
        self._keys = checked_keys(keys)
        self._current = next(iter(keys))
        self._allow_unsealed = allow_unsealed

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
        """Return the keys of `STARGRAPH_INTEGRITY_KEY`, or None where it is not set.

        `STARGRAPH_INTEGRITY_ALLOW_UNSEALED=1` accepts records without a seal too.

        Raises:
            ValueError: a key is too short.
        """
        text = os.environ.get(KEY_VARIABLE)
        if not text:
            return None
        return cls.parse(text, allow_unsealed=os.environ.get("STARGRAPH_INTEGRITY_ALLOW_UNSEALED") == "1")

    def seal(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint, sealed with the current key.

        Args:
            checkpoint: what will be written.
        """
        return checkpoint.sealed(Seal(key_id=self._current, mac=self._mac(self._current, checkpoint.digest)))

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuse a record that no key of this ring sealed.

        Args:
            checkpoint: what was read.

        Raises:
            CheckpointCorruptedError: `reason` is `unsealed`, `unknown-key` or `wrong-seal`.
        """
        seal = checkpoint.seal
        if seal is None:
            if not self._allow_unsealed:
                raise self._refused(checkpoint, "unsealed", "it has no seal")
        elif seal.key_id not in self._keys:
            raise self._refused(
                checkpoint, "unknown-key", f"it is sealed with the key {seal.key_id!r}, which is not here"
            )
        elif not hmac.compare_digest(seal.mac, self._mac(seal.key_id, checkpoint.digest)):
            raise self._refused(checkpoint, "wrong-seal", "its seal does not fit")

    def _mac(self, key_id: str, digest: str) -> str:
        return hmac.digest(self._keys[key_id], bytes.fromhex(digest), "sha256").hex()

    @staticmethod
    def _refused(checkpoint: Checkpoint, reason: str, complaint: str) -> CheckpointCorruptedError:
        return CheckpointCorruptedError(
            f"run {checkpoint.run_id!r}, step {checkpoint.step}: {complaint}",
            reason=reason,
            hint=f"Check {KEY_VARIABLE}; for a store from before seals, set STARGRAPH_INTEGRITY_ALLOW_UNSEALED=1.",
            run_id=checkpoint.run_id,
            step=checkpoint.step,
        )
