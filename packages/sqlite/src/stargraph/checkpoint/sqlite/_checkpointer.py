"""The SQLite driver: the contract's methods, each a few lines over its parts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, Self, Unpack, get_args

from stargraph.checkpoint.codec import Cipher, Codec, Record
from stargraph.checkpoint.driver import (
    check_batch,
    check_filters,
    check_instant,
    check_search,
    closed_error,
    not_bootstrapped_error,
)
from stargraph.checkpoint.protocol import (
    PRUNED_BY_DEFAULT,
    BatchAppend,
    Checkpoint,
    Checkpointer,
    Closing,
    PruneReport,
    RunDeletion,
    RunFilters,
    RunHistory,
    RunOrder,
    RunPage,
    RunSearch,
    RunSummary,
    RunTree,
    Status,
    is_run_id,
)
from stargraph.checkpoint.sqlite import _queries, _retention
from stargraph.checkpoint.sqlite._appends import Append, AppendMany
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.checkpoint.sqlite._library import sqlite_library
from stargraph.checkpoint.sqlite._rows import microseconds
from stargraph.checkpoint.sqlite._schema import MAX_STEP
from stargraph.checkpoint.sqlite._store import Options, Store, Synchronous
from stargraph.checkpoint.sqlite._urls import parse_url

_GROUP_BYTES: Final = 8 * 1024 * 1024


class SQLiteCheckpointer:
    """A store of runs in one SQLite file.

    Any number of handles, in any number of processes of one machine, may use a file at once. A handle may
    be used from any event loop, and need not be closed.

    Args:
        path: the file; it and its directory are made by `bootstrap` where they are missing, the file
            with permissions 0600.
        synchronous: `full` keeps every written checkpoint through a loss of power. `normal` is faster, and
            keeps them through the loss of the process, but a loss of power or a crash of the system can take
            the latest ones away again; the run then goes on from an earlier step. The file stays sound.
        busy_timeout: how long a write waits for another connection's lock, in seconds.
        allow_network_filesystem: open a file on a network filesystem all the same. Checkpoints can be lost
            and the file damaged as soon as two machines open it.
        encryption: the keys that encrypt what is stored; None stores it readable. docs/encryption.md says what stays
            readable all the same.

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
        encryption: Cipher | None = None,
    ) -> None:
        if synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous is {synchronous!r}: give 'full' or 'normal'")
        if busy_timeout < 0:
            raise ValueError(f"busy_timeout is {busy_timeout!r}: give 0 or more seconds")
        self._files = StoreFiles(path)
        self._options = Options(synchronous, float(busy_timeout), allow_network_filesystem)
        self._codec = Codec(cipher=encryption)
        self._store: Store | None = None
        self._was_closed = False

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the store that a URL or path names; no I/O.

        Args:
            url: `sqlite:///relative/run.sqlite`, `sqlite:////absolute/run.sqlite`, or a plain path. A URL may
                end in `?synchronous=normal`, `busy_timeout=…` and `allow_network_filesystem=true`. The keys of
                encryption come from `STARGRAPH_ENCRYPTION_KEY`.

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({os.fspath(self._files.path)!r})"

    async def bootstrap(self) -> None:
        """Create or migrate the store, and open it.

        Raises:
            StoreVersionError: the store's format is newer; nothing was touched.
            StoreUnavailableError: the file cannot be opened or made, belongs to another application, or is on
                a network filesystem.
        """
        opened = self._store
        if opened is not None:
            opened.ensure_own_process()
            await opened.read(lambda _: None)
            return
        store = Store(StoreFiles(self._files.path), self._options)
        await store.open()
        if not self._adopt(store):  # another task was quicker
            await store.close()

    async def close(self) -> None:
        """Finish the writes that are waiting and let go of the file; idempotent."""
        store = self._store
        if store is None:
            return
        store.ensure_own_process()
        self._store = None
        self._was_closed = True
        await store.close()

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
        """Append one checkpoint: atomic, and durable once this returned.

        Args:
            checkpoint: the next step of its run.

        Raises:
            CheckpointConflictError: somebody else wrote this step, or the step before it is another one.
            CheckpointError: it is refused; `reason` says why.
            StoreUnavailableError: the outcome is unknown; writing again settles it.
        """
        store = self._opened()
        record = self._codec.encode(checkpoint)
        self._note(checkpoint.run_id, record, await store.writer.submit(Append(checkpoint, record, self._codec)))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Append consecutive steps of one run; whatever happens, what is stored of them is a prefix.

        Args:
            checkpoints: the steps, in order.

        Raises:
            CheckpointError: as `write` raises, for the first step that is refused; `reason="invalid-batch"`
                where they do not follow one another.
        """
        store = self._opened()
        check_batch(list(checkpoints))
        group: list[Append] = []
        size = 0
        for checkpoint in checkpoints:
            record = self._codec.encode(checkpoint, after=group[-1].record if group else None)
            group.append(Append(checkpoint, record, self._codec))
            size += group[-1].size
            if size >= _GROUP_BYTES:
                await self._append_many(store, group)
                group, size = [], 0
        if group:
            await self._append_many(store, group)

    async def _append_many(self, store: Store, group: list[Append]) -> None:
        as_encoded = await store.writer.submit(AppendMany(group))
        self._note(group[-1].checkpoint.run_id, group[-1].record, as_encoded)

    def _note(self, run_id: str, record: Record, as_encoded: bool) -> None:
        if as_encoded:
            self._codec.appended(record)
        else:
            self._codec.forget(run_id)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint with the highest step of a run, or None.

        Args:
            run_id: the run.
        """
        store = self._opened()
        if not is_run_id(run_id):
            return None
        return await store.read(lambda connection: _queries.latest(connection, self._codec, run_id))

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """Return one step of a run, or None.

        Args:
            run_id: the run.
            step: the step.
        """
        store = self._opened()
        if not is_run_id(run_id) or not 0 <= step <= MAX_STEP:
            return None
        return await store.read(lambda connection: _queries.at_step(connection, self._codec, run_id, step))

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints of a run by step; nothing is held open while the consumer works.

        Args:
            run_id: the run.
            from_step: the lowest step, included.
            to_step: the highest step, included.
            newest_first: yield the highest step first.
        """
        first = max(0, from_step or 0)
        last = MAX_STEP if to_step is None else min(to_step, MAX_STEP)
        more = is_run_id(run_id) and first <= last
        while more:
            query = partial(
                _queries.history_page,
                codec=self._codec,
                run_id=run_id,
                first=first,
                last=last,
                newest_first=newest_first,
            )
            page, more = await self._opened().read(query)
            for checkpoint in page:
                yield checkpoint
            if page and newest_first:
                last = page[-1].step - 1
            elif page:
                first = page[-1].step + 1

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        """Return runs, the newest `started_at` first, ties by `run_id` ascending.

        Args:
            since: only runs that started then or later; an aware datetime.
            limit: how many at the most; 0 gives none.

        Raises:
            ValueError: `since` is naive, or `limit` is negative.
        """
        return list((await self.search(since=since, limit=limit)).items)

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """Return one page of the runs that match; see `RunSearch.search`."""
        store = self._opened()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        return await store.read(partial(_queries.runs, query=query))

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        """Return how many runs match, by their status; see `RunSearch.count_runs`."""
        store = self._opened()
        return await store.read(partial(_queries.count_runs, matcher=check_filters(filters)))

    async def children(self, run_id: str) -> list[RunSummary]:
        """Return the direct child runs of a run; see `RunTree.children`."""
        found = await self.search(parent_run_id=run_id, limit=MAX_STEP)
        return [run for run in found.items if run.origin == "subgraph"]

    async def delete_run(self, run_id: str) -> bool:
        """Remove a run for good: it reads as unknown, and takes no further checkpoint.

        The run is gone at once; its checkpoints are removed in small steps, so that others can write.

        Args:
            run_id: the run.

        Returns:
            Whether there was such a run.
        """
        store = self._opened()
        if not is_run_id(run_id):
            return False
        count = await store.writer.submit(_retention.ForgetRun(run_id))
        await self._remove(store, _retention.Removal(run_id))
        return count > 0

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Sequence[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove all but the last checkpoints of runs that stand still, in small steps.

        Args:
            older_than: only runs whose last step was recorded before; an aware datetime.
            statuses: only runs with one of these.
            keep_last: how many checkpoints of each run to keep; 0 removes the run.
            dry_run: only count.

        Raises:
            ValueError: `older_than` is naive, or `keep_last` is negative.
        """
        store = self._opened()
        if isinstance(keep_last, bool) or keep_last < 0:
            raise ValueError(f"keep_last is {keep_last!r}: give 0 or more")
        before = microseconds(check_instant(older_than, "older_than"))
        runs = checkpoints = 0
        after: str | None = ""
        while after is not None:
            page, after = await store.read(
                partial(
                    _retention.removals,
                    codec=self._codec,
                    after=after,
                    older_than=before,
                    statuses=tuple(statuses),
                    keep_last=min(keep_last, MAX_STEP),
                )
            )
            for removal in page:
                count = await self._prune_run(store, removal, whole=keep_last == 0, dry_run=dry_run)
                runs += count > 0
                checkpoints += count
        if not dry_run:
            for run_id in await store.read(_retention.half_removed_runs):
                await self._remove(store, _retention.Removal(run_id))
        return PruneReport(runs=runs, checkpoints=checkpoints, dry_run=dry_run)

    async def _prune_run(self, store: Store, removal: _retention.Removal, *, whole: bool, dry_run: bool) -> int:
        if not whole:
            return await self._remove(store, removal, dry_run=dry_run)
        if dry_run:
            return await store.read(lambda connection: _retention.count_steps(connection, removal.run_id))
        count = await store.writer.submit(_retention.ForgetRun(removal.run_id, removal.tail))
        if count:
            await self._remove(store, _retention.Removal(removal.run_id))
        return count

    async def _remove(self, store: Store, removal: _retention.Removal, *, dry_run: bool = False) -> int:
        removed = 0
        # A deleted run keeps nothing that would have to be decoded.
        rewrites: dict[int, bytes] | None = {} if removal.tail is None else None
        after: int | None = -1
        while after is not None:
            steps, after = await store.read(partial(_retention.steps_to_remove, removal=removal, after=after))
            if dry_run or not steps:
                removed += len(steps)
                continue
            if rewrites is None:
                rewrites = await store.read(partial(_retention.rewrites, codec=self._codec, removal=removal))
            gone = await store.writer.submit(_retention.RemoveSteps(removal, steps, rewrites))
            rewrites = {}
            removed += gone
            if not gone:
                break  # the run has moved on
        return removed

    def _adopt(self, store: Store) -> bool:
        if self._store is not None:
            return False
        self._store = store
        store.belong_to(self)
        return True

    def _opened(self) -> Store:
        if self._store is None:
            raise closed_error() if self._was_closed else not_bootstrapped_error()
        self._store.ensure_own_process()
        return self._store


_: type[Checkpointer] = SQLiteCheckpointer
_history: type[RunHistory] = SQLiteCheckpointer
_search: type[RunSearch] = SQLiteCheckpointer
_tree: type[RunTree] = SQLiteCheckpointer
_deletion: type[RunDeletion] = SQLiteCheckpointer
_batch: type[BatchAppend] = SQLiteCheckpointer
_closing: type[Closing] = SQLiteCheckpointer
