"""Appending checkpoints: one statement each, and the rules for what it refuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.protocol import Checkpoint, RunSummary, Tail, judge_append, run_deleted
from stargraph.checkpoint.sqlite._rows import microseconds, tags
from stargraph.errors import CheckpointCorruptedError

_APPEND: Final = """
INSERT INTO append
    (run_id, step, digest, previous_digest, status, graph_id, started_at, updated_at, summary, metadata, record)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_STORED: Final = """
SELECT runs.status, runs.step, runs.digest, runs.floor, checkpoints.digest
FROM (SELECT ? AS run_id, ? AS step) AS asked
LEFT JOIN runs ON runs.run_id = asked.run_id
LEFT JOIN checkpoints ON checkpoints.run_id = asked.run_id AND checkpoints.step = asked.step
"""

_ATTEMPTS: Final = 10


class Append:
    """Append one checkpoint; it is encoded here, before anything is asked of the store.

    Args:
        checkpoint: what to append.

    Raises:
        CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
    """

    single: Final = True

    def __init__(self, checkpoint: Checkpoint) -> None:
        record = encode(checkpoint)
        previous = checkpoint.previous_digest
        self.checkpoint = checkpoint
        self.size = len(record)
        self._columns = (
            checkpoint.run_id,
            checkpoint.step,
            bytes.fromhex(checkpoint.digest),
            None if previous is None else bytes.fromhex(previous),
            checkpoint.status,
            checkpoint.graph_id,
            microseconds(checkpoint.started_at),
            microseconds(checkpoint.timestamp),
            RunSummary.from_checkpoint(checkpoint).model_dump_json(),
            tags(checkpoint.metadata) if checkpoint.step == 0 else None,
            record,
        )

    def apply(self, connection: sqlite3.Connection, /) -> None:
        """Append it, unless it is stored already.

        Raises:
            CheckpointError: it is refused, as the contract says.
        """
        for _ in range(_ATTEMPTS):
            try:
                connection.execute(_APPEND, self._columns)
            except sqlite3.IntegrityError:
                # Outside a transaction another process may have moved the run before it is judged.
                if self._judge(connection) == "stored":
                    return
            else:
                return
        checkpoint = self.checkpoint
        raise CheckpointCorruptedError(
            f"run {checkpoint.run_id!r}, step {checkpoint.step}: the tables contradict each other",
            reason="corrupted-store",
            hint="Run `PRAGMA integrity_check` on the file, and restore a backup.",
            run_id=checkpoint.run_id,
            step=checkpoint.step,
        )

    def _judge(self, connection: sqlite3.Connection) -> str:
        checkpoint = self.checkpoint
        row = connection.execute(_STORED, (checkpoint.run_id, checkpoint.step)).fetchone()
        status, step, digest, floor, stored = row
        if status == "deleted":
            raise run_deleted(checkpoint.run_id, checkpoint.step)
        tail = None if status is None else Tail(step=step, digest=digest.hex(), status=status, floor=floor)
        return judge_append(checkpoint, tail=tail, stored_digest=None if stored is None else stored.hex())


class AppendMany:
    """Append consecutive checkpoints of one run, up to the first that is refused.

    Args:
        appends: the checkpoints, in order.
    """

    single: Final = False

    def __init__(self, appends: Sequence[Append]) -> None:
        self._appends = appends
        self.size = sum(append.size for append in appends)

    def apply(self, connection: sqlite3.Connection, /) -> None:
        """Append them.

        Raises:
            CheckpointError: one is refused; those before it are kept.
        """
        for append in self._appends:
            append.apply(connection)
