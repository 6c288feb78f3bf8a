"""What is checked before a stored run is taken up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.engine import ForkOverrides, Plan, look_policy, reachable_code, runtime_changes
from stargraph.engine._migration import check_frontier, children_migrate, migrated, migration_for
from stargraph.errors import CheckpointConflictError, CheckpointError, HashMismatchError, StateError
from stargraph.ir import definition_changes

ReadStep: TypeAlias = Callable[[int], Awaitable[Checkpoint | None]]

Accept: TypeAlias = Literal["runtime", "graph"]
"""A change that a resume accepts: of the code of the nodes, or of the graph."""

_MIGRATE: Final = "carry the run over with a migrate block (in Python GraphBuilder.migrate)"
_LONGEST_SLEEP: Final = 300.0
_PRUNED: Final = ("the steps that recorded what it was like have been pruned",)


async def check_done(plan: Plan, tail: Checkpoint, read_step: ReadStep, *, accept: Sequence[str]) -> None:
    """Refuse a run that is done and that another graph has made: its caller expects what this one would give."""
    if migration_for(plan, tail) is None:
        await check_hashes(plan, tail, read_step, accept=accept)


async def carried_over(
    plan: Plan, tail: Checkpoint, read_step: ReadStep, *, executor_id: str, accept: Sequence[str]
) -> Checkpoint:
    """Return the checkpoint to resume from: the latest, or the one that would migrate it; nothing is written."""
    refuse_unfinished_fork(tail)
    migration = migration_for(plan, tail)
    if migration is not None:
        return migrated(plan, migration, tail, executor_id=executor_id, now=datetime.now(UTC))
    if tail.graph_hash != plan.graph_hash and "graph" not in accept:
        stored = await recorded_definition(tail, read_step, "graph")
        if stored is not None and children_migrate(plan, stored):
            # As with a migrate block of its own; each open child run is carried over when it is opened.
            accept = ("graph", "runtime")
    await check_hashes(plan, tail, read_step, accept=accept)
    check_frontier(plan, tail)
    plan.state.refuse_unknown(tail)
    try:
        plan.state.parse(tail.state_json(), "state")
    except StateError as error:
        raise StateError(
            f"step {tail.step} of run {tail.run_id!r} does not fit this graph: {error.message}",
            reason=error.reason,
            hint=error.hint or f"Give a new field a default, or {_MIGRATE}.",
            path=error.path,
        ) from error
    if tail.graph_hash != plan.graph_hash:
        plan.state.refuse_dropped(tail, tail.encoded_state())
    return tail


async def check_hashes(plan: Plan, tail: Checkpoint, read_step: ReadStep, *, accept: Sequence[str]) -> None:
    """Refuse a run that another graph or other code has made, and say what changed.

    Args:
        plan: the graph that was loaded.
        tail: the latest checkpoint.
        read_step: reads one step of the run.
        accept: the mismatches that are accepted.

    Raises:
        HashMismatchError: there is one that is not.
    """
    code = () if "runtime" in accept else await _code_changes(plan, tail, read_step)
    if tail.graph_hash != plan.graph_hash and "graph" not in accept:
        stored = await recorded_definition(tail, read_step, "graph")
        changes = _PRUNED if stored is None else definition_changes(stored, plan.graph_definition)
        if tail.graph_id != plan.document.id:
            raise _other_graph(tail, plan, changes, code)
        raise _mismatch(tail, plan, "graph", changes, code)
    if code:
        raise _mismatch(tail, plan, "runtime", (), code)


async def _code_changes(plan: Plan, tail: Checkpoint, read_step: ReadStep) -> tuple[str, ...]:
    """Say what changed in code that the run can still come to: what has run is done, and makes no difference."""
    if tail.runtime_hash == plan.runtime_hash:
        return ()
    stored = await recorded_definition(tail, read_step, "runtime")
    if stored is None:
        return _PRUNED
    return runtime_changes(stored, plan.runtime_definition, within=reachable_code(plan, tail.frontier))


def _other_graph(tail: Checkpoint, plan: Plan, graph: tuple[str, ...], code: tuple[str, ...]) -> HashMismatchError:
    return HashMismatchError(
        f"run {tail.run_id!r} belongs to graph {tail.graph_id!r}, and graph {plan.document.id!r} was loaded",
        reason="graph-hash",
        hint=f"Load the file of graph {tail.graph_id!r}. If it is the same graph under a new id, accept the change:"
        f" {_accepting(*_parts(code))}.",
        run_id=tail.run_id,
        step=tail.step,
        stored=tail.graph_hash,
        loaded=plan.graph_hash,
        changes=tuple(dict.fromkeys([*graph, *code])),
    )


def _mismatch(
    tail: Checkpoint, plan: Plan, part: str, graph: tuple[str, ...], code: tuple[str, ...]
) -> HashMismatchError:
    stored, loaded = getattr(tail, f"{part}_hash"), getattr(plan, f"{part}_hash")
    changes = tuple(dict.fromkeys([*graph, *code]))
    what, parts, migrate = "the code of the graph", ["runtime"], ""
    if part == "graph":
        what, parts, migrate = "the graph", _parts(code), ", or " + _MIGRATE
    return HashMismatchError(
        f"run {tail.run_id!r} was made by another version of {what}: {'; '.join(changes)}"
        f" ({part}_hash at step {tail.step}: {stored}, loaded: {loaded})",
        reason=f"{part}-hash",
        hint=f"Load the version that made it, or accept the change: {_accepting(*parts)}{migrate}.",
        run_id=tail.run_id,
        step=tail.step,
        stored=stored,
        loaded=loaded,
        changes=changes,
    )


def _parts(code: tuple[str, ...]) -> list[str]:
    """Return what a resume in a changed graph has to accept, by what changed in its code."""
    return ["graph", "runtime"] if code else ["graph"]


def _accepting(*parts: str) -> str:
    return f"resume with accept={parts!r}, on the command line {' '.join(f'--accept {part}' for part in parts)}"


async def recorded_definition(tail: Checkpoint, read_step: ReadStep, part: str) -> dict[str, JsonValue] | None:
    """Return what a hash of the latest checkpoint was made of, if the log still has it.

    Args:
        tail: the latest checkpoint.
        read_step: reads one step of the run.
        part: `graph` or `runtime`.
    """
    wanted = getattr(tail, f"{part}_hash")
    record = await read_step(0)
    if record is None or getattr(record, f"{part}_hash") != wanted:
        record = tail
        while record is not None and record.definition is None:
            record = await read_step(record.step - 1) if record.step else None
    if record is None or record.definition is None or getattr(record, f"{part}_hash") != wanted:
        return None
    found: dict[str, JsonValue] | None = record.definition.get(part)
    return found


def refuse_ended(tail: Checkpoint) -> None:
    """Refuse a run that was cancelled or moved away.

    Raises:
        CheckpointError: `reason="run-ended"`.
    """
    if tail.status not in ("cancelled", "moved"):
        return
    moved = tail.status == "moved"
    raise CheckpointError(
        f"run {tail.run_id!r} was {'moved to another store' if moved else 'cancelled'} at step {tail.step}",
        reason="run-ended",
        hint="Resume it in the store that it was moved to."
        if moved
        else "A cancelled run cannot be resumed; fork it from one of its steps.",
        run_id=tail.run_id,
        step=tail.step,
    )


def refuse_busy(tail: Checkpoint, only_if_idle: float | None) -> None:
    """Refuse a run whose last event is younger than `only_if_idle` seconds.

    Raises:
        CheckpointError: `reason="not-idle"`.
    """
    if only_if_idle is None:
        return
    # Another clock may have written the event, or this one may have been set back.
    age = max((datetime.now(UTC) - tail.timestamp).total_seconds(), 0.0)
    if age < only_if_idle:
        raise CheckpointError(
            f"run {tail.run_id!r}: the last event is {age:.1f} s old, less than {only_if_idle:g} s",
            reason="not-idle",
            hint="An executor may be at work; try later, or resume without only_if_idle to take the run over.",
            run_id=tail.run_id,
            step=tail.step,
        )


def refuse_moved_on(tail: Checkpoint, step: int | None) -> None:
    """Refuse a run that somebody has gone on with since its latest step was `step`.

    Raises:
        CheckpointConflictError: `reason="moved-on"`.
    """
    if step is not None and tail.step != step:
        raise CheckpointConflictError(
            f"run {tail.run_id!r} is at step {tail.step}, not at step {step}: another executor has continued it",
            reason="moved-on",
            run_id=tail.run_id,
            step=tail.step,
        )


def refuse_unfinished_fork(tail: Checkpoint) -> None:
    """Refuse a fork whose executor was lost before it had taken over all that it needs from its parent.

    Args:
        tail: the latest checkpoint.

    Raises:
        CheckpointError: `reason="unfinished-fork"`.
    """
    if (tail.definition or {}).get("fork", {}).get("remaining"):
        raise CheckpointError(
            f"run {tail.run_id!r} is a fork of {tail.parent_run_id!r} that was only partly written",
            reason="unfinished-fork",
            hint="Fork the parent again, and delete this run.",
            run_id=tail.run_id,
            step=tail.step,
        )


async def fruitless_resumes(tail: Checkpoint, read_step: ReadStep, most: int) -> int:
    """Count the times in a row that a run has been resumed to run its nodes, and recorded nothing after it.

    Args:
        tail: the latest checkpoint.
        read_step: reads one step of the run.
        most: where to stop counting.
    """
    record: Checkpoint | None = tail
    resumes = 0
    while record is not None and record.event == "resumed" and resumes < most:
        # One that waits for answers had no node in flight.
        resumes += record.status == "running"
        record = await read_step(record.step - 1)
    return resumes


def waits_longer(plan: Plan, tail: Checkpoint, as_of: datetime | None = None) -> bool:
    """Return whether a run waits for a time that is still to come, and a resume by the same code could do nothing yet.

    Args:
        plan: the graph.
        tail: the latest checkpoint.
        as_of: a time that has come, whatever the clock says.
    """
    due = tail.due_at
    now = datetime.now(UTC) if as_of is None else max(datetime.now(UTC), as_of)
    same = (tail.graph_hash, tail.runtime_hash) == (plan.graph_hash, plan.runtime_hash)
    return due is not None and due > now and (same or tail.status == "queued")


async def until_due(
    tail: Checkpoint,
    stopped: asyncio.Event,
    *,
    look: Callable[[], Awaitable[Checkpoint | None]],
    seconds: float,
) -> Checkpoint | None:
    """Wait until a queued run may begin, and return its latest checkpoint; or until an event is set, and return None.

    Args:
        tail: its latest checkpoint.
        look: returns the latest checkpoint if somebody else has changed what there is to wait for, or None.
        seconds: the longest time between two looks; 0 never looks.
    """
    policy = look_policy(seconds)
    pause = policy.first
    while True:
        left = 0.0 if tail.due_at is None else (tail.due_at - datetime.now(UTC)).total_seconds()
        if left <= 0:
            return None if stopped.is_set() else tail  # the event may have been set during a look
        # The clock may be set meanwhile, and the machine may sleep.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), min(left, pause or _LONGEST_SLEEP))
            return None
        if seconds:
            changed = await look()
            if changed is not None:
                return changed
            pause = policy.after(pause)


async def open_request(tail: Checkpoint, read_step: ReadStep) -> Literal["cancel", "pause"] | None:
    """Return what was requested of an executor that died before it did so, or None; answers may have come since.

    Args:
        tail: the latest checkpoint.
        read_step: reads one step of the run.
    """
    record: Checkpoint | None = tail
    requests = set()
    while record is not None and record.event in ("answered", "cancel_requested", "pause_requested"):
        requests.add(record.event)
        record = await read_step(record.step - 1)
    if "cancel_requested" in requests:
        return "cancel"
    return "pause" if "pause_requested" in requests else None


async def fork_overrides(tail: Checkpoint, read_step: ReadStep, *, effects: bool) -> ForkOverrides:
    """Return what a run does differently from its graph: nothing, unless it is a fork.

    Args:
        tail: the latest checkpoint.
        read_step: reads one step of the run.
        effects: whether a fork may make calls that are not repeatable.
    """
    if tail.origin != "fork":
        return ForkOverrides()
    # A fork's open tasks need its first step as long as it says anything, so no prune takes it before.
    first = tail if tail.step == 0 else await read_step(0)
    return ForkOverrides(effects=effects) if first is None else ForkOverrides.of(first, effects=effects)
