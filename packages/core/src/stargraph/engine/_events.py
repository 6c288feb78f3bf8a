"""What a run tells whoever listens."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from stargraph.checkpoint.protocol import Event

EventType: TypeAlias = Literal["node_started"] | Event
"""The event of a checkpoint, or `node_started`, which is not recorded."""


class RunEvent(BaseModel):
    """One thing that happened in a run.

    Attributes:
        type: what happened.
        run_id: the run.
        step: the step of the checkpoint; of `node_started`, the step whose state the node was given.
        task_id: the task, if it concerns one.
        node: the node, if it concerns one.
        timestamp: when.
        durable: whether the checkpoint survives the loss of the process already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    type: EventType
    run_id: str
    step: int
    task_id: str | None = None
    node: str | None = None
    timestamp: datetime
    durable: bool
