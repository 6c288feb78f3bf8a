"""The index of the runs of queues: written with each step, and repaired from the runs if it was damaged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from stargraph.checkpoint.driver import QueuedRow, microseconds, queued_row, readable_summaries, repaired_entry
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.checkpoint.sqlite._schema import OPEN_RUN

_PUT: Final = """
INSERT INTO queued (run_id, queue, state, priority, order_at, wake_at, version, concurrency_key, process_id)
VALUES (:run_id, :queue, :state, :priority, :order_at, :wake_at, :version, :concurrency_key, :process_id)
ON CONFLICT (run_id) DO UPDATE SET
    queue = excluded.queue, state = excluded.state, priority = excluded.priority, order_at = excluded.order_at,
    wake_at = excluded.wake_at, version = excluded.version, concurrency_key = excluded.concurrency_key,
    process_id = excluded.process_id, reserved_by = NULL, reserved_until = NULL
WHERE (queued.queue, queued.state, queued.priority, queued.order_at, queued.wake_at, queued.version,
       queued.concurrency_key, queued.process_id, queued.reserved_until)
    IS NOT (excluded.queue, excluded.state, excluded.priority, excluded.order_at, excluded.wake_at, excluded.version,
            excluded.concurrency_key, excluded.process_id, NULL)
"""
"""Written only if it says something new: most steps of a run leave it as it is."""

_REMOVE: Final = "DELETE FROM queued WHERE run_id = ?"

_AMONG: Final = "IN (SELECT value FROM json_each(:among))"

_OPEN_RUNS: Final = f"""
SELECT run_id, CAST(summary AS BLOB), {", ".join(f"queued.{name}" for name in QueuedRow._fields)}
FROM runs LEFT JOIN queued USING (run_id) WHERE {OPEN_RUN} AND summary IS NOT NULL
"""  # noqa: S608  # made of constants; values are parameters

_OUTLIVED: Final = f"""
SELECT run_id FROM queued WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = queued.run_id AND {OPEN_RUN})
"""  # noqa: S608  # made of constants; values are parameters


class WrongRow(NamedTuple):
    """A run whose row in the index is wrong: whether it has one, and the run if it is open."""

    was_there: bool
    run: RunSummary | None


def put(connection: sqlite3.Connection, latest: Checkpoint) -> None:
    """Keep the index as the latest checkpoint of a run says."""
    if latest.queue is not None:
        _write(connection, latest.run_id, _values(latest))


def _write(connection: sqlite3.Connection, run_id: str, values: dict[str, Any] | None) -> None:
    """Write the row of a run, or remove it if the run has no place in the index."""
    if values is None:
        connection.execute(_REMOVE, (run_id,))
    else:
        connection.execute(_PUT, {"run_id": run_id, **values})


def _values(latest: Checkpoint | RunSummary) -> dict[str, Any] | None:
    """Return the columns of a run's row; None if it has no place in the index."""
    row = queued_row(latest)
    if row is None:
        return None
    return row._asdict() | {
        "order_at": microseconds(row.order_at),
        "wake_at": None if row.wake_at is None else microseconds(row.wake_at),
        "process_id": row.process_id or "",
    }


def wrong_rows(connection: sqlite3.Connection, among: Sequence[str] | None = None) -> dict[str, WrongRow]:
    """Return the runs whose row is not what their latest checkpoint says.

    Args:
        connection: the store.
        among: the runs to look at; None for all.
    """
    parameters = {"among": json.dumps(among)} if among is not None else {}
    condition = "" if among is None else f" AND run_id {_AMONG}"
    rows = connection.execute(_OPEN_RUNS + condition, parameters).fetchall()
    wrong: dict[str, WrongRow] = {}
    # What a damaged summary says is not known, and no reason to leave the others as they are.
    readable = {run.run_id: run for run in readable_summaries([row[:2] for row in rows])[0]}
    for run_id, _, *found in rows:
        if (run := readable.get(run_id)) is None:
            continue
        wanted = _values(run)
        there = found[0] is not None
        if wanted is not None and (found[1], wanted["state"]) == ("ready", "scheduled"):
            wanted["state"] = "ready"  # the claim that finds a run whose time has come notes it so
        if (dict(zip(QueuedRow._fields, found, strict=True)) if there else None) != wanted:
            wrong[run.run_id] = WrongRow(was_there=there, run=run)
    outlived = connection.execute(_OUTLIVED + condition, parameters).fetchall()
    return wrong | {run_id: WrongRow(was_there=True, run=None) for (run_id,) in outlived}


class Repair:
    """Rows that are put right.

    Args:
        run_ids: the runs that are looked at once more.
    """

    def __init__(self, run_ids: Sequence[str]) -> None:
        self._run_ids = run_ids
        self.size = 256 * len(run_ids)

    def apply(self, connection: sqlite3.Connection, /) -> list[str]:
        """Put the rows right, and say what was wrong with each."""
        repaired = []
        for odd in [run_id for run_id in self._run_ids if not isinstance(run_id, str)]:
            _write(connection, odd, None)
            repaired.append(repaired_entry(odd, was_there=True, belongs_there=False))
        named = [run_id for run_id in self._run_ids if isinstance(run_id, str)]
        for run_id, (was_there, run) in wrong_rows(connection, named).items():
            values = None if run is None else _values(run)
            _write(connection, run_id, values)
            repaired.append(repaired_entry(run_id, was_there=was_there, belongs_there=values is not None))
        return repaired
