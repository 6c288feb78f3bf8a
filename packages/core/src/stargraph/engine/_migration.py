"""Carry a run that an older version of its graph has made over to this one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, Task
from stargraph.checkpoint.values import EncodedValue
from stargraph.engine._imports import Modules
from stargraph.engine._plan import Plan
from stargraph.engine._transitions import fan_out_of
from stargraph.errors import GraphError, StateError
from stargraph.ir import MigrationSpec, graph_hash


def migration_for(plan: Plan, tail: Checkpoint) -> MigrationSpec | None:
    """Return the entry of the graph's `migrate` block that names the graph that made a run.

    Args:
        plan: the graph that was loaded.
        tail: the latest checkpoint of the run.
    """
    if tail.graph_hash == plan.graph_hash:
        return None
    return next((spec for spec in plan.document.migrate if tail.graph_hash.startswith(spec.graph_hash)), None)


def children_migrate(plan: Plan, stored: Mapping[str, JsonValue]) -> bool:
    """Return whether a graph changed in its subgraphs alone, and each of those has a `migrate` entry for what it was.

    Args:
        plan: the graph that was loaded.
        stored: the definition of the graph that made the run.
    """
    loaded = plan.graph_definition
    if _without_subgraphs(stored) != _without_subgraphs(loaded):
        return False
    before = stored.get("subgraphs") or {}
    if before.keys() != plan.children.keys():
        return False
    for node, child in plan.children.items():
        former = graph_hash(before[node])
        if former == child.graph_hash or any(former.startswith(spec.graph_hash) for spec in child.document.migrate):
            continue
        if not children_migrate(child, before[node]):
            return False
    return True


def _without_subgraphs(definition: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: value for name, value in definition.items() if name != "subgraphs"}


def migrated(
    plan: Plan,
    migration: MigrationSpec,
    tail: Checkpoint,
    *,
    executor_id: str,
    now: datetime,
    recorded: Mapping[str, EncodedValue] | None = None,
) -> Checkpoint:
    """Return the checkpoint that carries a run over; nothing is written.

    Args:
        plan: the graph that was loaded.
        migration: the entry that applies.
        tail: the latest checkpoint of the run.
        executor_id: names this executor.
        now: the time of the event.
        recorded: the state that came of it before, if this is done again.

    Raises:
        GraphError: a transform cannot be imported, or a node that is open is not in this graph.
        StateError: a transform failed, or what it returned does not fit this graph's state.
    """
    fork = fan_out_of(tail.frontier)
    if fork is not None:
        raise GraphError(
            f"run {tail.run_id!r} cannot be migrated now: it has open branches that join at node {fork.join!r}",
            reason="migration-in-fork",
            hint="Let the branches join in the graph that started them, then migrate.",
        )
    rename = migration.rename
    frontier = tuple(
        item.model_copy(update={"node": rename.get(item.node, item.node), "since_step": tail.step + 1})
        for item in tail.frontier
        if isinstance(item, Task)
    )
    for task in frontier:
        if task.node not in plan.nodes or (task.rule is not None and task.rule not in plan.rules):
            raise GraphError(
                f"run {tail.run_id!r} is about to run node {task.node!r}, which this graph does not have",
                reason="migration-without-node",
                hint="Name its new id under rename in the migrate block.",
            )
    state = _transformed(migration, tail, plan.modules)
    encoded = {name: EncodedValue.of(value, f"state.{name}") for name, value in state.items()}
    state |= {name: value.value for name, value in plan.state.adopted(encoded, recorded).items()}
    plan.state.refuse_dropped(tail, encoded)
    record = tail.next(
        event="migrated",
        executor_id=executor_id,
        timestamp=now,
        state=state,
        frontier=frontier,
        interrupts=tuple(
            interrupt.model_copy(update={"node": rename.get(interrupt.node, interrupt.node)})
            for interrupt in tail.interrupts
        ),
        graph_hash=plan.graph_hash,
        runtime_hash=plan.runtime_hash,
        definition=plan.definition,
    )
    plan.state.read(record)
    return record


def _transformed(migration: MigrationSpec, tail: Checkpoint, modules: Modules) -> dict[str, JsonValue]:
    state = tail.fresh_state()
    for path in migration.state:
        transform = modules.load(path, wanted_by="migrate")
        try:
            returned: object = transform(state)
        except Exception as error:
            raise StateError(
                f"the transform {path!r} failed on run {tail.run_id!r}: {type(error).__name__}: {error}",
                reason="transform-failed",
                hint="Nothing was written. Fix the transform and resume again.",
            ) from error
        if not isinstance(returned, dict):
            raise StateError(
                f"the transform {path!r} returned a value of type {type(returned).__qualname__}, not a dict",
                reason="transform-failed",
                hint="A transform takes the state as a dict and returns the new state as a dict.",
            )
        state = returned
    return state


def check_frontier(plan: Plan, tail: Checkpoint) -> None:
    """Refuse a run whose next node the graph does not have; if the change was accepted, it may not have it.

    Args:
        plan: the graph that was loaded.
        tail: the latest checkpoint.

    Raises:
        GraphError: a node or a rule is missing.
    """
    for item in tail.frontier:
        node = item.node if isinstance(item, Task) else item.join
        if node not in plan.nodes or (item.rule is not None and item.rule not in plan.rules):
            raise GraphError(
                f"run {tail.run_id!r} is about to run node {node!r}, which this graph does not have in that form",
                reason="unknown-node",
                hint="Put it back, or carry the run over with a migrate block that renames it.",
            )
