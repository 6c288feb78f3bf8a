"""The stored form of checkpoints, their seals and their encryption, and the canonical form that digests are made of."""

from stargraph.checkpoint.codec._chain import SequenceDecoder
from stargraph.checkpoint.codec._cipher import ENCRYPTION_VARIABLE, KEYS_FROM, Cipher
from stargraph.checkpoint.codec._codec import Codec, Record, decode, encode, missing_base_steps
from stargraph.checkpoint.codec._header import RECORD_VERSION, base_steps_of
from stargraph.checkpoint.codec._seal import KEY_VARIABLE, Keyring
from stargraph.checkpoint.codec._stored import PREFIX_BYTES, RecordCutError, decoded_size
from stargraph.checkpoint.codec._threads import CodecThreads, large_to_decode, large_to_encode, state_size
from stargraph.checkpoint.protocol._digest import DIGEST_FORM
from stargraph.checkpoint.values import canonical

__all__ = [
    "DIGEST_FORM",
    "ENCRYPTION_VARIABLE",
    "KEYS_FROM",
    "KEY_VARIABLE",
    "PREFIX_BYTES",
    "RECORD_VERSION",
    "Cipher",
    "Codec",
    "CodecThreads",
    "Keyring",
    "Record",
    "RecordCutError",
    "SequenceDecoder",
    "base_steps_of",
    "canonical",
    "decode",
    "decoded_size",
    "encode",
    "large_to_decode",
    "large_to_encode",
    "missing_base_steps",
    "state_size",
]
