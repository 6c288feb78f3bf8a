"""Connections: opened when needed, bounded in number, dropped after any error."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import ssl as tls
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import cycle
from typing import Any, Final, Protocol

import asyncpg

from stargraph.checkpoint.postgres._options import ConnectionOptions, read_dsn
from stargraph.checkpoint.postgres._resolver import ConnectingLoop
from stargraph.errors import StoreUnavailableError

_MAX_IDLE: Final = 60.0
"""Seconds after which an unused connection is not trusted any more: what lies between may have dropped it."""

_CLOSE_TIMEOUT: Final = 5.0

_PLAN_USES: Final = 500
"""After this many executions a statement is prepared again. The server keeps a plan that reads all of a table while the
table is small, and it may grow a thousandfold before autovacuum has the statement planned again."""

# As libpq does: a server that refuses the role or the database speaks for all of them.
_NEXT_HOST: Final = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)

Password = str | Callable[[], str] | Callable[[], Awaitable[str]]


class PreparedConnection:
    """One connection, and the statements that were prepared on it.

    Args:
        connection: an open connection.
        caches: the connection has a cache of statements, which is left to it.
        named: prepare statements under names, which the server plans once. None finds out whether that can be.
    """

    def __init__(self, connection: asyncpg.Connection, *, caches: bool, named: bool | None = None) -> None:
        self.connection = connection
        self._caches = caches
        self._named = named
        self._statements: dict[str, Any] = {}
        self._uses: Counter[str] = Counter()

    async def fetch(self, sql: str, *arguments: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """Run one statement and return its rows, in one round trip once it is known here.

        Args:
            sql: the statement.
            arguments: its parameters.
            timeout: seconds until it is given up.

        Raises:
            TimeoutError: it took too long.
        """
        if self._caches:
            rows: list[asyncpg.Record] = await self.connection.fetch(sql, *arguments, timeout=timeout)
            return rows
        statement = self._statements.get(sql)
        if statement is None or (self._named and self._uses[sql] >= _PLAN_USES):
            if self._named is None:
                self.answered_by(await self.connection.fetchval("SELECT pg_backend_pid()", timeout=timeout))
            # asyncpg sends an unnamed statement again with each execution, in the same message: a pooler may
            # hand every transaction to another server connection. A name is unique to this connection, since
            # a pooler that goes undetected would let two clients share the server's names.
            name = f"stargraph_{secrets.token_hex(16)}" if self._named else ""
            statement = await self.connection.prepare(sql, name=name, timeout=timeout)
            self._statements[sql] = statement
            self._uses[sql] = 0
        self._uses[sql] += 1
        fetched: list[asyncpg.Record] = await statement.fetch(*arguments, timeout=timeout)
        return fetched

    def answered_by(self, backend: int) -> None:
        """Take note of the server's process that has answered: a pooler makes up the one that it announces."""
        if self._named is None:
            self._named = backend == self.connection.get_server_pid()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is known to be lost."""
        closed: bool = self.connection.is_closed()
        return closed

    def terminate(self) -> None:
        """Drop the connection at once."""
        self.connection.terminate()

    async def close(self) -> None:
        """Take leave of the server."""
        try:
            await self.connection.close(timeout=_CLOSE_TIMEOUT)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.connection.terminate()


class Connections(Protocol):
    """Where connections come from."""

    def lend(self) -> AbstractAsyncContextManager[PreparedConnection]:
        """Lend one connection for a few seconds; it is dropped if the block raises anything.

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


async def _connect(options: ConnectionOptions, timeout: float, **arguments: Any) -> asyncpg.Connection:
    loop = ConnectingLoop(asyncio.get_running_loop(), options, timeout=timeout)
    try:
        return await asyncpg.connect(**arguments, loop=loop, timeout=timeout, statement_cache_size=0)
    except BaseException:
        # asyncpg says goodbye over TLS and does not wait for the answer, which may come after the end of the loop.
        loop.abort()
        raise


