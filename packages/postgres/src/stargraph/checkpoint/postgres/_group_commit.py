"""Group commit: appends that wait at the same time share one statement and one commit."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Final

from stargraph.checkpoint.postgres._append import Append, AppendStatements
from stargraph.checkpoint.postgres._connection import Connections
from stargraph.checkpoint.postgres._errors import is_transient

_MOST_APPENDS: Final = 128
_MOST_BYTES: Final = 8 * 1024 * 1024
_WRITERS: Final = 2
"""Batches on their way at the same time: one is built and parsed while the other one is made durable."""
_WORTH_SPLITTING: Final = 16
"""So many appends make two batches where two can be on their way: else both sides would wait for each other."""
_FEW: Final = 4
"""One of so many is few."""


class _PendingAppend:
    """An append that waits for others, and what becomes of it.

    Attributes:
        append: what to store.
        outcome: whether it was stored.
        until: the time of the loop at which it is no longer sent.
        sent: done once the statement that took it has ended, however; None while it waits.
    """

    __slots__ = ("append", "outcome", "sent", "until")

    def __init__(self, append: Append, outcome: asyncio.Future[bool], until: float) -> None:
        self.append = append
        self.outcome = outcome
        self.until = until
        self.sent: asyncio.Future[None] | None = None

    def settle(self, stored: bool | BaseException) -> None:
        """Tell the caller, if it is still there."""
        if not self.outcome.done():
            if isinstance(stored, BaseException):
                self.outcome.set_exception(stored)
            else:
                self.outcome.set_result(stored)


class GroupCommit:
    """Sends appends to the database, many at a time where many wait.

    The caller sees to it that a run is never in here twice.

    Args:
        connections: where connections come from.
        statements: what to send.
        grouped: whether appends of several runs may share a statement.
        timeout: seconds that an append may wait for its turn.
    """

    def __init__(
        self, connections: Connections, statements: AppendStatements, *, grouped: bool, timeout: float
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._grouped = grouped
        self._timeout = timeout
        self._waiting: deque[_PendingAppend] = deque()
        self._busy = 0  # statements on their way
        self._inside = 0  # appends that have not returned, also those that are about to
        self._about_to_send = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, append: Append, *, alone: bool = False) -> bool:
        """Store an append whole, or nothing of it.

        Args:
            append: what to store.
            alone: in a statement of its own, which waits for whoever holds the run.

        Returns:
            Whether it was stored; if not, the tail of the run is not the one that it follows.

        Raises:
            TimeoutError: the statements before it, or its own, took too long.
        """
        if alone or not self._grouped:
            return bool(await self._send([append], wait=True))
        self._inside += 1
        try:
            # With nobody to share with, no task in between, which costs as much as the rest of a write.
            few = self._inside <= _WRITERS and self._busy < _WRITERS
            return await (self._at_once(append) if few else self._with_others(append))
        finally:
            self._inside -= 1

    async def _at_once(self, append: Append) -> bool:
        self._busy += 1
        try:
            return bool(await self._send([append]))
        finally:
            self._busy -= 1
            self._send_waiting()

    async def _with_others(self, append: Append) -> bool:
        loop = asyncio.get_running_loop()
        waiting = _PendingAppend(append, loop.create_future(), loop.time() + self._timeout)
        self._waiting.append(waiting)
        if not self._about_to_send:
            # Whoever else has something to write in this turn of the loop takes part.
            self._about_to_send = True
            loop.call_soon(self._send_together)
        try:
            return await waiting.outcome
        except asyncio.CancelledError:
            if waiting.sent is not None:
                # It is on its way with others: the caller leaves once the database has decided.
                await asyncio.wait([waiting.sent])
            raise

    def _send_together(self) -> None:
        self._about_to_send = False
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and self._busy < _WRITERS:
            if self._busy and _FEW * len(self._waiting) < self._inside:
                return  # until the many come back: else those would go on as one batch, with nothing beside
            parts = _WRITERS - self._busy if len(self._waiting) >= _WORTH_SPLITTING else 1
            batch = self._next_batch(-(-len(self._waiting) // parts))
            if not batch:
                return
            sent = asyncio.get_running_loop().create_future()
            for waiting in batch:
                waiting.sent = sent
            self._busy += 1
            task = asyncio.create_task(self._write_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(partial(self._on_written, batch, sent))

    def _on_written(self, batch: list[_PendingAppend], sent: asyncio.Future[None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._busy -= 1
        sent.set_result(None)
        if task.cancelled():
            for waiting in batch:
                waiting.outcome.cancel()
        # Whoever was told of an outcome has had its turn, and may wait again.
        self._send_waiting()

    def _next_batch(self, most: int) -> list[_PendingAppend]:
        now = asyncio.get_running_loop().time()
        batch: list[_PendingAppend] = []
        size = 0
        while self._waiting and len(batch) < min(most, _MOST_APPENDS):
            waiting = self._waiting[0]
            if batch and size + waiting.append.size > _MOST_BYTES:
                break
            self._waiting.popleft()
            if waiting.until < now:
                waiting.settle(TimeoutError("the writes before it took too long"))
            # One whose caller gave up waiting may be here a second time.
            elif not waiting.outcome.done():
                batch.append(waiting)
                size += waiting.append.size
        return sorted(batch, key=lambda waiting: waiting.append.run_id)

    async def _write_batch(self, batch: list[_PendingAppend]) -> None:
        try:
            stored = await self._send([waiting.append for waiting in batch])
        except Exception as error:  # noqa: BLE001  # each waiting caller gets it
            if len(batch) == 1 or is_transient(error):
                for waiting in batch:
                    waiting.settle(error)
            else:
                await self._write_apart(batch)
        else:
            for waiting in batch:
                waiting.settle(waiting.append.run_id in stored)

    async def _write_apart(self, batch: list[_PendingAppend]) -> None:
        # Something about one of them: it must not fail the others.
        for waiting in batch:
            try:
                stored = bool(await self._send([waiting.append], wait=True))
            except Exception as error:  # noqa: BLE001  # each waiting caller gets its own
                waiting.settle(error)
            else:
                waiting.settle(stored)

    async def _send(self, appends: list[Append], *, wait: bool = False) -> set[str]:
        sql, parameters = self._statements.store(appends, wait=wait)
        return {row["run_id"] for row in await self._connections.fetch(sql, *parameters)}
