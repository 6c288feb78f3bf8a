"""The fields of a checkpoint, as pydantic validates those that come from outside or are not plain."""

from __future__ import annotations

from pydantic import Field

from stargraph.checkpoint.protocol._records import (
    ErrorInfo,
    Event,
    ExecutorId,
    FrontierItem,
    FrozenModel,
    Hash,
    Instant,
    Interrupt,
    Json,
    Key,
    Members,
    Origin,
    ProcessInfo,
    QueueEntry,
    RecordedCall,
    RunId,
    Seal,
    Status,
    Step,
    Text,
)


class CheckpointDraft(FrozenModel):
    """The fields of a checkpoint before it has a digest."""

    run_id: RunId
    step: Step
    event: Event
    status: Status
    graph_id: Text
    graph_hash: Hash
    runtime_hash: Hash
    definition: Json = None
    state: Members
    last_node: Text | None = None
    task_id: Text | None = None
    task_started_at: Instant | None = None
    key: Key | None = None
    update: Members | None = None
    frontier: tuple[FrontierItem, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    calls: tuple[RecordedCall, ...] = ()
    error: ErrorInfo | None = None
    started_at: Instant
    timestamp: Instant
    executor_id: ExecutorId
    process: ProcessInfo | None = None
    queue: QueueEntry | None = None
    parent_run_id: RunId | None = None
    parent_step: Step | None = None
    origin: Origin | None = None
    metadata: dict[Text, Text] = Field(default_factory=dict)
    previous_digest: Hash | None = None


class StoredFields(CheckpointDraft):
    """The fields of a record that is read from a store."""

    digest: Hash
    seal: Seal | None = None
