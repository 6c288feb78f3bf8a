"""The checkpointer: the contract's methods on one PostgreSQL schema."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, Unpack
from weakref import WeakKeyDictionary

import asyncpg

from stargraph.checkpoint.codec import Cipher, Codec
from stargraph.checkpoint.driver import (
    check_batch,
    check_filters,
    check_instant,
    check_listing,
    check_search,
    closed_error,
    not_bootstrapped_error,
    summaries_from_json,
)
from stargraph.checkpoint.postgres import _removal as removal
from stargraph.checkpoint.postgres._connections import BorrowedSessions, OwnSessions, Sessions
from stargraph.checkpoint.postgres._dsn import split_options, without_secrets
from stargraph.checkpoint.postgres._failures import PATIENCE_WITH_ONE, Patience
from stargraph.checkpoint.postgres._queries import Queries
from stargraph.checkpoint.postgres._runs import count_statement, search_statement
from stargraph.checkpoint.postgres._schema import bootstrap
from stargraph.checkpoint.postgres._writer import Writer
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
from stargraph.errors import StoreUnavailableError

_HIGHEST_STEP: Final = 2**53
_PAGE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Attached:
    """What belongs to one event loop: connections cannot be used from another one."""

    sessions: Sessions
    writer: Writer


class PostgresCheckpointer:
    """Keeps runs in one schema of a PostgreSQL database that any number of machines may share.

    Nothing is connected before `bootstrap`. A handle may be used from several event loops, one after the
    other or at once; each gets connections of its own.

    Args:
        dsn: `postgresql://user:password@host:port/database?…`, as asyncpg and libpq read it, with several hosts
            and the sslmode family of parameters. What it leaves out comes from the `PG…` environment variables.
        pool: an asyncpg pool to take connections from, instead of a DSN; it stays yours to close.
        schema: the schema that holds the tables; made by `bootstrap`.
        ssl: a TLS context, instead of what the DSN says.
        password: a password or a function that returns one for each new connection, such as a cloud's token.
        max_connections: connections of this handle at the most, in each event loop.
        timeout: seconds until a call gives up, all attempts included.
        group_commit: let checkpoints of several runs share a statement and a commit. Turn it off on engines that
            spread one table over many servers, where a statement had better stay on one.
        prepared_statements: let the server keep plans. None turns that off behind a pooler.
        allow_data_loss: take a server with `fsync` or `synchronous_commit` off, which may lose checkpoints that it
            has acknowledged.
        encryption: the keys that encrypt what is stored; None stores it readable. docs/encryption.md says what stays
            readable all the same.

    Raises:
        ValueError: neither or both of `dsn` and `pool` are given, or a number is out of range, or the schema is no
            plain name.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: asyncpg.Pool | None = None,
        schema: str = "stargraph",
        ssl: tls.SSLContext | None = None,
        password: str | Callable[[], str] | Callable[[], Awaitable[str]] | None = None,
        max_connections: int = 4,
        timeout: float = 30.0,
        group_commit: bool = True,
        prepared_statements: bool | None = None,
        allow_data_loss: bool = False,
        encryption: Cipher | None = None,
    ) -> None:
        if (dsn is None) == (pool is None):
            raise ValueError("give either a DSN or a pool")
        if max_connections < 1:
            raise ValueError(f"max_connections is {max_connections}: give 1 or more")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}: give seconds above 0")
        self._dsn = dsn
        self._pool = pool
        self._schema = schema
        self._queries = Queries.of(schema)
        self._ssl = ssl
        self._password = password
        self._max_connections = max_connections
        self._within = timeout * PATIENCE_WITH_ONE
        self._patience = Patience(timeout)
        self._group_commit = group_commit
        self._prepared_statements = prepared_statements
        self._allow_data_loss = allow_data_loss
        self._codec = Codec(cipher=encryption)
        self._ready = False
        self._closed = False
        self._attached: WeakKeyDictionary[asyncio.AbstractEventLoop, _Attached] = WeakKeyDictionary()

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the database that a URL names; no I/O.

        Args:
            url: a DSN; its parameters `schema` and `timeout` are arguments of the class. The keys of encryption come
                from `STARGRAPH_ENCRYPTION_KEY`.

        Raises:
            ValueError: the schema is no plain name, the timeout no number above 0, or a key too short.
        """
        dsn, given = split_options(url)
        options: dict[str, Any] = dict(given)
        if "timeout" in given:
            try:
                options["timeout"] = float(given["timeout"])
            except ValueError:
                raise ValueError(f"timeout is {given['timeout']!r}: give seconds above 0") from None
        return cls(dsn, **options, encryption=Cipher.from_environment())

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""
        return self._codec.encrypts

    def __repr__(self) -> str:
        source = "pool=…" if self._dsn is None else repr(without_secrets(self._dsn))
        return f"PostgresCheckpointer({source}, schema={self._schema!r})"

    async def bootstrap(self) -> None:
        """Create or migrate the schema; see `Checkpointer.bootstrap`.

        Raises:
            StoreVersionError: the schema is newer than this software.
            CheckpointError: the server may lose acknowledged commits (`reason="not-durable"`).
            StoreUnavailableError: the database cannot be reached, or does not allow it.
        """
        self._closed = False

        async def create_or_migrate() -> None:
            async with self._attach().sessions.session() as session:
                await bootstrap(session, self._schema, allow_data_loss=self._allow_data_loss)

        await self._patience.run(create_or_migrate, f"bootstrap of the schema {self._schema!r}")
        self._ready = True

    async def write(self, checkpoint: Checkpoint) -> None:
        """Append one checkpoint; see `Checkpointer.write`.

        Args:
            checkpoint: the next step of its run.

        Raises:
            CheckpointConflictError: somebody else wrote this step, or the step before it is another one.
            CheckpointError: `reason` is `invalid-checkpoint`, `step-gap`, `pruned`, `run-ended`, `run-deleted`,
                `history-lost` or `not-bootstrapped`.
            StoreUnavailableError: the outcome is unknown; writing again settles it.
        """
        await self._open().writer.write((checkpoint,))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Append several steps of one run; see `BatchAppend.write_many`.

        Args:
            checkpoints: consecutive steps, in order.

        Raises:
            CheckpointError: as `write` raises, for the first step that is refused, or `invalid-batch`.
        """
        writer = self._open().writer
        steps = list(checkpoints)
        check_batch(steps)
        if steps:
            await writer.write(steps)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint with the highest step of a run, or None.

        Args:
            run_id: the run.
        """
        self._open()
        if not is_run_id(run_id):
            return None
        records = await self._records(self._queries.latest, run_id)
        return self._codec.decode_latest(records, run_id=run_id, step=max(records)) if records else None

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """Return one step of a run, or None.

        Args:
            run_id: the run.
            step: the step.
        """
        self._open()
        if not is_run_id(run_id) or not 0 <= step <= _HIGHEST_STEP:
            return None
        records = await self._records(self._queries.at_step, run_id, step)
        return self._codec.decode(records, run_id=run_id, step=step) if records else None

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        """Return runs, the newest `started_at` first, ties by `run_id` ascending.

        Args:
            since: only runs that started then or later; an aware datetime.
            limit: how many at the most; 0 gives none.

        Raises:
            ValueError: `since` is naive, or `limit` is negative.
        """
        self._open()
        since = check_listing(since, limit)
        if limit == 0:
            return []
        return await self._summaries(self._queries.list_runs, since, min(limit, _HIGHEST_STEP))

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints of a run by step, a page at a time; no connection is held between pages.

        Args:
            run_id: the run.
            from_step: the lowest step, included.
            to_step: the highest step, included.
            newest_first: yield the highest step first.
        """
        self._open()
        low = max(0, from_step or 0)
        high = _HIGHEST_STEP if to_step is None else min(to_step, _HIGHEST_STEP)
        sql = self._queries.page_down if newest_first else self._queries.page
        while is_run_id(run_id) and low <= high:
            rows = await self._fetch(sql, run_id, low, high, _PAGE_BYTES)
            if not rows:
                return
            records = {row["step"]: row["record"] for row in rows}
            steps = [row["step"] for row in rows if row["asked"]]
            for checkpoint in self._codec.decode_many(records, run_id=run_id, steps=steps):
                yield checkpoint
            if newest_first:
                high = steps[-1] - 1
            else:
                low = steps[-1] + 1

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """Return one page of the runs that match; see `RunSearch.search`."""
        self._open()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        if limit == 0:
            return RunPage(items=())
        sql, parameters = search_statement(self._queries.runs, query)
        return query.cut(await self._summaries(sql, *parameters))

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        """Return how many runs match, by their status; see `RunSearch.count_runs`."""
        self._open()
        sql, parameters = count_statement(self._queries.runs, check_filters(filters))
        return {row["status"]: row["runs"] for row in await self._fetch(sql, *parameters)}

    async def children(self, run_id: str) -> list[RunSummary]:
        """Return the direct child runs of a run; see `RunTree.children`."""
        found = await self.search(parent_run_id=run_id, limit=_HIGHEST_STEP)
        return [run for run in found.items if run.origin == "subgraph"]

    async def delete_run(self, run_id: str) -> bool:
        """Remove a run for good; see `RunDeletion.delete_run`.

        Args:
            run_id: the run.

        Returns:
            Whether there was such a run.
        """
        self._open()
        if not is_run_id(run_id):
            return False
        self._codec.forget(run_id)
        return await removal.delete_run(self._fetch, self._queries, run_id)

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove all but the last checkpoints of runs that stand still; see `RunDeletion.prune`.

        Args:
            older_than: only runs whose last step was recorded before; an aware datetime.
            statuses: only runs with one of these.
            keep_last: how many checkpoints of each run to keep; 0 removes the run.
            dry_run: only count.

        Returns:
            What was removed, or would be.

        Raises:
            ValueError: `older_than` is naive, or `keep_last` is negative.
        """
        self._open()
        older_than = check_instant(older_than, "older_than")
        if keep_last < 0:
            raise ValueError(f"keep_last is {keep_last}: give 0 or more")
        return await removal.prune(
            self._fetch,
            self._queries,
            self._codec,
            older_than=older_than,
            statuses=statuses,
            keep_last=keep_last,
            dry_run=dry_run,
        )

    async def close(self) -> None:
        """Finish the appends that are on their way and close the connections of this event loop; idempotent."""
        self._closed = True
        self._ready = False
        attached = self._attached.pop(asyncio.get_running_loop(), None)
        if attached is not None:
            await attached.writer.drain()
            await attached.sessions.close()

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

    def _open(self) -> _Attached:
        if self._closed:
            raise closed_error()
        if not self._ready:
            raise not_bootstrapped_error()
        return self._attach()

    def _attach(self) -> _Attached:
        loop = asyncio.get_running_loop()
        attached = self._attached.get(loop)
        if attached is None:
            sessions: Sessions
            if self._pool is not None:
                sessions = BorrowedSessions(self._pool, within=self._within)
            else:
                sessions = OwnSessions(
                    self._connect,
                    limit=self._max_connections,
                    within=self._within,
                    prepared_statements=self._prepared_statements,
                )
            writer = Writer(
                sessions, self._queries, self._codec, self._patience, within=self._within, grouped=self._group_commit
            )
            attached = self._attached[loop] = _Attached(sessions, writer)
        return attached

    async def _connect(self) -> asyncpg.Connection:
        options: dict[str, Any] = {}
        if self._ssl is not None:
            options["ssl"] = self._ssl
        if self._password is not None:
            options["password"] = self._password
        try:
            return await asyncpg.connect(
                self._dsn,
                statement_cache_size=0,
                target_session_attrs="read-write",
                **options,
            )
        except tls.SSLCertVerificationError:
            raise  # a ValueError too
        except ValueError as error:
            # What could not be read may be a part of the password, and the message quotes it.
            raise StoreUnavailableError(
                f"PostgreSQL: the DSN cannot be read ({type(error).__name__})",
                reason="bad-dsn",
                hint="Write it as postgresql://user:password@host:port/database, special characters as %XX.",
            ) from None

    async def _summaries(self, sql: str, *parameters: object) -> list[RunSummary]:
        rows = await self._fetch(sql, *parameters)
        return summaries_from_json([(row["run_id"], row["summary"] or b"null") for row in rows])

    async def _records(self, sql: str, *parameters: object) -> dict[int, bytes]:
        return {row["step"]: row["record"] for row in await self._fetch(sql, *parameters)}

    async def _fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        sessions = self._open().sessions
        return await self._patience.run(lambda: sessions.fetch(sql, *parameters), "the request was not answered")


_: type[Checkpointer] = PostgresCheckpointer
_history: type[RunHistory] = PostgresCheckpointer
_search: type[RunSearch] = PostgresCheckpointer
_tree: type[RunTree] = PostgresCheckpointer
_deletion: type[RunDeletion] = PostgresCheckpointer
_batches: type[BatchAppend] = PostgresCheckpointer
_closing: type[Closing] = PostgresCheckpointer
