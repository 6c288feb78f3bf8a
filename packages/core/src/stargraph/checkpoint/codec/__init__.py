"""The stored form of checkpoints, their seals, and the canonical form that digests are made of."""

from stargraph.checkpoint.codec._seal import KEY_VARIABLE, Keyring
from stargraph.checkpoint.codec._stored import RECORD_VERSION, decode, encode
from stargraph.checkpoint.protocol import DIGEST_FORM, canonical

__all__ = ["DIGEST_FORM", "KEY_VARIABLE", "RECORD_VERSION", "Keyring", "canonical", "decode", "encode"]
