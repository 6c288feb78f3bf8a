"""Appending checkpoints: one guarded change of the run's row, one insert, and the rules for what is refused."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from stargraph.checkpoint.codec import Codec, Record
from stargraph.checkpoint.driver import Tail, judge_append, judge_pruned_start, microseconds, summary_json
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import _queue_index
from stargraph.checkpoint.sqlite._schema import MAX_STEP, MINUTE, OPEN_RUN, checkpoint_id, deleted_id
from stargraph.errors import CheckpointCorruptedError, CheckpointError

_START_RUN: Final = """
INSERT INTO runs
    (run_id, status, step, digest, floor, graph_id, graph_hash, runtime_hash, error_reason, parent_run_id, is_child,
     started_at, updated_at, updated_minute, due_at, summary)
SELECT
    :run_id, :status, :step, :digest, :floor, :graph_id, :graph_hash, :runtime_hash, :error_reason, :parent_run_id,
    :is_child, :started_at, :updated_at, :updated_minute, :due_at, :summary
WHERE NOT EXISTS (SELECT 1 FROM runs WHERE run_id = :deleted_id)
ON CONFLICT (run_id) DO NOTHING
"""

_INDEXED: Final = ("status", "graph_id", "graph_hash", "runtime_hash", "error_reason", "updated_minute", "due_at")
"""Columns of an index. SQLite writes the index whenever such a column is assigned, changed or not."""

_IS_SAME: Final = " AND ".join(f"runs.{column} IS :{column}" for column in _INDEXED)
_ASSIGNED: Final = "".join(f", {column} = :{column}" for column in _INDEXED)

# The run is open, and its tail is the step before, which is still stored.
_MOVE_TAIL: Final = f"""
UPDATE runs SET step = :step, digest = :digest, updated_at = :updated_at, summary = :summary{{assigned}}
WHERE run_id = :run_id AND step = :previous_step AND digest = :previous_digest AND {OPEN_RUN}{{conditions}}
    AND EXISTS (SELECT 1 FROM checkpoints WHERE id = {checkpoint_id("runs.step")} AND checkpoints.digest = runs.digest)
