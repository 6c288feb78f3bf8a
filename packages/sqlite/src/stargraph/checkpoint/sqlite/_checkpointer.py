"""The SQLite driver: the contract's methods, each a few lines over its parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, Self, Unpack

from stargraph.checkpoint.codec import Cipher, Codec, Record
from stargraph.checkpoint.driver import (
    Diagnosing,
    Encrypting,
    FleetMethods,
    FleetStore,
    InPlaceWrites,
    LatestCache,
    Lifecycle,
    ReadOnly,
    TimelineMethods,
    check_batch,
    check_bounds,
    check_filters,
    check_limit,
    check_prune,
    check_pruned_start,
    check_search,
    check_step,
    microseconds,
)
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    BatchAppend,
    Checkpoint,
    Checkpointer,
    Closing,
    KeyedSteps,
    Presence,
    PrunedStart,
    PruneReport,
    RunDeletion,
    RunFilters,
    RunHistory,
    RunOrder,
    RunPage,
    RunQueue,
    RunSearch,
    RunSummary,
    RunTimeline,
    RunTree,
    RunWatch,
    Schedules,
    Status,
    StepKey,
    StepSummary,
    is_key,
    is_run_id,
)
from stargraph.checkpoint.sqlite import _prune, _read, _search
from stargraph.checkpoint.sqlite._append import Append, StartPruned
from stargraph.checkpoint.sqlite._connection import OpenStore, ReadOnlyStore, Store
from stargraph.checkpoint.sqlite._encoder import Encoder
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.checkpoint.sqlite._library import sqlite_library
from stargraph.checkpoint.sqlite._options import Options, Synchronous, parse_url
from stargraph.checkpoint.sqlite._queues import SQLiteFleet
from stargraph.checkpoint.sqlite._schema import MAX_STEP, deleted_id

_GROUP_BYTES: Final = 8 * 1024 * 1024


class SQLiteCheckpointer(FleetMethods, InPlaceWrites, TimelineMethods):
    """A store of runs in one SQLite file.

    Any number of handles, in any number of processes of one machine, may use a file at once. A handle may
    be used from any event loop, and need not be closed.

    Args:
        path: the file; `bootstrap` makes it and its directory if they are missing, the file with permissions 0600.
        synchronous: `full` keeps every written checkpoint through a loss of power. `normal` is faster, and
            keeps them through the loss of the process, but a loss of power or a crash of the system can take
            the latest ones away again; the run then resumes from an earlier step. The file stays sound.
        busy_timeout: how long a write waits for another connection's lock, in seconds.
        allow_network_filesystem: open a file even on a network filesystem. Checkpoints can be lost
            and the file damaged as soon as two machines open it.
        read_only: never write a byte, and leave no file beside the store; what would change it raises
            `reason="read-only"`. A file that this user cannot write to, or on read-only media, can be read so.
        encryption: the keys that encrypt what is stored; None stores it readable. docs/encryption.md says what stays
            readable even so.
        latest_cache_bytes: how much memory this handle may use to serve `read_latest` of runs that it has written or
            read, once the store confirms their latest digest; 0 reads the record each time. docs/operations.md says
            what that does not see.

    Raises:
        CheckpointError: `path` cannot name a file (`reason="invalid-path"`).
        ValueError: another argument does not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "full",
        busy_timeout: float = 30.0,
        allow_network_filesystem: bool = False,
        read_only: bool = False,
        encryption: Cipher | None = None,
        latest_cache_bytes: int = 0,
    ) -> None:
        self._files = StoreFiles(path)
        self._options = Options(synchronous, busy_timeout, allow_network_filesystem, read_only)
        self._codec = Codec(cipher=encryption)
        self._encoder = Encoder(self._codec)
        self._latest: LatestCache[bytes] = LatestCache(latest_cache_bytes)
        self._lifecycle = Lifecycle(read_only=read_only)
        self._store: OpenStore | None = None

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the store that a URL or path names; no I/O.

        Args:
            url: `sqlite:///relative/run.sqlite`, `sqlite:////absolute/run.sqlite`, or a plain path. A URL may
                end in `?read_only=true`, `synchronous=normal`, `busy_timeout=…`, `allow_network_filesystem=true` and
                `latest_cache_bytes=…`. The keys of encryption come from `STARGRAPH_ENCRYPTION_KEY`.

        Raises:
            CheckpointError: it cannot be read (`reason="invalid-url"`).
        """
        path, options = parse_url(url)
        return cls(path, **options, encryption=Cipher.from_environment())

    @staticmethod
    def diagnose() -> list[str]:
        """Return what is known to be wrong with the SQLite library in use; `stargraph doctor` prints it."""
        library = sqlite_library()
        return [f"SQLite {library.version}: {problem}" for problem in library.problems]

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""
        return self._codec.encrypts

    @property
    def read_only(self) -> bool:
        """Whether this handle refuses to write."""
        return self._options.read_only

    def __repr__(self) -> str:
        read_only = ", read_only=True" if self.read_only else ""
        return f"{type(self).__name__}({os.fspath(self._files.path)!r}{read_only})"

    async def bootstrap(self) -> None:
        self._lifecycle.ensure_own_process()
        if self._store is not None:
            await self._store.read(lambda _: None)
            return
        kind = ReadOnlyStore if self.read_only else Store
        store = kind(StoreFiles(self._files.path), self._options)
        await store.open()
        if not self._adopt(store):  # another task was quicker
            await store.close()

    async def close(self) -> None:
        async with self._lifecycle.closing():
            store, self._store = self._store, None
            if store is not None:
                try:
                    await store.close()
                finally:
                    self._encoder.close()
                    self._latest.clear()

    async def __aenter__(self) -> Self:
        await self.bootstrap()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def write(self, checkpoint: Checkpoint) -> None:
        store = self._writable("write")
        await self._append(store, [checkpoint], [await self._encoder.encode(checkpoint)])

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        store = self._writable("write_many")
        group: list[Checkpoint] = []
        records: list[Record] = []
        size = 0
        for checkpoint in check_batch(checkpoints):
            group.append(checkpoint)
            records.append(await self._encoder.encode(checkpoint, after=records[-1] if records else None))
            size += len(records[-1].data)
            if size >= _GROUP_BYTES:
                await self._append(store, group, records)
                group, records, size = [], [], 0
        if group:
            await self._append(store, group, records)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        store = self._writable("start_pruned")
        steps = check_pruned_start(checkpoints)
        records = await self._encoder.encode_alone(steps)
        if await store.writer.submit(StartPruned(steps, records, self._codec)):
            self._codec.appended(records[-1])

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        store = self._opened()
        if not is_run_id(run_id):
            return None
        cached = self._latest.get(run_id)
        if cached is not None and not cached.large:
            await asyncio.sleep(0)  # so that many reads in a row do not hold the loop
            store = self._opened()
            if is_latest := store.read_here(partial(_read.is_latest, run_id=run_id, digest=cached.mark)):
                return cached.checkpoint()
            if is_latest is not None:
                cached = None
        query = partial(_read.latest, codec=self._codec, cache=self._latest, run_id=run_id, cached=cached)
        return await store.read(query)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        store = self._opened()
        if not check_step(step) or not is_run_id(run_id) or step > MAX_STEP:
            return None
        return await store.read(partial(_read.at_step, codec=self._codec, run_id=run_id, step=step))

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        store = self._opened()
        first, last = check_bounds(from_step, to_step)
        last = min(last, MAX_STEP)
        more = is_run_id(run_id) and first <= last
        decoder = self._codec.sequence_decoder(run_id)
        while more:
            query = partial(
                _read.history_page,
                decoder=decoder,
                run_id=run_id,
                first=first,
                last=last,
                newest_first=newest_first,
            )
            page, more = await store.read(query)
            for checkpoint in page:
                yield checkpoint
            if page and newest_first:
                last = page[-1].step - 1
            elif page:
                first = page[-1].step + 1
            store = self._opened()

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        store = self._opened()
        if not is_run_id(run_id) or not is_key(key):
            return None
        return await store.read(partial(_read.at_key, codec=self._codec, run_id=run_id, key=key))

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        store = self._opened()
        check_limit(limit)
        if not is_run_id(run_id):
            return []
        return await store.read(partial(_read.step_keys, run_id=run_id, below=below, limit=min(limit, MAX_STEP)))

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return list((await self.search(since=since, limit=limit)).items)

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        store = self._opened()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        return await store.read(partial(_search.search, query=query))

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        store = self._opened()
        return await store.read(partial(_search.count, matcher=check_filters(filters)))

    async def children(self, run_id: str) -> list[RunSummary]:
        store = self._opened()
        if not is_run_id(run_id):
            return []
        return await store.read(partial(_search.children, run_id=run_id))

    async def delete_run(self, run_id: str) -> bool:
        store = self._writable("delete_run")
        if not is_run_id(run_id):
            return False
        count = await store.writer.submit(_prune.MarkDeleted(run_id))
        self._forget(run_id)
        # Also what an earlier deletion has left that was interrupted.
        if count or await store.read(partial(_prune.is_deleted, run_id=run_id)):
            await self._remove(store, _prune.PrunableSteps(deleted_id(run_id)))
            await store.writer.erase_removed()
        return count > 0

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Sequence[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        store = self._opened()
        written = None if dry_run else self._writable("prune")
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )
        runs = checkpoints = 0
        after: str | None = ""
        while after is not None:
            page, after = await store.read(
                partial(
                    _prune.prunable_runs,
                    codec=self._codec,
                    run_id=run_id,
                    after=after,
                    older_than=microseconds(rule.older_than),
                    statuses=sorted(rule.statuses),
                    keep_last=min(keep_last, MAX_STEP),
                )
            )
            for prunable in page:
                if written is None:
                    count = await store.read(partial(_prune.count_prunable, prunable=prunable))
                else:
                    count = await self._prune_run(written, prunable, whole=keep_last == 0)
                runs += count > 0
                checkpoints += count
        if written is not None:
            left = await store.read(_prune.half_deleted_runs)
            for prunable in left:
                await self._remove(written, prunable)
            if checkpoints or left:
                await written.writer.erase_removed()
        return PruneReport(runs=runs, checkpoints=checkpoints, dry_run=dry_run)

    def _fleet(self) -> FleetStore:
        store = self._opened()
        return SQLiteFleet(store, store.writer if isinstance(store, Store) else None)

    async def _timeline_page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        last = min(last, MAX_STEP)
        query = partial(_read.timeline_page, codec=self._codec, run_id=run_id, first=first, last=last, limit=limit)
        return await self._opened().read(query)

    async def _latest_step(self, run_id: str) -> int | None:
        return await self._opened().read(partial(_read.latest_step, run_id=run_id))

    async def _append(self, store: Store, checkpoints: list[Checkpoint], records: list[Record]) -> None:
        if await store.writer.submit(Append(checkpoints, records, self._codec)):
            self._codec.appended(records[-1])
            if self._latest.limit:
                last = checkpoints[-1]
                self._latest.put(last, bytes.fromhex(self._codec.fingerprint(last.digest)))
        else:
            self._codec.forget(checkpoints[-1].run_id)

    async def _prune_run(self, store: Store, prunable: _prune.PrunableSteps, *, whole: bool) -> int:
        if not whole:
            return await self._remove(store, prunable)
        count = await store.writer.submit(_prune.MarkDeleted(prunable.run_id, prunable.tail_digest))
        if count:
            self._forget(prunable.run_id)
            await self._remove(store, _prune.PrunableSteps(deleted_id(prunable.run_id)))
        return count

    def _forget(self, run_id: str) -> None:
        """Keep nothing of a deleted run in memory."""
        self._codec.forget(run_id)
        self._latest.drop(run_id)

    async def _remove(self, store: Store, prunable: _prune.PrunableSteps) -> int:
        removed = 0
        # A deleted run keeps nothing that would have to be decoded.
        rewrites: dict[int, bytes] | None = {} if prunable.tail_digest is None else None
        after: int | None = -1
        while after is not None:
            steps, after = await store.read(partial(_prune.steps_to_remove, prunable=prunable, after=after))
            if not steps:
                continue
            if rewrites is None:
                rewrites = await store.read(partial(_prune.rewrites, codec=self._codec, prunable=prunable))
            count = await store.writer.submit(_prune.RemoveSteps(prunable, steps, rewrites))
            rewrites = {}
            removed += count
            if not count:
                break  # the run has moved on
        return removed

    def _adopt(self, store: OpenStore) -> bool:
        if self._store is not None:
            return False
        self._store = store
        self._lifecycle.opened()
        store.close_with(self)
        return True

    def _opened(self) -> OpenStore:
        self._lifecycle.ensure_open()
        assert self._store is not None
        return self._store

    def _writable(self, method: str) -> Store:
        self._lifecycle.ensure_writable(method)
        assert isinstance(self._store, Store)
        return self._store


_: type[Checkpointer] = SQLiteCheckpointer
_history: type[RunHistory] = SQLiteCheckpointer
_timeline: type[RunTimeline] = SQLiteCheckpointer
_watch: type[RunWatch] = SQLiteCheckpointer
_search_: type[RunSearch] = SQLiteCheckpointer
_tree: type[RunTree] = SQLiteCheckpointer
_deletion: type[RunDeletion] = SQLiteCheckpointer
_keys: type[KeyedSteps] = SQLiteCheckpointer
_batch: type[BatchAppend] = SQLiteCheckpointer
_queue: type[RunQueue] = SQLiteCheckpointer
_presence: type[Presence] = SQLiteCheckpointer
_schedules: type[Schedules] = SQLiteCheckpointer
_pruned_start: type[PrunedStart] = SQLiteCheckpointer
_closing: type[Closing] = SQLiteCheckpointer
_diagnosing: Diagnosing = SQLiteCheckpointer
_encrypting: type[Encrypting] = SQLiteCheckpointer
_read_only: type[ReadOnly] = SQLiteCheckpointer
