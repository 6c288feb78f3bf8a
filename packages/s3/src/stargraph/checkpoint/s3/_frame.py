r"""What an object of the log holds: one line of JSON, its header, then the record.

    {"bases":[0,3],"digest":"…","format":1,"key":"…","kind":"record","size":1234,"summary":{…}}\n<record>

The header tells what a listing of runs, a writer and a prune need, so that they read the first kilobytes only:
`bases` are the steps whose records this one is decoded from, and `key` is that of the step, if it has one. A tombstone
is a header alone: it keeps the slot taken after the record went. `start` is in what `start_pruned` puts below the floor
of a run, and names that floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import orjson

from stargraph.checkpoint.codec import Codec, Record, base_steps_of
from stargraph.checkpoint.driver import summary_json
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.checkpoint.s3._errors import corrupted_error, newer_format_error
from stargraph.checkpoint.s3._schema import STORE_FORMAT

HEADER_BYTES: Final = 16 * 1024
"""How much of an object is read for its header; a longer one (a long traceback) takes a second read."""

Tombstone: TypeAlias = Literal["pruned", "deleted"]


@dataclass(frozen=True, slots=True)
class PrunedFloor:
    """The floor of a run that is started with what a prune has left of it.

    Attributes:
        step: its step.
        digest: of all steps that the run is started with, in hex: two starts of one run do not mix.
    """

    step: int
    digest: str

    def __str__(self) -> str:
        return f"{self.step:019d}-{self.digest}"  # as long for every run

    @classmethod
    def read(cls, text: str) -> PrunedFloor:
        """Return what `str` has made a text of."""
        step, _, digest = text.partition("-")
        return cls(int(step), digest)


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a record's object.

    Attributes:
        digest: the digest of the checkpoint, as the codec lets it be seen.
        key: the key of the step, or None.
        bases: the steps that the record is decoded from, the keyframe first.
        summary: the summary of the run after it.
        size: the length of the record, in bytes.
        length: the length of the header with its newline, in bytes.
        start: the floor above this record, if `start_pruned` has stored it.
    """

    digest: str
    key: str | None
    bases: tuple[int, ...]
    summary: RunSummary
    size: int
    length: int
    start: PrunedFloor | None = None


def pack(checkpoint: Checkpoint, record: Record, codec: Codec, *, start: PrunedFloor | None = None) -> bytes:
    """Return the object of a checkpoint.

    Args:
        record: its stored form.
        codec: made it.
        start: the floor above it, if it is stored by `start_pruned`.
    """
    line = {
        "digest": codec.fingerprint(checkpoint.digest),
        "format": STORE_FORMAT,
        "kind": "record",
        "size": len(record.data),
        "summary": orjson.Fragment(summary_json(checkpoint)),
    }
    if checkpoint.key is not None:
        line["key"] = checkpoint.key
    if record.base_steps:
        line["bases"] = record.base_steps
    if start is not None:
        line["start"] = str(start)
    return b"".join((orjson.dumps(line), b"\n", record.data))


def tombstone(kind: Tombstone, *, start: PrunedFloor | None = None) -> bytes:
    """Return the object that takes the place of a record that went, or of one that never was in this store.

    Args:
        kind: why it is not there.
        start: the floor of the run, if `start_pruned` takes the first slot with it.
    """
    named = {} if start is None else {"start": str(start)}
    return orjson.dumps({"format": STORE_FORMAT, "kind": kind} | named) + b"\n"


def is_tombstone(size: int) -> bool:
    """Tell a tombstone from a record by the length of the object, which a listing shows, without a read."""
    return size in _TOMBSTONE_BYTES


_TOMBSTONE_BYTES: Final = frozenset(
    {len(tombstone("pruned")), len(tombstone("deleted")), len(tombstone("pruned", start=PrunedFloor(0, "0" * 64)))}
)


def read_header(body: bytes, *, run_id: str, step: int) -> Header | Tombstone | PrunedFloor | None:
    """Return what the first line of an object says.

    Args:
        body: the object, or the beginning of it.
        run_id: the run whose slot it is in.
        step: the step whose slot it is in.

    Returns:
        The header of a record, the kind of a tombstone or the floor that it names, or None if the line goes on after
        `body`.

    Raises:
        CheckpointCorruptedError: it is no such line, or one of another slot.
        StoreVersionError: another version of Stargraph wrote it.
    """
    end = body.find(b"\n")
    if end < 0:
        return None
    try:
        line = orjson.loads(memoryview(body)[:end])
        if line["format"] > STORE_FORMAT:
            raise newer_format_error(f"run {run_id!r}, step {step}: the object", line["format"], STORE_FORMAT)
        if line["format"] != STORE_FORMAT:
            raise ValueError(f"it has format {line['format']}")
        kind = line["kind"]
        start = PrunedFloor.read(line["start"]) if "start" in line else None
        if kind == "pruned" and start is not None:
            return start
        if kind == "pruned" or kind == "deleted":
            return kind  # type: ignore[no-any-return]  # narrowed by value
        summary = RunSummary.model_validate(line["summary"])
        bases = tuple(line.get("bases", ()))
        header = Header(
            digest=line["digest"],
            key=line.get("key"),
            bases=bases,
            summary=summary,
            size=line["size"],
            length=end + 1,
            start=start,
        )
    except (ValueError, TypeError, KeyError) as error:
        # Without its cause, which would quote the content in logs.
        raise corrupted_error(run_id, step, f"its header cannot be read: {str(error).partition(chr(10))[0]}") from None
    if (summary.run_id, summary.last_step) != (run_id, step):
        raise corrupted_error(run_id, step, f"it is step {summary.last_step} of run {summary.run_id!r}")
    return header


def record_of(body: bytes, header: Header, *, run_id: str, step: int) -> bytes:
    """Return the record that follows the header.

    Args:
        body: the whole object.
        header: its first line.
        run_id: the run whose slot it is in.
        step: the step whose slot it is in.

    Raises:
        CheckpointCorruptedError: it is not the record that the header describes.
        StoreVersionError: a newer version of Stargraph wrote it.
    """
    record = body[header.length :]
    if len(record) != header.size:
        raise corrupted_error(run_id, step, f"it has {len(record)} bytes, and its header says {header.size}")
    if base_steps_of(record, run_id=run_id, step=step) != header.bases:
        raise corrupted_error(run_id, step, "its header names other bases than the record does")
    return record
