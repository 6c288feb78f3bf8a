"""The checkpoints by which an executor begins a run or takes it over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueEntry
from stargraph.engine._plan import Plan
from stargraph.engine._state import Start
from stargraph.engine._transitions import status_of


def first_record(
    plan: Plan,
    start: Start,
    *,
    run_id: str,
    executor_id: str,
    metadata: Mapping[str, str],
    queue: QueueEntry | None = None,
    parent_run_id: str | None = None,
    parent_step: int | None = None,
) -> Checkpoint:
    """Return step 0 of a new run: of one that this process executes, or, with a queue, of one that a worker will.

    Args:
        parent_run_id: the run of whose subgraph this is the child run.
        parent_step: the step of the parent at which it begins.
    """
    return Checkpoint.genesis(
        run_id=run_id,
        graph_id=plan.document.id,
        graph_hash=plan.graph_hash,
        runtime_hash=plan.runtime_hash,
        definition=plan.definition,
        state=start.state,
        update=start.update,
        frontier=plan.first(0),
        executor_id=executor_id,
        timestamp=datetime.now(UTC),
        process=ProcessInfo.current() if queue is None else None,
        status="running" if queue is None else "queued",
        queue=queue,
        parent_run_id=parent_run_id,
        parent_step=parent_step,
        origin=None if parent_run_id is None else "subgraph",
        metadata=metadata,
    )


def resumed_record(plan: Plan, tail: Checkpoint, executor_id: str) -> Checkpoint:
    """Return the checkpoint by which an executor takes a run over; it names the graph and code that go on."""
    is_same = (tail.graph_hash, tail.runtime_hash) == (plan.graph_hash, plan.runtime_hash)
    return tail.next(
        event="resumed",
        status=status_of(tail.frontier, tail.interrupts),
        executor_id=executor_id,
        timestamp=datetime.now(UTC),
        graph_hash=plan.graph_hash,
        runtime_hash=plan.runtime_hash,
        definition=None if is_same else plan.definition,
        changes=None if is_same else plan.state.adopted(tail.encoded_state()),
        process=ProcessInfo.current(),
    )
