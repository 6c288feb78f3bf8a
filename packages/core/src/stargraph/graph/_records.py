"""The checkpoints that take a run over and give it up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.engine import Plan, RunLog, StoppedElsewhere, error_info, resumed_record, tasks_of
from stargraph.errors import CheckpointError, NodeError
from stargraph.graph._resume_checks import refuse_ended

POISON: Final = "poison"
"""The reason of a run that has ended too many processes."""


def new_run_id() -> str:
    """Return an id for a run that was given none; later ones are greater."""
    from uuid_utils import uuid7

    return str(uuid7())


async def append_resumed(plan: Plan, log: RunLog, executor_id: str) -> tuple[Checkpoint, list[Checkpoint]]:
    """Append `resumed`; return it with the control events that others have appended just before it."""
    met: list[Checkpoint] = []
    log.on_foreign_event = met.append
    try:
        resumed, _ = await log.append(lambda tail: resumed_record(plan, tail, executor_id))
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
