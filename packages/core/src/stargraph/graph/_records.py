"""The checkpoints that begin, resume and give up a run, and the event that listeners get of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from stargraph.checkpoint.protocol import Checkpoint, ProcessInfo, QueueEntry
from stargraph.engine import Plan, RunLog, Start, StoppedElsewhere, error_info, status_of, tasks_of
from stargraph.errors import CheckpointError, NodeError
from stargraph.graph._resume_checks import refuse_ended

POISON: Final = "poison"
"""The reason of a run that has ended too many processes."""


def first_record(
    plan: Plan,
    start: Start,
    *,
    run_id: str,
    executor_id: str,
    metadata: Mapping[str, str],
    queue: QueueEntry | None = None,
) -> Checkpoint:
    """Return step 0 of a new run: of one that this process executes, or, with a queue, of one that a worker will."""
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
        metadata=metadata,
    )


def new_run_id() -> str:
    """Return an id for a run that was given none; later ones are greater."""
    from uuid_utils import uuid7

    return str(uuid7())


async def append_resumed(plan: Plan, log: RunLog, executor_id: str) -> tuple[Checkpoint, list[Checkpoint]]:
    """Append `resumed`; return it with the control events that others have appended just before it."""
    met: list[Checkpoint] = []
    log.on_foreign_event = met.append
    try:
        resumed, _ = await log.append(lambda tail: _resumed_record(plan, tail, executor_id))
    except StoppedElsewhere:
        refuse_ended(log.tail)
        raise
    return resumed, met


def crash_loop_record(tail: Checkpoint, executor_id: str, resumes: int) -> Checkpoint:
    """Return the checkpoint that fails a run whose executors have died one after the other."""
    error = CheckpointError(
        f"run {tail.run_id!r} was resumed {resumes} times in a row and recorded nothing new",
        reason="crash-loop",
        hint="Find out what kills the process in this node, then resume with a larger max_resumes.",
        run_id=tail.run_id,
    )
    return failed_record(tail, executor_id, error)


def poison_record(tail: Checkpoint, executor_id: str, what: str) -> Checkpoint:
    """Return the checkpoint that fails a run which has ended too many processes; it names the nodes in flight.

    Args:
        tail: the latest checkpoint.
        executor_id: names who fails it.
        what: what has happened, without a full stop.
    """
    nodes = sorted({task.node for task in tasks_of(tail.frontier)})
    error = NodeError(
        f"{what}; in flight: {', '.join(map(repr, nodes))}",
        reason=POISON,
        hint="Find out what ends the process there: memory, a signal, os._exit. Then requeue the run.",
        run_id=tail.run_id,
    )
    return failed_record(tail, executor_id, error, nodes[0] if len(nodes) == 1 else None)


def failed_record(tail: Checkpoint, executor_id: str, error: BaseException, node: str | None = None) -> Checkpoint:
    """Return the checkpoint that fails a run for what none of its nodes has raised.

    Args:
        tail: the latest checkpoint.
        executor_id: names who fails it.
        error: why.
        node: the node that was running.
    """
    return tail.next(
        event="failed",
        status="failed",
        executor_id=executor_id,
        timestamp=datetime.now(UTC),
        last_node=node,
        error=error_info(error, node=node),
    )


def _resumed_record(plan: Plan, tail: Checkpoint, executor_id: str) -> Checkpoint:
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
