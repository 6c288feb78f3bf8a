"""Reads whole records, from the local cache where the store says that it still fits."""

from __future__ import annotations

from stargraph.checkpoint.codec import decode
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3._frame import Head, read_head, record_of
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.errors import CheckpointCorruptedError


class RecordReader:
    """Reads and verifies the records in the slots.

    Args:
        store: the objects.
        keys: where they are.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout) -> None:
        self._store = store
        self._keys = keys

    async def read(self, run_id: str, step: int, info: ObjectInfo | None = None) -> Checkpoint | None:
        """Return what is in a slot, or None where it is empty or holds a tombstone.

        Args:
            run_id: the run.
            step: the step.
            info: the line of a listing that shows the slot as it is now.

        Raises:
            CheckpointCorruptedError: it is not what was written.
        """
        key = self._keys.slot(run_id, step)
        try:
            return _open(await self._store.get(key), run_id, step)
        except CheckpointCorruptedError:
            # What came over the network may be damaged where what is stored is not.
            return _open(await self._store.get(key), run_id, step)


def _open(body: bytes | None, run_id: str, step: int) -> Checkpoint | None:
    if body is None:
        return None
    head = read_head(body, run_id=run_id, step=step)
    if head == "pruned" or head == "deleted":
        return None
    if not isinstance(head, Head):
        raise CheckpointCorruptedError(
            f"run {run_id!r}, step {step}: the stored object is not what was written: it ends in its first line",
            reason="corrupted-record",
            run_id=run_id,
            step=step,
        )
    checkpoint = decode(record_of(body, head, run_id=run_id, step=step), run_id=run_id, step=step)
    if checkpoint.digest != head.digest:
        raise CheckpointCorruptedError(
            f"run {run_id!r}, step {step}: the stored object is not what was written: its first line is of"
            " another record",
            reason="corrupted-record",
            run_id=run_id,
            step=step,
        )
    return checkpoint
