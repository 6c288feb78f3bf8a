"""What is read: each function is one consistent read and leaves no statement open."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from stargraph.checkpoint.codec import Codec, missing_base_steps
from stargraph.checkpoint.driver import summaries_from_json
from stargraph.checkpoint.protocol import Checkpoint, RunPage, is_run_id
from stargraph.checkpoint.sqlite._rows import microseconds, tag

_MAX_INTEGER: Final = 2**63 - 1

HEAD_BYTES: Final = 128
"""How much of a record names those that it is decoded from."""

# A column takes any type of value, also one that somebody else put there.
_RECORD: Final = "CAST(checkpoints.record AS BLOB)"
_HEAD: Final = f"substr(CAST(checkpoints.record AS BLOB), 1, {HEAD_BYTES})"

_PAGE_STEPS: Final = 64
_PAGE_BYTES: Final = 4 * 1024 * 1024

_LATEST: Final = """
SELECT runs.step, CAST(checkpoints.record AS BLOB) FROM runs
JOIN checkpoints ON checkpoints.id = runs.number << 34 | runs.step
WHERE runs.run_id = ?
"""

_AT_STEPS: Final = """
SELECT checkpoints.id & 17179869183, {record} FROM runs
JOIN checkpoints ON checkpoints.id IN ({ids})
WHERE runs.run_id = ? AND runs.status <> 'deleted'
"""

_BETWEEN: Final = """
SELECT checkpoints.id & 17179869183, {record} FROM runs
JOIN checkpoints ON checkpoints.id BETWEEN runs.number << 34 | ? AND runs.number << 34 | ?
WHERE runs.run_id = ? AND runs.status <> 'deleted'
ORDER BY checkpoints.id {order} LIMIT ?
"""


def latest(connection: sqlite3.Connection, codec: Codec, run_id: str) -> Checkpoint | None:
    """Return the checkpoint with the highest step of a run, or None."""
    with snapshot(connection):
        row = connection.execute(_LATEST, (run_id,)).fetchone()
        records = {} if row is None else with_bases(connection, run_id, [row])
    return None if row is None else codec.decode_latest(records, run_id=run_id, step=row[0])


def at_step(connection: sqlite3.Connection, codec: Codec, run_id: str, step: int) -> Checkpoint | None:
    """Return one step of a run, or None."""
    with snapshot(connection):
        records = with_bases(connection, run_id, at_steps(connection, run_id, [step]))
    return codec.decode(records, run_id=run_id, step=step) if records else None


def history_page(
    connection: sqlite3.Connection, codec: Codec, run_id: str, first: int, last: int, *, newest_first: bool
) -> tuple[list[Checkpoint], bool]:
    """Return some checkpoints between two steps, both included, and whether there may be more.

    A page ends after so many steps or bytes, so that its size does not follow that of the run.
    """
    with snapshot(connection):
        rows = between(connection, run_id, first, last, newest_first=newest_first, limit=_PAGE_STEPS)
        records = with_bases(connection, run_id, rows)
    page: list[Checkpoint] = []
    size = 0
    for checkpoint in codec.decode_many(records, run_id=run_id, steps=[step for step, _ in rows]):
        page.append(checkpoint)
        size += len(checkpoint.state_json())
        if size >= _PAGE_BYTES:
            return page, True
    return page, len(rows) == _PAGE_STEPS


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """See the store as it is now in all that is read inside."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def at_steps(
    connection: sqlite3.Connection, run_id: str, steps: Sequence[int], *, heads: bool = False
) -> list[tuple[int, bytes]]:
    """Return some steps of a run that are stored, and their records.

    Args:
        connection: to read with.
        run_id: the run.
        steps: the steps.
        heads: only the first `HEAD_BYTES` of each record.
    """
    statement = _AT_STEPS.format(
        record=_HEAD if heads else _RECORD, ids=", ".join(["runs.number << 34 | ?"] * len(steps))
    )
    return connection.execute(statement, (*steps, run_id)).fetchall()


