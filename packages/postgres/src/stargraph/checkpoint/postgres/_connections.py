"""Connections: opened when needed, bounded in number, dropped after any error."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import asyncpg

_MAX_IDLE: Final = 60.0
"""Seconds after which an unused connection is not trusted any more: what lies between may have dropped it."""

_CLOSE_TIMEOUT: Final = 5.0


class Session:
    """One connection, and the statements that were prepared on it.

    Args:
        connection: an open connection.
        named: prepare statements under names, which the server plans once. None leaves statements to the
            connection's own cache.
    """

    def __init__(self, connection: asyncpg.Connection, *, named: bool | None = None) -> None:
        self.connection = connection
        self._named = named
        self._statements: dict[str, Any] = {}

    async def fetch(self, sql: str, *arguments: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """Run one statement and return its rows, in one round trip once it is known here.

        Args:
            sql: the statement.
            arguments: its parameters.
            timeout: seconds until it is given up.

        Raises:
            TimeoutError: it took too long.
        """
        if self._named is None:
            rows: list[asyncpg.Record] = await self.connection.fetch(sql, *arguments, timeout=timeout)
            return rows
        statement = self._statements.get(sql)
        if statement is None:
            # asyncpg sends an unnamed statement again with each execution, in the same message: a pooler may
            # hand every transaction to another server connection. A name is unique to this connection, since
            # a pooler that goes undetected would let two clients share the server's names.
            name = f"stargraph_{uuid.uuid4().hex}" if self._named else ""
            statement = await self.connection.prepare(sql, name=name, timeout=timeout)
            self._statements[sql] = statement
        fetched: list[asyncpg.Record] = await statement.fetch(*arguments, timeout=timeout)
        return fetched

    @property
    def is_closed(self) -> bool:
        """Whether the connection is known to be lost."""
        closed: bool = self.connection.is_closed()
        return closed

    def terminate(self) -> None:
        """Drop the connection at once."""
        self.connection.terminate()

    async def close(self) -> None:
        """Say goodbye to the server."""
        try:
            await self.connection.close(timeout=_CLOSE_TIMEOUT)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.connection.terminate()


class Sessions(Protocol):
    """Where connections come from."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Lend one connection for a few seconds; it is dropped where the block raises, whatever it raises.

        Raises:
            TimeoutError: the block took too long, waiting for a connection and opening it included.
        """

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one statement on a connection that is lent for it, and return its rows.

        Args:
            sql: the statement.
            arguments: its parameters.

        Raises:
            TimeoutError: it took too long.
        """

    async def close(self) -> None:
        """Close what is not lent; what is lent closes when it is given back."""


class OwnSessions:
    """Connections of our own to one database, at most `limit` at a time, the one that was used last first.

    Args:
        connect: opens a connection without a statement cache.
        limit: how many at a time.
        within: seconds for which one is lent.
        prepared_statements: whether statements may be prepared under names; None finds out.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        limit: int,
        within: float,
        prepared_statements: bool | None,
    ) -> None:
        self._connect = connect
        self._within = within
        self._prepared_statements = prepared_statements
        self._free = asyncio.Semaphore(limit)
        self._idle: list[tuple[float, Session]] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with asyncio.timeout(self._within) as limit, self._free:
            session = self._take() or await self._open()
            try:
                yield session
            except BaseException as error:
                await self._drop(session, error, expired=limit.expired())
                raise
            self._put(session)

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        session = None if self._free.locked() else self._take()
        if session is None:
            async with self.session() as session:
                return await session.fetch(sql, *arguments)
        # Nothing to wait for: asyncpg's own timeout costs a third of one around all of this.
        async with self._free:
            try:
                rows = await session.fetch(sql, *arguments, timeout=self._within)
            except BaseException as error:
                await self._drop(session, error, expired=False)
                raise
            self._put(session)
        return rows

    async def _drop(self, session: Session, error: BaseException, *, expired: bool) -> None:
        # What an error leaves behind on a connection is not worth guessing.
        if isinstance(error, asyncio.CancelledError) and not expired:
            # asyncpg has asked the server to stop. Closing waits for its answer: a write whose caller was
            # cancelled must not be stored later, after somebody has looked.
            await session.close()
        else:
            session.terminate()

    def _take(self) -> Session | None:
        self._drop_stale()
        while self._idle:
            _, session = self._idle.pop()
            if not session.is_closed:
                return session
        return None

    def _put(self, session: Session) -> None:
        if self._closed:
            session.terminate()
            return
        self._idle.append((time.monotonic(), session))
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_MAX_IDLE, self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweep = None
        self._drop_stale()
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(_MAX_IDLE, self._on_sweep)

    def _drop_stale(self) -> None:
        oldest = time.monotonic() - _MAX_IDLE
        while self._idle and self._idle[0][0] <= oldest:
            self._idle.pop(0)[1].terminate()

    async def _open(self) -> Session:
        connection = await self._connect()
        try:
            named = self._prepared_statements
            if named is None:
                # A pooler makes up the process id that it announces.
                backend = await connection.fetchval("SELECT pg_backend_pid()")
                named = backend == connection.get_server_pid()
        except BaseException:
            connection.terminate()
            raise
        return Session(connection, named=named)

    async def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        idle, self._idle = self._idle, []
        await asyncio.gather(*(session.close() for _, session in idle))


class BorrowedSessions:
    """Connections of a pool that belongs to the caller.

    Args:
        pool: an asyncpg pool.
        within: seconds for which a connection is lent.
    """

    def __init__(self, pool: asyncpg.Pool, *, within: float) -> None:
        self._pool = pool
        self._within = within

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        async with asyncio.timeout(self._within) as limit:
            # A no-op for a pool that has been opened.
            await self._pool
            connection = await self._pool.acquire()
            try:
                yield Session(connection)
            except asyncio.CancelledError:
                # The pool waits until the server has stopped, before it takes the connection back.
                if limit.expired():
                    connection.terminate()
                raise
            except BaseException:
                connection.terminate()
                raise
            finally:
                await self._pool.release(connection)

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.session() as session:
            return await session.fetch(sql, *arguments)

    async def close(self) -> None:
        """Leave the pool to its owner."""
