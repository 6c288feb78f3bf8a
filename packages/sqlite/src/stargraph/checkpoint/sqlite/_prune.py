"""Removing runs and the older part of them, in short transactions between which others write."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.codec import Codec, base_steps_of
from stargraph.checkpoint.driver import needed_steps
from stargraph.checkpoint.protocol import ENDED
from stargraph.checkpoint.sqlite._errors import is_busy
from stargraph.checkpoint.sqlite._read import at_step, between
from stargraph.checkpoint.sqlite._schema import MAX_STEP, OPEN_RUN, STEP, checkpoint_id, deleted_id

_BATCH_STEPS: Final = 256
_BATCH_BYTES: Final = 4 * 1024 * 1024
_PAGE_RUNS: Final = 256

_STEP_BYTES: Final = 256
"""About what removing one step writes."""

_VACUUM_BYTES: Final = 8 * 1024 * 1024
"""A store of at most this size is rewritten after a removal; that takes some 30 ms."""

_MARK_DELETED: Final = """
UPDATE runs
SET run_id = :deleted_id, status = 'deleted', step = NULL, digest = NULL, graph_id = NULL, graph_hash = NULL,
    runtime_hash = NULL, error_reason = NULL, parent_run_id = NULL, is_child = NULL, started_at = NULL,
    updated_at = NULL, updated_minute = NULL, due_at = NULL, summary = NULL
WHERE run_id = :run_id
"""

# A parent that has not ended may still have to read how its child run ended.
_PRUNABLE: Final = f"""
SELECT run_id, status, step, digest FROM runs
WHERE run_id > ? AND run_id = coalesce(?, run_id)
    AND started_at IS NOT NULL AND updated_at < ? AND status IN ({{statuses}}) AND step - floor >= ?
    AND NOT (? = 0 AND is_child AND EXISTS (
        SELECT 1 FROM runs AS parent WHERE parent.run_id = runs.parent_run_id AND {OPEN_RUN.replace("runs.", "parent.")}
    ))