"""  # noqa: S608  # made of constants; values are parameters

_IS_STORED: Final = f" AND EXISTS (SELECT 1 FROM checkpoints WHERE id = {checkpoint_id(':base_{}')})"  # noqa: S608  # made of constants; values are parameters

_INSERT: Final = f"""
INSERT INTO checkpoints (id, digest, record) SELECT {checkpoint_id("?")}, ?, ? FROM runs WHERE run_id = ?
"""  # noqa: S608  # made of constants; values are parameters

_INSERT_KEY: Final = "INSERT INTO keys (run, key, step) SELECT number, ?, ? FROM runs WHERE run_id = ?"

_INSERT_TAG: Final = "INSERT INTO tags (name, value, started_at, run_id) VALUES (?, ?, ?, ?)"

_STORED: Final = f"""
SELECT deleted.run_id, runs.status, runs.step, runs.digest, runs.floor, checkpoints.digest
FROM (SELECT ? AS run_id, ? AS deleted_id, ? AS step) AS asked
LEFT JOIN runs AS deleted ON deleted.run_id = asked.deleted_id
LEFT JOIN runs ON runs.run_id = asked.run_id
LEFT JOIN checkpoints ON checkpoints.id = {checkpoint_id("asked.step")}
"""  # noqa: S608  # made of constants; values are parameters

_ROW_BYTES: Final = 1024
"""About what an append writes besides its record."""


class Append:
    """Append consecutive checkpoints of one run, up to the first that is refused.

    Args:
        checkpoints: what to append; at least one.
        records: their stored forms, each encoded after the one before it.
        codec: made the records.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], records: Sequence[Record], codec: Codec) -> None:
        _ensure_steps_fit(checkpoints)
        self.checkpoints = checkpoints
        self.records = records
        self.size = sum(len(record.data) for record in records) + _ROW_BYTES * len(records)
        self._codec = codec
        self._digests = [bytes.fromhex(codec.fingerprint(checkpoint.digest)) for checkpoint in checkpoints]
        # A prune may have removed what a record is decoded from.
        first = checkpoints[0].step
        self._bases = sorted(
            {record.base_steps[-1] for record in records if record.base_steps and record.base_steps[-1] < first}
        )
        self._values = self._row_values()

    def apply(self, connection: sqlite3.Connection, /) -> bool:
        """Append them; return whether each is known to be stored as its record, so that later ones may build on it.

        Raises:
            CheckpointError: one is refused, as the contract says; those before it are kept.
        """
        if self._move_tail(connection):
            self._insert(connection)
            return True
        if len(self.records) > 1:
            # Some are stored already, or one is refused: each for itself.
            as_encoded = True
            for append in self._single_appends():
                as_encoded &= append.apply(connection)
            return as_encoded
        checkpoint, record, codec = self.checkpoints[0], self.records[0], self._codec
        if self._judge(connection, checkpoint) == "stored":
            return False
        if record.base_steps:  # a prune has removed what it is decoded from
            alone = Append([checkpoint], [codec.encode_alone(checkpoint)], codec)
            if alone._move_tail(connection):
                alone._insert(connection)
                return False
        raise CheckpointCorruptedError(
            f"run {checkpoint.run_id!r}, step {checkpoint.step}: the step before it is missing, although the store"
            " knows that it was written",
            reason="corrupted-store",
            hint="Run `PRAGMA integrity_check` on the file, and restore a backup.",
            run_id=checkpoint.run_id,
            step=checkpoint.step,
        )

    def _move_tail(self, connection: sqlite3.Connection) -> bool:
        """Make the last checkpoint the tail of the run; return False if the rules refuse that, or may refuse it."""
        if self.checkpoints[0].step == 0:
            return _start_run(connection, self._values, floor=0)
        return any(
            connection.execute(statement, self._values).rowcount == 1
            for statement in _move_statements(len(self._bases))
        )

    def _insert(self, connection: sqlite3.Connection) -> None:
        _insert_steps(connection, self.checkpoints, self._digests, self.records)
        if self.checkpoints[0].step == 0:
            _insert_tags(connection, self.checkpoints[0])
        _queue_index.put(connection, self.checkpoints[-1])

    def _single_appends(self) -> list[Append]:
        return [
            Append([checkpoint], [record], self._codec)
            for checkpoint, record in zip(self.checkpoints, self.records, strict=True)
        ]

    def _judge(self, connection: sqlite3.Connection, checkpoint: Checkpoint) -> str:
        asked = (checkpoint.run_id, deleted_id(checkpoint.run_id), checkpoint.step)
        deleted, status, step, digest, floor, stored = connection.execute(_STORED, asked).fetchone()
        return judge_append(
            checkpoint,
            tail=None if status is None else Tail(step=step, digest=digest.hex(), status=status, floor=floor),
            stored_digest=None if stored is None else stored.hex(),
            deleted=deleted is not None,
            fingerprint=self._codec.fingerprint,
        )

    def _row_values(self) -> dict[str, Any]:
        first, last = self.checkpoints[0], self.checkpoints[-1]
        previous = first.previous_digest
        return {
            **_tail_values(last, self._digests[-1]),
            "previous_step": first.step - 1,
            "previous_digest": None if previous is None else bytes.fromhex(self._codec.fingerprint(previous)),
        } | {f"base_{number}": base for number, base in enumerate(self._bases)}


