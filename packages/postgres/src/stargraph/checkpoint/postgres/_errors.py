"""What can go wrong between here and the database: what is tried again, for how long, and what is reported."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg

from stargraph.checkpoint.driver import RetryPolicy, TroubleLog
from stargraph.errors import CheckpointError, StoreUnavailableError

T = TypeVar("T")

ATTEMPT_SHARE: Final = 1 / 3
"""The part of the whole time that a silent connection gets before another one is tried."""

FIRST_CONTACT: Final = 0.75
"""Seconds for which a server is tried that this handle has never reached: its address is more likely wrong than its
server is just starting."""

_log: Final = logging.getLogger("stargraph.checkpoint.postgres")
_log.addHandler(logging.NullHandler())

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

# They pass only if the server was there before: it restarts, fails over, or its password is rotated.
_AT_CONTACT: Final = (
    ConnectionRefusedError,
    FileNotFoundError,  # of a socket
    socket.gaierror,
    ssl.SSLError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.ProtocolViolationError,  # PgBouncer's answer to an unknown database, role or startup parameter
)

UNSURE: Final = "whether it is stored is unknown"
"""What an error says of a write whose outcome nobody has reported."""

# They end a write before anything of it is stored.
_REFUSALS: Final = (
    ConnectionRefusedError,
    socket.gaierror,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.TooManyConnectionsError,
    asyncpg.UndefinedTableError,
)

_DATABASE_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
)

_READ_ONLY_HINT: Final = (
    "Wait for the failover, or name the primary in the DSN; to read only, open the store with {read_only=true}."
)

_HINTS: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (
        asyncpg.TooManyConnectionsError,
        "too-many-connections",
        "Lower {max_connections} of the checkpointers, raise the server's, or put PgBouncer between.",
    ),
    (asyncpg.DiskFullError, "disk-full", "Free space on the server, for example by pruning."),
    (asyncpg.TargetServerAttributeNotMatched, "read-only", _READ_ONLY_HINT),
    (asyncpg.ReadOnlySQLTransactionError, "read-only", _READ_ONLY_HINT),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "authentication-failed",
        "Check the role and its password in the DSN, PGPASSWORD or the password file, and the server's pg_hba.conf.",
    ),
    (
        asyncpg.ProtocolViolationError,
        "connection-rejected",
        "Check the database, the role and the options in the DSN: a pooler takes those that it is set up for.",
    ),
    (asyncpg.InvalidCatalogNameError, "no-such-database", "Create the database, or correct its name in the DSN."),
    (
        asyncpg.InsufficientPrivilegeError,
        "permission-denied",
        "docs/postgres.md lists the rights a role needs; to read only, open the store with {read_only=true}.",
    ),
    (
        asyncpg.InvalidSQLStatementNameError,
        "prepared-statements",
        "A pooler shares server connections: set {prepared_statements=false}.",
    ),
    (
        asyncpg.UndefinedTableError,
        "schema-missing",
        "The tables are gone: bootstrap the store again, and check which database the DSN names.",
    ),
    (
        ssl.SSLCertVerificationError,
        "certificate-refused",
        "Check sslrootcert, and that the server's certificate is for the host in the DSN.",
    ),
    (ssl.SSLError, "tls-failed", "Check sslmode, sslcert, sslkey and sslrootcert, and that the server offers TLS."),
    (socket.gaierror, "unknown-host", "Correct the host in the DSN, or check the name server."),
    (TimeoutError, "timeout", "Check the network and the server's load; {timeout} says how long to try."),
    (OSError, "unreachable", "Check that the server runs, and that host and port in the DSN are right."),
)


def other_loop_error() -> CheckpointError:
    """Return the error of a handle on a pool that is used outside of the pool's event loop."""
    return CheckpointError(
        "PostgreSQL: this handle took connections from its pool in another event loop, and a pool serves one alone",
        reason="other-loop",
        hint="Make a pool and a handle in this event loop, or give the handle a DSN: it then connects in each.",
    )


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed when it is made again."""
    if isinstance(error, asyncpg.InterfaceError):
        return type(error) is asyncpg.InterfaceError
    return isinstance(error, _TRANSIENT) and not isinstance(error, ssl.SSLCertVerificationError)


class Advice:
    """Writes hints in the words of whoever opened the store: options of a URL, or arguments in Python.

    Args:
        server: returns the hosts and the database, as messages may show them; called if there is a message.

    Attributes:
        from_url: whether the store was opened by a URL.
    """

    def __init__(self, server: Callable[[], str]) -> None:
        self._server = server
        self.from_url = False

    def __str__(self) -> str:
        return f"PostgreSQL at {self.server}"

    @property
    def server(self) -> str:
        """The hosts and the database, as messages may show them."""
        return self._server()

    def setting(self, name: str, value: str | None = None) -> str:
        """Return how to set an option; `value` is as a URL has it."""
        if self.from_url:
            return f"?{name}={value}" if value else f"?{name}=…"
        if value is None:
            return name
        return f"{name}={value.capitalize() if value in ('true', 'false') else value}"

    def hint(self, text: str) -> str:
        """Return a hint with its `{option}` and `{option=value}` written out."""
        parts = text.split("{")
        written = [parts[0]]
        for part in parts[1:]:
            setting, _, rest = part.partition("}")
            name, _, value = setting.partition("=")
            written.append(self.setting(name, value or None) + rest)
        return "".join(written)

    def unavailable(
        self, error: BaseException, what: str, *, run_id: str | None = None, step: int | None = None
    ) -> StoreUnavailableError:
        """Return the error that a caller gets when an error of the database ends a request.

        Args:
            error: what asyncpg or the network said last.
            what: what was not done, for the message.
            run_id: the run, if it concerns one.
        """
        reason, hint = "unavailable", "Try again: to write the same checkpoint again is always safe."
        shown = ssl.SSLError() if _refuses_tls(error) else error
        for kind, word, advice in _HINTS:
            if isinstance(shown, kind):
                reason, hint = word, advice
                break
        where = "" if run_id is None else f"run {run_id!r}, step {step}: "
        return StoreUnavailableError(
            f"PostgreSQL at {self.server}: {where}{what}: {_text(error)}",
            reason=reason,
            hint=self.hint(hint),
            run_id=run_id,
            step=step,
        )


class Retries:
    """Runs requests again while they fail for a reason that may pass, up to a deadline.

    Args:
        timeout: seconds for one request with all its attempts.
        advice: writes the errors.
    """

    def __init__(self, timeout: float, advice: Advice) -> None:
        # Short pauses until the server was reached once: what is wrong by then has to be reported within 2 seconds.
        self._first = RetryPolicy(timeout, longest_pause=0.4)
        self._policy = RetryPolicy(timeout)
        self._advice = advice
        self._trouble = TroubleLog(_log)
        self._reached = False

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
            request: must be safe to make again, and must end within the deadline on its own.
            what: what could not be done, for an error message.
            run_id: the run, if it concerns one.

        Raises:
            StoreUnavailableError: it failed for good, or until the deadline.
            CheckpointError: the request raised it.
        """
        began = time.monotonic()
        failures: list[Exception] = []

        def is_transient(error: Exception) -> bool:
            failures.append(error)
            if not self._may_pass(error, time.monotonic() - began):
                return False
            kind = type(error).__name__
            self._trouble.failed(kind, "PostgreSQL at %s: trying again: %s", self._advice.server, _text(error))
            return True

        try:
            policy = self._policy if self._reached else self._first
            result = await policy.run(request, is_transient=is_transient)
        except _DATABASE_ERRORS as error:
            # A server that says what is wrong says more than our own deadline that passed after it.
            reported = [failure for failure in failures if not isinstance(failure, TimeoutError)]
            cause = reported[-1] if reported and isinstance(error, TimeoutError) else error
            if what == UNSURE and all(isinstance(each, _REFUSALS) for each in (*failures, error)):
                what = "this attempt did not store it"  # an earlier call may have
            raise self._advice.unavailable(cause, what, run_id=run_id, step=step) from cause
        self._reached = True
        self._trouble.succeeded(self._advice)
        return result

    async def acquire(self, lock: asyncio.Lock, *, run_id: str, step: int | None) -> None:
        """Wait for a lock, as long as for a request.

        Raises:
            StoreUnavailableError: whoever holds it took too long.
        """
        if not lock.locked():
            await lock.acquire()
            return
        # Not by asyncio.timeout, which cancels the task that it runs in, see InPlaceWrites.
        acquiring = asyncio.ensure_future(lock.acquire())
        try:
            await asyncio.wait({acquiring}, timeout=self._policy.deadline)
        except asyncio.CancelledError:
            # The end of a loop cancels both tasks, in any order.
            if not acquiring.cancel() and not acquiring.cancelled():
                lock.release()
            raise
        if acquiring.cancel():
            what = "it was not sent, since the writes of this run before it took too long"
            raise self._advice.unavailable(TimeoutError(), what, run_id=run_id, step=step)

    def _may_pass(self, error: Exception, elapsed: float) -> bool:
        """Return whether to try again, after some seconds."""
        if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
            return self._reached and elapsed < FIRST_CONTACT  # a password that is being rotated
        if not is_transient(error):
            return False
        if self._reached or not (isinstance(error, _AT_CONTACT) or _refuses_tls(error)):
            return True
        no_such_host = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
        return elapsed < FIRST_CONTACT and not no_such_host


def _refuses_tls(error: BaseException) -> bool:
    # asyncpg has no class of its own for it.
    return type(error) is ConnectionError and "SSL" in str(error)


def _text(error: BaseException) -> str:
    if isinstance(error, asyncpg.InvalidSQLStatementNameError):
        return str(error.args[0])  # without asyncpg's own hint, which is about its arguments
    return " ".join(str(error).split()) or type(error).__name__
