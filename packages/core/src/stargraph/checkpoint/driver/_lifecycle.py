"""The states of a handle: new, open, closed, and open in another process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

from stargraph.checkpoint.driver._errors import (
    closed_error,
    forked_error,
    not_bootstrapped_error,
    read_only_error,
)
from stargraph.errors._arguments import check_flags


class Lifecycle:
    """Tells whether a handle may be used, and refuses in the words of the contract if not.

    A driver calls `ensure_own_process` at the start of `bootstrap` and `opened` at its end, `ensure_open` or
    `ensure_writable` at the start of every other method, and `closing` around its own `close`, or `close` in one that
    has nothing to wait for.

    Args:
        read_only: the handle never changes the store.
    """

    def __init__(self, *, read_only: bool = False) -> None:
        check_flags(read_only=read_only)
        self.read_only = read_only
        self._process: int | None = None
        self._was_open = False
        self._ends: list[Future[None]] = []

    @property
    def is_open(self) -> bool:
        """Whether `bootstrap` was called, and `close` was not called since."""
        return self._process is not None

    def opened(self) -> None:
        """Note that `bootstrap` succeeded."""
        self._process = os.getpid()
        self._was_open = True

    def close(self) -> bool:
        """Note that the handle is closed; call it before the first await of `close`, so that no new call begins.

        Returns:
            Whether it was open. If not, nothing is to be done: a handle that was never opened stays new.

        Raises:
            StoreUnavailableError: the handle belongs to the parent process (`reason="forked"`).
        """
        self.ensure_own_process()
        was_open, self._process = self.is_open, None
        return was_open

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[bool]:
        """Close as `close` does, around a block that releases what the handle holds.

        A call beside another one, on whatever event loop, returns once that one has released everything, too.

        Yields:
            Whether the handle was open.

        Raises:
            StoreUnavailableError: the handle belongs to the parent process (`reason="forked"`).
        """
        earlier = tuple(self._ends)
        was_open = self.close()
        end: Future[None] = Future()  # not one of asyncio, since the other call may be on another loop
        self._ends.append(end)
        try:
            yield was_open
        finally:
            self._ends.remove(end)
            end.set_result(None)
        if earlier:
            await asyncio.wait([asyncio.wrap_future(each) for each in earlier])

    def ensure_open(self) -> None:
        """Refuse a method of a handle that is not open.

        Raises:
            CheckpointError: `reason` is `not-bootstrapped` or `closed`.
            StoreUnavailableError: the handle belongs to the parent process (`reason="forked"`).
        """
        if self._process is None:
            raise closed_error() if self._was_open else not_bootstrapped_error()
        self.ensure_own_process()

    def ensure_writable(self, what: str, *, dry_run: bool = False) -> None:
        """Refuse a change by a handle that is not open or is read-only.

        Args:
            what: the method that was called.
            dry_run: the call changes nothing, so a read-only handle may make it too.

        Raises:
            CheckpointError: as `ensure_open` raises, or `read-only`.
            StoreUnavailableError: as `ensure_open` raises.
        """
        self.ensure_open()
        if self.read_only and not dry_run:
            raise read_only_error(what)

    def ensure_own_process(self) -> None:
        """Refuse to use, in a forked child, connections that the parent opened.

        Raises:
            StoreUnavailableError: `reason="forked"`.
        """
        if self._process is not None and self._process != os.getpid():
            raise forked_error()
