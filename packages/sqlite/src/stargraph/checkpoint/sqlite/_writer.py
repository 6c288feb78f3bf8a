"""Everything that changes the store: one connection, whose thread commits what waits together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar

from stargraph.checkpoint.sqlite._connection import Connection, hand_over
from stargraph.checkpoint.sqlite._errors import is_busy, locked, store_error
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.errors import CheckpointError

LOCK_ATTEMPT: Final = 0.25
"""How long SQLite waits for a lock in one go, in seconds; between two goes a caller can withdraw."""

_BATCH_JOBS: Final = 256
_BATCH_BYTES: Final = 8 * 1024 * 1024
_WAL_BYTES: Final = 4 * 1024 * 1024
_PAGE: Final = 4096
_PAGES_PER_JOB: Final = 2
_PAGES_PER_COMMIT: Final = 1
"""What a commit adds to the log besides the bytes of its jobs: rather more than it is."""

_PAUSE: Final = 0.005

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Job(Protocol[R_co]):
    """A change of the store.

    Attributes:
        size: about how many bytes it writes.
        single: it is one statement, which needs no transaction around it.
    """

    @property
    def size(self) -> int: ...

    @property
    def single(self) -> bool: ...

    def apply(self, connection: sqlite3.Connection, /) -> R_co:
        """Make the change; on the writer's thread.

        Raises:
            CheckpointError: it is refused. What it has changed by then is kept.
            sqlite3.Error: it failed. Nothing of it is kept, and it may be applied again.
        """


class _Ticket(Generic[R]):
    """A job that waits, and then its outcome."""

    __slots__ = ("deadline", "error", "future", "job", "loop", "result", "settled", "withdrawn")

    def __init__(self, job: Job[R], loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self.job = job
        self.loop = loop
        self.future: asyncio.Future[R] = loop.create_future()
        self.deadline = deadline
        self.withdrawn = False
        self.settled = False
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """The writing side of an open store.

    Args:
        connection: in autocommit mode; its busy timeout is `LOCK_ATTEMPT`.
        files: the files that it has open.
        busy_timeout: how long a job waits for another connection's lock, in seconds.
    """

    def __init__(self, connection: Connection, files: StoreFiles, busy_timeout: float) -> None:
        self._connection = connection
        self._files = files
        self._busy_timeout = busy_timeout
        self._waiting: deque[_Ticket[Any]] = deque()
        self._crowded = False
        self._about_to_post: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._wal_bytes = files.wal_size()

    async def submit(self, job: Job[R]) -> R:
        """Make a change durable and return what the job returns.

        A caller that is cancelled gets its CancelledError once the outcome is settled: jobs that wait are
        withdrawn, one that is being committed is awaited. A second cancellation does not wait.

        Args:
            job: the change.

        Raises:
            CheckpointError: the job was refused, or the store cannot store now.
        """
        ticket = _Ticket(job, asyncio.get_running_loop(), time.monotonic() + self._busy_timeout)
        self._waiting.append(ticket)
        if self._crowded and self._connection.is_open:
            # Whoever else has something to write in this turn of the loop takes part in the commit.
            if ticket.loop not in self._about_to_post:
                self._about_to_post.add(ticket.loop)
                ticket.loop.call_soon(self._post_later, ticket.loop)
        else:
            try:
                self.post()
            except CheckpointError:
                ticket.withdrawn = True
                raise
        try:
            return await ticket.future
        except asyncio.CancelledError:
            ticket.withdrawn = True
            if not ticket.settled:
                ticket.future = ticket.loop.create_future()  # the cancellation has taken the other one
                await asyncio.wait([ticket.future])
            raise

    def post(self) -> None:
        """Have the thread take up what waits; to be called before the connection is shut.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
        """
        self._connection.post(self._drain)

    def _post_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._about_to_post.discard(loop)
        with contextlib.suppress(CheckpointError):  # closed meanwhile: what waits was taken up before that
            self.post()

    def _drain(self, connection: sqlite3.Connection) -> None:
        while batch := self._take():
            self._crowded = len(batch) > 1
            try:
                self._commit(connection, batch)
            except Exception as error:  # noqa: BLE001  # whoever waits must get an answer
                _fail(batch, store_error(error, self._files.path))
            _deliver(batch)
            self._tend_wal(connection, batch)

    def _take(self) -> list[_Ticket[Any]]:
        batch: list[_Ticket[Any]] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_JOBS and size < _BATCH_BYTES:
            ticket = self._waiting.popleft()
            batch.append(ticket)
            size += ticket.job.size
        return batch

    def _commit(self, connection: sqlite3.Connection, batch: list[_Ticket[Any]]) -> None:
        while batch := [ticket for ticket in batch if not ticket.withdrawn]:
            try:
                self._attempt(connection, batch)
            except sqlite3.Error as error:
                _roll_back(connection)
                if is_busy(error):
                    batch = self._still_patient(batch)
                elif len(batch) > 1:
                    for ticket in batch:  # so that one that cannot be stored fails alone
                        self._commit(connection, [ticket])
                    return
                else:
                    _fail(batch, store_error(error, self._files.path))
                    return
            else:
                return

    def _attempt(self, connection: sqlite3.Connection, batch: list[_Ticket[Any]]) -> None:
        _roll_back(connection)
        together = len(batch) > 1 or not batch[0].job.single
        if together:
            connection.execute("BEGIN IMMEDIATE")
        for ticket in batch:
            ticket.error = None
            try:
                ticket.result = ticket.job.apply(connection)
            except CheckpointError as refusal:
                ticket.error = refusal
        if together:
            connection.execute("COMMIT")
        try:
            self._files.check()
        except CheckpointError as error:
            _fail(batch, error)

    def _still_patient(self, batch: list[_Ticket[Any]]) -> list[_Ticket[Any]]:
        time.sleep(_PAUSE)  # SQLite does not wait for every kind of lock
        now = time.monotonic()
        late = [ticket for ticket in batch if ticket.deadline <= now]
        _fail(late, locked(self._files.path))
        return [ticket for ticket in batch if ticket.deadline > now]

    def _tend_wal(self, connection: sqlite3.Connection, batch: list[_Ticket[Any]]) -> None:
        """Move the write-ahead log into the database once it is long, else keep its file longer than it.

        Those who wrote do not wait for either.

        RESTART holds the write lock meanwhile. The log can then not be reset under the checkpoint, which is
        what SQLite's WAL-reset bug before 3.51.3 takes; and the log's file is written over and not made anew,
        which halves the cost of a commit.
        """
        pages = _PAGES_PER_COMMIT + _PAGES_PER_JOB * len(batch)
        self._wal_bytes += pages * _PAGE + sum(ticket.job.size for ticket in batch)
        if self._wal_bytes < _WAL_BYTES:
            self._files.lengthen_wal(self._wal_bytes)
            return
        self._wal_bytes = 0
        try:
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except sqlite3.Error:
            return  # nothing is lost: the log is as it was, and is tried again after as many bytes


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _fail(tickets: Iterable[_Ticket[Any]], error: BaseException) -> None:
    for ticket in tickets:
        ticket.error = error


def _deliver(tickets: list[_Ticket[Any]]) -> None:
    for loop, group in itertools.groupby(tickets, key=attrgetter("loop")):
        hand_over(loop, _settle, list(group))


def _settle(tickets: list[_Ticket[Any]]) -> None:
    for ticket in tickets:
        ticket.settled = True
        if ticket.future.done():
            continue
        if ticket.error is None:
            ticket.future.set_result(ticket.result)
        else:
            ticket.future.set_exception(ticket.error)
