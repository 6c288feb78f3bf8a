"""What can go wrong between here and the database: what is tried again, for how long, and what is said."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg

from stargraph.errors import StoreUnavailableError

T = TypeVar("T")

PATIENCE_WITH_ONE: Final = 1 / 3
"""The part of the whole time that a silent connection gets before another one is tried."""

_TRANSIENT: Final = (
    OSError,  # and TimeoutError, ConnectionError, ssl.SSLError
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,  # disk full, out of memory
    asyncpg.OperatorInterventionError,  # shutdown, crash, statement timeout
    asyncpg.TransactionRollbackError,  # serialization failure, deadlock
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InvalidCachedStatementError,
    # No host takes writes, or asyncpg lost its place in a conversation that a dying server cut short.
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,  # a connection that was closed; its subclasses are mistakes of ours
)

_DATABASE_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
)

_HINTS: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (
        asyncpg.TooManyConnectionsError,
        "too-many-connections",
        "Lower max_connections of the checkpointers, raise the server's, or put PgBouncer between.",
    ),
    (asyncpg.DiskFullError, "disk-full", "Free space on the server, for example with prune()."),
    (
        asyncpg.TargetServerAttributeNotMatched,
        "read-only",
        "None of the hosts takes writes: wait for the failover, or name the primary in the DSN.",
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "read-only",
        "This server takes no writes: wait for the failover, or name the primary in the DSN.",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "authentication-failed",
        "Check the role and its password in the DSN, and the server's pg_hba.conf.",
    ),
    (asyncpg.InvalidCatalogNameError, "no-such-database", "Create the database, or correct its name in the DSN."),
    (
        asyncpg.InsufficientPrivilegeError,
        "permission-denied",
        "docs/postgres.md lists the rights a role needs; bootstrap() once with a role that may create tables.",
    ),
    (
        asyncpg.InvalidSQLStatementNameError,
        "prepared-statements",
        "A pooler shares server connections: pass prepared_statements=False.",
    ),
    (
        asyncpg.UndefinedTableError,
        "schema-missing",
        "The tables are gone: call bootstrap() again, and check which database the DSN names.",
    ),
    (
        ssl.SSLCertVerificationError,
        "certificate-refused",
        "Check sslrootcert, and that the server's certificate is for the host in the DSN.",
    ),
    (TimeoutError, "timeout", "Check the network and the server's load; `timeout` says how long to try."),
    (OSError, "unreachable", "Check that the server runs and that host and port in the DSN are right."),
)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed when it is made again."""
    if isinstance(error, asyncpg.InterfaceError):
        return type(error) is asyncpg.InterfaceError
    return isinstance(error, _TRANSIENT) and not isinstance(error, ssl.SSLCertVerificationError)


def unavailable(
    error: BaseException, what: str, *, run_id: str | None = None, step: int | None = None
) -> StoreUnavailableError:
    """Return what the caller is told when an error of the database ends a request.

    Args:
        error: what asyncpg or the network said last.
        what: what was to be done, for the message.
        run_id: the run.
        step: the step.
    """
    reason, hint = "unavailable", "Try again: to write the same checkpoint again is always safe."
    for kind, word, advice in _HINTS:
        if isinstance(error, kind):
            reason, hint = word, advice
            break
    said = " ".join(str(error).split()) or type(error).__name__
    where = "" if run_id is None else f"run {run_id!r}, step {step}: "
    return StoreUnavailableError(
        f"PostgreSQL: {where}{what}: {said}",
        reason=reason,
        hint=hint,
        run_id=run_id,
        step=step,
    )


class Patience:
    """Runs requests again while they fail for a reason that may pass, up to a deadline.

    Args:
        timeout: seconds for one request with all its attempts.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    async def run(
        self,
        request: Callable[[], Awaitable[T]],
        what: str,
        *,
        run_id: str | None = None,
        step: int | None = None,
    ) -> T:
        """Return what a request returns.

        Args:
            request: what to do; must be safe to do again, and must end by itself within the deadline: the first
                attempt, which is nearly always the only one, is not timed here.
            what: what could not be done, for an error message.
            run_id: the run.
            step: the step.

        Raises:
            StoreUnavailableError: it failed for good, or until the deadline.
            CheckpointError: the request raised it.
        """
        began = time.monotonic()
        failures: list[BaseException] = []
        try:
            try:
                return await request()
            except _TRANSIENT as error:
                if not is_transient(error):
                    raise
                failures.append(error)
            async with asyncio.timeout(began + self._timeout - time.monotonic()):
                return await self._again(request, failures)
        except _DATABASE_ERRORS as error:
            # A server that says what is wrong tells more than our own patience that ran out after.
            told = [failure for failure in failures if not isinstance(failure, TimeoutError)]
            cause = told[-1] if told and isinstance(error, TimeoutError) else error
            raise unavailable(cause, what, run_id=run_id, step=step) from cause

    async def _again(self, request: Callable[[], Awaitable[T]], failures: list[BaseException]) -> T:
        # Loaded where something failed: it takes as long as asyncpg.
        from tenacity import (
            AsyncRetrying,
            RetryCallState,
            retry_if_exception,
            stop_before_delay,
            wait_random_exponential,
        )

        pauses = wait_random_exponential(multiplier=0.05, max=2)
        retrying = AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=pauses,
            stop=stop_before_delay(self._timeout),
            reraise=True,
        )
        await asyncio.sleep(pauses(RetryCallState(retrying, None, (), {})))

        async def attempt() -> T:
            try:
                return await request()
            except _TRANSIENT as error:
                failures.append(error)
                raise

        return await retrying(attempt)
