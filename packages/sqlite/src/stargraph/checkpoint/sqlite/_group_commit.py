"""Everything that changes the store: one connection, whose thread commits together what waits together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar

from stargraph.checkpoint.sqlite._errors import is_busy, locked_error, store_error
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.checkpoint.sqlite._prune import vacuum
from stargraph.checkpoint.sqlite._thread import ConnectionThread, hand_over
from stargraph.checkpoint.sqlite._wal import WriteAheadLog
from stargraph.errors import CheckpointError

LOCK_ATTEMPT: Final = 0.25
"""How long SQLite waits for a lock at a time, in seconds; between two attempts a caller can withdraw."""

_GROUP_CHANGES: Final = 256
_GROUP_BYTES: Final = 8 * 1024 * 1024

_PAUSE: Final = 0.005

_ERASE_WAIT: Final = 1.0
"""How long a removal waits for those who read, at most, in seconds."""

_LOG: Final = logging.getLogger("stargraph.checkpoint.sqlite")

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Change(Protocol[R_co]):
    """A change of the store.

    Attributes:
        size: about how many bytes it writes.
    """

    @property
    def size(self) -> int: ...

    def apply(self, connection: sqlite3.Connection, /) -> R_co:
        """Make the change, within a transaction, on the thread of the connection.

        Raises:
            CheckpointError: it is refused. What it has changed by then is kept.
            sqlite3.Error: it failed. Nothing of it is kept, and it may be applied again.
        """


class _Waiting(Generic[R]):
    """A change that waits for its outcome."""

    __slots__ = ("change", "deadline", "error", "future", "loop", "result", "settled", "withdrawn")

    def __init__(self, change: Change[R], loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self.change = change
        self.loop = loop
        self.future: asyncio.Future[R] = loop.create_future()
        self.deadline = deadline
        self.withdrawn = False
        self.settled = False
        self.result: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """The writing side of an open store.

    Args:
        thread: of a connection in autocommit mode, whose busy timeout is `LOCK_ATTEMPT`.
        files: the files that it has open.
        busy_timeout: how long a change waits for another connection's lock, in seconds.
    """

    def __init__(self, thread: ConnectionThread[sqlite3.Connection], files: StoreFiles, busy_timeout: float) -> None:
        self._thread = thread
        self._files = files
        self._busy_timeout = busy_timeout
        self._queue: deque[_Waiting[Any]] = deque()
        self._is_shared = False
        self._about_to_post: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._log = WriteAheadLog(files.wal_path)

    async def submit(self, change: Change[R]) -> R:
        """Make a change durable and return its result.

        A caller that is cancelled gets its CancelledError once the outcome is settled: changes that wait are
        withdrawn, one that is being committed is awaited. A second cancellation does not wait.

        Raises:
            CheckpointError: the change was refused, or the store cannot store now.
        """
        waiting = _Waiting(change, asyncio.get_running_loop(), time.monotonic() + self._busy_timeout)
        self._queue.append(waiting)
        if self._is_shared and self._thread.is_open:
            # Whoever else has something to write in this turn of the loop takes part in the commit.
            if waiting.loop not in self._about_to_post:
                self._about_to_post.add(waiting.loop)
                waiting.loop.call_soon(self._post_later, waiting.loop)
        else:
            try:
                self.post()
            except CheckpointError:
                waiting.withdrawn = True
                raise
        try:
            return await waiting.future
        except asyncio.CancelledError:
            waiting.withdrawn = True
            if not waiting.settled:
                waiting.future = waiting.loop.create_future()  # the cancellation has taken the other one
                await asyncio.wait([waiting.future])
            raise

    def post(self) -> None:
        """Have the thread take up what waits; call it before the thread is shut.

        Raises:
            CheckpointError: the connection was closed (`reason="closed"`).
        """
        self._thread.post(self._drain)

    async def erase_removed(self) -> None:
        """Leave nothing readable of what was removed, neither in the database file nor in its write-ahead log.

        A connection that reads an older state of the store keeps that state in the log. The log is then erased with a
        later removal, when it is full, or when the last connection closes.
        """
        for work in (vacuum, self._log.erase):
            if not await self._until_done(work):
                _LOG.warning(
                    "%s: another connection is still reading or writing: until it has finished, what was removed may"
                    " stay in the files",
                    self._files.path,
                )

    async def _until_done(self, work: Callable[[sqlite3.Connection], bool]) -> bool:
        deadline = time.monotonic() + min(self._busy_timeout, _ERASE_WAIT)
        while not await self._thread.run(work):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    def _post_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._about_to_post.discard(loop)
        with contextlib.suppress(CheckpointError):  # closed meanwhile: what waits was taken up before that
            self.post()

    def _drain(self, connection: sqlite3.Connection) -> None:
        while group := self._take():
            self._is_shared = len(group) > 1
            try:
                self._commit(connection, group)
            except Exception as error:  # noqa: BLE001  # whoever waits must get an answer
                _fail(group, store_error(error, self._files.path))
            _deliver(group)
            # Those who wrote do not wait for this.
            self._log.committed(connection, changes=len(group), size=sum(waiting.change.size for waiting in group))

    def _take(self) -> list[_Waiting[Any]]:
        group: list[_Waiting[Any]] = []
        size = 0
        while self._queue and len(group) < _GROUP_CHANGES and size < _GROUP_BYTES:
            waiting = self._queue.popleft()
            group.append(waiting)
            size += waiting.change.size
        return group

    def _commit(self, connection: sqlite3.Connection, group: list[_Waiting[Any]]) -> None:
        was_locked = False
        while group := [waiting for waiting in group if not waiting.withdrawn]:
            try:
                self._attempt(connection, group)
            except sqlite3.Error as error:
                _roll_back(connection)
                if is_busy(error):
                    if not was_locked:
                        _LOG.warning(
                            "%s: another connection keeps the write lock; trying again for up to %g s",
                            self._files.path,
                            self._busy_timeout,
                        )
                    was_locked = True
                    group = self._fail_late(group)
                elif len(group) > 1:
                    for waiting in group:  # so that one that cannot be stored fails alone
                        self._commit(connection, [waiting])
                    return
                else:
                    _fail(group, store_error(error, self._files.path))
                    return
            else:
                return

    def _attempt(self, connection: sqlite3.Connection, group: list[_Waiting[Any]]) -> None:
        _roll_back(connection)
        connection.execute("BEGIN IMMEDIATE")
        for waiting in group:
            waiting.error = None
            try:
                waiting.result = waiting.change.apply(connection)
            except CheckpointError as refusal:
                waiting.error = refusal
        connection.execute("COMMIT")
        try:
            self._files.check()
        except CheckpointError as error:
            _fail(group, error)

    def _fail_late(self, group: list[_Waiting[Any]]) -> list[_Waiting[Any]]:
        time.sleep(_PAUSE)  # SQLite does not wait for every kind of lock
        now = time.monotonic()
        _fail([waiting for waiting in group if waiting.deadline <= now], locked_error(self._files.path))
        return [waiting for waiting in group if waiting.deadline > now]


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _fail(group: Iterable[_Waiting[Any]], error: BaseException) -> None:
    for waiting in group:
        waiting.error = error


def _deliver(group: list[_Waiting[Any]]) -> None:
    for loop, waiting in itertools.groupby(group, key=attrgetter("loop")):
        hand_over(loop, _settle, list(waiting))


def _settle(group: list[_Waiting[Any]]) -> None:
    for waiting in group:
        waiting.settled = True
        if waiting.future.done():
            continue
        if waiting.error is None:
            waiting.future.set_result(waiting.result)
        else:
            waiting.future.set_exception(waiting.error)