class Connector:
    """Opens connections to the server that a DSN names.

    The DSN, its service file and its password file are read each time, so that rotated credentials are found.

    Args:
        dsn: the DSN.
        ssl: a TLS context, instead of what the DSN says.
        password: a password, or a function that returns one.
        target: which of several servers to use, if the DSN does not say so.
        timeout: seconds for all hosts together; each gets its share, if the DSN does not say `connect_timeout`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        ssl: tls.SSLContext | None = None,
        password: Password | None = None,
        target: str,
        timeout: float,
    ) -> None:
        self._dsn = dsn
        self._ssl = ssl
        self._password = password
        self._target = target
        self._timeout = timeout

    async def __call__(self) -> asyncpg.Connection:
        """Return a new connection, without a cache of statements.

        Raises:
            StoreUnavailableError: the DSN cannot be honoured (`reason="bad-dsn"`), or no password was found
                (`reason="no-password"`).
        """
        options = read_dsn(self._dsn, own_tls=self._ssl is not None)
        arguments = options.arguments()
        if self._ssl is not None:
            arguments["ssl"] = self._ssl
        if self._password is not None:
            arguments["password"] = await self._read_password()
        try:
            return await self._connect_to_any(options, arguments)
        except (tls.SSLError, OSError):
            raise  # a refused certificate is a ValueError too
        except ValueError as error:
            # What could not be read may be a part of the password, and the message quotes it.
            raise StoreUnavailableError(
                f"PostgreSQL: bad DSN: the connection's parameters do not fit ({type(error).__name__})",
                reason="bad-dsn",
                hint="Check the ssl… parameters of the DSN, and the PG… environment variables.",
            ) from None

    async def _connect_to_any(self, options: ConnectionOptions, arguments: dict[str, Any]) -> asyncpg.Connection:
        """Connect to the first host that answers and is the target; asyncpg would wait for a silent one without end."""
        target = options.target_session_attrs or self._target
        targets = ("standby", "any") if target == "prefer-standby" else (target,)
        hosts: list[dict[str, Any]] = [
            {"host": [host], "port": port}
            for host, port in zip(options.hosts, cycle(options.ports or (None,)), strict=False)
        ]
        hosts = hosts or [{"port": list(options.ports) or None}]
        timeout = options.connect_timeout or self._timeout / len(hosts) / len(targets)
        failure: Exception | None = None
        for target in targets:
            for host in hosts:
                try:
                    return await _connect(options, timeout, **arguments, **host, target_session_attrs=target)
                except _NEXT_HOST as error:
                    failure = error
        assert failure is not None
        raise failure

    async def _read_password(self) -> str:
        if not callable(self._password):
            return str(self._password)
        try:
            made = self._password()
            password: str = await made if inspect.isawaitable(made) else made
        except Exception as error:
            # Its text is not quoted: it may hold the secret that it was made from.
            raise StoreUnavailableError(
                f"PostgreSQL: the password function raised {type(error).__name__}",
                reason="no-password",
                hint="Renew the credentials that it uses, such as a cloud login; the cause is attached.",
            ) from error
        return password


async def _fetch_on_loan(connections: Connections, sql: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
    """Run one statement on a connection that has to be waited for, and return its rows."""

    async def fetch() -> list[asyncpg.Record]:
        async with connections.lend() as connection:
            return await connection.fetch(sql, *arguments)

    # The time limit of a loan cancels the task that it runs in, which must not be that of a write, see InPlaceWrites.
    return await asyncio.ensure_future(fetch())


class OwnConnections:
    """Connections of our own to one database, at most `limit` at a time, the one that was used last first.

    Args:
        connect: opens a connection without a cache of statements.
        limit: how many at a time.
        timeout: seconds for which one is lent.
        prepared_statements: whether statements may be prepared under names; None finds out.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        limit: int,
        timeout: float,
        prepared_statements: bool | None,
    ) -> None:
        self._connect = connect
        self._timeout = timeout
        self._prepared_statements = prepared_statements
        self._free = asyncio.Semaphore(limit)
        self._idle: list[tuple[float, PreparedConnection]] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[PreparedConnection]:
        async with asyncio.timeout(self._timeout) as limit, self._free:
            connection = self._take() or await self._open()
            try:
                yield connection
            except BaseException as error:
                await self._drop(connection, error, expired=limit.expired())
                raise
            self._put(connection)

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        connection = None if self._free.locked() else self._take()
        if connection is None:
            return await _fetch_on_loan(self, sql, arguments)
        # Nothing to wait for: asyncpg's own timeout costs a third of one around all of this.
        async with self._free:
            try:
                rows = await connection.fetch(sql, *arguments, timeout=self._timeout)
            except BaseException as error:
                await self._drop(connection, error, expired=False)
                raise
            self._put(connection)
        return rows

    async def _drop(self, connection: PreparedConnection, error: BaseException, *, expired: bool) -> None:
        # What an error leaves behind on a connection is not worth guessing.
        if isinstance(error, asyncio.CancelledError) and not expired:
            # asyncpg has asked the server to stop. Closing waits for its answer: a write whose caller was
            # cancelled must not be stored later, after somebody has looked.
            await connection.close()
        else:
            connection.terminate()

    def _take(self) -> PreparedConnection | None:
        self._drop_stale()
        while self._idle:
            _, connection = self._idle.pop()
            if not connection.is_closed:
                return connection
        return None

    def _put(self, connection: PreparedConnection) -> None:
        if self._closed:
            connection.terminate()
            return
        self._idle.append((time.monotonic(), connection))
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

    async def _open(self) -> PreparedConnection:
        return PreparedConnection(await self._connect(), caches=False, named=self._prepared_statements)

    async def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close() for _, connection in idle))


class BorrowedConnections:
    """Connections of a pool that belongs to the caller.

    Args:
        pool: an asyncpg pool.
        timeout: seconds for which a connection is lent.
    """

    def __init__(self, pool: asyncpg.Pool, *, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[PreparedConnection]:
        async with asyncio.timeout(self._timeout) as limit:
            # A no-op for a pool that has been opened.
            await self._pool
            connection = await self._pool.acquire()
            try:
                yield PreparedConnection(connection, caches=True)
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
        return await _fetch_on_loan(self, sql, arguments)

    async def close(self) -> None:
        """Leave the pool to its owner."""
