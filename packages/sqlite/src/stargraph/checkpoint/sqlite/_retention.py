"""Removing runs and the older part of them, in short transactions between which others write."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.codec import Codec, base_steps_of
from stargraph.checkpoint.driver import needed_steps
from stargraph.checkpoint.protocol import ENDED
from stargraph.checkpoint.sqlite._queries import at_step, between
from stargraph.checkpoint.sqlite._schema import MAX_STEP

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
SELECT checkpoints.id & 17179869183, length(checkpoints.record) FROM runs
JOIN checkpoints
    ON checkpoints.id > (runs.number << 34) + ? AND checkpoints.id < (runs.number << 34) + ?
WHERE runs.run_id = ? ORDER BY checkpoints.id LIMIT ?
"""

_COUNT: Final = """
SELECT count(*) FROM runs
JOIN checkpoints
    ON checkpoints.id BETWEEN runs.number << 34 AND runs.number << 34 | 17179869183
WHERE runs.run_id = ?
"""

_HALF_REMOVED: Final = """
SELECT run_id FROM runs WHERE status = 'deleted' AND EXISTS (
    SELECT 1 FROM checkpoints
    WHERE checkpoints.id BETWEEN runs.number << 34 AND runs.number << 34 | 17179869183
)
"""

_ID: Final = "(SELECT number FROM runs WHERE run_id = ?) << 34 | ?"


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to go from a run.

    Attributes:
        run_id: the run.
        below: steps below this one.
        keep: but not these.
        tail: only while this is the digest of its highest step; None for a deleted run.
    """

    run_id: str
    below: int = MAX_STEP + 1
    keep: frozenset[int] = frozenset()
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
        rewrites: what to store instead of records that stay and are decoded from steps that go, by step.
    """

    single: Final = False

    def __init__(self, removal: Removal, steps: Sequence[int], rewrites: Mapping[int, bytes]) -> None:
        self._removal = removal
        self._steps = steps
        self._rewrites = rewrites
        self.size = _ENTRY_BYTES * len(steps) + sum(map(len, rewrites.values()))

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
            connection.executemany(
                f"UPDATE checkpoints SET record = ? WHERE id = {_ID}",  # noqa: S608
                [(record, run_id, step) for step, record in self._rewrites.items()],
            )
        return connection.executemany(
            f"DELETE FROM checkpoints WHERE id = {_ID}",  # noqa: S608
            [(run_id, step) for step in self._steps],
        ).rowcount


def removals(
    connection: sqlite3.Connection,
    codec: Codec,
    *,
    after: str,
    older_than: int,
    statuses: Sequence[str],
    keep_last: int,
) -> tuple[list[Removal], str | None]:
    """Return what a prune takes from some runs, by their ids, and the id to go on after.

    Args:
        connection: to read with.
        codec: reads and writes records.
        after: only runs with higher ids.
        older_than: only runs whose last step was recorded before; microseconds since 1970.
        statuses: only runs with one of these.
        keep_last: how many steps to keep.
    """
    found = connection.execute(
        _MATCHING.format(statuses=", ".join("?" * len(statuses))),
        (after, older_than, *statuses, keep_last, _PAGE_RUNS),
    ).fetchall()
    page = [_removal(connection, codec, *row, keep_last=keep_last) for row in found]
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
    rows = connection.execute(_STEPS, (after, removal.below, removal.run_id, _BATCH_STEPS)).fetchall()
    for step, length in rows:
        if step not in removal.keep:
            steps.append(step)
            size += length
        if size >= _BATCH_BYTES:
            return steps, step
    return steps, rows[-1][0] if len(rows) == _BATCH_STEPS else None


def count_steps(connection: sqlite3.Connection, run_id: str) -> int:
    """Return how many checkpoints of a run are stored."""
    (count,) = connection.execute(_COUNT, (run_id,)).fetchone()
    return int(count)


def half_removed_runs(connection: sqlite3.Connection) -> list[str]:
    """Return the deleted runs of which steps are left, because their removal was interrupted."""
    return [run_id for (run_id,) in connection.execute(_HALF_REMOVED).fetchall()]


def rewrites(connection: sqlite3.Connection, codec: Codec, removal: Removal) -> dict[int, bytes]:
    """Return new records for the steps that stay and are decoded from steps that go, by step.

    Args:
        connection: to read with.
        codec: reads and writes records.
        removal: what is to go.
    """
    spans = [(removal.below, MAX_STEP), *((step, step) for step in removal.keep if step < removal.below)]
    heads = dict(head for first, last in spans for head in between(connection, removal.run_id, first, last, heads=True))
    made = {}
    for step, head in heads.items():
        bases = base_steps_of(head, run_id=removal.run_id, step=step)
        if bases and bases[-1] not in heads:
            checkpoint = at_step(connection, codec, removal.run_id, step)
            if checkpoint is not None:
                made[step] = codec.encode_alone(checkpoint).data
    return made


def _removal(
    connection: sqlite3.Connection, codec: Codec, run_id: str, status: str, step: int, digest: bytes, *, keep_last: int
) -> Removal:
    keep: frozenset[int] = frozenset()
    if keep_last and status not in ENDED:
        latest = at_step(connection, codec, run_id, step)
        needed = () if latest is None else needed_steps(latest)
        keep = frozenset(number for span in needed for number in range(span.first, span.last + 1))
    return Removal(run_id, below=step + 1 - keep_last, keep=keep, tail=digest)
