"""What a run looks like from outside: its summary, pages of them, and what a prune removed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self

import orjson
from pydantic import AwareDatetime, Field, PlainSerializer, StringConstraints, TypeAdapter, ValidationError

from stargraph.checkpoint.protocol._digest import format_time
from stargraph.checkpoint.protocol._models import Checkpoint
from stargraph.checkpoint.protocol._records import RUN_ID_PATTERN, ErrorInfo, Hash, Origin, Record, Status, Step
from stargraph.errors import CheckpointCorruptedError, NodeError

# What `RunId` and `Instant` check in Python, pydantic checks here itself: a list has a hundred of these.
_Name = Annotated[str, StringConstraints(pattern=f"^{RUN_ID_PATTERN}$")]
_Moment = Annotated[AwareDatetime, PlainSerializer(format_time, return_type=str, when_used="json")]


class RunSummary(Record):
    """Where a run stands.

    Attributes:
        run_id: the run.
        graph_id: the id of its graph.
        graph_hash: the fingerprint of its graph.
        started_at: when it started.
        updated_at: when its last step was recorded.
        last_step: the highest step.
        status: where it stands.
        parent_run_id: the run that it came from.
        origin: why it has a parent.
        error: what failed, when it did.
        metadata: its tags.
    """

    run_id: _Name
    graph_id: str
    graph_hash: Hash
    started_at: _Moment
    updated_at: _Moment
    last_step: Step
    status: Status
    parent_run_id: _Name | None = None
    origin: Origin | None = None
    error: ErrorInfo | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def from_checkpoint(cls, latest: Checkpoint) -> RunSummary:
        """Return the summary that a run's latest checkpoint makes.

        Args:
            latest: the checkpoint with the highest step.
        """
        return cls.model_construct(
            run_id=latest.run_id,
            graph_id=latest.graph_id,
            graph_hash=latest.graph_hash,
            started_at=latest.started_at,
            updated_at=latest.timestamp,
            last_step=latest.step,
            status=latest.status,
            parent_run_id=latest.parent_run_id,
            origin=latest.origin,
            error=latest.error,
            metadata=dict(latest.metadata),
        )

    @property
    def last_step_at(self) -> datetime:
        """When the last step was recorded; the same as `updated_at`."""
        return self.updated_at

    def raise_for_status(self) -> Self:
        """Return this summary, unless the run failed or was cancelled.

        Raises:
            NodeError: it did; the message is that of the recorded error.
        """
        if self.status == "failed":
            error = self.error
            told = f"{error.type}: {error.message}" if error else "no error was recorded"
            at = f" at node {error.node!r}" if error and error.node else ""
            raise NodeError(
                f"run {self.run_id!r} failed{at}: {told}",
                reason=(error.reason if error else None) or "run-failed",
                node=error.node if error else None,
                run_id=self.run_id,
            )
        if self.status == "cancelled":
            raise NodeError(f"run {self.run_id!r} was cancelled", reason="run-cancelled", run_id=self.run_id)
        return self


def summary_json(latest: Checkpoint) -> bytes:
    """Return the JSON text of the summary that a run's latest checkpoint makes.

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


def summaries_from_json(rows: Sequence[tuple[str, bytes]]) -> list[RunSummary]:
    """Return the summaries of stored texts.

    Args:
        rows: run ids, and for each what `summary_json` returned.

    Raises:
        CheckpointCorruptedError: one of them is not a summary of its run.
    """
    try:
        # All of them at once, which costs a quarter of one after the other.
        summaries = _list_of_summaries().validate_json(b"[" + b",".join([text for _, text in rows]) + b"]")
        if [summary.run_id for summary in summaries] == [run_id for run_id, _ in rows]:
            return summaries
    except (TypeError, ValidationError):  # a damaged table may hold what is no text
        pass
    return [_summary_from_json(run_id, text) for run_id, text in rows]


def _summary_from_json(run_id: str, text: bytes) -> RunSummary:
    try:
        summary = RunSummary.model_validate_json(text)
        if summary.run_id == run_id:
            return summary
    except ValidationError:
        pass
    raise CheckpointCorruptedError(
        f"run {run_id!r}: the stored summary is not one of this run",
        reason="corrupted-record",
        hint="The checkpoints are not concerned: read_latest() reads the run. Restore the store from a backup.",
        run_id=run_id,
    )


@functools.cache
def _list_of_summaries() -> TypeAdapter[list[RunSummary]]:
    return TypeAdapter(list[RunSummary])


class RunPage(Record):
    """One page of a search.

    Attributes:
        items: the runs.
        next_cursor: give it to get the next page; None after the last one.
    """

    items: tuple[RunSummary, ...]
    next_cursor: str | None = None


class PruneReport(Record):
    """What a prune removed, or would remove.

    Attributes:
        runs: the number of runs that lost checkpoints.
        checkpoints: the number of checkpoints that went.
        dry_run: nothing was removed; this is what would be.
    """

    runs: int
    checkpoints: int
    dry_run: bool
