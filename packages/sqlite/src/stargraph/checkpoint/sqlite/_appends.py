"""Appending checkpoints: one statement each, and the rules for what it refuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from stargraph.checkpoint.codec import Codec, Record
from stargraph.checkpoint.driver import Tail, judge_append, run_deleted_error, summary_json
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite._rows import microseconds, tags
from stargraph.errors import CheckpointCorruptedError

_APPEND: Final = """
INSERT INTO append
    (run_id, step, digest, previous_digest, base, status, graph_id, started_at, updated_at, summary, metadata, record)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_STORED: Final = """
SELECT runs.status, runs.step, runs.digest, runs.floor, checkpoints.digest
FROM (SELECT ? AS run_id, ? AS step) AS asked
LEFT JOIN runs ON runs.run_id = asked.run_id
LEFT JOIN checkpoints ON checkpoints.id = runs.number << 34 | asked.step
"""

_ATTEMPTS: Final = 10


class Append:
    """Append one checkpoint.

    Args:
        checkpoint: what to append.
        record: its stored form.
        codec: made it.
    """

    single: Final = True

    def __init__(self, checkpoint: Checkpoint, record: Record, codec: Codec) -> None:
        self.checkpoint = checkpoint
        self.record = record
        self.size = len(record.data)
        self._codec = codec
        previous = checkpoint.previous_digest
        self._columns = (
            checkpoint.run_id,
            checkpoint.step,
            bytes.fromhex(codec.fingerprint(checkpoint.digest)),
            None if previous is None else bytes.fromhex(codec.fingerprint(previous)),
            record.bases[-1] if record.bases else None,
            checkpoint.status,
            checkpoint.graph_id,
            microseconds(checkpoint.started_at),
            microseconds(checkpoint.timestamp),
            summary_json(checkpoint),
            tags(checkpoint.metadata) if checkpoint.step == 0 else None,
            record.data,
        )

    def alone(self) -> Append:
        """Return the same, stored without reference to other records."""
        return Append(self.checkpoint, self._codec.encode_alone(self.checkpoint), self._codec)

    def apply(self, connection: sqlite3.Connection, /) -> bool:
        """Append it; return False where it is stored in another form than `record`, or may be.

        Raises:
            CheckpointError: it is refused, as the contract says.
        """
        columns = self._columns
        for _ in range(_ATTEMPTS):
            try:
                connection.execute(_APPEND, columns)
            except sqlite3.IntegrityError:
                if self._judge(connection) == "stored":
                    return False
                # A prune has removed its base, or, outside a transaction, another process was quicker than the judge.
                if self.record.bases:
                    columns = self.alone()._columns
            else:
                return columns is self._columns
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
            raise run_deleted_error(checkpoint.run_id, checkpoint.step)
        return judge_append(
            checkpoint,
            tail=None if status is None else Tail(step=step, digest=digest.hex(), status=status, floor=floor),
            stored_digest=None if stored is None else stored.hex(),
            fingerprint=self._codec.fingerprint,
        )


class AppendMany:
    """Append consecutive checkpoints of one run, up to the first that is refused.

    Args:
        appends: the checkpoints, in order, each encoded after the one before it.
    """

    single: Final = False

    def __init__(self, appends: Sequence[Append]) -> None:
        self._appends = appends
        self.size = sum(append.size for append in appends)

    def apply(self, connection: sqlite3.Connection, /) -> bool:
        """Append them; return False where one is stored in another form than its `record`, or may be.

        Raises:
            CheckpointError: one is refused; those before it are kept.
        """
        as_encoded = True
        for append in self._appends:
            as_encoded &= append.apply(connection)
        return as_encoded
