"""Appends: what a write sends, the statements that guard it, and how its outcome is found.

Why an append is safe under READ COMMITTED, with any number of writers:

* A run has one row in `runs`, found by its primary key, and it is never removed: a deleted run keeps it as its
  tombstone. Step 0 inserts that row, so the unique index lets exactly one genesis in, and none after a deletion.
* Every other append updates that row on condition that its tail is the step before with the digest that the new
  checkpoint names, and that the run is open. PostgreSQL locks the row first and, if another transaction had
  changed it, checks the condition again on the newest version. So of two writers of a step one finds the
  tail moved, and none of them can follow a step that it has not seen.
* The checkpoint is inserted by the same statement and only if the row was taken, so both become durable with
  one commit or not at all; the primary key of `checkpoints` would refuse a second row as well.
* Deletion and pruning update the same row before they remove checkpoints, so they take turns with writers. A prune
  raises `floor` above all that it removes, and a writer is refused whose record would be decoded from below it: it
  remembers a step that is gone.

A row that was not taken says nothing about why: the statement's snapshot may be older than the winner. A second
statement reads the tail, with a snapshot of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stargraph.checkpoint.codec import Codec, Record
from stargraph.checkpoint.driver import summary_json
from stargraph.checkpoint.postgres._indexed_text import indexed_tags, indexed_text
from stargraph.checkpoint.postgres._queue_index import (
    is_at_work,
    put,
    queue_parameters,
    refresh,
    refresh_parameters,
)
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.checkpoint.protocol import ENDED, Checkpoint

_OPEN: Final = f"status NOT IN ({', '.join(repr(status) for status in (*sorted(ENDED), 'deleted'))})"

_BEGIN: Final = """
WITH taken AS (
    INSERT INTO {schema}.runs
        (run_id, last_step, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason,
         parent_run_id, is_child, tags, summary, due_at)
    VALUES ($1, 0, $2, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
    ON CONFLICT (run_id) DO NOTHING
    RETURNING run_id
){keyed}
INSERT INTO {schema}.checkpoints (run_id, step, digest, record)
SELECT run_id, 0, $2, $3 FROM taken
RETURNING run_id
"""

_START_PRUNED: Final = """
WITH taken AS (
    INSERT INTO {schema}.runs
        (run_id, last_step, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason,
         parent_run_id, is_child, tags, summary, due_at, floor)
    VALUES ($1, $16::bigint, $2, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    ON CONFLICT (run_id) DO NOTHING
    RETURNING run_id
), keyed AS (
    INSERT INTO {schema}.keys (run_id, key, step)
    SELECT taken.run_id, k.key, k.step FROM taken CROSS JOIN unnest($19::bytea[], $20::bigint[]) AS k (key, step)
){queued}
INSERT INTO {schema}.checkpoints (run_id, step, digest, record)
SELECT taken.run_id, c.step, c.digest, c.record
FROM taken CROSS JOIN unnest($17::bigint[], $18::bytea[], $3::bytea[]) AS c (step, digest, record)
RETURNING run_id
"""

_STORED: Final = """
SELECT r.status, c.step, c.digest
FROM {schema}.runs AS r
LEFT JOIN {schema}.checkpoints AS c ON c.run_id = $1 AND c.step = ANY ($2::bigint[])
WHERE r.run_id = $1
"""

_ADVANCE: Final = """
WITH taken AS (
    UPDATE {schema}.runs
    SET last_step = $2::bigint, digest = $3, status = $7, updated_at = $8, graph_hash = $9, runtime_hash = $10,
        error_reason = $11, summary = $12, due_at = $13
    WHERE run_id = $1 AND last_step = $2::bigint - 1 AND digest = $6 AND floor <= coalesce($4::bigint, floor) AND {open}
    RETURNING run_id
){keyed}
INSERT INTO {schema}.checkpoints (run_id, step, digest, base, record)
SELECT run_id, $2, $3, $4, $5 FROM taken
RETURNING run_id
"""

# Only for a step that has a key: the others send nothing of it.
_KEYED: Final = """, keyed AS (
    INSERT INTO {schema}.keys (run_id, key, step) SELECT run_id, ${number}, {step} FROM taken
)"""

# Each run is once in a batch. Batches cannot block each other in a circle: rows that somebody else holds
# are left out, and the genesis rows, the only ones that are waited for, are inserted in order.
_APPEND_BATCH: Final = """
WITH batch AS (
    SELECT * FROM unnest(
        $1::text[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::timestamptz[],
        $9::timestamptz[], $10::text[], $11::bytea[], $12::bytea[], $13::text[], $14::text[], $15::boolean[],
        $16::bytea[], $17::timestamptz[]
    ) AS b (run_id, first_step, previous, base, last_step, digest, status, started_at, updated_at, graph_id, graph_hash,
            runtime_hash, error_reason, parent_run_id, is_child, summary, due_at)
), begun AS (
    INSERT INTO {schema}.runs
        (run_id, last_step, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason,
         parent_run_id, is_child, summary, due_at, tags)
    SELECT run_id, last_step, digest, status, started_at, updated_at, graph_id, graph_hash, runtime_hash, error_reason,
           parent_run_id, is_child, summary, due_at,
           ARRAY(SELECT t.tag FROM unnest($18::text[], $19::text[]) AS t (run_id, tag) WHERE t.run_id = batch.run_id)
    FROM batch WHERE first_step = 0 ORDER BY run_id
    ON CONFLICT (run_id) DO NOTHING
    RETURNING run_id
), locked AS (
    SELECT r.run_id
    FROM batch AS b
    JOIN {schema}.runs AS r ON r.run_id = b.run_id AND r.last_step = b.first_step - 1 AND r.digest = b.previous
    WHERE r.floor <= coalesce(b.base, r.floor) AND r.{open}
    FOR NO KEY UPDATE OF r {if_locked}
), moved AS (
    UPDATE {schema}.runs AS r
    SET last_step = b.last_step, digest = b.digest, status = b.status, updated_at = b.updated_at,
        graph_hash = b.graph_hash, runtime_hash = b.runtime_hash, error_reason = b.error_reason, summary = b.summary,
        due_at = b.due_at
    FROM batch AS b JOIN locked ON locked.run_id = b.run_id
    WHERE r.run_id = b.run_id
    RETURNING r.run_id
), taken AS (
    SELECT run_id FROM begun UNION ALL SELECT run_id FROM moved
), stored AS (
    INSERT INTO {schema}.checkpoints (run_id, step, digest, base, record)
    SELECT c.run_id, c.step, c.digest, c.base, c.record
    FROM unnest($20::text[], $21::bigint[], $22::bytea[], $23::bigint[], $24::bytea[])
        AS c (run_id, step, digest, base, record)
    WHERE c.run_id IN (SELECT run_id FROM taken)
){keyed}
SELECT run_id FROM taken
"""

_KEYED_BATCH: Final = """, keyed AS (
    INSERT INTO {schema}.keys (run_id, key, step)
    SELECT k.run_id, k.key, k.step FROM unnest($25::text[], $26::bytea[], $27::bigint[]) AS k (run_id, key, step)
    WHERE k.run_id IN (SELECT run_id FROM taken)
)"""

_PUT: Final = put(28)

_TAIL: Final = """
SELECT r.last_step, r.digest, r.status, r.floor, c.step, c.digest AS stored
FROM {schema}.runs AS r
LEFT JOIN {schema}.checkpoints AS c ON c.run_id = $1 AND c.step BETWEEN $2 AND $3
WHERE r.run_id = $1
"""

DELETED: Final = "deleted"
"""The status of a row that only says that its run is gone."""

_LARGE: Final = 8 * 1024 * 1024


@dataclass(slots=True)
class Append:
    """Consecutive checkpoints of one run that are stored together or not at all.

    Attributes:
        checkpoints: the checkpoints, in order.
        records: their stored forms.
        digests: what the store keeps of their digests.
        previous: likewise of the step before the first one.
        size: bytes of the records.
    """

    checkpoints: tuple[Checkpoint, ...]
    records: tuple[Record, ...]
    digests: tuple[bytes, ...]
    previous: bytes | None
    size: int

    def __len__(self) -> int:
        return len(self.records)

    @property
    def run_id(self) -> str:
        """The run."""
        return self.checkpoints[0].run_id

    @property
    def first(self) -> Checkpoint:
        """The first checkpoint."""
        return self.checkpoints[0]

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint."""
        return self.checkpoints[-1]

    @property
    def base(self) -> int | None:
        """The lowest step before the first one that a record is decoded from; None if all stand alone."""
        bases = [base for base in map(base_of, self.records) if base is not None]
        return min((base for base in bases if base < self.first.step), default=None)


class AppendStatements:
    """The statements of appends in one schema, each with the parameters that it takes.

    Attributes:
        tail: reads the tail of a run, and the digests within a range of its steps.
        start_pruned: starts a run with what a prune has left of it.
        stored: reads the status of a run, and the digests of some of its steps.
    """

    def __init__(self, schema: Schema) -> None:
        self._begin = schema.sql(_BEGIN, keyed="")
        self._begin_keyed = schema.sql(_BEGIN, keyed=_KEYED, number="16", step="0")
        self._advance = {
            (keyed, queued): schema.sql(
                _ADVANCE,
                open=_OPEN,
                keyed=(_KEYED if keyed else "") + (refresh(14 + keyed) if queued else ""),
                number="14",
                step="$2::bigint",
            )
            for keyed in (False, True)
            for queued in (False, True)
        }
        self._batches = {
            (more, wait): schema.sql(_APPEND_BATCH, open=_OPEN, if_locked="" if wait else "SKIP LOCKED", keyed=more)
            for more in ("", _KEYED_BATCH, _KEYED_BATCH + _PUT)
            for wait in (False, True)
        }
        self.tail = schema.sql(_TAIL)
        self.start_pruned = schema.sql(_START_PRUNED, queued=put(21))
        self.stored = schema.sql(_STORED)

    def store(self, appends: Sequence[Append], *, wait: bool) -> tuple[str, tuple[Any, ...]]:
        """Return one statement that stores appends of one run each, and returns the runs that it took.

        Args:
            appends: what to store.
            wait: wait for whoever holds a run, instead of leaving it out.
        """
        queued = [append.last for append in appends if append.first.queue is not None]
        if len(appends) == 1 and len(appends[0]) == 1 and (not queued or is_at_work(appends[0].first)):
            append = appends[0]
            key = append.first.key
            keyed = () if key is None else (key.encode(),)
            if append.first.step == 0:
                return self._begin_keyed if keyed else self._begin, (*_begin_parameters(append), *keyed)
            return self._advance[bool(keyed), bool(queued)], (
                *_advance_parameters(append),
                *keyed,
                *(refresh_parameters(append.first) if queued else ()),
            )
        with_key = [step for append in appends for step in append.checkpoints if step.key is not None]
        more = (_KEYED_BATCH if with_key or queued else "") + (_PUT if queued else "")
        return self._batches[more, wait], (
            *_batch_parameters(appends),
            *(_key_parameters(with_key) if more else ()),
            *(queue_parameters(queued) if queued else ()),
        )


def base_of(record: Record) -> int | None:
    """Return the step that a record is decoded from, or None if it stands alone."""
    return record.base_steps[-1] if record.base_steps else None


def encode_append(checkpoint: Checkpoint, codec: Codec) -> Append:
    """Return the append of one checkpoint.

    Raises:
        CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
        StateError: it is too large.
    """
    return _append_of((checkpoint,), (codec.encode(checkpoint),), codec)


def encode_appends(checkpoints: Sequence[Checkpoint], codec: Codec, *, most: int | None = None) -> Iterator[Append]:
    """Yield checkpoints in parts that one statement each may store, none of them too large.

    The codec must know of each part that was appended before the next one is taken.

    Args:
        checkpoints: consecutive steps of one run.
        codec: encodes them.
        most: checkpoints in a part; without it, only their size counts.

    Raises:
        CheckpointError: one of them is not what its digest covers (`reason="invalid-checkpoint"`).
        StateError: one is too large.
    """
    start = size = 0
    records: list[Record] = []
    for position, checkpoint in enumerate(checkpoints, 1):
        records.append(codec.encode(checkpoint, after=records[-1] if records else None))
        size += len(records[-1].data)
        if size >= _LARGE or len(records) == most or position == len(checkpoints):
            yield _append_of(checkpoints[start:position], records, codec)
            start, size, records = position, 0, []


def encode_alone(checkpoints: Sequence[Checkpoint], codec: Codec) -> Append:
    """Return consecutive checkpoints of one run as one append that is decoded from nothing but itself."""
    records = [codec.encode_alone(checkpoints[0])]
    for checkpoint in checkpoints[1:]:
        records.append(codec.encode(checkpoint, after=records[-1]))
    return _append_of(checkpoints, records, codec)


def encode_each_alone(checkpoints: Sequence[Checkpoint], codec: Codec) -> Append:
    """Return steps of one run as an append of which each record is decoded from nothing but itself."""
    return _append_of(checkpoints, [codec.encode_alone(checkpoint) for checkpoint in checkpoints], codec)


def _append_of(checkpoints: Sequence[Checkpoint], records: Sequence[Record], codec: Codec) -> Append:
    previous = checkpoints[0].previous_digest
    return Append(
        tuple(checkpoints),
        tuple(records),
        tuple([bytes.fromhex(codec.fingerprint(checkpoint.digest)) for checkpoint in checkpoints]),
        None if previous is None else bytes.fromhex(codec.fingerprint(previous)),
        sum([len(record.data) for record in records]),
    )


def _error_reason(checkpoint: Checkpoint) -> str | None:
    reason = None if checkpoint.error is None else checkpoint.error.reason
    return None if reason is None else indexed_text(reason)


def pruned_start_parameters(append: Append) -> tuple[Any, ...]:
    """Return the parameters of `AppendStatements.start_pruned`.

    Args:
        append: what a prune has left of a run; each record stands alone.
    """
    records = [record.data for record in append.records]
    steps = [checkpoint.step for checkpoint in append.checkpoints]
    keyed = [checkpoint for checkpoint in append.checkpoints if checkpoint.key is not None]
    return (
        *_row_parameters(append.last, append.digests[-1], records),
        append.last.step,
        steps,
        append.digests,
        *_key_parameters(keyed)[1:],
        *queue_parameters([append.last]),
    )


def _begin_parameters(append: Append) -> tuple[Any, ...]:
    return _row_parameters(append.first, append.digests[0], append.records[0].data)


def _row_parameters(checkpoint: Checkpoint, digest: bytes, data: bytes | list[bytes]) -> tuple[Any, ...]:
    return (
        checkpoint.run_id,
        digest,
        data,
        checkpoint.status,
        checkpoint.started_at,
        checkpoint.timestamp,
        indexed_text(checkpoint.graph_id),
        bytes.fromhex(checkpoint.graph_hash),
        bytes.fromhex(checkpoint.runtime_hash),
        _error_reason(checkpoint),
        checkpoint.parent_run_id,
        checkpoint.origin == "subgraph",
        indexed_tags(checkpoint.metadata),
        summary_json(checkpoint),
        checkpoint.due_at,
    )


def _advance_parameters(append: Append) -> tuple[Any, ...]:
    checkpoint, record = append.first, append.records[0]
    return (
        checkpoint.run_id,
        checkpoint.step,
        append.digests[0],
        base_of(record),
        record.data,
        append.previous,
        checkpoint.status,
        checkpoint.timestamp,
        bytes.fromhex(checkpoint.graph_hash),
        bytes.fromhex(checkpoint.runtime_hash),
        _error_reason(checkpoint),
        summary_json(checkpoint),
        checkpoint.due_at,
    )


def _key_parameters(checkpoints: Sequence[Checkpoint]) -> tuple[list[Any], ...]:
    return (
        [checkpoint.run_id for checkpoint in checkpoints],
        [(checkpoint.key or "").encode() for checkpoint in checkpoints],
        [checkpoint.step for checkpoint in checkpoints],
    )


def _batch_parameters(appends: Sequence[Append]) -> tuple[list[Any], ...]:
    firsts = [append.first for append in appends]
    lasts = [append.last for append in appends]
    tags = [(first.run_id, tag) for first in firsts if first.step == 0 for tag in indexed_tags(first.metadata)]
    rows = [
        (checkpoint, digest, record)
        for append in appends
        for checkpoint, digest, record in zip(append.checkpoints, append.digests, append.records, strict=True)
    ]
    return (
        [first.run_id for first in firsts],
        [first.step for first in firsts],
        [append.previous for append in appends],
        [append.base for append in appends],
        [last.step for last in lasts],
        [append.digests[-1] for append in appends],
        [last.status for last in lasts],
        [last.started_at for last in lasts],
        [last.timestamp for last in lasts],
        [indexed_text(last.graph_id) for last in lasts],
        [bytes.fromhex(last.graph_hash) for last in lasts],
        [bytes.fromhex(last.runtime_hash) for last in lasts],
        [_error_reason(last) for last in lasts],
        [last.parent_run_id for last in lasts],
        [last.origin == "subgraph" for last in lasts],
        [summary_json(last) for last in lasts],
        [last.due_at for last in lasts],
        [run_id for run_id, _ in tags],
        [tag for _, tag in tags],
        [checkpoint.run_id for checkpoint, _, _ in rows],
        [checkpoint.step for checkpoint, _, _ in rows],
        [digest for _, digest, _ in rows],
        [base_of(record) for _, _, record in rows],
        [record.data for _, _, record in rows],
    )
