"""Removing and copying: the older part of a log, the checkpoints of some runs, a whole log to another thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot
from stargraph.checkpoint.protocol import Checkpoint, Status
from stargraph.checkpoint.values import EncodedValue
from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._plain import peek_plain
from stargraph.langgraph._state import Order, Put, StoredStep, Write
from stargraph.langgraph._store import LogStore
from stargraph.langgraph._values import decode_value

_STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_DELTA_COUNTERS: Final = "counters_since_delta_snapshot"
_NO_DELTAS: Final = frozenset({"__start__", TASKS})
_BRANCH: Final = "branch:"


async def prune_thread(store: LogStore, logs: Sequence[ThreadLog], serde: SerializerProtocol) -> None:
    """Remove all but the newest checkpoint of each namespace of a thread, with what its delta channels are made from.

    A namespace of one call of a subgraph goes with the checkpoint of the root graph from which the call started, as
    in LangGraph's saver for PostgreSQL.

    Args:
        logs: the logs of the thread.
        serde: loads values, to tell which are snapshots.
    """
    root = next((log for log in logs if not log.namespace), None)
    over = [] if root is None else [log for log in logs if await _is_call_from_what_goes(log, root)]
    for log in logs:
        if log not in over:
            await _prune_log(store, log, serde)
        elif (tail := await log.tail()) is not None:
            await store.delete(tail.run_id)
            log.forget_tail()


async def _is_call_from_what_goes(log: ThreadLog, root: ThreadLog) -> bool:
    """Return whether a log is that of a call of a subgraph that started from an older checkpoint of the root graph."""
    # Such a namespace ends with a colon and the id of a task; others belong to subgraphs that keep their state.
    newest = await log.latest() if ":" in log.namespace else None
    newest_root = await root.latest()
    if newest is None or newest_root is None:
        return False
    parents: Mapping[str, str] = peek_plain(newest.metadata).get("parents") or {}
    started_from = parents.get("")
    if started_from is None or started_from == newest_root.checkpoint_id:
        return False
    # A call may be stored before the checkpoint that it started from.
    found = await root.at(started_from)
    return found is not None and found.has_checkpoint


async def _prune_log(store: LogStore, log: ThreadLog, serde: SerializerProtocol) -> None:
    newest = await log.latest()
    if newest is None:
        return
    assert newest.checkpoint_id is not None
    ancestors = await _delta_ancestors(log, newest, serde)
    oldest = ancestors[-1] if ancestors else newest
    if oldest.parent is not None:
        # The parent goes, so it is not named any more. The newest is put last.
        for step in dict.fromkeys((oldest, newest)):
            assert step.checkpoint_id is not None
            parent = None if step is oldest else step.parent
            put = Put(parent, step.checkpoint, step.metadata, dict(step.channels()))
            await log.append(Order(step.checkpoint_id, put))
    kept = {newest.checkpoint_id, *(step.checkpoint_id for step in ancestors)}
    tail = await log.tail()
    if tail is not None and tail.key == newest.checkpoint_id:
        found = [await log.at(step.checkpoint_id) for step in ancestors if step.checkpoint_id is not None]
        first = [step.step.step for step in (*found, *await _ahead(log, tail)) if step is not None]
        await store.checkpointer.prune(
            run_id=tail.run_id,
            older_than=datetime.now(UTC) + timedelta(days=36500),
            statuses=_STATUSES,
            keep_last=tail.step - min([tail.step, *first]) + 1,
        )
        log.forget_tail()
    # What is left besides: other branches, and on S3 the records that the newest one is decoded from.
    await _rewrite(store, log, lambda step: step.checkpoint_id in kept)


async def copy_log(source: ThreadLog, target: ThreadLog) -> None:
    """Append all checkpoints of a log to another one.

    Args:
        source: the log that is read.
        target: the log that is written.
    """
    steps = [step async for step in source.before(None)]
    for step in reversed(steps):
        await _append(target, step)


async def without_runs(store: LogStore, log: ThreadLog, run_ids: Collection[str]) -> None:
    """Remove the checkpoints of some LangGraph runs from a log; nothing of them stays in the store.

    Args:
        run_ids: the runs, as the metadata of checkpoints names them.
    """
    await _rewrite(store, log, lambda step: peek_plain(step.metadata).get("run_id") not in run_ids)


async def _rewrite(store: LogStore, log: ThreadLog, is_kept: Callable[[StoredStep], bool]) -> None:
    """Write a new log with some of its checkpoints, if it has others.

    The new log is whole before the old one ends, and another process that writes to the old one goes on in the new.
    """
    while True:
        steps = [step async for step in log.before(None)]
        kept = [step for step in reversed(steps) if is_kept(step)]
        old = await log.tail()
        if old is None or len(kept) == len(steps):
            return
        ahead = await _ahead(log, old)
        if not kept and not ahead:
            await store.delete(old.run_id)
            log.forget_tail()
            return
        fresh = await log.next_generation()
        for step in (*kept, *ahead):
            await _append(fresh, step)
        if await log.end(old):
            await store.delete(old.run_id)
            return
        # Somebody has written meanwhile: again, with what was written.
        if (unused := await fresh.tail()) is not None:
            await store.delete(unused.run_id)


async def _ahead(log: ThreadLog, tail: Checkpoint) -> list[StoredStep]:
    """Return what a log has of checkpoints that are still to come: only writes."""
    found = [await log.at(checkpoint_id) for checkpoint_id in StoredStep(tail).ahead]
    return [step for step in found if step is not None]


async def _delta_ancestors(log: ThreadLog, newest: StoredStep, serde: SerializerProtocol) -> list[StoredStep]:
    """Return the checkpoints that the delta channels of the newest one are rebuilt from."""
    counters: Mapping[str, Any] = peek_plain(newest.metadata).get(_DELTA_COUNTERS) or {}
    versions: Mapping[str, Any] = peek_plain(newest.checkpoint)["channel_versions"]
    missing = {name for name in versions if name not in _NO_DELTAS and not name.startswith(_BRANCH)} | set(counters)
    missing = {name for name in missing if newest.channel(name) is None}
    ancestors: list[StoredStep] = []
    needed = 0
    if missing:
        async for ancestor in log.ancestors(newest):
            ancestors.append(ancestor)
            found = {name: value for name in missing if (value := ancestor.channel(name)) is not None}
            missing -= found.keys()
            # Whatever has no counter may be a channel that is empty now.
            if any(name in counters or _is_snapshot(value, serde) for name, value in found.items()):
                needed = len(ancestors)
            if not missing:
                break
    return ancestors if missing & counters.keys() else ancestors[:needed]


def _is_snapshot(value: EncodedValue, serde: SerializerProtocol) -> bool:
    return isinstance(serde.loads_typed(decode_value(value.value)), _DeltaSnapshot)


async def _append(log: ThreadLog, step: StoredStep) -> None:
    """Append what another log holds of a checkpoint, with its pending writes."""
    assert step.checkpoint_id is not None
    writes = [
        Write(task_id, path, position, channel, EncodedValue.of_checked(value))
        for task_id, path, position, channel, value in step.writes()
    ]
    put = None
    if step.has_checkpoint:
        put = Put(step.parent, step.checkpoint, step.metadata, dict(step.channels()))
    await log.append(Order(step.checkpoint_id, put, writes))
