"""The text of a run's summary, stored beside its log: a list of runs is read from these."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError

from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.errors import CheckpointCorruptedError


class DamagedRun(NamedTuple):
    """A run whose entry cannot be read, and why."""

    run_id: str
    error: str


def summary_json(latest: Checkpoint) -> bytes:
    """Return the JSON text of the summary of a run, from its latest checkpoint."""
    # Made from the fields themselves: a model in between costs six times as much, with each write.
    fields = vars(latest)
    members = {
        "run_id": fields["run_id"],
        "graph_id": fields["graph_id"],
        "graph_hash": fields["graph_hash"],
        "runtime_hash": fields["runtime_hash"],
        "started_at": fields["started_at"],
        "updated_at": fields["timestamp"],
        "last_step": fields["step"],
        "status": fields["status"],
        "parent_run_id": fields["parent_run_id"],
        "origin": fields["origin"],
        "process": fields["process"],
        "error": fields["error"],
        "metadata": fields["metadata"],
    }
    if (due_at := latest.due_at) is not None:
        members["due_at"] = due_at
    if fields["queue"] is not None:
        members["queue"] = fields["queue"]
    return orjson.dumps(members, default=vars)


def summaries_from_json(rows: Sequence[tuple[str, bytes]]) -> list[RunSummary]:
    """Return the summaries of stored texts.

    Args:
        rows: run ids, and for each what `summary_json` returned.

    Raises:
        CheckpointCorruptedError: one of them is not a summary of its run.
    """
    try:
        # All of them at once: that costs a quarter of parsing one after the other.
        summaries = _list_of_summaries().validate_json(b"[" + b",".join([text for _, text in rows]) + b"]")
        if [summary.run_id for summary in summaries] == [run_id for run_id, _ in rows]:
            return summaries
    except (TypeError, ValidationError):  # a damaged table may hold something other than text
        pass
    return [_summary_from_json(run_id, text) for run_id, text in rows]


def readable_summaries(rows: Sequence[tuple[str, bytes]]) -> tuple[list[RunSummary], list[DamagedRun]]:
    """Return the summaries of stored texts as far as they can be read, in their order, and the others.

    Args:
        rows: as `summaries_from_json` takes them.
    """
    try:
        return summaries_from_json(rows), []
    except CheckpointCorruptedError:
        pass
    summaries: list[RunSummary] = []
    damaged: list[DamagedRun] = []
    for run_id, text in rows:
        try:
            summaries.append(_summary_from_json(run_id, text))
        except CheckpointCorruptedError as error:
            damaged.append(DamagedRun(run_id, error.message))
    return summaries, damaged


def _summary_from_json(run_id: str, text: bytes) -> RunSummary:
    try:
        summary = RunSummary.model_validate_json(text)
        if summary.run_id == run_id:
            return summary
    except ValidationError:
        pass
    raise CheckpointCorruptedError(
        f"run {run_id!r}: the stored summary does not belong to this run",
        reason="corrupted-record",
        hint="Checkpoints are not affected: read_latest() reads the run. Restore the store from a backup.",
        run_id=run_id,
    )


@functools.cache
def _list_of_summaries() -> TypeAdapter[list[RunSummary]]:
    return TypeAdapter(list[RunSummary])
