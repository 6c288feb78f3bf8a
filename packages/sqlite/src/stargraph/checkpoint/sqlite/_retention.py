"""Removing runs and the older part of them, in short transactions between which others write."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.protocol import ENDED, needed_steps
from stargraph.checkpoint.sqlite._queries import checkpoint_of

_BATCH_STEPS: Final = 256
_BATCH_BYTES: Final = 4 * 1024 * 1024
_PAGE_RUNS: Final = 256

_ENTRY_BYTES: Final = 256
"""About what removing one step writes."""

_FORGET: Final = """
UPDATE runs
SET status = 'deleted', step = NULL, digest = NULL, graph_id = NULL, started_at = NULL, updated_at = NULL,
    summary = NULL
WHERE run_id = ?
"""

_MATCHING: Final = """
SELECT run_id, status, step, digest FROM runs
WHERE run_id > ? AND started_at IS NOT NULL AND updated_at < ? AND status IN ({statuses}) AND step - floor >= ?
ORDER BY run_id LIMIT ?
"""

_STEPS: Final = """
SELECT step, length(record) FROM checkpoints WHERE run_id = ? AND step > ? AND step < ? ORDER BY step LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to go from a run.

    Attributes:
        run_id: the run.
        below: steps below this one.
        keep: but not those in these ranges, both ends included.
        tail: only while this is the digest of its highest step; None for a deleted run.
    """

    run_id: str
    below: int = 2**62
    keep: tuple[tuple[int, int], ...] = ()
    tail: bytes | None = None


class ForgetRun:
    """Turn a run into a tombstone: from then on it reads as unknown and takes no step.

    Args:
        run_id: the run.
        tail: only while this is the digest of its highest step; None for any.
    """

    single: Final = False
    size: Final = 0

    def __init__(self, run_id: str, tail: bytes | None = None) -> None:
        self._run_id = run_id
        self._tail = tail

    def apply(self, connection: sqlite3.Connection, /) -> int:
        """Make the tombstone, and return how many checkpoints the run had; 0 where there was none."""
        row = connection.execute("SELECT started_at, digest FROM runs WHERE run_id = ?", (self._run_id,)).fetchone()
        if row is None or row[0] is None or self._tail not in (None, row[1]):
            return 0
        count = count_steps(connection, self._run_id)
        connection.execute(_FORGET, (self._run_id,))
        connection.execute("DELETE FROM tags WHERE run_id = ? AND started_at = ?", (self._run_id, row[0]))
        return count


class RemoveSteps:
    """Remove some steps of a run, and note where its unbroken tail begins now.

    Args:
        removal: what they belong to.
        steps: the steps, in ascending order.
    """

    single: Final = False

    def __init__(self, removal: Removal, steps: Sequence[int]) -> None:
        self._removal = removal
        self._steps = steps
        self.size = _ENTRY_BYTES * len(steps)

    def apply(self, connection: sqlite3.Connection, /) -> int:
        """Remove them, and return how many went; 0 where the run has moved on."""
        run_id, tail = self._removal.run_id, self._removal.tail
        if tail is not None:
            stands = connection.execute(
                "UPDATE runs SET floor = max(floor, ?) WHERE run_id = ? AND digest = ?",
                (self._steps[-1] + 1, run_id, tail),
            )
            if not stands.rowcount:
                return 0
        return connection.executemany(
            "DELETE FROM checkpoints WHERE run_id = ? AND step = ?", [(run_id, step) for step in self._steps]
        ).rowcount


def removals(
    connection: sqlite3.Connection, *, after: str, older_than: int, statuses: Sequence[str], keep_last: int
) -> tuple[list[Removal], str | None]:
    """Return what a prune takes from some runs, by their ids, and the id to go on after.

    Args:
        connection: to read with.
        after: only runs with higher ids.
        older_than: only runs whose last step was recorded before; microseconds since 1970.
        statuses: only runs with one of these.
        keep_last: how many steps to keep.
    """
    found = connection.execute(
        _MATCHING.format(statuses=", ".join("?" * len(statuses))),
        (after, older_than, *statuses, keep_last, _PAGE_RUNS),
    ).fetchall()
    page = [_removal(connection, *row, keep_last=keep_last) for row in found]
    return page, found[-1][0] if len(found) == _PAGE_RUNS else None


def steps_to_remove(connection: sqlite3.Connection, removal: Removal, after: int) -> tuple[list[int], int | None]:
    """Return some of the steps that go, in order, and the step to go on after.

    Args:
        connection: to read with.
        removal: what is to go.
        after: only higher steps.
    """
    steps: list[int] = []
    size = 0
    rows = connection.execute(_STEPS, (removal.run_id, after, removal.below, _BATCH_STEPS)).fetchall()
    for step, length in rows:
        if not any(first <= step <= last for first, last in removal.keep):
            steps.append(step)
            size += length
        if size >= _BATCH_BYTES:
            return steps, step
    return steps, rows[-1][0] if len(rows) == _BATCH_STEPS else None


def count_steps(connection: sqlite3.Connection, run_id: str) -> int:
    """Return how many checkpoints of a run are stored."""
    (count,) = connection.execute("SELECT count(*) FROM checkpoints WHERE run_id = ?", (run_id,)).fetchone()
    return int(count)


def half_removed_runs(connection: sqlite3.Connection) -> list[str]:
    """Return the deleted runs of which steps are left, because their removal was interrupted."""
    rows = connection.execute(
        "SELECT run_id FROM runs WHERE status = 'deleted'"
        " AND EXISTS (SELECT 1 FROM checkpoints WHERE checkpoints.run_id = runs.run_id)"
    )
    return [run_id for (run_id,) in rows.fetchall()]


def _removal(
    connection: sqlite3.Connection, run_id: str, status: str, step: int, digest: bytes, *, keep_last: int
) -> Removal:
    keep: tuple[tuple[int, int], ...] = ()
    if keep_last and status not in ENDED:
        (record,) = connection.execute(
            "SELECT record FROM checkpoints WHERE run_id = ? AND step = ?", (run_id, step)
        ).fetchone()
        keep = tuple((span.first, span.last) for span in needed_steps(checkpoint_of(record, run_id, step)))
    return Removal(run_id, below=step + 1 - keep_last, keep=keep, tail=digest)
