"""What a handle has while it is open: a thread with a client, and everything that stands on it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from stargraph.checkpoint.codec import Cipher, Codec, CodecThreads
from stargraph.checkpoint.driver import CachedLatest, LatestCache, Tail, run_deleted_error
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary
from stargraph.checkpoint.s3._append import Appender
from stargraph.checkpoint.s3._cache import DiskCache, RecordCache, RunKeys
from stargraph.checkpoint.s3._concurrency import gather
from stargraph.checkpoint.s3._connection import Connection
from stargraph.checkpoint.s3._files import RunFiles
from stargraph.checkpoint.s3._frame import Header
from stargraph.checkpoint.s3._index import RunIndex
from stargraph.checkpoint.s3._io_thread import IOThread
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import ObjectInfo, RetryingStore, UnconditionalStore
from stargraph.checkpoint.s3._options import BucketPrefix, ConnectionOptions
from stargraph.checkpoint.s3._prune import Pruner
from stargraph.checkpoint.s3._queues import Queues
from stargraph.checkpoint.s3._read import RecordReader
from stargraph.checkpoint.s3._s3 import S3ObjectStore
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.checkpoint.s3._step_keys import StepKeys
from stargraph.checkpoint.s3._timeline import TimelineReader


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a handle uses its store; `S3Checkpointer` describes the arguments."""

    address: BucketPrefix
    connection: ConnectionOptions
    cache_dir: Path | None
    files_of_ended_runs: bool
    unsafe_single_writer: bool
    read_only: bool
    encryption: Cipher | None
    latest_cache_bytes: int

    def __post_init__(self) -> None:
        LatestCache[StoredAs](self.latest_cache_bytes)  # refuses what is no number of bytes before anything is opened

    def named_in_url(self) -> StoreOptions:
        """Return these options for a handle that a URL has opened: its errors name them so."""
        return replace(self, connection=replace(self.connection, in_url=True))


class StoredAs(NamedTuple):
    """Where and how a record is stored: as long as a listing shows the ETag, it is that record.

    Attributes:
        step: its step.
        etag: its ETag.
        digest: that of its checkpoint, as its header shows it.
    """

    step: int
    etag: str
    digest: str


_Found: TypeAlias = tuple[Checkpoint, Header] | CachedLatest[StoredAs]


class OpenStore:
    """The parts of an open store. Their coroutines run in `io`.

    Args:
        options: how the handle uses the store.
    """

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.keys = KeyLayout(options.address.prefix)
        self._connection = Connection(options.connection)
        self._raw = S3ObjectStore(self._connection, options.connection, options.address.bucket)
        self._threads = CodecThreads()
        self.io = IOThread(self._close)
        self.objects = RetryingStore(self._raw, deadline=options.connection.deadline)
        disk = None
        if options.cache_dir is not None:
            name = f"{options.connection.endpoint_url} {options.address}"
            run_keys = RunKeys(self.objects, self.keys, read_only=options.read_only)
            disk = DiskCache(options.cache_dir, name=name, run_keys=run_keys)
        self.cache = RecordCache(disk)
        self.latest: LatestCache[StoredAs] = LatestCache(options.latest_cache_bytes)
        self._build(self.objects)
        self._writing: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @property
    def lists_in_order(self) -> bool:
        """Whether a look at one key of a folder is one request."""
        return self._raw.lists_in_order

    def use_without_conditions(self) -> None:
        """From now on look before each write, and after it, since the store ignores conditions."""
        self._build(RetryingStore(UnconditionalStore(self._raw), deadline=self.options.connection.deadline))

    def writing(self, run_id: str) -> asyncio.Lock:
        """Return the lock that the writes of a run take one after another."""
        return self._writing.setdefault(run_id, asyncio.Lock())

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """Return the latest checkpoint of a run, or None if absent."""
        known = self.log.cached_tail(run_id) is not None
        cached = self.latest.get(run_id)
        listed: ObjectInfo | None = None

        async def read(step: int, info: ObjectInfo | None) -> _Found | None:
            nonlocal listed
            listed = info
            if cached is not None and info is not None and cached.mark[:2] == (step, info.etag):
                return cached
            return await self.reader.read_latest(run_id, step, info)

        found: _Found | Literal["deleted"] | None = await self.log.read_newest(run_id, read)
        if found is None or found == "deleted":
            self.latest.drop(run_id)
            return None
        if isinstance(found, CachedLatest):
            latest, digest = await self._threads.run(found.checkpoint, large=found.large), found.mark.digest
        else:
            latest, header = found
            if header.start is not None:  # a pruned run that is being started
                return None
            digest = header.digest
            if listed is not None:
                self.latest.put(latest, StoredAs(latest.step, listed.etag, digest))
        if not known and latest.status not in ENDED and self.lists_in_order:
            await self.index.check_end(RunSummary.from_checkpoint(latest))
        self.log.remember(run_id, Tail(latest.step, digest, latest.status))
        return latest

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """Return one step of a run, or None if absent."""
        tail = self.log.cached_tail(run_id)
        if tail is not None and step > tail.step:
            # Whoever watches a run asks for the step after the last one again and again: mostly that is not there.
            next_one = await self.reader.read(run_id, step)
            return next_one if next_one is not None and await self.log.is_known(run_id) else None
        found: list[Checkpoint | None] = []

        async def read() -> None:
            found.append(await self.reader.read(run_id, step))

        end, _ = await gather(self.log.known_end(run_id), read())
        if found == [None] and end is not None and step < end:
            await self.log.check_not_lost(run_id, step)
        return None if end is None else found[0]  # A deletion that was cut short has left records behind.

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Start a run with what a prune has left of it.

        Raises:
            CheckpointError: it is refused, or the outcome is unknown.
        """
        last = checkpoints[-1]
        async with self.writing(last.run_id):
            if not await self.appender.start_pruned(checkpoints):
                await self.pruner.delete(last.run_id)  # also what this call has stored since the deletion
                raise run_deleted_error(last.run_id, last.step)

    async def delete(self, run_id: str) -> bool:
        """Remove a run for good; return whether there was such a run."""
        async with self.writing(run_id):
            return await self.pruner.delete(run_id)

    def _build(self, store: RetryingStore) -> None:
        codec = Codec(cipher=self.options.encryption)

        async def forget(run_id: str) -> None:
            codec.forget(run_id)
            self.latest.drop(run_id)
            await self.cache.evict(run_id)

        self.store = store
        self.log = LogReader(store, self.keys)
        self.index = RunIndex(store, self.keys, self.log)
        self.queues = Queues(store, self.keys, self.index, self._raw.clock)
        self.step_keys = StepKeys(store, self.keys, self.log)
        self.appender = Appender(store, self.keys, codec, self.log, self.index, self.step_keys, self._threads)
        self.reader = RecordReader(store, self.keys, codec, self.cache, self._threads)
        self.timeline = TimelineReader(store, self.keys, self.log, codec, self._threads)
        self.pruner = Pruner(store, self.keys, self.log, self.reader, self.index, self.step_keys, forget)
        self.files = RunFiles(store, self.keys, self.log, self.reader, self.options.encryption)

    async def _close(self) -> None:
        await self._connection.close()
        await self.cache.close()
        self._threads.close()
