"""How runs and summaries are written as rows, and read from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC
from typing import Final

import asyncpg

from stargraph.checkpoint.protocol import Checkpoint, RunSummary

DELETED: Final = "deleted"
"""The status of a row that only says that its run is gone."""

SUMMARY_COLUMNS: Final = (
    "run_id, graph_id, graph_hash, started_at, updated_at, last_step, status, parent_run_id, origin, error, metadata"
)

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


def error_text(checkpoint: Checkpoint) -> str | None:
    """Return the error of a checkpoint as its column holds it."""
    return None if checkpoint.error is None else text_of(checkpoint.error.model_dump(mode="json"))


def summary_from(row: asyncpg.Record) -> RunSummary:
    """Return the summary that a row of `SUMMARY_COLUMNS` holds.

    Args:
        row: the row.
    """
    values = dict(row)
    for name in ("started_at", "updated_at"):
        # asyncpg takes the first and the last instant of the calendar for infinite, which have no offset.
        if values[name].tzinfo is None:
            values[name] = values[name].replace(tzinfo=UTC)
    for name in ("graph_id", "metadata", "error"):
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return RunSummary.model_validate(values)
