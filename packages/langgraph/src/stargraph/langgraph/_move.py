"""Moving threads between savers: from LangGraph's own to this one, and back out again."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, PendingWrite
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from stargraph.errors import CheckpointError, StargraphError
from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._opaque import Opaque, unreadable_error
from stargraph.langgraph._saver import StargraphSaver
from stargraph.langgraph._state import write_index
from stargraph.langgraph._store import LogStore

Saver = BaseCheckpointSaver[Any]


class _Name(NamedTuple):
    """What names a checkpoint.

    Attributes:
        thread_id: text, except in a saver that keeps whatever it was given, as LangGraph's saver in memory does.
        namespace: the checkpoint namespace.
        checkpoint_id: its id.
    """

    thread_id: Any
    namespace: str
    checkpoint_id: str

    def as_text(self) -> _Name:
        """Return the name that it has in every other saver."""
        return self._replace(thread_id=str(self.thread_id))


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

    What is there already is left, so that an interrupted copy is simply repeated. The ids of threads become text, as
    LangGraph's graphs make them.

    Args:
        source: the saver that is read.
        target: the saver that is written.
        progress: called after each checkpoint with how many are done, of how many.

    Raises:
        CheckpointError: `reason` is
            `not-equal`: a checkpoint reads back as another one;
            `not-storable`: the target cannot keep it, such as metadata that is not JSON;
            `unknown-serializer`: the serializer of the source cannot read it;
            `ambiguous-thread`: two threads of the source have the same id as text.
    """
    names = [name async for name in _names(source)]
    report = MoveReport(threads=_count_threads(names))
    # Thread by thread, which a saver that keeps differences reads and writes with the least work. Ids grow with time: a
    # parent comes before its children.
    for done, name in enumerate(sorted(names, key=_Name.as_text), 1):
        found = await source.aget_tuple(_config(name))
        if found is not None:
            if isinstance(found.checkpoint, Opaque):
                raise unreadable_error(str(found.checkpoint.form))
            there = await target.aget_tuple(_config(name.as_text()))
            if _is_same(found, there):
                report.present += 1
            else:
                await _copy(name.as_text(), found, target, is_there=there is not None)
                report.copied += 1
        progress(done, len(names))
    return report


def _count_threads(names: Sequence[_Name]) -> int:
    threads: dict[str, Any] = {}
    for name in names:
        known = threads.setdefault(str(name.thread_id), name.thread_id)
        if known != name.thread_id:
            raise CheckpointError(
                f"threads {known!r} and {name.thread_id!r} have the same id as text, and would become one",
                reason="ambiguous-thread",
                hint="LangGraph's graphs use the one whose id is text. Delete the other one in the source.",
            )
    return len(threads)


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
            yield _Name(place["thread_id"], place.get("checkpoint_ns", ""), place["checkpoint_id"])


_NAMES: Final = "SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints"


def _is_of(saver: Saver, module: str, name: str) -> bool:
    """Return whether a saver is of a class of an optional package, which is not imported for that."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(saver, kind)


async def _copy(name: _Name, found: CheckpointTuple, target: Saver, *, is_there: bool) -> None:
    parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
    place: dict[str, Any] = {"thread_id": name.thread_id, "checkpoint_ns": name.namespace}
    config: Any = {"configurable": place | ({} if parent is None else {"checkpoint_id": parent})}
    what = f"thread {name.thread_id!r}, checkpoint {name.checkpoint_id}"
    try:
        await target.aput(config, found.checkpoint, found.metadata, found.checkpoint["channel_versions"])
        for position, (task_id, writes) in enumerate(_groups(found.pending_writes or [])):
            # Savers do not hand out the path of a task, by which they sort: its position keeps the order.
            await target.aput_writes(_config(name), writes, task_id, f"{position:08}")
    except Exception as error:
        if isinstance(error, StargraphError) or not _is_about_values(error):
            raise
        raise CheckpointError(
            f"{what}: the target cannot keep it: {str(error).strip() or type(error).__name__}",
            reason="not-storable",
            hint=_json_hint(found) or "Delete its thread in the source, or put the checkpoint there again without it.",
        ) from error
    if _is_same(found, await target.aget_tuple(_config(name))):
        return
    if is_there:
        complaint = "it was in the target already with other writes, which the target keeps"
        hint = "Its thread has gone on since an earlier copy: delete it in the target, and copy again."
    else:
        complaint = "it reads back as another one"
        hint = _json_hint(found) or "Look at both with get_state(), and report this."
    raise CheckpointError(
        f"{what}: {complaint}", reason="not-equal", hint=f"Nothing was removed from the source. {hint}"
    )


def _is_about_values(error: Exception) -> bool:
    """Return whether an error of a saver means that it cannot keep what it was given."""
    psycopg_error = getattr(sys.modules.get("psycopg"), "DataError", ())
    return isinstance(error, (TypeError, ValueError, OverflowError, sqlite3.DataError, psycopg_error))


def _json_hint(found: CheckpointTuple) -> str | None:
    """Return what to do about metadata that is not JSON, or None if all of it is."""
    odd = [name for name, value in found.metadata.items() if not _is_json(value)]
    if not odd:
        return None
    return (
        "LangGraph's savers for SQLite and PostgreSQL keep metadata as JSON, which is not what"
        f" {', '.join(map(repr, odd))} holds. Put the checkpoint into the source again with other metadata, or delete"
        " its thread there, and repeat the copy."
    )


def _is_json(value: Any) -> bool:
    try:
        return _are_equal(json.loads(json.dumps(value, allow_nan=False)), value)
    except (TypeError, ValueError, RecursionError):
        return False


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