class StartPruned:
    """Start a run with what a prune has left of it.

    Args:
        checkpoints: the steps, in order; the last one becomes the tail and the floor.
        records: their stored forms, each decoded from nothing but itself.
        codec: made the records.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], records: Sequence[Record], codec: Codec) -> None:
        _ensure_steps_fit(checkpoints)
        self._checkpoints = checkpoints
        self._records = records
        self._codec = codec
        self.size = sum(len(record.data) for record in records) + _ROW_BYTES * len(records)

    def apply(self, connection: sqlite3.Connection, /) -> bool:
        """Store them; return False if they are stored already.

        Raises:
            CheckpointError: the run was deleted, or is there with other steps.
        """
        last = self._checkpoints[-1]
        digests = [bytes.fromhex(self._codec.fingerprint(checkpoint.digest)) for checkpoint in self._checkpoints]
        if _start_run(connection, _tail_values(last, digests[-1]), floor=last.step):
            _insert_steps(connection, self._checkpoints, digests, self._records)
            _insert_tags(connection, last)
            _queue_index.put(connection, last)
            return True
        found = [
            connection.execute(_STORED, (last.run_id, deleted_id(last.run_id), checkpoint.step)).fetchone()
            for checkpoint in self._checkpoints
        ]
        judge_pruned_start(
            self._checkpoints,
            stored_digests={
                checkpoint.step: row[-1].hex()
                for checkpoint, row in zip(self._checkpoints, found, strict=True)
                if row[-1] is not None
            },
            deleted=found[-1][0] is not None,
            fingerprint=self._codec.fingerprint,
        )
        return False


def _ensure_steps_fit(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse a step whose id would be that of another run's.

    Raises:
        CheckpointError: one is too high (`reason="invalid-checkpoint"`).
    """
    last = checkpoints[-1]
    if last.step > MAX_STEP:
        raise CheckpointError(
            f"run {last.run_id!r}, step {last.step}: a SQLite store holds steps up to {MAX_STEP}",
            reason="invalid-checkpoint",
            hint="Fork the run: a fork begins at step 0.",
            run_id=last.run_id,
            step=last.step,
        )


def _start_run(connection: sqlite3.Connection, values: dict[str, Any], *, floor: int) -> bool:
    """Make the row of a run, unless the run is there or was deleted; return whether it was made."""
    values = {**values, "floor": floor, "deleted_id": deleted_id(values["run_id"])}
    return connection.execute(_START_RUN, values).rowcount == 1


def _insert_steps(
    connection: sqlite3.Connection,
    checkpoints: Sequence[Checkpoint],
    digests: Sequence[bytes],
    records: Sequence[Record],
) -> None:
    connection.executemany(
        _INSERT,
        [
            (checkpoint.step, digest, record.data, checkpoint.run_id)
            for checkpoint, digest, record in zip(checkpoints, digests, records, strict=True)
        ],
    )
    keys = [(checkpoint.key, checkpoint.step, checkpoint.run_id) for checkpoint in checkpoints if checkpoint.key]
    if keys:
        connection.executemany(_INSERT_KEY, keys)


def _insert_tags(connection: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    if checkpoint.metadata:
        started_at = microseconds(checkpoint.started_at)
        tags = [(*tag, started_at, checkpoint.run_id) for tag in checkpoint.metadata.items()]
        connection.executemany(_INSERT_TAG, tags)


def _tail_values(last: Checkpoint, digest: bytes) -> dict[str, Any]:
    fields = vars(last)
    updated_at, due_at, error = microseconds(fields["timestamp"]), last.due_at, fields["error"]
    return {
        "run_id": fields["run_id"],
        "status": fields["status"],
        "step": fields["step"],
        "digest": digest,
        "graph_id": fields["graph_id"],
        "graph_hash": fields["graph_hash"],
        "runtime_hash": fields["runtime_hash"],
        "error_reason": error.reason if error else None,
        "parent_run_id": fields["parent_run_id"],
        "is_child": int(fields["origin"] == "subgraph"),
        "started_at": microseconds(fields["started_at"]),
        "updated_at": updated_at,
        "updated_minute": updated_at // MINUTE,
        "due_at": None if due_at is None else microseconds(due_at),
        "summary": summary_json(last),
    }


@functools.cache
def _move_statements(bases: int) -> tuple[str, str]:
    """Return what moves the tail of a run: if no index changes, and if one does.

    Args:
        bases: how many stored steps the new records are decoded from.
    """
    are_stored = "".join(map(_IS_STORED.format, range(bases)))
    return (
        _MOVE_TAIL.format(assigned="", conditions=f" AND {_IS_SAME}{are_stored}"),
        _MOVE_TAIL.format(assigned=_ASSIGNED, conditions=are_stored),
    )
