"""Texts as they stand in an index: in ASCII, and not too long for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

_LONGEST_KEY: Final = 200  # An index entry has to fit a third of a page.


def indexed_text(text: str) -> str:
    """Return what stands for a text in an index: JSON in ASCII, or a hash of it if it is long.

    A text column takes neither NUL nor, in every database, all characters, and an index no long ones.
    """
    return _indexed(text)


def indexed_tags(metadata: Mapping[str, str]) -> list[str]:
    """Return metadata as the words that a search looks for."""
    return [_indexed(pair) for pair in metadata.items()]


def _indexed(value: object) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return text if len(text) <= _LONGEST_KEY else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
