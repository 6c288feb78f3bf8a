"""Reads records, from the local cache if the store shows that the copy still fits, and decodes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from stargraph.checkpoint.codec import Codec, CodecThreads, large_to_decode, missing_base_steps
from stargraph.checkpoint.driver import missing_step_error
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.checkpoint.s3._cache import Copy, RecordCache
from stargraph.checkpoint.s3._concurrency import AT_ONCE, map_each
from stargraph.checkpoint.s3._errors import corrupted_error
from stargraph.checkpoint.s3._frame import Header, PrunedFloor, is_tombstone, read_header, record_of
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.errors import CheckpointCorruptedError, StoreVersionError

Result = TypeVar("Result")

Slot: TypeAlias = tuple[int, ObjectInfo]
"""A step, and the line of a listing that shows its slot."""

_AHEAD_BYTES: Final = 64 * 1024 * 1024
"""How much a history reads ahead; one record may be larger."""

_ANY_ETAG: Final = ""
"""For what was read without a listing: such a copy serves only what is decoded from it."""


@dataclass(frozen=True, slots=True)
class FetchedRecord:
    """What a slot holds, not decoded yet.

    Attributes:
        header: its first line.
        record: the record.
    """

    header: Header
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
        threads: decode what is large; None decodes it here.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: KeyLayout,
        codec: Codec,
        cache: RecordCache | None = None,
        threads: CodecThreads | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._codec = codec
        self._cache = cache
        self._threads = threads

    async def read(self, run_id: str, step: int, info: ObjectInfo | None = None) -> Checkpoint | None:
        """Return what is in a slot, or None if it is empty or was pruned.

        Args:
            info: the line of a listing that shows the slot as it is now.

        Raises:
            CheckpointCorruptedError: it is not what was written.
        """
        found = await self._read(run_id, step, info, self._codec.decode)
        return None if found is None else found[0]

    async def read_with_header(self, run_id: str, step: int) -> tuple[Checkpoint, Header] | None:
        """Return what is in a slot and its header, or None if it is empty or was pruned.

        Raises:
            CheckpointCorruptedError: it is not what was written.
        """
        return await self._read(run_id, step, None, self._codec.decode)

    async def read_latest(
        self, run_id: str, step: int, info: ObjectInfo | None = None
    ) -> tuple[Checkpoint, Header] | None:
        """Do as `read_with_header` with the newest slot of a run, which the next record may then build on.

        Args:
            step: the highest step that is taken.
            info: the line of a listing that shows the slot as it is now.

        Raises:
            CheckpointCorruptedError: it is not what was written.
        """
        return await self._read(run_id, step, info, self._codec.decode_latest)

    async def read_some(
        self, run_id: str, slots: Sequence[Slot], known: Mapping[int, FetchedRecord]
    ) -> tuple[list[Checkpoint], Mapping[int, FetchedRecord]]:
        """Return what is in some slots, in their order, without those that are empty or were pruned.

        Args:
            slots: the slots, by ascending or by descending step.
            known: what the call for the slots before these returned.

        Returns:
            The checkpoints, and what those beyond the last slot are decoded from, as far as it was read.

        Raises:
            CheckpointCorruptedError: something is not what was written.
        """

        async def stored(slot: Slot) -> FetchedRecord | None:
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
            checkpoints = await self._run(lambda: self._decode_some(run_id, found, sorted(steps)), found)
        except (CheckpointCorruptedError, StoreVersionError, _BaseIsGoneError):
            # One by one: what is wrong with one of them is not wrong with the others.
            return [checkpoint for checkpoint in await map_each(read, slots) if checkpoint is not None], {}
        edge = steps[-1:]
        needed = {base for step in edge for base in (step, *found[step].header.bases)}
        return [checkpoints[step] for step in steps], {step: found[step] for step in needed if step in found}

    async def remember(self, run_id: str, step: int, etag: str, body: bytes) -> None:
        """Keep what was just written.

        Args:
            etag: the ETag of the object.
            body: the object.
        """
        await self._keep(run_id, self._keys.slot(run_id, step), etag, body)

    async def _keep(self, run_id: str, key: str, etag: str, body: bytes) -> None:
        if self._cache is not None:
            await self._cache.put(Copy(run_id, key, etag, body))

    async def _read(
        self, run_id: str, step: int, info: ObjectInfo | None, decode: Callable[..., Checkpoint]
    ) -> tuple[Checkpoint, Header] | None:
        try:
            return await self._decoded(run_id, step, info, decode, cached=True)
        except (CheckpointCorruptedError, StoreVersionError):
            # A copy, or what came over the network, may be damaged while what is stored is not.
            return await self._decoded(run_id, step, info, decode, cached=False)

    async def _decoded(
        self, run_id: str, step: int, info: ObjectInfo | None, decode: Callable[..., Checkpoint], *, cached: bool
    ) -> tuple[Checkpoint, Header] | None:
        stored = await self._stored(run_id, step, info, cached=cached)
        if stored is None:
            return None
        found = {step: stored}
        try:
            await self._add_bases(run_id, found, [step], cached=cached)
        except _BaseIsGoneError:
            return None

        def verified() -> Checkpoint:
            checkpoint = decode(_records(found), run_id=run_id, step=step)
            self._verify(checkpoint, stored.header)
            return checkpoint

        return await self._run(verified, found), stored.header

    async def _run(self, action: Callable[[], Result], found: Mapping[int, FetchedRecord]) -> Result:
        if self._threads is None:
            return action()
        return await self._threads.run(action, large=large_to_decode(stored.record for stored in found.values()))

    def _decode_some(
        self, run_id: str, found: Mapping[int, FetchedRecord], steps: Iterable[int]
    ) -> dict[int, Checkpoint]:
        checkpoints = {}
        for checkpoint in self._codec.sequence_decoder(run_id).decode(_records(found), steps):
            self._verify(checkpoint, found[checkpoint.step].header)
            checkpoints[checkpoint.step] = checkpoint
        return checkpoints

    def _verify(self, checkpoint: Checkpoint, header: Header) -> None:
        # A run that was begun without encryption shows its digests as they are.
        digests = (self._codec.fingerprint(checkpoint.digest), checkpoint.digest)
        if header.digest not in digests or RunSummary.from_checkpoint(checkpoint) != header.summary:
            raise corrupted_error(checkpoint.run_id, checkpoint.step, "its header is that of another record")

    async def _add_bases(
        self, run_id: str, found: dict[int, FetchedRecord], steps: Sequence[int], *, cached: bool
    ) -> None:
        """Add what some steps are decoded from."""
        while missing := missing_base_steps(_records(found), run_id=run_id, steps=steps):
            found.update(await self._bases(run_id, missing, cached=cached))

    async def _bases(self, run_id: str, steps: Sequence[int], *, cached: bool) -> dict[int, FetchedRecord]:
        keys = {self._keys.slot(run_id, step): step for step in steps}
        bodies: dict[str, bytes | None] = {}
        if cached and self._cache is not None:
            # What names them as its bases is there, so they cannot have changed.
            bodies = {key: body for key in keys if (body := await self._cache.get(run_id, key)) is not None}
        absent = [key for key in keys if key not in bodies]
        bodies.update(zip(absent, await self._store.get_many(absent), strict=True))
        found: dict[int, FetchedRecord] = {}
        for key, step in keys.items():
            body = bodies[key]
            if body is None:
                raise corrupted_error(run_id, step, "other steps are decoded from it, and it is missing")
            stored = _open(body, run_id, step)
            if stored is None:
                raise _BaseIsGoneError
            if key in absent:
                await self._keep(run_id, key, _ANY_ETAG, body)
            found[step] = stored
        return found

    async def _stored(self, run_id: str, step: int, info: ObjectInfo | None, *, cached: bool) -> FetchedRecord | None:
        key = self._keys.slot(run_id, step)
        body = None
        if cached and self._cache is not None:
            if info is None and await self._cache.get(run_id, key) is not None:
                # A listing that begins at this very slot tells what a read would, for less than its bytes.
                listed = await self._store.list(
                    self._keys.log(run_id), after=self._keys.slot(run_id, step + 1), limit=1
                )
                info = next((line for line in listed if line.key == key), None)
            if info is not None:
                body = await self._cache.get(run_id, key, info.etag)
        if body is not None:
            return _open(body, run_id, step)
        body = await self._store.get(key)
        stored = None if body is None else _open(body, run_id, step)
        if body is not None and stored is not None and info is not None:
            await self._keep(run_id, key, info.etag, body)
        return stored


def _open(body: bytes, run_id: str, step: int) -> FetchedRecord | None:
    header = read_header(body, run_id=run_id, step=step)
    if header == "pruned" or header == "deleted" or isinstance(header, PrunedFloor):
        return None
    if not isinstance(header, Header):
        raise corrupted_error(run_id, step, "it ends in its header")
    return FetchedRecord(header, record_of(body, header, run_id=run_id, step=step))


def _records(found: Mapping[int, FetchedRecord]) -> dict[int, bytes]:
    return {step: stored.record for step, stored in found.items()}


async def history_slots(
    log: LogReader, run_id: str, *, from_step: int | None, to_step: int | None, newest_first: bool
) -> list[list[Slot]]:
    """Return the slots of a run that hold records, in the order of a history, in parts that are read together.

    Args:
        from_step: the lowest step, included.
        to_step: the highest step, included.
        newest_first: begin with the highest step.

    Raises:
        CheckpointCorruptedError: a slot is empty that no prune has freed.
    """
    end = None if to_step is None else await log.known_end(run_id)
    if to_step is not None and end is None:
        return []
    lowest = from_step or 0
    following = None if to_step is None or end is None else min(to_step, end)
    lost: int | None = None
    pruned = False
    slots: list[Slot] = []
    async for step, info in log.slots(run_id, to_step=to_step):
        if following is None and await log.is_end_of_deleted(run_id, step, info):
            return []
        if following is not None and following > step and not pruned:
            lost = max(step + 1, lowest)
        following = step - 1
        if step < lowest:
            break
        pruned = pruned or is_tombstone(info.size)
        if not is_tombstone(info.size):
            slots.append((step, info))
    if following is not None and following >= lowest and not pruned:
        lost = lowest
    if lost is not None and not (to_step is not None and await log.was_pruned(run_id, lost)):
        raise missing_step_error(run_id, lost)
    if not newest_first:
        slots.reverse()
    return list(_parts(slots))


async def read_history(log: LogReader, reader: RecordReader, run_id: str) -> AsyncIterator[Checkpoint]:
    """Yield the checkpoints of a run, the lowest step first."""
    known: Mapping[int, FetchedRecord] = {}
    for part in await history_slots(log, run_id, from_step=None, to_step=None, newest_first=False):
        checkpoints, known = await reader.read_some(run_id, part, known)
        for checkpoint in checkpoints:
            yield checkpoint


def _parts(slots: Iterable[Slot]) -> Iterator[list[Slot]]:
    part: list[Slot] = []
    size = 0
    for slot in slots:
        if part and (len(part) == AT_ONCE or size + slot[1].size > _AHEAD_BYTES):
            yield part
            part, size = [], 0
        part.append(slot)
        size += slot[1].size
    if part:
        yield part
