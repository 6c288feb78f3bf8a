"""Reads records, from the local cache where the store says that it still fits, and decodes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.codec import Codec, missing_base_steps
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.checkpoint.s3._cache import RecordCache
from stargraph.checkpoint.s3._concurrency import map_each
from stargraph.checkpoint.s3._frame import Head, corrupted, read_head, record_of
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.errors import CheckpointCorruptedError, StoreVersionError

Slot = tuple[int, ObjectInfo]
"""A step, and the line of a listing that shows its slot."""

_ANY_ETAG: Final = ""
"""For what was read without a listing: such a copy serves only what is decoded from it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a slot holds, not decoded yet.

    Attributes:
        head: its first line.
        record: the record.
    """

    head: Head
    record: bytes


class _BaseIsGoneError(Exception):
    """A base was pruned; so what is decoded from it was too, or is about to be."""


class RecordReader:
    """Reads and verifies the records in the slots.

    Args:
        store: the objects.
        keys: where they are.
        codec: decodes them.
        cache: the local copies, if there are any.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, codec: Codec, cache: RecordCache | None = None) -> None:
        self._store = store
        self._keys = keys
        self._codec = codec
        self._cache = cache

    async def read(self, run_id: str, step: int, info: ObjectInfo | None = None) -> Checkpoint | None:
        """Return what is in a slot, or None where it is empty or was pruned.

        Args:
            run_id: the run.
            step: the step.
            info: the line of a listing that shows the slot as it is now.

        Raises:
            CheckpointCorruptedError: it is not what was written.
        """
        found = await self._read(run_id, step, info, self._codec.decode)
        return None if found is None else found[0]

    async def read_with_head(self, run_id: str, step: int) -> tuple[Checkpoint, Head] | None:
        """Return what is in a slot and its first line, or None where it is empty or was pruned.

        Args:
            run_id: the run.
            step: the step.

        Raises:
            CheckpointCorruptedError: it is not what was written.
        """
        return await self._read(run_id, step, None, self._codec.decode)

    async def read_latest(
        self, run_id: str, step: int, info: ObjectInfo | None = None
    ) -> tuple[Checkpoint, Head] | None:
        """Do as `read_with_head` with the newest slot of a run, which the next record may then build on.

        Args:
            run_id: the run.
            step: the highest step that is taken.
            info: the line of a listing that shows the slot as it is now.

        Raises:
            CheckpointCorruptedError: it is not what was written.
        """
        return await self._read(run_id, step, info, self._codec.decode_latest)

    async def read_some(
        self, run_id: str, slots: Sequence[Slot], known: Mapping[int, Stored]
    ) -> tuple[list[Checkpoint], Mapping[int, Stored]]:
        """Return what is in some slots, in their order, without those that are empty or were pruned.

        Args:
            run_id: the run.
            slots: the slots, by ascending or by descending step.
            known: what the call for the slots before these returned.

        Returns:
            The checkpoints, and what those beyond the last slot are decoded from, as far as it was read.

        Raises:
            CheckpointCorruptedError: something is not what was written.
        """

        async def stored(slot: Slot) -> Stored | None:
            return known.get(slot[0]) or await self._stored(run_id, *slot, cached=True)

        async def read(slot: Slot) -> Checkpoint | None:
            return await self.read(run_id, *slot)

        try:
            found = dict(known)
            for (step, _), one in zip(slots, await map_each(stored, slots), strict=True):
                if one is not None:
                    found[step] = one
            steps = [step for step, _ in slots if step in found]
            await self._add_bases(run_id, found, steps, cached=True)
            checkpoints = self._decode_some(run_id, found, sorted(steps))
        except (CheckpointCorruptedError, StoreVersionError, _BaseIsGoneError):
            # One by one: what is wrong with one of them is not wrong with the others.
            return [checkpoint for checkpoint in await map_each(read, slots) if checkpoint is not None], {}
        edge = steps[-1:]
        needed = {base for step in edge for base in (step, *found[step].head.bases)}
        return [checkpoints[step] for step in steps], {step: found[step] for step in needed if step in found}

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

    async def _read(
        self, run_id: str, step: int, info: ObjectInfo | None, decode: Callable[..., Checkpoint]
    ) -> tuple[Checkpoint, Head] | None:
        try:
            return await self._decoded(run_id, step, info, decode, cached=True)
        except (CheckpointCorruptedError, StoreVersionError):
            # A copy, or what came over the network, may be damaged where what is stored is not.
            return await self._decoded(run_id, step, info, decode, cached=False)

    async def _decoded(
        self, run_id: str, step: int, info: ObjectInfo | None, decode: Callable[..., Checkpoint], *, cached: bool
    ) -> tuple[Checkpoint, Head] | None:
        stored = await self._stored(run_id, step, info, cached=cached)
        if stored is None:
            return None
        found = {step: stored}
        try:
            await self._add_bases(run_id, found, [step], cached=cached)
        except _BaseIsGoneError:
            return None
        checkpoint = decode(_records(found), run_id=run_id, step=step)
        self._verify(checkpoint, stored.head)
        return checkpoint, stored.head

    def _decode_some(self, run_id: str, found: Mapping[int, Stored], steps: Iterable[int]) -> dict[int, Checkpoint]:
        checkpoints = {}
        for checkpoint in self._codec.decode_many(_records(found), run_id=run_id, steps=steps):
            self._verify(checkpoint, found[checkpoint.step].head)
            checkpoints[checkpoint.step] = checkpoint
        return checkpoints

    def _verify(self, checkpoint: Checkpoint, head: Head) -> None:
        # A run that was begun without encryption shows its digests as they are.
        digests = (self._codec.fingerprint(checkpoint.digest), checkpoint.digest)
        if head.digest not in digests or RunSummary.from_checkpoint(checkpoint) != head.summary:
            raise corrupted(checkpoint.run_id, checkpoint.step, "its first line is that of another record")

    async def _add_bases(self, run_id: str, found: dict[int, Stored], steps: Sequence[int], *, cached: bool) -> None:
        """Add what some steps are decoded from."""
        while missing := missing_base_steps(_records(found), run_id=run_id, steps=steps):
            found.update(await self._bases(run_id, missing, cached=cached))

    async def _bases(self, run_id: str, steps: Sequence[int], *, cached: bool) -> dict[int, Stored]:
        keys = {self._keys.slot(run_id, step): step for step in steps}
        bodies: dict[str, bytes | None] = {}
        if cached and self._cache is not None:
            # What names them as its bases is there, so they cannot have changed.
            bodies = {key: body for key in keys if (body := await self._cache.get(key)) is not None}
        absent = [key for key in keys if key not in bodies]
        bodies.update(zip(absent, await self._store.get_many(absent), strict=True))
        found: dict[int, Stored] = {}
        for key, step in keys.items():
            body = bodies[key]
            if body is None:
                raise corrupted(run_id, step, "other steps are decoded from it, and it is missing")
            stored = _open(body, run_id, step)
            if stored is None:
                raise _BaseIsGoneError
            if key in absent and self._cache is not None:
                self._cache.put(key, _ANY_ETAG, body)
            found[step] = stored
        return found

    async def _stored(self, run_id: str, step: int, info: ObjectInfo | None, *, cached: bool) -> Stored | None:
        key = self._keys.slot(run_id, step)
        body = None
        if cached and self._cache is not None:
            if info is None and await self._cache.get(key) is not None:
                # A listing that begins at this very slot tells what a read would, for less than its bytes.
                listed = await self._store.list(
                    self._keys.log(run_id), after=self._keys.slot(run_id, step + 1), limit=1
                )
                info = next((line for line in listed if line.key == key), None)
            if info is not None:
                body = await self._cache.get(key, info.etag)
        if body is not None:
            return _open(body, run_id, step)
        body = await self._store.get(key)
        stored = None if body is None else _open(body, run_id, step)
        if body is not None and stored is not None and info is not None and self._cache is not None:
            self._cache.put(key, info.etag, body)
        return stored


def _open(body: bytes, run_id: str, step: int) -> Stored | None:
    head = read_head(body, run_id=run_id, step=step)
    if head == "pruned" or head == "deleted":
        return None
    if not isinstance(head, Head):
        raise corrupted(run_id, step, "it ends in its first line")
    return Stored(head, record_of(body, head, run_id=run_id, step=step))


def _records(found: Mapping[int, Stored]) -> dict[int, bytes]:
    return {step: stored.record for step, stored in found.items()}
