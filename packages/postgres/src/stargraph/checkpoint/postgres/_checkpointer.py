"""The checkpointer: the contract's methods on one PostgreSQL schema."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, Unpack
from weakref import WeakKeyDictionary, ref

import asyncpg

from stargraph.checkpoint.codec import Cipher, Codec, CodecThreads
from stargraph.checkpoint.driver import (
    MAX_STEP,
    Encrypting,
    FleetMethods,
    FleetStore,
    InPlaceWrites,
    LatestCache,
    Lifecycle,
    ReadOnly,
    SelfTest,
    TimelineMethods,
    check_batch,
    check_bounds,
    check_filters,
    check_flags,
    check_limit,
    check_prune,
    check_pruned_start,
    check_search,
    check_step,
)
from stargraph.checkpoint.postgres._append import AppendStatements
from stargraph.checkpoint.postgres._attached import Attached
from stargraph.checkpoint.postgres._connection import (
    BorrowedConnections,
    Connections,
    Connector,
    OwnConnections,
    Password,
)
from stargraph.checkpoint.postgres._errors import ATTEMPT_SHARE, Advice, Retries, other_loop_error
from stargraph.checkpoint.postgres._options import refuse_unknown_parameters, split_url
from stargraph.checkpoint.postgres._prune import Pruner
from stargraph.checkpoint.postgres._queues import PostgresFleet
from stargraph.checkpoint.postgres._read import Reader
from stargraph.checkpoint.postgres._redaction import without_secrets
from stargraph.checkpoint.postgres._schema import Schema, bootstrap, examine, open_read_only
from stargraph.checkpoint.postgres._search import SearchStatements
from stargraph.checkpoint.postgres._writer import Writer
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


class PostgresCheckpointer(FleetMethods, InPlaceWrites, TimelineMethods):
    """Keeps runs in one schema of a PostgreSQL database that any number of machines may share.

    Nothing is connected before `bootstrap`. A handle may be used from several event loops, one after the other or at
    once. Each gets connections of its own, which are closed at the latest when `asyncio.run` ends that loop.

    Args:
        dsn: `postgresql://user:password@host:port/database?…` or `host=… dbname=…`, with libpq's parameters. What it
            leaves out comes from the `PG…` environment variables.
        pool: an asyncpg pool to take connections from, instead of a DSN; it stays yours to close. The handle then
            serves the event loop of the pool alone (`reason="other-loop"`).
        schema: the schema that holds the tables; made by `bootstrap`.
        ssl: a TLS context, instead of what the DSN says.
        password: a password or a function that returns one for each new connection, such as a cloud's token.
        read_only: never write. A hot standby will do, and a role that may only `SELECT`.
        max_connections: connections of this handle at most, in each event loop.
        timeout: seconds until a call gives up, all attempts included.
        group_commit: let checkpoints of several runs share a statement and a commit. Turn it off on engines that
            spread one table over many servers, and a statement had better stay on one.
        prepared_statements: let the server keep plans. None turns that off behind a pooler.
        allow_data_loss: accept a server with `fsync` or `synchronous_commit` off, which may lose checkpoints that it
            has acknowledged.
        encryption: the keys that encrypt what is stored; None stores it readable. docs/encryption.md says what stays
            readable even so.
        latest_cache_bytes: how much memory this handle may use to serve `read_latest` of runs that it has written or
            read, once the database confirms their latest digest; 0 reads the record each time. docs/operations.md says
            what that does not see.

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
        password: Password | None = None,
        read_only: bool = False,
        max_connections: int = 4,
        timeout: float = 30.0,
        group_commit: bool = True,
        prepared_statements: bool | None = None,
        allow_data_loss: bool = False,
        encryption: Cipher | None = None,
        latest_cache_bytes: int = 0,
    ) -> None:
        if (dsn is None) == (pool is None):
            raise ValueError("give either a DSN or a pool")
        check_flags(group_commit=group_commit, prepared_statements=prepared_statements, allow_data_loss=allow_data_loss)
        if not isinstance(max_connections, int) or max_connections < 1:
            raise ValueError(f"max_connections is {max_connections!r}: give 1 or more")
        if not isinstance(timeout, (int, float)) or not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}: give seconds above 0")
        self._schema = Schema(schema)
        self._dsn = dsn
        self._pool = pool
        self._ssl = ssl
        self._password = password
        self._lifecycle = Lifecycle(read_only=read_only)
        self._max_connections = max_connections
        self._timeout = timeout
        self._group_commit = group_commit
        self._prepared_statements = prepared_statements
        self._allow_data_loss = allow_data_loss
        self._advice = Advice(lambda: "the pool that was given" if dsn is None else without_secrets(dsn))
        self._retries = Retries(timeout, self._advice)
        self._codec = Codec(cipher=encryption)
        self._threads = CodecThreads()
        self._latest: LatestCache[bytes] = LatestCache(latest_cache_bytes)
        self._statements = AppendStatements(self._schema)
        self._reader = Reader(self._fetch, self._schema, self._codec, self._threads, self._latest)
        self._search = SearchStatements(self._schema)
        self._pruner = Pruner(self._fetch, self._schema, self._codec, self._threads, self._reader.at_step, self._latest)
        self._loop_of_pool: ref[asyncio.AbstractEventLoop] | None = None
        self._attached: WeakKeyDictionary[asyncio.AbstractEventLoop, Attached] = WeakKeyDictionary()

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the database that a URL names; no I/O.

        Args:
            url: a DSN. Its parameters `schema`, `timeout`, `read_only`, `max_connections`, `group_commit`,
                `prepared_statements`, `allow_data_loss` and `latest_cache_bytes` are arguments of the class. The keys
                of encryption come from `STARGRAPH_ENCRYPTION_KEY`.

        Raises:
            ValueError: one of these does not fit, or a key is too short.
            StoreUnavailableError: the DSN has an unknown parameter (`reason="bad-dsn"`).
        """
        dsn, options = split_url(url)
        refuse_unknown_parameters(dsn)
        handle = cls(dsn, **options, encryption=Cipher.from_environment())
        handle._advice.from_url = True
        return handle

    def __repr__(self) -> str:
        source = "pool=…" if self._dsn is None else repr(without_secrets(self._dsn))
        read_only = ", read_only=True" if self.read_only else ""
        return f"PostgresCheckpointer({source}, schema={self._schema.name!r}{read_only})"

    @property
    def read_only(self) -> bool:
        """Whether this handle refuses to write."""
        return self._lifecycle.read_only

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""
        return self._codec.encrypts

    async def bootstrap(self) -> None:
        """Create or migrate the schema; see `Checkpointer.bootstrap`.

        Raises:
            StoreVersionError: the schema is newer than this software.
            CheckpointError: the server may lose acknowledged commits (`reason="not-durable"`).
            StoreUnavailableError: the database cannot be reached, or does not allow it; or the handle is read-only, and
                there is no store (`reason="no-store"`).
        """
        self._lifecycle.ensure_own_process()

        async def open_store() -> None:
            async with self._attach().connections.lend() as connection:
                if self.read_only:
                    await open_read_only(connection, self._schema, self._advice)
                else:
                    await bootstrap(connection, self._schema, self._advice, allow_data_loss=self._allow_data_loss)

        await self._retries.run(open_store, f"the schema {self._schema.name!r} was not opened")
        self._lifecycle.opened()

    async def close(self) -> None:
        async with self._lifecycle.closing():
            attached = self._attached.pop(asyncio.get_running_loop(), None)
            self._forget_ended_loops()
            try:
                if attached is not None:
                    await attached.close()
            finally:
                if not self._attached:
                    self._threads.close()
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
        await self._open_to_write("write").writer.write((checkpoint,))

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        writer = self._open_to_write("write_many").writer
        if steps := check_batch(checkpoints):
            await writer.write(steps)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        writer = self._open_to_write("start_pruned").writer
        await writer.start_pruned(check_pruned_start(checkpoints))

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._open()
        return await self._reader.latest(run_id) if is_run_id(run_id) else None

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._open()
        stored = check_step(step) and is_run_id(run_id)
        return await self._reader.at_step(run_id, step) if stored else None

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        self._open()
        bounds = check_bounds(from_step, to_step)
        if is_run_id(run_id):
            async for checkpoint in self._reader.history(run_id, *bounds, newest_first=newest_first):
                yield checkpoint

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        self._open()
        return await self._reader.at_key(run_id, key) if is_run_id(run_id) and is_key(key) else None

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        self._open()
        check_limit(limit)
        return await self._reader.step_keys(run_id, below, min(limit, MAX_STEP)) if is_run_id(run_id) else []

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
        self._open()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        if limit == 0:
            return RunPage(items=())
        sql, parameters = self._search.search(query)
        return query.cut(await self._reader.summaries(sql, *parameters))

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        self._open()
        sql, parameters = self._search.count(check_filters(filters))
        return {row["status"]: row["runs"] for row in await self._fetch(sql, *parameters)}

    async def children(self, run_id: str) -> list[RunSummary]:
        self._open()
        return await self._reader.summaries(self._search.children, run_id) if is_run_id(run_id) else []

    async def delete_run(self, run_id: str) -> bool:
        self._open_to_write("delete_run")
        return is_run_id(run_id) and await self._pruner.delete_run(run_id)

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Sequence[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        self._open_to_write("prune", dry_run=dry_run)
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )
        return await self._pruner.prune(rule)

    async def examine(self) -> list[str]:
        self._open()

        async def attempt() -> list[str]:
            async with self._attach().connections.lend() as connection:
                return await examine(
                    connection,
                    self._schema,
                    self._advice,
                    read_only=self.read_only,
                    allow_data_loss=self._allow_data_loss,
                )

        return await self._retries.run(attempt, "the server was not examined")

    def _fleet(self) -> FleetStore:
        return self._attach().fleet

    async def _timeline_page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        return await self._reader.timeline_page(run_id, first, last, limit)

    async def _latest_step(self, run_id: str) -> int | None:
        return await self._reader.latest_step(run_id)

    def _open_to_write(self, method: str, *, dry_run: bool = False) -> Attached:
        self._lifecycle.ensure_writable(method, dry_run=dry_run)
        return self._attach()

    def _open(self) -> Attached:
        self._lifecycle.ensure_open()
        return self._attach()

    def _attach(self) -> Attached:
        loop = asyncio.get_running_loop()
        attached = self._attached.get(loop)
        if attached is None:
            self._forget_ended_loops()
            timeout = self._timeout * ATTEMPT_SHARE
            connections: Connections
            if self._pool is not None:
                self._loop_of_pool = self._loop_of_pool or ref(loop)
                if self._loop_of_pool() is not loop:
                    raise other_loop_error()
                connections = BorrowedConnections(self._pool, timeout=timeout)
            else:
                assert self._dsn is not None
                connections = OwnConnections(
                    Connector(
                        self._dsn,
                        ssl=self._ssl,
                        password=self._password,
                        target="any" if self.read_only else "read-write",
                        timeout=timeout,
                    ),
                    limit=self._max_connections,
                    timeout=timeout,
                    prepared_statements=self._prepared_statements,
                )
            writer = Writer(
                connections,
                self._statements,
                self._codec,
                self._threads,
                self._retries,
                self._latest,
                timeout=timeout,
                grouped=self._group_commit,
            )
            fleet = PostgresFleet(connections, self._retries, self._schema)
            attached = self._attached[loop] = Attached(connections, writer, fleet)
        return attached

    def _forget_ended_loops(self) -> None:
        # What is attached to a loop holds that loop, which so is never collected.
        for loop in [each() for each in self._attached.keyrefs()]:
            if loop is not None and loop.is_closed():
                self._attached.pop(loop, None)

    async def _fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        connections = self._open().connections
        return await self._retries.run(lambda: connections.fetch(sql, *parameters), "the request was not answered")


_: type[Checkpointer] = PostgresCheckpointer
_history: type[RunHistory] = PostgresCheckpointer
_timeline: type[RunTimeline] = PostgresCheckpointer
_watch: type[RunWatch] = PostgresCheckpointer
_search: type[RunSearch] = PostgresCheckpointer
_tree: type[RunTree] = PostgresCheckpointer
_deletion: type[RunDeletion] = PostgresCheckpointer
_keys: type[KeyedSteps] = PostgresCheckpointer
_batches: type[BatchAppend] = PostgresCheckpointer
_queue: type[RunQueue] = PostgresCheckpointer
_presence: type[Presence] = PostgresCheckpointer
_schedules: type[Schedules] = PostgresCheckpointer
_pruned_start: type[PrunedStart] = PostgresCheckpointer
_closing: type[Closing] = PostgresCheckpointer
_read_only: type[ReadOnly] = PostgresCheckpointer
_encrypting: type[Encrypting] = PostgresCheckpointer
_examining: type[SelfTest] = PostgresCheckpointer
