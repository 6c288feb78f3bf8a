"""Group commit: writers that wait at the same time share one commit.

Source: D. J. DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_WORTH_SPLITTING: Final = 16
"""So many waiting items make two batches if two may be under way: else both sides would wait for each other."""
_FEW: Final = 4
"""Fewer than one in this many of the callers inside wait: they wait for the others to come back."""


class _Waiting(Generic[Item, Outcome]):
    """An item that waits for others, and its outcome.

    Attributes:
        item: what to commit.
        outcome: what the caller waits for.
        until: the time of the loop at which it is no longer committed.
        sent: done once the commit that took it has ended, however; None while it waits.
    """

    __slots__ = ("item", "outcome", "sent", "until")

    def __init__(self, item: Item, outcome: asyncio.Future[Outcome], until: float) -> None:
        self.item = item
        self.outcome = outcome
        self.until = until
        self.sent: asyncio.Future[None] | None = None

    def settle(self, outcome: Outcome | BaseException) -> None:
        """Give the outcome to the caller, if it is still there."""
        if not self.outcome.done():
            if isinstance(outcome, BaseException):
                self.outcome.set_exception(outcome)
            else:
                self.outcome.set_result(outcome)


class GroupCommit(Generic[Item, Outcome]):
    """Collects the writers of one turn of an event loop, and commits what waits in as few batches as pay.

    One for each event loop. A lone writer commits in its own task, without a turn of the loop in between. While as many
    batches are under way as may be, writers wait and then share the next one.

    A caller that is cancelled while its item waits leaves at once, and the item is not committed. One whose item is
    being committed with others leaves once that has ended: what a reader sees must not change after the call. A lone
    writer's cancellation reaches `commit` itself.

    Args:
        commit: commits a batch and returns the outcome of each item, in order; an exception as an outcome is raised to
            that caller alone. It may be called while another batch is under way.
        size: the bytes of an item.
        most_items: of a batch.
        most_bytes: of a batch; a larger item goes alone.
        batches: how many may be under way: with two, one is built while the other one becomes durable.
        timeout: seconds that an item may wait for its batch.
        together: tells whether an exception of `commit` concerns the whole batch. If not, each item of the batch
            is committed alone, so that one that cannot be stored does not fail the others.
        key: sorts the items of a batch, if the store wants an order; by default they stay as they came.
        withdraw: is called with the item of a caller that was cancelled while `commit` was at it.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome | BaseException]]],
        *,
        size: Callable[[Item], int],
        most_items: int = 128,
        most_bytes: int = 8 * 1024 * 1024,
        batches: int = 2,
        timeout: float = float("inf"),
        together: Callable[[Exception], bool] = lambda error: False,
        key: Callable[[Item], str] | None = None,
        withdraw: Callable[[Item], object] = lambda item: None,
    ) -> None:
        self._commit = commit
        self._size = size
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._batches = batches
        self._timeout = timeout
        self._together = together
        self._key = key
        self._withdraw = withdraw
        self._waiting: deque[_Waiting[Item, Outcome]] = deque()
        self._busy = 0  # batches under way
        self._inside = 0  # callers that have not returned, also those that are about to
        self._about_to_send = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] | None = None  # the next batch, for those who wait for all of them

    async def submit(self, item: Item) -> Outcome:
        """Commit an item, and return its outcome.

        Args:
            item: what to commit.

        Raises:
            TimeoutError: it waited too long for its turn; it was not committed.
            Exception: what `commit` raised, or returned as the outcome of the item.
        """
        self._inside += 1
        try:
            if self._inside <= self._batches and self._busy < self._batches:
                return await self._at_once(item)
            return await self._with_others(item)
        finally:
            self._inside -= 1

    async def drain(self) -> None:
        """Wait until every item that was submitted has its outcome."""
        while self._busy or self._waiting:
            self._send_waiting()
            ended = self._ended = self._ended or asyncio.get_running_loop().create_future()
            await asyncio.wait([ended])  # others may wait for it too: a caller that is cancelled must not cancel it

    async def _at_once(self, item: Item) -> Outcome:
        self._busy += 1
        try:
            (outcome,) = await self._commit((item,))
        finally:
            self._batch_ended()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _with_others(self, item: Item) -> Outcome:
        loop = asyncio.get_running_loop()
        # Without its type arguments, with which the call takes three times as long.
        waiting: _Waiting[Item, Outcome] = _Waiting(item, loop.create_future(), loop.time() + self._timeout)
        self._waiting.append(waiting)
        if not self._about_to_send:
            # Whoever else has something to write in this turn of the loop takes part.
            self._about_to_send = True
            loop.call_soon(self._send_together)
        try:
            return await waiting.outcome
        except asyncio.CancelledError:
            if waiting.sent is not None:
                self._withdraw(item)
                await asyncio.wait([waiting.sent])
            raise

    def _send_together(self) -> None:
        self._about_to_send = False
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and self._busy < self._batches:
            if self._busy and _FEW * len(self._waiting) < self._inside:
                return  # until the many come back: else those would go on as one batch, with nothing beside
            parts = self._batches - self._busy if len(self._waiting) >= _WORTH_SPLITTING else 1
            batch = self._next_batch(-(-len(self._waiting) // parts))
            if not batch:
                return
            sent = asyncio.get_running_loop().create_future()
            for waiting in batch:
                waiting.sent = sent
            self._busy += 1
            task = asyncio.create_task(self._commit_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(partial(self._on_committed, batch, sent))

    def _on_committed(
        self, batch: list[_Waiting[Item, Outcome]], sent: asyncio.Future[None], task: asyncio.Task[None]
    ) -> None:
        self._tasks.discard(task)
        sent.set_result(None)
        if task.cancelled():  # the loop is shut down
            for waiting in batch:
                waiting.outcome.cancel()
        # Callers that have their outcome have had their turn, and may wait again.
        self._batch_ended()

    def _batch_ended(self) -> None:
        self._busy -= 1
        self._send_waiting()
        ended, self._ended = self._ended, None
        if ended is not None and not ended.done():
            ended.set_result(None)

    def _next_batch(self, most: int) -> list[_Waiting[Item, Outcome]]:
        now = asyncio.get_running_loop().time()
        batch: list[_Waiting[Item, Outcome]] = []
        size = 0
        while self._waiting and len(batch) < min(most, self._most_items):
            waiting = self._waiting[0]
            length = self._size(waiting.item)
            if batch and size + length > self._most_bytes:
                break
            self._waiting.popleft()
            if waiting.until < now:
                waiting.settle(TimeoutError("earlier writes took too long"))
            # One whose caller gave up waiting may be here a second time.
            elif not waiting.outcome.done():
                batch.append(waiting)
                size += length
        key = self._key
        return batch if key is None else sorted(batch, key=lambda waiting: key(waiting.item))

    async def _commit_batch(self, batch: list[_Waiting[Item, Outcome]]) -> None:
        try:
            outcomes = await self._commit([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001  # each waiting caller gets it
            if len(batch) == 1 or self._together(error):
                for waiting in batch:
                    waiting.settle(error)
                return
        else:
            for waiting, outcome in zip(batch, outcomes, strict=True):
                waiting.settle(outcome)
            return
        for waiting in batch:
            await self._commit_alone(waiting)

    async def _commit_alone(self, waiting: _Waiting[Item, Outcome]) -> None:
        try:
            (outcome,) = await self._commit((waiting.item,))
        except Exception as error:  # noqa: BLE001  # the caller gets it
            waiting.settle(error)
        else:
            waiting.settle(outcome)
