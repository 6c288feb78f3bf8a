"""Moving threads between savers: from LangGraph's own to this one, and back out again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, PendingWrite
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from stargraph.errors import CheckpointError
from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._opaque import Opaque, unreadable_error
from stargraph.langgraph._saver import StargraphSaver
from stargraph.langgraph._state import write_index
from stargraph.langgraph._store import LogStore

Saver = BaseCheckpointSaver[Any]


class _Name(NamedTuple):
    thread_id: str
    namespace: str
    checkpoint_id: str


@dataclass(slots=True)
class MoveReport:
    """What a move did.

    Attributes:
        threads: how many threads the source has.
        copied: how many checkpoints were written.
        present: how many were there already, whole.
    """

    threads: int = 0
    copied: int = 0
    present: int = 0


async def copy_threads(
    source: Saver, target: Saver, *, progress: Callable[[int, int], None] = lambda done, of: None
) -> MoveReport:
    """Copy all threads of a saver to another one, and verify each checkpoint there.

    What is there already is left, so that an interrupted copy is simply repeated.

    Args:
        source: the saver that is read.
        target: the saver that is written.
        progress: called after each checkpoint with how many are done, of how many.

    Raises:
        CheckpointError: a checkpoint reads back as another one (`reason="not-equal"`), or the serializer of the
            source cannot read it (`reason="unknown-serializer"`).
    """
    names = [name async for name in _names(source)]
    report = MoveReport(threads=len({name.thread_id for name in names}))
    # Thread by thread, which a saver that keeps differences reads and writes with the least work. Ids grow with time: a
    # parent comes before its children.
    for done, name in enumerate(sorted(names), 1):
        found = await source.aget_tuple(_config(name))
        if found is not None:
            if isinstance(found.checkpoint, Opaque):
                raise unreadable_error(str(found.checkpoint.form))
            if _is_same(found, await target.aget_tuple(_config(name))):
                report.present += 1
            else:
                await _copy(name, found, target)
                report.copied += 1
        progress(done, len(names))
    return report


async def _names(source: Saver) -> AsyncIterator[_Name]:
    """Yield the names of all checkpoints, without their values if the saver is known.

    `alist` loads the values of each, and LangGraph's saver for PostgreSQL those of all of them at once.
    """
    if isinstance(source, StargraphSaver):
        store = LogStore(source.checkpointer)
        for thread_id, namespace in await store.names():
            async for checkpoint_id in ThreadLog(store, thread_id, namespace).ids():
                yield _Name(thread_id, namespace, checkpoint_id)
    elif _is_of(source, "langgraph.checkpoint.sqlite.aio", "AsyncSqliteSaver"):
        theirs: Any = source
        await theirs.setup()
        async with theirs.lock, theirs.conn.execute(_NAMES) as rows:
            async for row in rows:
                yield _Name(*row)
    elif _is_of(source, "langgraph.checkpoint.postgres.aio", "AsyncPostgresSaver"):
        from psycopg.rows import tuple_row

        theirs = source
        pooled = theirs.conn.connection() if hasattr(theirs.conn, "getconn") else nullcontext(theirs.conn)
        async with pooled as connection, connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(_NAMES)
            for row in await cursor.fetchall():
                yield _Name(*row)
    else:
        async for found in source.alist(None):
            place = found.config["configurable"]
            yield _Name(str(place["thread_id"]), place.get("checkpoint_ns", ""), place["checkpoint_id"])


_NAMES: Final = "SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints"


def _is_of(saver: Saver, module: str, name: str) -> bool:
    """Return whether a saver is of a class of an optional package, which is not imported for that."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(saver, kind)


async def _copy(name: _Name, found: CheckpointTuple, target: Saver) -> None:
    parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
    place: dict[str, Any] = {"thread_id": name.thread_id, "checkpoint_ns": name.namespace}
    config: Any = {"configurable": place | ({} if parent is None else {"checkpoint_id": parent})}
    await target.aput(config, found.checkpoint, found.metadata, found.checkpoint["channel_versions"])
    for position, (task_id, writes) in enumerate(_groups(found.pending_writes or [])):
        # Savers do not hand out the path of a task, by which they sort: its position keeps the order.
        await target.aput_writes(_config(name), writes, task_id, f"{position:08}")
    if not _is_same(found, await target.aget_tuple(_config(name))):
        raise CheckpointError(
            f"thread {name.thread_id!r}, checkpoint {name.checkpoint_id}: it reads back as another one",
            reason="not-equal",
            hint="Nothing was removed from the source. If the thread has gone on since an earlier copy, delete it in"
            " the target and copy again; else look at both with get_state(), and report this.",
        )


def _groups(pending: Sequence[PendingWrite]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Return writes in groups that a saver, which sorts those of a task by their index, keeps in this order."""
    groups: list[tuple[str, list[tuple[str, Any]]]] = []
    before = 0
    for task_id, channel, value in pending:
        index = write_index(channel, len(pending))
        if groups and groups[-1][0] == task_id and index >= before:
            groups[-1][1].append((channel, value))
        else:
            groups.append((task_id, [(channel, value)]))
        before = index
    return groups


def _is_same(found: CheckpointTuple, other: CheckpointTuple | None) -> bool:
    if other is None:
        return False
    return (
        _are_equal(found.checkpoint, other.checkpoint)
        and _are_equal(_plain(found.metadata), _plain(other.metadata))
        and _are_equal(found.pending_writes or [], other.pending_writes or [])
        and _parent(found) == _parent(other)
    )


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two values are the same, also if they say otherwise of themselves, as NaN and arrays do."""
    with suppress(Exception):  # whatever a class of an application raises
        if bool(one == other):
            return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    with suppress(Exception):
        return _SERDE.dumps_typed(one) == _SERDE.dumps_typed(other)
    return False


_SERDE: Final = JsonPlusSerializer()


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if value is not None}


def _parent(found: CheckpointTuple) -> str | None:
    return found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None


def _config(name: _Name) -> Any:
    return {
        "configurable": {
            "thread_id": name.thread_id,
            "checkpoint_ns": name.namespace,
            "checkpoint_id": name.checkpoint_id,
        }
    }