def between(
    connection: sqlite3.Connection,
    run_id: str,
    first: int,
    last: int,
    *,
    newest_first: bool = False,
    limit: int = -1,
    heads: bool = False,
) -> list[tuple[int, bytes]]:
    """Return the steps of a run between two, both included, and their records.

    Args:
        connection: to read with.
        run_id: the run.
        first: the lowest step.
        last: the highest step.
        newest_first: the highest step first.
        limit: how many at the most; all of them if negative.
        heads: only the first `HEAD_BYTES` of each record.
    """
    statement = _BETWEEN.format(record=_HEAD if heads else _RECORD, order="DESC" if newest_first else "ASC")
    return connection.execute(statement, (first, last, run_id, limit)).fetchall()


def with_bases(
    connection: sqlite3.Connection, run_id: str, rows: Iterable[tuple[int, bytes]], *, heads: bool = False
) -> dict[int, bytes]:
    """Return the records of some steps and of those that they are decoded from.

    Args:
        connection: to read with.
        run_id: the run.
        rows: steps and records.
        heads: the records are only their first `HEAD_BYTES`, and so are those that are returned.
    """
    records = dict(rows)
    asked: set[int] = set()
    while missing := [
        step for step in missing_base_steps(records, run_id=run_id, steps=list(records)) if step not in asked
    ]:
        asked.update(missing)
        records |= dict(at_steps(connection, run_id, missing, heads=heads))
    return records


def runs(
    connection: sqlite3.Connection,
    *,
    status: str | None = None,
    graph_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    since: datetime | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> RunPage:
    """Return one page of the runs that match, the newest first.

    Raises:
        ValueError: `cursor` is not one of these.
        CheckpointCorruptedError: a summary cannot be read.
    """
    source = "runs"
    key = "runs"
    conditions = ["runs.started_at IS NOT NULL"]
    values: dict[str, Any] = {"limit": min(limit, _MAX_INTEGER - 1) + 1}
    for index, (name, value) in enumerate((metadata or {}).items()):
        # The first tag leads, by its own index, which has the order of the list.
        table = f"tag_{index}"
        source = (
            f"{source} JOIN tags AS {table} ON {table}.run_id = runs.run_id"
            if index
            else (f"tags AS {table} CROSS JOIN runs ON runs.run_id = {table}.run_id")
        )
        key = "tag_0"
        conditions.append(f"{table}.name = :name_{index} AND {table}.value = :value_{index}")
        conditions.append(f"{table}.started_at = {key}.started_at" if index else "TRUE")
        values |= {f"name_{index}": tag(name), f"value_{index}": tag(value)}
    if status is not None:
        conditions.append("runs.status = :status")
        values["status"] = status
    if graph_id is not None:
        conditions.append("runs.graph_id = :graph_id")
        values["graph_id"] = graph_id
    if since is not None:
        conditions.append(f"{key}.started_at >= :since")
        values["since"] = microseconds(since)
    if cursor is not None:
        conditions.append(f"{key}.started_at <= :seen_at AND ({key}.started_at < :seen_at OR {key}.run_id > :seen)")
        values["seen_at"], values["seen"] = _parse_cursor(cursor)
    rows = connection.execute(
        "SELECT runs.run_id, runs.started_at, CAST(runs.summary AS BLOB)"  # noqa: S608
        f" FROM {source} WHERE {' AND '.join(conditions)}"
        f" ORDER BY {key}.started_at DESC, {key}.run_id LIMIT :limit",
        values,
    ).fetchall()
    more = len(rows) > limit
    shown = rows[:limit]
    return RunPage.model_construct(
        items=tuple(summaries_from_json([(run_id, summary) for run_id, _, summary in shown])),
        next_cursor=f"{shown[-1][1]}/{shown[-1][0]}" if more and shown else None,
    )


def _parse_cursor(cursor: str) -> tuple[int, str]:
    moment, _, run_id = cursor.partition("/")
    try:
        started_at = int(moment)
    except ValueError:
        started_at = _MAX_INTEGER + 1
    if abs(started_at) > _MAX_INTEGER or not is_run_id(run_id):
        raise ValueError(f"cursor is {cursor!r}: give the next_cursor of the page before, or None")
    return started_at, run_id
