"""What is read: each function is one consistent read and leaves no statement open."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from stargraph.checkpoint.codec import Codec, missing_base_steps
from stargraph.checkpoint.driver import RunMatcher, RunQuery, summaries_from_json
from stargraph.checkpoint.protocol import Checkpoint, RunPage, Status
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


_FIELDS: Final = {
    "graph_hash": "$.graph_hash",
    "runtime_hash": "$.runtime_hash",
    "error_reason": "$.error.reason",
    "parent_run_id": "$.parent_run_id",
}
"""Where in a summary the filters without a column find what they compare."""


def runs(connection: sqlite3.Connection, query: RunQuery) -> RunPage:
    """Return one page of the runs that match, in the order of the query.

    Raises:
        CheckpointCorruptedError: a summary cannot be read.
    """
    source, key, conditions, values = _matching(query.matcher)
    column = f"{key}.started_at" if query.order == "started" else "runs.updated_at"
    values["limit"] = min(query.limit, _MAX_INTEGER - 1) + 1
    if query.cursor is not None:
        conditions.append(f"{column} <= :seen_at AND ({column} < :seen_at OR {key}.run_id > :seen)")
        values |= {"seen_at": microseconds(query.cursor.moment), "seen": query.cursor.run_id}
    rows = connection.execute(
        "SELECT runs.run_id, CAST(runs.summary AS BLOB)"  # noqa: S608
        f" FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {column} DESC, {key}.run_id LIMIT :limit",
        values,
    ).fetchall()
    return query.cut(summaries_from_json(rows))


def count_runs(connection: sqlite3.Connection, matcher: RunMatcher) -> dict[Status, int]:
    """Return how many runs match, by their status."""
    source, _, conditions, values = _matching(matcher)
    return dict(
        connection.execute(
            f"SELECT runs.status, count(*) FROM {source} WHERE {' AND '.join(conditions)} GROUP BY runs.status",  # noqa: S608
            values,
        ).fetchall()
    )


def _matching(matcher: RunMatcher) -> tuple[str, str, list[str], dict[str, Any]]:
    """Return what to select from, the table whose columns lead the order, the conditions and their values."""
    source = "runs"
    key = "runs"
    conditions = ["runs.started_at IS NOT NULL"]
    values: dict[str, Any] = {}
    for index, (name, value) in enumerate(matcher.metadata.items()):
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
    if matcher.statuses is not None:
        names = [f"status_{index}" for index in range(len(matcher.statuses))]
        conditions.append(f"runs.status IN ({', '.join(f':{name}' for name in names)})")
        values |= dict(zip(names, matcher.statuses, strict=True))
    if matcher.graph_id is not None:
        conditions.append("runs.graph_id = :graph_id")
        values["graph_id"] = matcher.graph_id
    for name, path in _FIELDS.items():
        if (wanted := getattr(matcher, name)) is not None:
            conditions.append(f"json_extract(CAST(runs.summary AS TEXT), '{path}') = :{name}")
            values[name] = wanted
    if matcher.roots_only:
        conditions.append("json_extract(CAST(runs.summary AS TEXT), '$.origin') IS NOT 'subgraph'")
    for column, sign, moment, name in (
        (f"{key}.started_at", ">=", matcher.since, "since"),
        ("runs.updated_at", ">=", matcher.updated_since, "updated_since"),
        ("runs.updated_at", "<", matcher.updated_before, "updated_before"),
    ):
        if moment is not None:
            conditions.append(f"{column} {sign} :{name}")
            values[name] = microseconds(moment)
    return source, key, conditions, values
