"""How runs and summaries are written as rows, and read from them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg
import orjson
from pydantic import TypeAdapter, ValidationError

from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.errors import CheckpointCorruptedError

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


def summary_of(latest: Checkpoint) -> bytes:
    """Return the summary of a run as its column holds it: the JSON text of `RunSummary.from_checkpoint`.

    Args:
        latest: the checkpoint with the highest step.
    """
    # Made from the fields themselves: a model in between costs six times as much, with each write.
    return orjson.dumps(
        {
            "run_id": latest.run_id,
            "graph_id": latest.graph_id,
            "graph_hash": latest.graph_hash,
            "started_at": latest.started_at,
            "updated_at": latest.timestamp,
            "last_step": latest.step,
            "status": latest.status,
            "parent_run_id": latest.parent_run_id,
            "origin": latest.origin,
            "error": latest.error,
            "metadata": latest.metadata,
        },
        default=vars,
    )


def summaries_from(rows: Sequence[asyncpg.Record]) -> list[RunSummary]:
    """Return the summaries that rows of `SUMMARY_COLUMNS` hold.

    Args:
        rows: the rows.

    Raises:
        CheckpointCorruptedError: one of them is not a summary.
    """
    texts = [row["summary"] or b"null" for row in rows]
    try:
        # All of them at once, which costs a quarter of one after the other.
        return _list_of_summaries().validate_json(b"[" + b",".join(texts) + b"]")
    except ValidationError:
        for row, text in zip(rows, texts, strict=True):
            _check_summary(row["run_id"], text)
        raise


def _check_summary(run_id: str, text: bytes) -> None:
    try:
        RunSummary.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointCorruptedError(
            f"run {run_id!r}: the stored summary cannot be read",
            reason="corrupted-record",
            hint="The checkpoints are not concerned: read_latest() reads the run. Restore the store from a backup.",
            run_id=run_id,
        ) from error


@functools.cache
def _list_of_summaries() -> TypeAdapter[list[RunSummary]]:
    return TypeAdapter(list[RunSummary])
