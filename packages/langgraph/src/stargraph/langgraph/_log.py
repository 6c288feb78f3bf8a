"""One log: a thread's checkpoints in one namespace. It appends, after whatever others have appended meanwhile."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

from stargraph.checkpoint.protocol import Checkpoint, StepKey, is_key
from stargraph.errors import CheckpointConflictError, CheckpointError
from stargraph.langgraph._channels import Channels
from stargraph.langgraph._names import GRAPH_ID, NAMESPACE_TAG, THREAD_TAG, generation_of, run_id_of
from stargraph.langgraph._state import EMPTY_STATE, Order, StoredStep, merged_orders, state_with
from stargraph.langgraph._store import LogStore

T = TypeVar("T")

_GRAPH_HASH: Final = "1" * 64
"""A log is not made by a graph of Stargraph; the number is that of the form of its states."""

_MOST_RETRIES: Final = 64
_GONE: Final = frozenset({"run-deleted", "run-ended"})
_MOVED_ON: Final = frozenset({"step-gap", "pruned"})


_TURNS: Final = 32
"""How many turns of the event loop writes wait for the checkpoint that LangGraph puts right after them, and a
checkpoint for the writes of the tasks that LangGraph runs meanwhile."""

_MOST_SKIPS: Final = 64
"""How many checkpoints in a row do not wait for writes at most, after others waited in vain."""


@dataclass(slots=True)
class _Waiting:
    """What somebody waits for."""

    order: Order
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ThreadLog:
    """The log of a thread in one namespace, used from one event loop.

    Args:
        store: keeps it.
        grown: called when it takes more or less memory, with how many bytes more.
    """

    def __init__(
        self,
        store: LogStore,
        thread_id: str,
        namespace: str,
        grown: Callable[[ThreadLog, int], None] = lambda log, by: None,
    ) -> None:
        self._store = store
        self._grown = grown
        self.memory = 0
        self.thread_id: Final = thread_id
        self.namespace: Final = namespace
        self._executor_id = secrets.token_hex(16)
        self._tail: Checkpoint | None = None
        self._last_checkpoint: StoredStep | None = None  # stored or read; writes may have followed it
        self._was_absent = False  # when it was read last, and nothing was appended since
        self.channels: Final = Channels()
        self._is_walked = False  # somebody has walked the parents of a checkpoint, and will walk them again
        self._fixed_run: str | None = None
        self._queue: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._waits_in_vain = 0  # how many times in a row a checkpoint waited for writes that did not come
        self._skips_left = 0  # how many checkpoints are appended at once before one waits again

    async def append(self, order: Order) -> None:
        """Store a checkpoint or writes durably; orders that wait at the same time share a commit.

        Raises:
            CheckpointError: the store refuses it, or the id is none that a store can index.
            StoreUnavailableError: the outcome is unknown; the same order may be given again.
        """
        if not is_key(order.checkpoint_id):
            raise CheckpointError(
                f"{order.checkpoint_id[:80]!r} cannot be the id of a checkpoint",
                reason="invalid-checkpoint",
                hint="An id is text of 1 to 255 bytes.",
            )
        waiting = _Waiting(order)
        self._queue.append(waiting)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_queue())
            self._writer.add_done_callback(self._end_cancelled)
        # The write goes on if the caller is cancelled: others wait for the same commit.
        await waiting.done

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written."""
        return self._writer is None

    def known(self, checkpoint_id: str | None) -> StoredStep | None:
        """Return a checkpoint if it is the one that was stored or read last; else None, without I/O.

        Others may have added writes to it since.
        """
        if self._tail is not None and self._tail.key == checkpoint_id:
            return StoredStep(self._tail)
        # Writes of the next checkpoint are mostly stored before it, and are the tail then.
        last = self._last_checkpoint
        return last if last is not None and last.checkpoint_id == checkpoint_id else None

    def forget_tail(self) -> None:
        """Read the log before it is written next."""
        self._tail = None
        self._last_checkpoint = None
        self._was_absent = False
        self._store.forget(self.thread_id, self.namespace)

    def _count(self, step: Checkpoint) -> None:
        """Count the memory of a step that is kept, of what its channels were encoded from, and what they load as."""
        memory = _EACH_BYTE * sum(len(value.encoded) for value in step.encoded_state().values())
        grown, self.memory = memory - self.memory, memory
        self._grown(self, grown)

    async def tail(self) -> Checkpoint | None:
        """Return the latest step of the log, as it is stored."""
        self._tail = await self._read_tail()
        return self._tail

    async def latest(self) -> StoredStep | None:
        """Return the newest checkpoint by its id, or None.

        If the highest key of the log and its step are those of the step that was written or read last, that one is
        right: a step never changes.
        """
        known = self._tail
        if known is not None and known.key is not None and self._writer is None:
            stored = StoredStep(known)
            keys = await self._store.checkpointer.step_keys(known.run_id, limit=1)
            if keys and keys[0] == (known.key, known.step) and stored.has_checkpoint:
                return stored
        tail = await self._read_tail()
        if self._writer is None:
            self._tail = tail
            self._was_absent = tail is None
        if tail is None:
            return None
        self._count(tail)
        stored = StoredStep(tail)
        if stored.newest is None:
            return None
        return stored if stored.newest == stored.checkpoint_id else await self.at(stored.newest)

    async def at(self, checkpoint_id: str) -> StoredStep | None:
        """Return what the log has of a checkpoint, or None."""
        if not is_key(checkpoint_id):
            return None
        run_id = await self._store.live_run(self.thread_id, self.namespace)
        found = None if run_id is None else await self._store.checkpointer.read_at_key(run_id, checkpoint_id)
        if run_id is not None and found is None and await self._read_tail() is not None:
            other = await self._store.live_run(self.thread_id, self.namespace)
            if other is not None and other != run_id:
                found = await self._store.checkpointer.read_at_key(other, checkpoint_id)
        if found is None:
            return None
        if self._tail is None:  # which mostly shares the values of the others
            self._count(found)
        return StoredStep(found)

    async def ancestors(self, stored: StoredStep) -> AsyncGenerator[StoredStep]:
        """Yield the parent of a checkpoint, the parent of that, and so on, until one is missing or comes again."""
        if not self._is_walked:
            self._is_walked = True
            self._store.cache.add(stored)
        seen = {stored.checkpoint_id}
        known: dict[str, StoredStep] = {}
        page = _FIRST_PAGE
        while stored.parent is not None and stored.parent not in seen:
            seen.add(stored.parent)
            if stored.parent not in known:
                known = await self._cached_before(stored, page)
                page = _PAGE
            parent = known.get(stored.parent) or await self.at(stored.parent)
            if parent is None or not parent.has_checkpoint:
                return
            yield parent
            stored = parent

    async def _cached_before(self, stored: StoredStep, limit: int) -> dict[str, StoredStep]:
        """Return checkpoints before one: most are its ancestors, and most of those were read or appended before.

        Others may have added writes to them since: the keys tell which step is the latest of each.
        """
        run_id, cache = stored.step.run_id, self._store.cache
        keys = await self._store.checkpointer.step_keys(run_id, below=stored.checkpoint_id, limit=limit)
        known = {key.key: found for key in keys if (found := cache.get(run_id, key.step)) is not None}
        if stored.parent not in known:
            missing = [key for key in keys if key.key not in known]
            for key, found in (await self._read_keys(run_id, missing)).items():
                cache.add(found)
                known[key] = found
        return known

    async def before(self, below: str | None, *, most_at_once: int | None = None) -> AsyncGenerator[StoredStep]:
        """Yield the checkpoints of the log, the highest id first.

        Args:
            below: only those with lower ids; None for all.
            most_at_once: how many are read at once; None for as many as is quickest.
        """
        tail = await self._read_tail()
        if tail is None:
            return
        page = most_at_once or _FIRST_PAGE
        while keys := await self._store.checkpointer.step_keys(tail.run_id, below=below, limit=page):
            found = await self._read_keys(tail.run_id, keys)
            for key in keys:
                if key.key in found and found[key.key].has_checkpoint:
                    yield found[key.key]
            below = keys[-1].key
            if len(keys) < page:
                return
            page = most_at_once or _PAGE

    async def ids(self, below: str | None = None, *, limit: int | None = None) -> AsyncGenerator[str]:
        """Yield the ids of which the log has a checkpoint or only writes, the highest first, without their values.

        Args:
            below: only lower ones; None for all.
            limit: at most this many.
        """
        run_id = await self._store.live_run(self.thread_id, self.namespace)
        if run_id is None:
            return
        page = _PAGE if limit is None else limit
        keys = await self._store.checkpointer.step_keys(run_id, below=below, limit=page)
        if not keys and (tail := await self._read_tail()) is not None:
            # Another process may have deleted it since it was found, and begun it again.
            run_id = tail.run_id
            keys = await self._store.checkpointer.step_keys(run_id, below=below, limit=page)
        while keys:
            for key in keys:
                yield key.key
            if limit is not None or len(keys) < page:
                return
            keys = await self._store.checkpointer.step_keys(run_id, below=keys[-1].key, limit=page)

    async def _read_keys(self, run_id: str, keys: Sequence[StepKey]) -> dict[str, StoredStep]:
        """Return the steps of some keys: those that lie close together from one reading, which shares their values."""
        store = self._store.checkpointer
        found: dict[str, StoredStep] = {}
        wanted = {key.step for key in keys}
        if not wanted:
            return found
        first, last = min(wanted), max(wanted)
        if last - first < _DENSE * len(wanted):
            async for step in store.history(run_id, from_step=first, to_step=last):
                if step.step in wanted and step.key is not None:
                    found[step.key] = StoredStep(step)
        else:
            for key in keys:
                at_step = await store.read_at_step(run_id, key.step)
                if at_step is not None:
                    found[key.key] = StoredStep(at_step)
        return found

    async def next_generation(self) -> ThreadLog:
        """Return the log that takes the place of this one once this one has ended."""
        tail = await self._read_tail()
        assert tail is not None
        generation = generation_of(tail.run_id) + 1
        while await self._store.is_taken(run_id_of(self.thread_id, self.namespace, generation)):
            generation += 1
        fresh = ThreadLog(self._store, self.thread_id, self.namespace)
        fresh._fixed_run = run_id_of(self.thread_id, self.namespace, generation)
        return fresh

    async def end(self, tail: Checkpoint) -> bool:
        """End this log, so that others go on in the one that takes its place.

        Args:
            tail: its latest step.

        Returns:
            Whether it has ended; not if somebody has written to it since.
        """
        step = tail.next(
            event="moved",
            status="moved",
            executor_id=self._executor_id,
            timestamp=max(datetime.now(UTC), tail.timestamp),
        )
        try:
            await self._store.append([step])
        except CheckpointError:
            return False
        finally:
            self.forget_tail()
        return True

    async def _read_tail(self) -> Checkpoint | None:
        if self._fixed_run is not None:
            return await self._store.checkpointer.read_latest(self._fixed_run)
        for _ in range(2):
            run_id = await self._store.live_run(self.thread_id, self.namespace)
            if run_id is None:
                return None
            tail = await self._store.checkpointer.read_latest(run_id)
            if tail is not None:
                return tail
            # Another process has deleted it since it was found.
            self._store.forget(self.thread_id, self.namespace)
        return None

    async def _write_queue(self) -> None:
        try:
            while self._queue:
                orders = await self._next_orders()
                try:
                    await self._append_all([each.order for each in orders])
                except BaseException as error:
                    self._tail = None
                    _fail(orders, error)
                    if not isinstance(error, Exception):
                        raise
                else:
                    for each in orders:
                        if not each.done.done():
                            each.done.set_result(None)
        except BaseException as error:
            _fail(self._queue, error)
            self._queue = []
            raise
        finally:
            self._writer = None

    def _end_cancelled(self, writer: asyncio.Task[None]) -> None:
        """Tell whoever waits that a writer was cancelled before it began."""
        if writer is self._writer:
            self._writer = None
            _fail(self._queue, asyncio.CancelledError())
            self._queue = []

    async def _next_orders(self) -> list[_Waiting]:
        """Take the orders that the next append stores.

        LangGraph puts a checkpoint right after the writes that make it: both then become durable by one commit. It
        puts each checkpoint once the one before is durable, but writes of a task as they come: those wait for their
        own checkpoint as long as one before it is stored, and then are one step with it. If it does not wait until a
        checkpoint is durable, that waits likewise for the writes of the tasks after it, which then need no step.
        """
        last = await self._within_turns(self._last_put)
        if last is not None:
            await self._wait_for_writes(last)
        orders, self._queue = self._queue, []
        if last is not None:
            self._queue = [each for each in orders if each.order.checkpoint_id > last]
            orders = [each for each in orders if each.order.checkpoint_id <= last]
        return orders

    async def _wait_for_writes(self, checkpoint_id: str) -> None:
        """Wait for writes of a checkpoint, unless others waited in vain; each further time doubles how many do not."""
        if self._skips_left:
            self._skips_left -= 1
        elif await self._within_turns(lambda: self._has_writes_of(checkpoint_id)):
            self._waits_in_vain = 0
        else:
            self._waits_in_vain += 1
            self._skips_left = min(2**self._waits_in_vain, _MOST_SKIPS)

    async def _within_turns(self, find: Callable[[], T | None]) -> T | None:
        for _ in range(_TURNS):
            if (found := find()) is not None:
                return found
            await asyncio.sleep(0)
        return None

    def _last_put(self) -> str | None:
        return max((each.order.checkpoint_id for each in self._queue if each.order.put is not None), default=None)

    def _has_writes_of(self, checkpoint_id: str) -> bool | None:
        orders = [each.order for each in self._queue]
        return any(each.put is None and each.checkpoint_id >= checkpoint_id for each in orders) or None

    async def _append_all(self, orders: Sequence[Order]) -> None:
        for _ in range(_MOST_RETRIES):
            # What does not hold any more is refused, and then read again.
            tail = self._tail if self._tail is not None or self._was_absent else await self._read_tail()
            self._was_absent = False
            try:
                steps = await self._steps(tail, orders)
                await self._store.append(steps)
            except CheckpointConflictError:
                # Another process has appended. What it wrote stays, and these follow.
                self._tail = None
            except CheckpointError as error:
                self._tail = None
                if error.reason in _GONE:
                    await self._store.find_generation(self.thread_id, self.namespace)
                elif error.reason not in _MOVED_ON:
                    raise
            else:
                self._tail = steps[-1]
                self._count(self._tail)
                for step in map(StoredStep, steps):
                    if self._is_walked:
                        self._store.cache.add(step)
                    if step.has_checkpoint:
                        self._last_checkpoint = step
                return
        raise CheckpointError(
            f"thread {self.thread_id!r}: {_MOST_RETRIES} attempts to append found that others had appended first",
            reason="conflict",
            hint="Let fewer processes write to one thread at once.",
        )

    async def _steps(self, tail: Checkpoint | None, orders: Sequence[Order]) -> list[Checkpoint]:
        """Return the steps that orders make after a tail, in their order."""
        steps: list[Checkpoint] = []
        if tail is None:
            tail = self._genesis()
            steps.append(tail)
        for order in merged_orders(orders):
            stored = await self._known(order, tail, steps)
            tail = tail.next(
                event="completed",
                executor_id=self._executor_id,
                timestamp=max(datetime.now(UTC), tail.timestamp),
                state=state_with(stored, tail, order),
                key=order.checkpoint_id,
                task_id=order.writes[0].task_id if order.put is None and order.writes else None,
            )
            steps.append(tail)
        return steps

    async def _known(self, order: Order, tail: Checkpoint, steps: Sequence[Checkpoint]) -> StoredStep | None:
        """Return what is known of the checkpoint of an order; most often that is the tail, or nothing."""
        for step in (tail, *reversed(steps)):
            if step.key == order.checkpoint_id:
                return StoredStep(step)
        log = StoredStep(tail)
        is_new = log.newest is None or order.checkpoint_id > log.newest
        if is_new and order.checkpoint_id not in log.ahead:
            return None
        return await self.at(order.checkpoint_id)

    def _genesis(self) -> Checkpoint:
        run_id = self._fixed_run or self._store.new_run(self.thread_id, self.namespace)
        return Checkpoint.genesis(
            run_id=run_id,
            graph_id=GRAPH_ID,
            graph_hash=_GRAPH_HASH,
            runtime_hash=_GRAPH_HASH,
            state=EMPTY_STATE,
            executor_id=self._executor_id,
            timestamp=datetime.now(UTC),
            status="paused",
            metadata={THREAD_TAG: self.thread_id, NAMESPACE_TAG: self.namespace},
        )


def _fail(orders: Sequence[_Waiting], error: BaseException) -> None:
    for each in orders:
        if not each.done.done():
            each.done.set_exception(error)
            each.done.exception()  # whoever was cancelled does not look at it


_EACH_BYTE: Final = 8
"""Bytes of memory for each byte of JSON: a conversation of 200 KB was measured to take 1.3 MB, loaded and encoded."""

_FIRST_PAGE: Final = 16
_PAGE: Final = 128
_DENSE: Final = 4
"""So many steps for each checkpoint are read in one go rather than one by one."""