ORDER BY run_id LIMIT ?
"""  # noqa: S608  # made of constants; values are parameters

_STEPS_BETWEEN: Final = f"""
SELECT {STEP}, length(checkpoints.record) FROM runs
JOIN checkpoints ON checkpoints.id > {checkpoint_id("0")} + ? AND checkpoints.id < {checkpoint_id("0")} + ?
WHERE runs.run_id = ? ORDER BY checkpoints.id LIMIT ?
"""  # noqa: S608  # made of constants; values are parameters

_STEPS_OF_RUN: Final = f"checkpoints.id BETWEEN {checkpoint_id('0')} AND {checkpoint_id(str(MAX_STEP))}"

_COUNT: Final = f"SELECT count(*) FROM runs JOIN checkpoints ON {_STEPS_OF_RUN} WHERE runs.run_id = ?"  # noqa: S608  # made of constants; values are parameters

_HALF_DELETED: Final = f"""
SELECT run_id FROM runs
WHERE status = 'deleted' AND EXISTS (SELECT 1 FROM checkpoints WHERE {_STEPS_OF_RUN})
"""  # noqa: S608  # made of constants; values are parameters

_ID: Final = f"(SELECT {checkpoint_id('?')} FROM runs WHERE run_id = ?)"  # noqa: S608  # made of constants; values are parameters
_REWRITE: Final = f"UPDATE checkpoints SET record = ? WHERE id = {_ID}"  # noqa: S608  # made of constants; values are parameters
_REMOVE: Final = f"DELETE FROM checkpoints WHERE id = {_ID}"  # noqa: S608  # made of constants; values are parameters

_REMOVE_QUEUED: Final = "DELETE FROM queued WHERE run_id = ?"

_REMOVE_KEYS: Final = f"""
DELETE FROM keys WHERE run = (SELECT number FROM runs WHERE run_id = ?) AND step <= ? AND NOT EXISTS (
    SELECT 1 FROM checkpoints WHERE checkpoints.id = {checkpoint_id("keys.step", run="keys.run")}
)
"""  # noqa: S608  # made of constants; values are parameters


@dataclass(frozen=True, slots=True)
class PrunableSteps:
    """The steps of a run that are to be removed.

    Attributes:
        run_id: of the run, as it stands in the table.
        below: steps below this one.
        keep: but not these.
        tail_digest: only while the highest step has this one; None for a deleted run.
    """

    run_id: str
    below: int = MAX_STEP + 1
    keep: frozenset[int] = frozenset()
    tail_digest: bytes | None = None


class MarkDeleted:
    """Make a run read as unknown and take no further step.

    Args:
        run_id: of the run.
        tail_digest: only while the highest step has this one; None for any.
    """

    size: Final = 0

    def __init__(self, run_id: str, tail_digest: bytes | None = None) -> None:
        self._run_id = run_id
        self._tail_digest = tail_digest

    def apply(self, connection: sqlite3.Connection, /) -> int:
        """Mark it, and return how many checkpoints it had; 0 if there is no such run."""
        row = connection.execute("SELECT started_at, digest FROM runs WHERE run_id = ?", (self._run_id,)).fetchone()
        if row is None or self._tail_digest not in (None, row[1]):
            return 0
        checkpoints = count_steps(connection, self._run_id)
        connection.execute("DELETE FROM tags WHERE run_id = ? AND started_at = ?", (self._run_id, row[0]))
        connection.execute(_REMOVE_QUEUED, (self._run_id,))
        connection.execute(_MARK_DELETED, {"run_id": self._run_id, "deleted_id": deleted_id(self._run_id)})
        return checkpoints


class RemoveSteps:
    """Remove some steps of a run, and note where its unbroken tail begins now.

    Args:
        prunable: what they belong to.
        steps: the steps, in ascending order.
        rewrites: by step, the new records of steps that stay and were decoded from steps that go.
    """

    def __init__(self, prunable: PrunableSteps, steps: Sequence[int], rewrites: Mapping[int, bytes]) -> None:
        self._prunable = prunable
        self._steps = steps
        self._rewrites = rewrites
        self.size = _STEP_BYTES * len(steps) + sum(map(len, rewrites.values()))

    def apply(self, connection: sqlite3.Connection, /) -> int:
        """Remove them, and return how many were removed; 0 if the run has moved on."""
        run_id, tail_digest = self._prunable.run_id, self._prunable.tail_digest
        if tail_digest is not None:
            moved = connection.execute(
                "UPDATE runs SET floor = max(floor, ?) WHERE run_id = ? AND digest = ?",
                (self._steps[-1] + 1, run_id, tail_digest),
            )
            if not moved.rowcount:
                return 0
            connection.executemany(_REWRITE, [(record, step, run_id) for step, record in self._rewrites.items()])
        removed = connection.executemany(_REMOVE, [(step, run_id) for step in self._steps]).rowcount
        connection.execute(_REMOVE_KEYS, (run_id, self._steps[-1]))
        return removed


def prunable_runs(
    connection: sqlite3.Connection,
    codec: Codec,
    *,
    run_id: str | None,
    after: str,
    older_than: int,
    statuses: Sequence[str],
    keep_last: int,
) -> tuple[list[PrunableSteps], str | None]:
    """Return what a prune removes from some runs, by their ids, and the id to go on after.

    Args:
        connection: to read with.
        codec: reads records.
        run_id: only this run; None for all.
        after: only runs with higher ids.
        older_than: only runs whose last step was recorded before; microseconds since 1970.
        statuses: only runs with one of these.
        keep_last: how many steps stay.
    """
    found = connection.execute(
        _PRUNABLE.format(statuses=", ".join("?" * len(statuses))),
        (after, run_id, older_than, *statuses, keep_last, keep_last, _PAGE_RUNS),
    ).fetchall()
    page = [_prunable_steps(connection, codec, *row, keep_last=keep_last) for row in found]
    return page, found[-1][0] if len(found) == _PAGE_RUNS else None


def steps_to_remove(
    connection: sqlite3.Connection, prunable: PrunableSteps, after: int
) -> tuple[list[int], int | None]:
    """Return some of the steps that go, in order, and the step to go on after.

    Args:
        connection: to read with.
        prunable: what goes.
        after: only higher steps.
    """
    steps: list[int] = []
    size = 0
    rows = connection.execute(_STEPS_BETWEEN, (after, prunable.below, prunable.run_id, _BATCH_STEPS)).fetchall()
    for step, length in rows:
        if step not in prunable.keep:
            steps.append(step)
            size += length
        if size >= _BATCH_BYTES:
            return steps, step
    return steps, rows[-1][0] if len(rows) == _BATCH_STEPS else None


def count_steps(connection: sqlite3.Connection, run_id: str) -> int:
    """Return how many checkpoints of a run are stored."""
    (count,) = connection.execute(_COUNT, (run_id,)).fetchone()
    return int(count)


def count_prunable(connection: sqlite3.Connection, prunable: PrunableSteps) -> int:
    """Return how many steps of a run are to be removed; of a run that is to be removed as a whole, all."""
    count = 0
    after: int | None = -1
    while after is not None:
        steps, after = steps_to_remove(connection, prunable, after)
        count += len(steps)
    return count


def is_deleted(connection: sqlite3.Connection, run_id: str) -> bool:
    """Return whether a run was deleted."""
    return connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (deleted_id(run_id),)).fetchone() is not None


def half_deleted_runs(connection: sqlite3.Connection) -> list[PrunableSteps]:
    """Return what is left of deleted runs because their removal was interrupted."""
    return [PrunableSteps(run_id) for (run_id,) in connection.execute(_HALF_DELETED).fetchall()]


def rewrites(connection: sqlite3.Connection, codec: Codec, prunable: PrunableSteps) -> dict[int, bytes]:
    """Return, by step, new records of the steps that stay and are decoded from steps that go.

    Args:
        connection: to read with.
        codec: reads and writes records.
        prunable: what goes.
    """
    run_id = prunable.run_id
    spans = [(prunable.below, MAX_STEP), *((step, step) for step in prunable.keep if step < prunable.below)]
    prefixes = dict(
        prefix for first, last in spans for prefix in between(connection, run_id, first, last, prefixes=True)
    )
    made = {}
    for step, prefix in prefixes.items():
        bases = base_steps_of(prefix, run_id=run_id, step=step)
        if bases and bases[-1] not in prefixes:
            checkpoint = at_step(connection, codec, run_id, step)
            if checkpoint is not None:
                made[step] = codec.encode_alone(checkpoint).data
    return made


def vacuum(connection: sqlite3.Connection) -> bool:
    """Rewrite a small store, so that no page keeps a copy of what was removed.

    `secure_delete` overwrites what a statement removes. But a page that SQLite had to divide may still hold, unused,
    what it moved to another page. A large store keeps such copies until somebody runs VACUUM.

    Args:
        connection: in autocommit mode.

    Returns:
        Whether it is done; False if another connection writes.
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    if pages * page_bytes <= _VACUUM_BYTES:
        try:
            connection.execute("VACUUM")
        except sqlite3.Error as error:
            if is_busy(error):
                return False
            raise
    return True


def _prunable_steps(
    connection: sqlite3.Connection, codec: Codec, run_id: str, status: str, step: int, digest: bytes, *, keep_last: int
) -> PrunableSteps:
    keep: frozenset[int] = frozenset()
    if keep_last and status not in ENDED:
        latest = at_step(connection, codec, run_id, step)
        needed = () if latest is None else needed_steps(latest)
        keep = frozenset(number for span in needed for number in range(span.first, span.last + 1))
    return PrunableSteps(run_id, below=step + 1 - keep_last, keep=keep, tail_digest=digest)
