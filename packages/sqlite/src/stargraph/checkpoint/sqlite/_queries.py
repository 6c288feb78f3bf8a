"""What is read: each function is one consistent read and leaves no statement open."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from stargraph.checkpoint.codec import decode
from stargraph.checkpoint.protocol import Checkpoint, RunPage, RunSummary, is_run_id
from stargraph.checkpoint.sqlite._rows import microseconds, tag
from stargraph.errors import CheckpointCorruptedError

_MAX_INTEGER: Final = 2**63 - 1

_PAGE_STEPS: Final = 64
_PAGE_BYTES: Final = 4 * 1024 * 1024

_LATEST: Final = """
SELECT checkpoints.step, checkpoints.record FROM runs
JOIN checkpoints ON checkpoints.run_id = runs.run_id AND checkpoints.step = runs.step
WHERE runs.run_id = ?
"""

_AT_STEP: Final = """
SELECT checkpoints.record FROM runs
JOIN checkpoints ON checkpoints.run_id = runs.run_id AND checkpoints.step = ?
WHERE runs.run_id = ? AND runs.status <> 'deleted'
"""

_HISTORY: Final = """
SELECT checkpoints.step, checkpoints.record FROM runs
JOIN checkpoints ON checkpoints.run_id = runs.run_id AND checkpoints.step BETWEEN ? AND ?
WHERE runs.run_id = ? AND runs.status <> 'deleted'
ORDER BY checkpoints.step {order}
"""


def checkpoint_of(record: object, run_id: str, step: int) -> Checkpoint:
    """Return the checkpoint that a row holds.

    Raises:
        CheckpointCorruptedError: it is not what was written.
    """
    # A column takes any type of value, also one that somebody else put there.
    return decode(record if isinstance(record, bytes) else b"", run_id=run_id, step=step)


def latest(connection: sqlite3.Connection, run_id: str) -> Checkpoint | None:
    """Return the checkpoint with the highest step of a run, or None."""
    row = connection.execute(_LATEST, (run_id,)).fetchone()
    return None if row is None else checkpoint_of(row[1], run_id, row[0])


def at_step(connection: sqlite3.Connection, run_id: str, step: int) -> Checkpoint | None:
    """Return one step of a run, or None."""
    row = connection.execute(_AT_STEP, (step, run_id)).fetchone()
    return None if row is None else checkpoint_of(row[0], run_id, step)


def history_page(
    connection: sqlite3.Connection, run_id: str, first: int, last: int, *, newest_first: bool
) -> tuple[list[Checkpoint], bool]:
    """Return some checkpoints between two steps, both included, and whether there may be more.

    A page ends after so many steps or bytes, so that its size does not follow that of the run.
    """
    statement = _HISTORY.format(order="DESC" if newest_first else "ASC")
    page: list[Checkpoint] = []
    size = 0
    cursor = connection.execute(statement, (first, last, run_id))
    try:
        for step, record in cursor:
            page.append(checkpoint_of(record, run_id, step))
            size += len(record)
            if len(page) == _PAGE_STEPS or size >= _PAGE_BYTES:
                return page, True
    finally:
        cursor.close()
    return page, False


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
        f"SELECT runs.run_id, runs.started_at, runs.summary FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608
        f" ORDER BY {key}.started_at DESC, {key}.run_id LIMIT :limit",
        values,
    ).fetchall()
    more = len(rows) > limit
    shown = rows[:limit]
    return RunPage.model_construct(
        items=tuple(_summary(run_id, summary) for run_id, _, summary in shown),
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


def _summary(run_id: str, text: str) -> RunSummary:
    try:
        return RunSummary.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointCorruptedError(
            f"run {run_id!r}: the stored summary cannot be read",
            reason="corrupted-record",
            hint="The checkpoints are not concerned: read_latest() reads the run. Restore the store from a backup.",
            run_id=run_id,
        ) from error
