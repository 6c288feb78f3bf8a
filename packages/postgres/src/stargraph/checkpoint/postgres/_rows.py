"""How values look in the columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

DELETED: Final = "deleted"
"""The status of a row that only says that its run is gone."""

SUMMARY_COLUMNS: Final = "run_id, summary"

_LONGEST_TAG: Final = 200  # An index entry has to fit a third of a page.


def text_of(value: object) -> str:
    """Return a value as JSON in ASCII: a text column takes neither NUL nor, in every database, all characters."""
    return json.dumps(value, separators=(",", ":"))


def tags_of(metadata: Mapping[str, str]) -> list[str]:
    """Return metadata as the words that a search looks for.

    Args:
        metadata: tags and their values.
    """
    words = (text_of(pair) for pair in metadata.items())
    return [w if len(w) <= _LONGEST_TAG else f"sha256:{hashlib.sha256(w.encode()).hexdigest()}" for w in words]
