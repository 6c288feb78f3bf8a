"""What is to be appended, and the parameters that the statements take for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stargraph.checkpoint.codec import Codec, Record
from stargraph.checkpoint.driver import summary_json
from stargraph.checkpoint.postgres._rows import tags_of, text_of
from stargraph.checkpoint.protocol import Checkpoint

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
        """The lowest step before the first one that a record is decoded from; None where all stand alone."""
        bases = [base for base in map(base_of, self.records) if base is not None]
        return min((base for base in bases if base < self.first.step), default=None)


def base_of(record: Record) -> int | None:
    """Return the step that a record is decoded from, or None where it stands alone."""
    return record.bases[-1] if record.bases else None


def encoded(checkpoints: Sequence[Checkpoint], codec: Codec, *, most: int | None = None) -> Iterator[Append]:
    """Yield checkpoints in parts that one statement each may store, none of them too large.

    A part is encoded after the one before it was appended, of which the codec has been told.

    Args:
        checkpoints: consecutive steps of one run.
        codec: encodes them.
        most: checkpoints in a part; without it, only their size counts.

    Raises:
        CheckpointError: one of them is not what its digest covers (`reason="invalid-checkpoint"`).
        StateError: one is too large.
    """
    if len(checkpoints) == 1:
        yield _append_of(checkpoints, (codec.encode(checkpoints[0]),), codec)
        return
    start = size = 0
    records: list[Record] = []
    for position, checkpoint in enumerate(checkpoints, 1):
        records.append(codec.encode(checkpoint, after=records[-1] if records else None))
        size += len(records[-1].data)
        if size >= _LARGE or len(records) == most or position == len(checkpoints):
            yield _append_of(checkpoints[start:position], records, codec)
            start, size, records = position, 0, []


def encoded_alone(checkpoints: Sequence[Checkpoint], codec: Codec) -> Append:
    """Return checkpoints as one append that is decoded from nothing but itself.

    Args:
        checkpoints: consecutive steps of one run.
        codec: encodes them.
    """
    records = [codec.encode_alone(checkpoints[0])]
    for checkpoint in checkpoints[1:]:
        records.append(codec.encode(checkpoint, after=records[-1]))
    return _append_of(checkpoints, records, codec)


def _append_of(checkpoints: Sequence[Checkpoint], records: Sequence[Record], codec: Codec) -> Append:
    previous = checkpoints[0].previous_digest
    return Append(
        tuple(checkpoints),
        tuple(records),
        tuple([bytes.fromhex(codec.fingerprint(checkpoint.digest)) for checkpoint in checkpoints]),
        None if previous is None else bytes.fromhex(codec.fingerprint(previous)),
        sum([len(record.data) for record in records]),
    )


def begin_parameters(append: Append) -> tuple[Any, ...]:
    """Return the parameters of `Queries.begin`.

    Args:
        append: a step 0, alone.
    """
    checkpoint = append.first
    return (
        checkpoint.run_id,
        append.digests[0],
        append.records[0].data,
        checkpoint.status,
        text_of(checkpoint.graph_id),
        checkpoint.started_at,
        checkpoint.timestamp,
        summary_json(checkpoint),
        tags_of(checkpoint.metadata),
    )


def advance_parameters(append: Append) -> tuple[Any, ...]:
    """Return the parameters of `Queries.advance`.

    Args:
        append: one step above 0, alone.
    """
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
        summary_json(checkpoint),
    )


def batch_parameters(appends: Sequence[Append]) -> tuple[list[Any], ...]:
    """Return the parameters of `Queries.append_batch`.

    Args:
        appends: of one run each.
    """
    firsts = [append.first for append in appends]
    lasts = [append.last for append in appends]
    tags = [
        (append.run_id, tag) for append in appends if append.first.step == 0 for tag in tags_of(append.first.metadata)
    ]
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
        [last.timestamp for last in lasts],
        [summary_json(last) for last in lasts],
        [text_of(first.graph_id) for first in firsts],
        [first.started_at for first in firsts],
        [run_id for run_id, _ in tags],
        [tag for _, tag in tags],
        [checkpoint.run_id for checkpoint, _, _ in rows],
        [checkpoint.step for checkpoint, _, _ in rows],
        [digest for _, digest, _ in rows],
        [base_of(record) for _, _, record in rows],
        [record.data for _, _, record in rows],
    )
