"""The values that checkpoints hold: JSON, its text, its canonical bytes, and values that are encoded once."""

from stargraph.checkpoint.values._encoded import EncodedValue, join_encoded
from stargraph.checkpoint.values._json import (
    MAX_BYTES,
    MAX_DEPTH,
    JsonValue,
    canonical,
    check_json,
    copy_json,
    is_json,
    own_json,
    path_part,
    trimmed,
)
from stargraph.checkpoint.values._times import format_time

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "EncodedValue",
    "JsonValue",
    "canonical",
    "check_json",
    "copy_json",
    "format_time",
    "is_json",
    "join_encoded",
    "own_json",
    "path_part",
    "trimmed",
]
