"""What is to be appended, and the parameters that the statements take for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.postgres._rows import summary_of, tags_of, text_of
from stargraph.checkpoint.protocol import Checkpoint

_LARGE: Final = 8 * 1024 * 1024


@dataclass(slots=True)
class Append:
    """Consecutive checkpoints of one run that are stored together or not at all.

    Attributes:
        checkpoints: the checkpoints, in order.
        records: their stored forms.
    """

    checkpoints: tuple[Checkpoint, ...]
    records: tuple[bytes, ...]

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint]) -> Append:
        """Encode checkpoints.

        Args:
            checkpoints: consecutive steps of one run.

        Raises:
            CheckpointError: one of them is not what its digest covers (`reason="invalid-checkpoint"`).
        """
        return cls(tuple(checkpoints), tuple(map(encode, checkpoints)))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size(self) -> int:
        """The bytes of the records."""
        return sum(map(len, self.records))

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

    def part(self, start: int, stop: int | None = None) -> Append:
        """Return some of it.

        Args:
            start: the position of the first checkpoint.
            stop: the position after the last one.
        """
        return Append(self.checkpoints[start:stop], self.records[start:stop])

    def pieces(self, most: int | None = None) -> list[Append]:
        """Return it in parts that one statement each may store, none of them too large.

        Args:
            most: checkpoints in a part; without it, only their size counts.
        """
        if len(self.records) == 1:
            return [self]
        parts = []
        start = size = 0
        for position, record in enumerate(self.records):
            if position > start and (size + len(record) > _LARGE or position - start == most):
                parts.append(self.part(start, position))
                start, size = position, 0
            size += len(record)
        return [*parts, self.part(start)]


def begin_parameters(append: Append) -> tuple[Any, ...]:
    """Return the parameters of `Queries.begin`.

    Args:
        append: a step 0, alone.
    """
    (checkpoint,) = append.checkpoints
    return (
        checkpoint.run_id,
        bytes.fromhex(checkpoint.digest),
        append.records[0],
        checkpoint.status,
        text_of(checkpoint.graph_id),
        checkpoint.started_at,
        checkpoint.timestamp,
        summary_of(checkpoint),
        tags_of(checkpoint.metadata),
    )


def advance_parameters(append: Append) -> tuple[Any, ...]:
    """Return the parameters of `Queries.advance`.

    Args:
        append: one step above 0, alone.
    """
    (checkpoint,) = append.checkpoints
    return (
        checkpoint.run_id,
        checkpoint.step,
        bytes.fromhex(checkpoint.digest),
        append.records[0],
        previous_of(checkpoint),
        checkpoint.status,
        checkpoint.timestamp,
        summary_of(checkpoint),
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
        (checkpoint, record)
        for append in appends
        for checkpoint, record in zip(append.checkpoints, append.records, strict=True)
    ]
    return (
        [first.run_id for first in firsts],
        [first.step for first in firsts],
        [previous_of(first) for first in firsts],
        [last.step for last in lasts],
        [bytes.fromhex(last.digest) for last in lasts],
        [last.status for last in lasts],
        [last.timestamp for last in lasts],
        [summary_of(last) for last in lasts],
        [text_of(first.graph_id) for first in firsts],
        [first.started_at for first in firsts],
        [run_id for run_id, _ in tags],
        [tag for _, tag in tags],
        [checkpoint.run_id for checkpoint, _ in rows],
        [checkpoint.step for checkpoint, _ in rows],
        [bytes.fromhex(checkpoint.digest) for checkpoint, _ in rows],
        [record for _, record in rows],
    )


def previous_of(checkpoint: Checkpoint) -> bytes | None:
    """Return the digest of the step before as its column holds it."""
    return None if checkpoint.previous_digest is None else bytes.fromhex(checkpoint.previous_digest)
