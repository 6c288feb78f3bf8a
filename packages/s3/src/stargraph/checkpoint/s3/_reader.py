"""Reads whole records, from the local cache where the store says that it still fits."""

from __future__ import annotations

from stargraph.checkpoint.codec import decode
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.checkpoint.s3._cache import RecordCache
from stargraph.checkpoint.s3._frame import Head, corrupted, read_head, record_of
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.errors import CheckpointCorruptedError, StoreVersionError


class RecordReader:
    """Reads and verifies the records in the slots.

    Args:
        store: the objects.
        keys: where they are.
        cache: the local copies, if there are any.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, cache: RecordCache | None = None) -> None:
        self._store = store
        self._keys = keys
        self._cache = cache

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
        if self._cache is not None:
            if info is None and await self._cache.get(key) is not None:
                # A listing that begins at this very slot tells what a read would, for less than its bytes.
                listed = await self._store.list(
                    self._keys.log(run_id), after=self._keys.slot(run_id, step + 1), limit=1
                )
                info = next((line for line in listed if line.key == key), None)
            if info is not None:
                cached = _open_cached(await self._cache.get(key, info.etag), run_id, step)
                if cached is not None:
                    return cached
        return await self._fetch(key, run_id, step, info)

    def remember(self, run_id: str, step: int, etag: str, body: bytes) -> None:
        """Keep what was just written.

        Args:
            run_id: the run.
            step: the step.
            etag: the ETag of the object.
            body: the object.
        """
        if self._cache is not None:
            self._cache.put(self._keys.slot(run_id, step), etag, body)

    async def _fetch(self, key: str, run_id: str, step: int, info: ObjectInfo | None) -> Checkpoint | None:
        body = await self._store.get(key)
        try:
            checkpoint = _open(body, run_id, step)
        except CheckpointCorruptedError:
            # What came over the network may be damaged where what is stored is not.
            body = await self._store.get(key)
            checkpoint = _open(body, run_id, step)
        if checkpoint is not None and body is not None and info is not None and self._cache is not None:
            self._cache.put(key, info.etag, body)
        return checkpoint


def _open_cached(body: bytes | None, run_id: str, step: int) -> Checkpoint | None:
    try:
        return _open(body, run_id, step)
    except (CheckpointCorruptedError, StoreVersionError):
        return None


def _open(body: bytes | None, run_id: str, step: int) -> Checkpoint | None:
    if body is None:
        return None
    head = read_head(body, run_id=run_id, step=step)
    if head == "pruned" or head == "deleted":
        return None
    if not isinstance(head, Head):
        raise corrupted(run_id, step, "it ends in its first line")
    checkpoint = decode(record_of(body, head, run_id=run_id, step=step), run_id=run_id, step=step)
    if checkpoint.digest != head.digest or RunSummary.from_checkpoint(checkpoint) != head.summary:
        raise corrupted(run_id, step, "its first line is that of another record")
    return checkpoint
