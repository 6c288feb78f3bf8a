"""What a run looks like from outside: its summary, pages of them, and what a prune removed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NamedTuple, Self

from pydantic import AwareDatetime, Field, PlainSerializer, StringConstraints

from stargraph.checkpoint.protocol._checkpoint import Checkpoint
from stargraph.checkpoint.protocol._records import (
    RUN_ID_PATTERN,
    ErrorInfo,
    FrozenModel,
    Hash,
    Origin,
    ProcessInfo,
    QueueEntry,
    Status,
    Step,
)
from stargraph.checkpoint.values import format_time
from stargraph.errors import NodeError

# What `RunId` and `Instant` check in Python, pydantic checks here itself: a list has a hundred of these.
_Name = Annotated[str, StringConstraints(pattern=f"^{RUN_ID_PATTERN}$")]
_Moment = Annotated[AwareDatetime, PlainSerializer(format_time, return_type=str, when_used="json")]


class RunSummary(FrozenModel):
    """What a run looks like now.

    Attributes:
        run_id: the run.
        graph_id: the id of its graph.
        graph_hash: the fingerprint of its graph.
        runtime_hash: the fingerprint of the code of its nodes.
        started_at: when step 0 was stored: it started, or was enqueued.
        updated_at: when its last step was recorded.
        last_step: the highest step.
        status: its status now.
        parent_run_id: the run that it came from.
        origin: why it has a parent.
        process: the process that started or resumed it last; None if the program did not record it, or no process
            has the run.
        error: what failed, or None.
        due_at: when a run that waits for a time can go on, or a queued one may begin; None if it waits for no time.
        queue: how it waits for a worker; None if it was not enqueued.
        metadata: its tags.
    """

    run_id: _Name
    graph_id: str
    graph_hash: Hash
    runtime_hash: Hash
    started_at: _Moment
    updated_at: _Moment
    last_step: Step
    status: Status
    parent_run_id: _Name | None = None
    origin: Origin | None = None
    process: ProcessInfo | None = None
    error: ErrorInfo | None = None
    due_at: _Moment | None = None
    queue: QueueEntry | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def from_checkpoint(cls, latest: Checkpoint) -> RunSummary:
        """Return the summary of a run from its latest checkpoint."""
        return cls.model_construct(
            run_id=latest.run_id,
            graph_id=latest.graph_id,
            graph_hash=latest.graph_hash,
            runtime_hash=latest.runtime_hash,
            started_at=latest.started_at,
            updated_at=latest.timestamp,
            last_step=latest.step,
            status=latest.status,
            parent_run_id=latest.parent_run_id,
            origin=latest.origin,
            process=latest.process,
            error=latest.error,
            due_at=latest.due_at,
            queue=latest.queue,
            metadata=dict(latest.metadata),
        )

    @property
    def last_step_at(self) -> datetime:
        """When the last step was recorded; the same as `updated_at`."""
        return self.updated_at

    def raise_for_status(self) -> Self:
        """Return this summary, or raise if the run failed, was cancelled, or was moved to another store.

        Raises:
            NodeError: it did; with the message of the recorded error.
        """
        if self.status == "failed":
            error = self.error
            what = f"{error.type}: {error.message}" if error else "no error was recorded"
            at = f" at node {error.node!r}" if error and error.node else ""
            raise NodeError(
                f"run {self.run_id!r} failed{at}: {what}",
                reason=(error.reason if error else None) or "run-failed",
                node=error.node if error else None,
                run_id=self.run_id,
            )
        if self.status == "cancelled":
            raise NodeError(f"run {self.run_id!r} was cancelled", reason="run-cancelled", run_id=self.run_id)
        if self.status == "moved":
            raise NodeError(
                f"run {self.run_id!r} was moved to another store",
                reason="run-moved",
                hint="Open it there.",
                run_id=self.run_id,
            )
        return self


class RunPage(FrozenModel):
    """One page of a search.

    Attributes:
        items: the runs.
        next_cursor: the `cursor` of the next page; None on the last one.
    """

    items: tuple[RunSummary, ...]
    next_cursor: str | None = None


class StepKey(NamedTuple):
    """A key of a run, and the highest step that has it."""

    key: str
    step: int


class PruneReport(FrozenModel):
    """What a prune removed, or would remove.

    Attributes:
        runs: the number of runs that lost checkpoints.
        checkpoints: the number of removed checkpoints.
        dry_run: nothing was removed; these are the numbers that would be.
    """

    runs: int
    checkpoints: int
    dry_run: bool
