"""The checkpointer: the contract on top of the log, the index and the removal of runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, Unpack

from stargraph.checkpoint.codec import Cipher
from stargraph.checkpoint.driver import (
    check_batch,
    check_filters,
    check_instant,
    check_listing,
    check_search,
    in_order,
    not_bootstrapped_error,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    PRUNED_BY_DEFAULT,
    Checkpoint,
    Checkpointer,
    PruneReport,
    RunFilters,
    RunOrder,
    RunPage,
    RunSummary,
    Status,
    is_run_id,
)
from stargraph.checkpoint.s3._bootstrap import RaceReport, open_store, race, refuse, refuse_race, warn_unsafe
from stargraph.checkpoint.s3._cache import RecordCache
from stargraph.checkpoint.s3._concurrency import AT_ONCE, map_each
from stargraph.checkpoint.s3._frame import Head
from stargraph.checkpoint.s3._history import read_history
from stargraph.checkpoint.s3._index import Entry
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._options import Checksums, ConnectionOptions, parse_url
from stargraph.checkpoint.s3._removal import PruneRule
from stargraph.checkpoint.s3._search import all_runs, first_runs, matching_runs, windows
from stargraph.checkpoint.s3._sessions import Session, Sessions
from stargraph.errors import CheckpointError

if TYPE_CHECKING:
    import aioboto3

_TOP_STEP: Final = 2**53


class S3Checkpointer:
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
        session: makes the clients, where the standard chain of credentials is not wanted.
        connect_timeout: how long to wait for a connection, in seconds.
        read_timeout: how long to wait for the next byte of an answer, in seconds.
        deadline: how long to repeat a request that gets no clear answer, in seconds.
        cache_dir: a directory that keeps copies of what was read and written, for the next process too; None
            for a private one that goes with the handle. It must be one that only this user can write to.
        files_of_ended_runs: store a run that ended as one SQLite file too, beside its log.
        unsafe_single_writer: accept a store that ignores conditional writes. Nothing then stops two
            executors of one run from overwriting each other.
        encryption: the keys that encrypt what is stored; None stores it readable. docs/encryption.md says what stays
            readable all the same.

    Raises:
        CheckpointError: the URL does not name a bucket (`reason="invalid-url"`).
        ValueError: an argument makes no sense, or the URL carries options, which are for `from_url`.
    """

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
        encryption: Cipher | None = None,
    ) -> None:
        self._address, named = parse_url(url)
        if named:
            raise ValueError("options in the URL are for from_url(); pass them as arguments here")
        options = ConnectionOptions(
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
        self._unsafe_single_writer = unsafe_single_writer
        self._keys = KeyLayout(self._address.prefix)
        cache = RecordCache(None if cache_dir is None else Path(cache_dir), store=f"{endpoint_url} {self._address}")
        self._sessions = Sessions(options, self._address.bucket, self._keys, cache, encryption)
        self._files_of_ended_runs = files_of_ended_runs
        self._encrypted = encryption is not None
        self._ready = False
        self._closed = False

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""
        return self._encrypted

    def __repr__(self) -> str:
        return f"S3Checkpointer({str(self._address)!r})"

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the store that a URL names; no I/O.

        Args:
            url: `s3://bucket/prefix`, with arguments of the class as its query, as in
                `s3://bucket/prefix?endpoint_url=http://localhost:9000&path_style=true`. The keys of encryption come
                from `STARGRAPH_ENCRYPTION_KEY`.
        """
        _, named = parse_url(url)
        return cls(url.partition("?")[0], **named, encryption=Cipher.from_environment())

    async def bootstrap(self) -> None:
        """Make the store, or recognise it, and prove that it keeps the condition of a conditional write.

        Raises:
            StoreVersionError: the store's format is newer; nothing was touched.
            StoreUnavailableError: the store cannot be reached or used; `reason` says why.
        """
        where = str(self._address)
        store = self._sessions.current().store
        conditional = await open_store(store, self._keys, where=where)
        if not conditional:
            if not self._unsafe_single_writer:
                raise refuse(where)
            warn_unsafe(where)
            await self._sessions.without_conditions()
        self._ready = True
        self._closed = False

    async def write(self, checkpoint: Checkpoint) -> None:
        """See `Checkpointer.write`."""
        session = self._open()
        checkpoint.ensure_valid()
        async with session.writing(checkpoint.run_id):
            await self._append(session, checkpoint)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        """See `BatchAppend.write_many`. One request for each step, one after another: a log has no holes."""
        session = self._open()
        batch = list(checkpoints)
        check_batch(batch)
        if not batch:
            return
        for checkpoint in batch:
            checkpoint.ensure_valid()
        async with session.writing(batch[0].run_id):
            for checkpoint in batch:
                await self._append(session, checkpoint)

    async def _append(self, session: Session, checkpoint: Checkpoint) -> None:
        appended = await session.log.append(checkpoint)
        if appended is not None:
            session.reader.remember(checkpoint.run_id, checkpoint.step, appended.etag, appended.body)
        if self._files_of_ended_runs and checkpoint.status in ENDED:
            await session.files.make(checkpoint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """See `Checkpointer.read_latest`."""
        session = self._open()
        if not is_run_id(run_id):
            return None
        found = await session.log.read_newest(run_id, lambda *newest: session.reader.read_latest(run_id, *newest))
        if found is None or found == "deleted":
            return None
        latest, head = found
        session.log.learn(head)
        return latest

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """See `Checkpointer.read_at_step`."""
        session = self._open()
        if not is_run_id(run_id) or not 0 <= step <= _TOP_STEP:
            return None
        try:
            async with asyncio.TaskGroup() as group:
                # A deletion that was cut short has left records behind.
                known = group.create_task(session.log.is_known(run_id))
                found = group.create_task(session.reader.read(run_id, step))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return found.result() if known.result() else None

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        """See `Checkpointer.list_runs`."""
        session = self._open()
        since = check_listing(since, limit)
        return await first_runs(session.index, since=since, limit=limit)

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """See `RunSearch.search`. It reads the summary of every run on the way: one or two requests for each."""
        session = self._open()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        if limit == 0:
            return RunPage(items=())
        if order == "updated":
            return query.page(await all_runs(session.index))
        after = "" if query.cursor is None else self._keys.entry(query.cursor.run_id, query.cursor.moment)
        found = await matching_runs(
            session.index, query.matcher.matches, since=query.matcher.since, limit=limit + 1, after=after
        )
        return query.cut([summary for _, summary in found])

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        """See `RunSearch.count_runs`. It reads the summary of every run."""
        session = self._open()
        return check_filters(filters).count(await all_runs(session.index))

    async def children(self, run_id: str) -> list[RunSummary]:
        """See `RunTree.children`. It reads the summary of every run."""
        runs = await all_runs(self._open().index)
        return in_order(run for run in runs if (run.parent_run_id, run.origin) == (run_id, "subgraph"))

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        """See `RunHistory.history`. Records are read some at a time, as far as 64 MiB of them go."""
        session = self._open()
        if not is_run_id(run_id) or (to_step is not None and to_step < 0):
            return
        top = None if to_step is None else min(to_step, _TOP_STEP)
        steps = read_history(
            session.log, session.reader, run_id, from_step=from_step, to_step=top, newest_first=newest_first
        )
        async for checkpoint in steps:
            yield checkpoint

    async def delete_run(self, run_id: str) -> bool:
        """See `RunDeletion.delete_run`. Tombstones keep the slots of the run taken."""
        session = self._open()
        if not is_run_id(run_id):
            return False
        async with session.writing(run_id):
            return await session.removal.delete(run_id)

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        dry_run: bool = False,
    ) -> PruneReport:
        """See `RunDeletion.prune`. It also frees what was pruned or deleted more than seven days ago."""
        session = self._open()
        rule = PruneRule(check_instant(older_than, "older_than"), frozenset(statuses), keep_last)
        if keep_last < 0:
            raise ValueError(f"keep_last is {keep_last!r}: give 0 or more")
        now = datetime.now(UTC)

        async def prune(entry: Entry) -> int:
            if entry.deleted:
                if not dry_run:
                    await session.removal.reclaim(entry, now)
                return 0
            async with session.writing(entry.run_id):
                return await session.removal.prune(entry.run_id, entry.started_at, rule, now=now, dry_run=dry_run)

        counts: list[int] = []
        async for window in windows(session.index.entries(), lambda: AT_ONCE, until=rule.older_than, deleted=True):
            counts += await map_each(prune, window)
        return PruneReport(runs=sum(count > 0 for count in counts), checkpoints=sum(counts), dry_run=dry_run)

    async def check_conditional_writes(self) -> RaceReport:
        """Let eight writers create one object at once, three times; exactly one must win each time.

        Raises:
            StoreUnavailableError: the store cannot be reached.
        """
        return await race(self._open().objects, self._keys)

    async def decoded_from(self, run_id: str, step: int) -> tuple[int, ...]:
        """Return the steps that the record of a step is decoded from: a prune keeps them, and `stargraph verify` asks.

        Args:
            run_id: the run.
            step: the step.
        """
        head = await self._open().log.head(run_id, step)
        return head.bases if isinstance(head, Head) else ()

    async def examine(self) -> list[str]:
        """Try what the promises of this driver stand on, as `stargraph doctor` does.

        Returns:
            What was found to be right.

        Raises:
            StoreUnavailableError: it is wrong, and `reason` says what.
        """
        report = await self.check_conditional_writes()
        if not report.passed:
            raise refuse_race(str(self._address), report)
        return [f"{report.writers} writers created one object at once: one won in each of {len(report.winners)} rounds"]

    async def close(self) -> None:
        """Close the connections; idempotent. `bootstrap` opens the handle again."""
        self._closed = True
        await self._sessions.close()

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

    def _open(self) -> Session:
        if self._closed:
            raise CheckpointError(
                f"{self._address}: the checkpointer is closed",
                reason="closed",
                hint="Call `await checkpointer.bootstrap()` to open it again.",
            )
        if not self._ready:
            raise not_bootstrapped_error()
        return self._sessions.current()


_: type[Checkpointer] = S3Checkpointer
