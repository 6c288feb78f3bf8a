"""Group commit: appends that wait at the same time share one statement and one commit."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import asyncpg

from stargraph.checkpoint.postgres._appends import (
    Append,
    advance_parameters,
    batch_parameters,
    begin_parameters,
)
from stargraph.checkpoint.postgres._connections import Sessions
from stargraph.checkpoint.postgres._failures import is_transient
from stargraph.checkpoint.postgres._queries import Queries

_MOST_APPENDS: Final = 128
_MOST_BYTES: Final = 8 * 1024 * 1024
_WRITERS: Final = 2
"""Batches on their way at the same time: one is built and parsed while the other one is made durable."""


class Commits:
    """Sends appends to the database, many at a time where many wait.

    The caller sees to it that a run is never in here twice.

    Args:
        sessions: where connections come from.
        queries: the statements.
        grouped: whether appends of several runs may share a statement.
    """

    def __init__(self, sessions: Sessions, queries: Queries, *, grouped: bool) -> None:
        self._sessions = sessions
        self._queries = queries
        self._grouped = grouped
        self._waiting: deque[tuple[Append, asyncio.Future[bool]]] = deque()
        self._busy = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, append: Append, *, alone: bool = False) -> bool:
        """Store an append whole, or nothing of it.

        Args:
            append: what to store.
            alone: in a statement of its own, which waits for whoever holds the run.

        Returns:
            Whether it was stored; if not, the tail of the run is not the one that it follows.
        """
        if alone or not self._grouped:
            return bool(await self._send([append], wait=True))
        if self._busy < _WRITERS and not self._waiting:
            # Nobody to share with: no task in between, which costs as much as the rest of a write.
            self._busy += 1
            try:
                return bool(await self._send([append]))
            finally:
                self._busy -= 1
                self._send_waiting()
        outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = (append, outcome)
        self._waiting.append(waiting)
        self._send_waiting()
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            if waiting in self._waiting:
                outcome.cancel()
            else:
                # It is on its way with others: the caller leaves once it is known what became of it.
                await asyncio.wait([outcome])
                if not outcome.cancelled():
                    outcome.exception()
            raise

    def _send_waiting(self) -> None:
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        if self._waiting and self._busy < _WRITERS:
            self._busy += 1
            task = asyncio.create_task(self._write_batches())
            self._tasks.add(task)
            task.add_done_callback(self._on_written)

    def _on_written(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._busy -= 1
        self._send_waiting()

    async def _write_batches(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            if not batch:
                return
            try:
                stored = await self._send([append for append, _ in batch])
            except asyncio.CancelledError:
                for _, outcome in batch:
                    outcome.cancel()
                raise
            except Exception as error:  # noqa: BLE001  # each waiting caller gets it
                await self._fail(batch, error)
            else:
                for append, outcome in batch:
                    if not outcome.done():
                        outcome.set_result(append.run_id in stored)

    def _next_batch(self) -> list[tuple[Append, asyncio.Future[bool]]]:
        batch: list[tuple[Append, asyncio.Future[bool]]] = []
        size = 0
        while self._waiting and len(batch) < _MOST_APPENDS:
            append, outcome = self._waiting[0]
            if batch and size + append.size > _MOST_BYTES:
                break
            self._waiting.popleft()
            # One whose caller gave up waiting may be here a second time.
            if not outcome.done():
                batch.append((append, outcome))
                size += append.size
        return sorted(batch, key=lambda item: item[0].run_id)

    async def _fail(self, batch: list[tuple[Append, asyncio.Future[bool]]], error: Exception) -> None:
        if len(batch) == 1 or is_transient(error):
            for _, outcome in batch:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        # Something about one of them: it must not fail the others.
        for append, outcome in batch:
            try:
                stored = bool(await self._send([append], wait=True))
            except Exception as own:  # noqa: BLE001  # each waiting caller gets its own
                if not outcome.done():
                    outcome.set_exception(own)
            else:
                if not outcome.done():
                    outcome.set_result(stored)

    async def _send(self, appends: list[Append], *, wait: bool = False) -> set[str]:
        if len(appends) == 1 and len(appends[0]) == 1:
            append = appends[0]
            if append.first.step == 0:
                sql, parameters = self._queries.begin, begin_parameters(append)
            else:
                sql, parameters = self._queries.advance, advance_parameters(append)
        else:
            sql = self._queries.append_run if wait else self._queries.append_batch
            parameters = batch_parameters(appends)
        async with self._sessions.session() as session:
            rows: list[asyncpg.Record] = await session.fetch(sql, *parameters)
        return {row["run_id"] for row in rows}
