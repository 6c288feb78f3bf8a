"""The checkpointer: the contract on top of the log, the index and the deletion of runs."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from stargraph.checkpoint.codec import Cipher
from stargraph.checkpoint.driver import (
    Encrypting,
    FleetMethods,
    FleetStore,
    Lifecycle,
    LookPolicy,
    ReadOnly,
    RecordBases,
    SelfTest,
    TimelineMethods,
    check_batch,
    check_bounds,
    check_filters,
    check_limit,
    check_listing,
    check_prune,
    check_pruned_start,
    check_search,
    check_step,
    not_bootstrapped_error,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    PRUNED_BY_DEFAULT,
    Checkpoint,
    Checkpointer,
    KeyedSteps,
    PruneReport,
    RunFilters,
    RunOrder,
    RunPage,
    RunSummary,
    RunTimeline,
    RunWatch,
    Status,
    StepKey,
    StepSummary,
    is_key,
    is_run_id,
)
from stargraph.checkpoint.s3._cache import check_cache_dir
from stargraph.checkpoint.s3._errors import conditions_ignored_error, race_lost_error
from stargraph.checkpoint.s3._frame import Header
from stargraph.checkpoint.s3._io_thread import stop_unclosed
from stargraph.checkpoint.s3._options import Checksums, ConnectionOptions, parse_url
from stargraph.checkpoint.s3._queues import S3Fleet
from stargraph.checkpoint.s3._read import FetchedRecord, Slot, history_slots
from stargraph.checkpoint.s3._schema import RaceReport, open_store, race, recognise_store, warn_unsafe
from stargraph.checkpoint.s3._store import OpenStore, StoredAs, StoreOptions

if TYPE_CHECKING:
    import aioboto3


class S3Checkpointer(FleetMethods, TimelineMethods):
    """Checkpoints in an S3 bucket, without any server: each step of a run is one object.

    A write that returned survives the loss of the machine. Of two executors of one run, on any machines,
    one loses at its next write. docs/s3.md says what a store must offer, and what it costs.

    Args:
        url: the bucket and the prefix in it, as in `s3://bucket/prefix`.
        endpoint_url: where the API is, for another store than AWS; None for AWS or `AWS_ENDPOINT_URL_S3`.
        region: the region of the bucket; None for that of the environment.
        path_style: name the bucket in the path of requests instead of the host; None lets the SDK choose.
        kms_key_id: let S3 encrypt what is written with this KMS key.
        checksums: when the SDK adds checksums of its own; `when_required` for stores that refuse them.
        proxies: proxy URLs by scheme; None for those of the environment.
        profile: a profile of the shared AWS configuration files.
        session: makes the clients, instead of the standard chain of credentials. It is used in the handle's own
            thread.
        connect_timeout: how long to wait for a connection, in seconds.
        read_timeout: how long to wait for the next byte of an answer, in seconds.
        deadline: how long a request may take in all, with its attempts and what it carries, in seconds.
        cache_dir: a directory that keeps encrypted copies of what was read and written, for the next process too.
            It must be one that only this user can enter; it is made if there is none. None keeps copies in memory
            alone, up to 64 MiB.
        files_of_ended_runs: store a run that ended as one SQLite file too, beside its log.
        unsafe_single_writer: accept a store that ignores conditional writes. Nothing then stops two
            executors of one run from overwriting each other.
        read_only: write nothing, and need no permission to; a store that does not exist is not created.
        encryption: the keys that encrypt what is stored; None stores it readable. docs/encryption.md says what stays
            readable even so.
        latest_cache_bytes: how much memory this handle may use to serve `read_latest` of runs that it has written or
            read, as long as a listing shows the ETag of their latest record; 0 decodes the record each time.
            docs/operations.md says more.

    Raises:
        CheckpointError: the URL does not name a bucket (`reason="invalid-url"`).
        ValueError: an argument makes no sense, or the URL carries options, which are for `from_url`.
    """

    # Each look is a request, which is paid for.
    _look_policy = LookPolicy(first=0.25, longest=1.5)

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        path_style: bool | None = None,
        kms_key_id: str | None = None,
        checksums: Checksums = "when_supported",
        proxies: Mapping[str, str] | None = None,
        profile: str | None = None,
        session: aioboto3.Session | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 20.0,
        deadline: float = 60.0,
        cache_dir: str | os.PathLike[str] | None = None,
        files_of_ended_runs: bool = True,
        unsafe_single_writer: bool = False,
        read_only: bool = False,
        encryption: Cipher | None = None,
        latest_cache_bytes: int = 0,
    ) -> None:
        address, named = parse_url(url)
        if named:
            raise ValueError("options in the URL are for from_url(); pass them as arguments here")
        connection = ConnectionOptions(
            endpoint_url=endpoint_url,
            region=region,
            path_style=path_style,
            kms_key_id=kms_key_id,
            checksums=checksums,
            proxies=proxies,
            profile=profile,
            session=session,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            deadline=deadline,
        )
        self._options = StoreOptions(
            address=address,
            connection=connection,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            files_of_ended_runs=files_of_ended_runs,
            unsafe_single_writer=unsafe_single_writer,
            read_only=read_only,
            encryption=encryption,
            latest_cache_bytes=latest_cache_bytes,
        )
        self._lifecycle = Lifecycle(read_only=read_only)
        self._store: OpenStore | None = None

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the store that a URL names; no I/O.

        Args:
            url: `s3://bucket/prefix`, with arguments of the class as its query, as in
                `s3://bucket/prefix?endpoint_url=http://localhost:9000&path_style=true`. The keys of encryption come
                from `STARGRAPH_ENCRYPTION_KEY`.
        """
        _, named = parse_url(url)
        made = cls(url.partition("?")[0], **named, encryption=Cipher.from_environment())
        made._options = made._options.named_in_url()
        return made

    def __repr__(self) -> str:
        return f"S3Checkpointer({self._where!r})"

    @property
    def read_only(self) -> bool:
        """Whether this handle refuses to write."""
        return self._lifecycle.read_only

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""
        return self._options.encryption is not None

    async def bootstrap(self) -> None:
        """Make the store, or recognise it, and prove that it keeps the condition of a conditional write.

        A read-only handle only checks that the store exists and has the format of this software.

        Raises:
            StoreVersionError: the store has another format; nothing was touched.
            StoreUnavailableError: the store cannot be reached or used, or a read-only handle found none; `reason`
                says why.
        """
        self._lifecycle.ensure_own_process()
        if self._store is None:
            self._store = OpenStore(self._options)
            # Its thread must not outlive the handle, and print nothing at the exit of the process.
            self._finalizer = weakref.finalize(self, stop_unclosed, self._store.io)
        store = self._store
        try:
            conditional = await store.io.run(self._open(store))
            if not conditional:
                self._accept_unsafe(store)
        except BaseException:
            if not self._lifecycle.is_open:
                await self._drop()
            raise
        self._lifecycle.opened()

    async def _open(self, store: OpenStore) -> bool:
        if self._options.cache_dir is not None:
            await asyncio.to_thread(check_cache_dir, self._options.cache_dir)
        if self.read_only:
            await recognise_store(store.objects, store.keys, where=self._where)
            return True
        return await open_store(store.store, store.keys, where=self._where)

    def _accept_unsafe(self, store: OpenStore) -> None:
        if not self._options.unsafe_single_writer:
            spelled = self._options.connection.spelled("unsafe_single_writer", "true", argument="True")
            raise conditions_ignored_error(self._where, spelled)
        warn_unsafe(self._where)
        store.use_without_conditions()

    async def close(self) -> None:
        async with self._lifecycle.closing():
            await self._drop()

    async def __aenter__(self) -> Self:
        try:
            await self.bootstrap()
        except BaseException:
            await self.close()
            raise
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
        checkpoint.ensure_valid()
        await store.io.run(self._append(store, [checkpoint]))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Append consecutive steps of one run: one request for each, one after another, since a log has no holes."""
        store = self._writable("write_many")
        batch = check_batch(checkpoints)
        for checkpoint in batch:
            checkpoint.ensure_valid()
        if batch:
            await store.io.run(self._append(store, batch))

    async def _append(self, store: OpenStore, checkpoints: Sequence[Checkpoint]) -> None:
        async with store.writing(checkpoints[0].run_id):
            for checkpoint in checkpoints:
                appended = await store.appender.append(checkpoint)
                if appended is not None:
                    await store.reader.remember(checkpoint.run_id, checkpoint.step, appended.etag, appended.body)
                    store.latest.put(checkpoint, StoredAs(checkpoint.step, appended.etag, appended.digest))
                if self._options.files_of_ended_runs and checkpoint.status in ENDED:
                    await store.files.make(checkpoint)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Begin a pruned run; until it is whole, single steps of it may be read while the run is unknown."""
        store = self._writable("start_pruned")
        await store.io.run(store.start_pruned(check_pruned_start(checkpoints)))

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        store = self._opened()
        return await store.io.run(store.read_latest(run_id)) if is_run_id(run_id) else None

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        store = self._opened()
        if not check_step(step) or not is_run_id(run_id):
            return None
        return await store.io.run(store.read_at_step(run_id, step))

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints of a run; they are read some at a time, as far as 64 MiB of them go."""
        store = self._opened()
        bounds = check_bounds(from_step, to_step)
        if not is_run_id(run_id) or bounds.first > bounds.last:
            return
        top = None if to_step is None else bounds.last
        parts: list[list[Slot]] = await store.io.run(
            history_slots(store.log, run_id, from_step=bounds.first, to_step=top, newest_first=newest_first)
        )
        known: Mapping[int, FetchedRecord] = {}
        for part in parts:
            checkpoints, known = await store.io.run(store.reader.read_some(run_id, part, known))
            for checkpoint in checkpoints:
                yield checkpoint

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        store = self._opened()
        if not is_run_id(run_id) or not is_key(key):
            return None
        return await store.io.run(self._read_at_key(store, run_id, key))

    async def _read_at_key(self, store: OpenStore, run_id: str, key: str) -> Checkpoint | None:
        step = await store.step_keys.step_of(run_id, key)
        return None if step is None else await store.read_at_step(run_id, step)

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        store = self._opened()
        check_limit(limit)
        return await store.io.run(self._step_keys(store, run_id, below, limit)) if limit and is_run_id(run_id) else []

    async def _step_keys(self, store: OpenStore, run_id: str, below: str | None, limit: int) -> list[StepKey]:
        # A deletion that was cut short has left records behind.
        return await store.step_keys.list(run_id, below, limit) if await store.log.is_known(run_id) else []

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        store = self._opened()
        since = check_listing(since, limit)
        return await store.io.run(store.index.first_runs(since=since, limit=limit))

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """Return one page of the runs that match.

        It reads the summary of each run on the way, one or two requests for each: of the open runs if only those can
        match by their status, of the runs that came from `parent_run_id` if that is given, else of all. The order
        `updated` looks at all of them for each page.
        """
        store = self._opened()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        return await store.io.run(store.index.search(query))

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        """Return how many runs match; it reads the summary of each run that `search` would look at."""
        store = self._opened()
        matcher = check_filters(filters)
        return matcher.count(await store.io.run(store.index.matching(matcher)))

    async def children(self, run_id: str) -> list[RunSummary]:
        store = self._opened()
        runs = await store.io.run(store.index.matching(check_filters({"parent_run_id": run_id})))
        return [run for run in runs if run.origin == "subgraph"]

    async def delete_run(self, run_id: str) -> bool:
        store = self._writable("delete_run")
        return await store.io.run(store.delete(run_id)) if is_run_id(run_id) else False

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Sequence[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove all but the last checkpoints of runs that stand still.

        It also frees what was pruned or deleted more than seven days ago, and corrects the list of open runs.
        """
        store = self._opened() if dry_run else self._writable("prune")
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )
        return await store.io.run(store.pruner.prune_runs(rule, store.writing))

    async def check_conditional_writes(self) -> RaceReport:
        """Let eight writers create one object at once, three times; exactly one must win each time."""
        store = self._writable("check_conditional_writes")
        return await store.io.run(race(store.objects, store.keys))

    async def decoded_from(self, run_id: str, step: int) -> tuple[int, ...]:
        store = self._opened()
        if not check_step(step) or not is_run_id(run_id):
            return ()
        header = await store.io.run(store.log.header(run_id, step))
        return header.bases if isinstance(header, Header) else ()

    async def examine(self) -> list[str]:
        self._opened()
        if self.read_only:
            return ["the store exists and has the format of this software; a read-only handle tries no writes"]
        report = await self.check_conditional_writes()
        if not report.passed:
            raise race_lost_error(self._where, report.writers, report.winners)
        return [f"{report.writers} writers created one object at once: one won in each of {len(report.winners)} rounds"]

    def _fleet(self) -> FleetStore:
        store = self._opened()
        return S3Fleet(store.io, store.queues, store.pruner.repair_open_runs)

    async def _timeline_page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        store = self._opened()
        return await store.io.run(store.timeline.page(run_id, first, last, limit))

    async def _latest_step(self, run_id: str) -> int | None:
        store = self._opened()
        return await store.io.run(store.log.known_end(run_id))

    @property
    def _where(self) -> str:
        return str(self._options.address)

    def _opened(self) -> OpenStore:
        self._lifecycle.ensure_open()
        if self._store is None:
            raise not_bootstrapped_error()
        return self._store

    def _writable(self, method: str) -> OpenStore:
        self._lifecycle.ensure_writable(method)
        return self._opened()

    async def _drop(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            self._finalizer.detach()
            await store.io.close()


_: type[Checkpointer] = S3Checkpointer
_keys: type[KeyedSteps] = S3Checkpointer
_timelines: tuple[type[RunTimeline], type[RunWatch]] = (S3Checkpointer,) * 2
_capabilities: tuple[type[Encrypting], type[ReadOnly], type[RecordBases], type[SelfTest]] = (S3Checkpointer,) * 4
