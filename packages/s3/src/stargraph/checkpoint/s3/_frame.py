r"""What an object of the log holds: one line of JSON, then the record.

    {"bases":[0,3],"digest":"…","format":1,"kind":"record","size":1234,"summary":{…}}\n<record>

The line tells what a listing of runs, a writer and a prune need, so that they read the first kilobytes only:
`bases` are the steps whose records this one is decoded from. A tombstone is the line alone: it keeps the slot taken
after the record went.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import orjson

from stargraph.checkpoint.codec import Codec, Record, base_steps_of
from stargraph.checkpoint.driver import summary_json
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.errors import CheckpointCorruptedError, StoreVersionError

FRAME_FORMAT: Final = 1
"""The number of the form; it is in every object."""

HEAD_BYTES: Final = 16 * 1024
"""How much of an object is read for its line; a longer line (a long traceback) takes a second read."""

Tombstone: TypeAlias = Literal["pruned", "deleted"]


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a record's object.

    Attributes:
        digest: the digest of the checkpoint, as the codec lets it be seen.
        bases: the steps that the record is decoded from, the keyframe first.
        summary: the summary of the run after it.
        size: the length of the record, in bytes.
        length: the length of the line with its newline, in bytes.
    """

    digest: str
    bases: tuple[int, ...]
    summary: RunSummary
    size: int
    length: int


def pack(checkpoint: Checkpoint, record: Record, codec: Codec) -> bytes:
    """Return the object of a checkpoint.

    Args:
        checkpoint: the checkpoint.
        record: its stored form.
        codec: made it.
    """
    line = {
        "digest": codec.fingerprint(checkpoint.digest),
        "format": FRAME_FORMAT,
        "kind": "record",
        "size": len(record.data),
        "summary": orjson.Fragment(summary_json(checkpoint)),
    }
    if record.bases:
        line["bases"] = record.bases
    return b"".join((orjson.dumps(line), b"\n", record.data))


def tombstone(kind: Tombstone) -> bytes:
    """Return the object that takes the place of a record.

    Args:
        kind: why the record went.
    """
    return orjson.dumps({"format": FRAME_FORMAT, "kind": kind}) + b"\n"


def is_tombstone(size: int) -> bool:
    """Tell a tombstone from a record by the length that a listing shows, without a read.

    Args:
        size: the length of the object in a slot, in bytes.
    """
    return size in _TOMBSTONE_BYTES


_TOMBSTONE_BYTES: Final = frozenset({len(tombstone("pruned")), len(tombstone("deleted"))})


def read_head(body: bytes, *, run_id: str, step: int) -> Head | Tombstone | None:
    """Return what the first line of an object says.

    Args:
        body: the object, or the beginning of it.
        run_id: the run whose slot it is.
        step: the step whose slot it is.

    Returns:
        The head of a record, the kind of a tombstone, or None where the line goes on after `body`.

    Raises:
        CheckpointCorruptedError: it is no such line, or one of another slot.
        StoreVersionError: a newer version of Stargraph wrote it.
    """
    end = body.find(b"\n")
    if end < 0:
        return None
    try:
        line = orjson.loads(memoryview(body)[:end])
        if line["format"] != FRAME_FORMAT:
            raise _newer(run_id, step, line["format"])
        kind = line["kind"]
        if kind == "pruned" or kind == "deleted":
            return kind  # type: ignore[no-any-return]  # narrowed by value
        summary = RunSummary.model_validate(line["summary"])
        bases = tuple(line.get("bases", ()))
        head = Head(digest=line["digest"], bases=bases, summary=summary, size=line["size"], length=end + 1)
    except (ValueError, TypeError, KeyError) as error:
        raise corrupted(run_id, step, f"its first line cannot be read: {error}") from error
    if (summary.run_id, summary.last_step) != (run_id, step):
        raise corrupted(run_id, step, f"it is step {summary.last_step} of run {summary.run_id!r}")
    return head


def record_of(body: bytes, head: Head, *, run_id: str, step: int) -> bytes:
    """Return the record that follows the line.

    Args:
        body: the whole object.
        head: its first line.
        run_id: the run whose slot it is.
        step: the step whose slot it is.

    Raises:
        CheckpointCorruptedError: it is not the record that the line tells of.
        StoreVersionError: a newer version of Stargraph wrote it.
    """
    record = body[head.length :]
    if len(record) != head.size:
        raise corrupted(run_id, step, f"it has {len(record)} bytes, and its first line says {head.size}")
    if base_steps_of(record, run_id=run_id, step=step) != head.bases:
        raise corrupted(run_id, step, "its first line names other bases than the record does")
    return record


def _newer(run_id: str, step: int, found: object) -> StoreVersionError:
    return StoreVersionError(
        f"run {run_id!r}, step {step}: the object has format {found}, and this software reads {FRAME_FORMAT}",
        reason="newer-format",
        hint="Upgrade stargraph-checkpoint-s3 here to the version that wrote it.",
        run_id=run_id,
        step=step,
    )


def corrupted(run_id: str, step: int, complaint: str) -> CheckpointCorruptedError:
    """Return the error of an object that is not what was written.

    Args:
        run_id: the run.
        step: the step.
        complaint: what is wrong with it.
    """
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the stored object is not what was written: {complaint}",
        reason="corrupted-record",
        hint="Nothing was changed. Restore the object from a backup or an earlier version of it, or fork the run"
        " from an earlier step.",
        run_id=run_id,
        step=step,
    )
