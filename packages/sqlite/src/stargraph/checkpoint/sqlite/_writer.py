"""Everything that changes the store: one connection, whose thread makes and commits the changes of a group."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, Protocol, TypeVar

from stargraph.checkpoint.driver import GroupCommit
from stargraph.checkpoint.sqlite._errors import LOGGER, LockWatch, is_busy, locked_error, store_error
from stargraph.checkpoint.sqlite._files import StoreFiles
from stargraph.checkpoint.sqlite._prune import vacuum
from stargraph.checkpoint.sqlite._thread import ConnectionThread
from stargraph.checkpoint.sqlite._wal import WriteAheadLog
from stargraph.errors import CheckpointError

LOCK_ATTEMPT: Final = 0.25
"""How long SQLite waits for a lock at a time, in seconds; between two attempts a caller can withdraw."""

_PAUSE: Final = 0.005

_ERASE_WAIT: Final = 1.0
"""How long a removal waits for those who read, at most, in seconds."""

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class StoreChange(Protocol[R_co]):
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


class _WaitingChange:
    """A change that waits for its commit."""

    __slots__ = ("change", "deadline", "withdrawn")

    def __init__(self, change: StoreChange[Any], deadline: float) -> None:
        self.change = change
        self.deadline = deadline
        self.withdrawn = False

    def withdraw(self) -> None:
        """Leave it out of the next attempt: its caller was cancelled."""
        self.withdrawn = True


class Writer:
    """The writing side of an open store.

    Args:
        thread: of a connection in autocommit mode, whose busy timeout is `LOCK_ATTEMPT`; the first change opens it.
        files: the files that it has open.
        busy_timeout: how long a change waits for another connection's lock, in seconds.
    """

    def __init__(self, thread: ConnectionThread[sqlite3.Connection], files: StoreFiles, busy_timeout: float) -> None:
        self._thread = thread
        self._files = files
        self._busy_timeout = busy_timeout
        # Any loop may use a handle, and a group is made of what waits in one of them.
        self._groups: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, GroupCommit[_WaitingChange, Any]] = (
            weakref.WeakKeyDictionary()
        )

    async def submit(self, change: StoreChange[R]) -> R:
        """Make a change durable and return its result.

        A caller that is cancelled gets its CancelledError once the outcome is settled: changes that wait are
        withdrawn, one that is being committed is awaited. A second cancellation does not wait.

        Raises:
            CheckpointError: the change was refused, or the store cannot store now.
        """
        result: R = await self._group().submit(_WaitingChange(change, time.monotonic() + self._busy_timeout))
        return result

    async def drain(self) -> None:
        """Wait until every change that was submitted has its outcome."""
        await self._group().drain()

    async def erase_removed(self) -> None:
        """Leave nothing readable of what was removed, neither in the database file nor in its write-ahead log.

        A connection that reads an older state of the store keeps that state in the log. The log is then erased with a
        later removal, when it is full, or when the last connection closes.
        """
        for work in (vacuum, self._wal.erase):
            try:
                done = await self._until_done(work)
            except sqlite3.Error as error:  # what was to be removed is removed, and the call has not failed
                LOGGER.warning("%s: what was removed may stay in the files: %s", self._files.path, error)
                return
            if not done:
                LOGGER.warning(
                    "%s: another connection is still reading or writing: until it has finished, what was removed may"
                    " stay in the files",
                    self._files.path,
                )

    @cached_property
    def _wal(self) -> WriteAheadLog:
        """The log of the connection, which is there from the first commit on."""
        return WriteAheadLog(self._files.wal_path)

    def _group(self) -> GroupCommit[_WaitingChange, Any]:
        loop = asyncio.get_running_loop()
        group = self._groups.get(loop)
        if group is None:
            group = self._groups[loop] = GroupCommit(
                self._commit,
                size=lambda pending: pending.change.size,
                most_items=256,
                together=lambda error: isinstance(error, CheckpointError) and error.reason == "closed",
                withdraw=_WaitingChange.withdraw,
            )
        return group

    async def _commit(self, group: Sequence[_WaitingChange]) -> list[Any]:
        is_untidy = False

        def work(connection: sqlite3.Connection) -> list[Any]:
            nonlocal is_untidy
            wal = self._wal  # as it is before the commit
            outcomes = self._commit_here(connection, group)
            is_untidy = wal.committed(changes=len(group), size=sum([pending.change.size for pending in group]))
            return outcomes

        def afterwards(connection: sqlite3.Connection) -> None:
            # The callers have their results already, but the next commit waits for this, so it is mostly skipped.
            if is_untidy:
                self._wal.tidy(connection)

        def withdraw() -> None:
            for pending in group:
                pending.withdraw()

        answer = self._thread.submit(work, afterwards, withdraw)
        try:
            return await answer
        except asyncio.CancelledError:
            answer.add_done_callback(_retrieve)
            raise

    def _commit_here(self, connection: sqlite3.Connection, group: Sequence[_WaitingChange]) -> list[Any]:
        """Commit a group on the thread; return the results, and in the place of a result the error that it met."""
        outcomes: dict[_WaitingChange, Any] = {}
        waiting: Sequence[_WaitingChange] = group
        watch = LockWatch(self._files.path, self._busy_timeout)
        while waiting := [pending for pending in waiting if not pending.withdrawn]:
            try:
                self._files.make_name_durable()
                outcomes |= self._attempt(connection, waiting)
                break
            except OSError as error:
                raise store_error(error, self._files.path) from error
            except sqlite3.Error as error:
                _roll_back(connection)
                if not is_busy(error):
                    raise store_error(error, self._files.path) from error
            watch.waited()
            time.sleep(_PAUSE)  # SQLite does not wait for every kind of lock
            now = time.monotonic()
            outcomes |= {pending: locked_error(self._files.path) for pending in waiting if pending.deadline <= now}
            waiting = [pending for pending in waiting if pending.deadline > now]
        return [outcomes.get(pending) for pending in group]

    def _attempt(self, connection: sqlite3.Connection, group: Sequence[_WaitingChange]) -> dict[_WaitingChange, Any]:
        _roll_back(connection)
        outcomes: dict[_WaitingChange, Any] = {}
        connection.execute("BEGIN IMMEDIATE")
        for pending in group:
            try:
                outcomes[pending] = pending.change.apply(connection)
            except CheckpointError as refusal:
                outcomes[pending] = refusal
        connection.execute("COMMIT")
        try:
            self._files.check()
        except CheckpointError as error:
            return dict.fromkeys(group, error)
        return outcomes

    async def _until_done(self, work: Callable[[sqlite3.Connection], bool]) -> bool:
        deadline = time.monotonic() + min(self._busy_timeout, _ERASE_WAIT)
        while not await self._thread.run(work):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_PAUSE)
        return True


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more: asyncio would print it."""
    if not answer.cancelled():
        answer.exception()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
