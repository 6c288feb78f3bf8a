"""A run's log as its executor sees it: appends in order, by the durability that was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import BatchAppend, Checkpoint, Checkpointer
from stargraph.engine._logging import log_write
from stargraph.errors import CheckpointConflictError
from stargraph.runtime import dispatch

Durability: TypeAlias = Literal["sync", "async", "exit"]
"""When a step is durable: before what depends on it starts, while the next node runs, or when the run stops."""

Build: TypeAlias = Callable[[Checkpoint], Checkpoint]
"""Makes the next checkpoint from the latest one; called again if others wrote in between."""

MayBuild: TypeAlias = Callable[[Checkpoint], Checkpoint | None]
"""Like `Build`, and may find that there is none to append."""

_FOREIGN: Final = frozenset({"answered", "cancel_requested", "pause_requested"})
_ALWAYS_AWAITED: Final = frozenset({"started", "resumed", "asked", "answered", "migrated"}) | _FOREIGN


class StoppedElsewhere(Exception):
    """Somebody else has cancelled or paused the run, and nobody took it over; the log's tail is that checkpoint."""


@dataclass(slots=True, eq=False)
class _UnwrittenStep:
    """A checkpoint that no store has acknowledged, and what builds it again after others."""

    build: Build | MayBuild
    checkpoint: Checkpoint
    is_void: bool = False


class RunLog:
    """The log of one run, for its executor.

    Args:
        checkpointer: the store.
        tail: the latest checkpoint.
        durability: when a step is durable.
        keyring: seals what is written and checks what is read.

    Attributes:
        tail: the latest checkpoint, durable or not.
        on_foreign_event: called with each answer or request that another process appended, and with the `cancelled`
            or `paused` that ends the run here.
        on_stored: called when steps of this executor are stored.
        on_fault: called when a write that nobody waits for has failed; `flush` then raises why.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        tail: Checkpoint,
        *,
        durability: Durability = "sync",
        keyring: Keyring | None = None,
    ) -> None:
        self.tail = tail
        self.on_foreign_event: Callable[[Checkpoint], None] = lambda checkpoint: None
        self.on_stored: Callable[[], None] = lambda: None
        self.on_fault: Callable[[], None] = lambda: None
        self._store = checkpointer
        self._durability = durability
        self._keyring = keyring
        self._acknowledged = tail
        self._unwritten: list[_UnwrittenStep] = []
        self._flushing: asyncio.Task[None] | None = None
        self._taken_over = False
        self._lock = asyncio.Lock()

    async def append(self, build: Build) -> tuple[Checkpoint, bool]:
        """Append the checkpoint that `build` makes from the latest one.

        Args:
            build: makes it.

        Returns:
            The checkpoint, and whether it is durable already.

        Raises:
            StoppedElsewhere: somebody else has cancelled or paused the run.
            CheckpointConflictError: another executor has taken the run over.
            CheckpointError: as the store raises.
        """
        ((checkpoint, durable),) = await self.append_all([build])
        return checkpoint, durable

    async def append_all(self, builds: Sequence[Build | MayBuild]) -> list[tuple[Checkpoint, bool]]:
        """Append checkpoints one after the other, in one go if the store can.

        Args:
            builds: make them, in order; one that returns None has none to append.

        Returns:
            The checkpoints, and whether each is durable already.

        Raises:
            CheckpointError: as `append` raises; what is stored is a prefix.
        """
        async with self._lock:
            if self._flushing is not None or self._taken_over:
                await self._settle()
            own: list[_UnwrittenStep] = []
            for build in builds:
                checkpoint = build(self.tail)
                if checkpoint is not None:
                    own.append(_UnwrittenStep(build, checkpoint))
                    self._unwritten.append(own[-1])
                    self.tail = checkpoint
            if any(self._must_wait_for(pending.checkpoint) for pending in own):
                try:
                    await self._flush()
                except BaseException:
                    for pending in reversed(own):
                        self._withdraw(pending)
                    raise
                return [(pending.checkpoint, True) for pending in own if not pending.is_void]
            if own and self._durability == "async":
                self._flushing = asyncio.ensure_future(self._flush())
                self._flushing.add_done_callback(self._flushed)
            return [(pending.checkpoint, False) for pending in own]

    async def flush(self) -> None:
        """Make durable what is not yet.

        Raises:
            CheckpointError: as `append` raises.
        """
        async with self._lock:
            await self._settle()
            await self._flush()

    @property
    def known_step(self) -> int:
        """The latest step that this log knows to be stored."""
        return self._acknowledged.step

    async def look(self) -> None:
        """Take note of what others have appended since the last write or look: one read if that is nothing.

        Raises:
            StoppedElsewhere: somebody else has cancelled or paused the run.
            CheckpointConflictError: another executor has taken the run over.
            CheckpointError: as the store raises.
        """
        # Without the lock, so that a slow read holds no write up.
        found = await self.read_step(self._acknowledged.step + 1)
        if found is None:
            return
        async with self._lock:
            await self._settle()
            if found.step <= self._acknowledged.step or await self._catch_up():
                return
        raise CheckpointConflictError(
            f"run {found.run_id!r}: another executor has taken it over at step {found.step}",
            reason="taken-over",
            hint="Its nodes are stopped here. `stargraph inspect --follow` shows what it does elsewhere.",
            run_id=found.run_id,
            step=found.step,
        )

    async def wind_down(self) -> None:
        """Wait for the write that is under way, whatever comes of it: nothing may run on without its executor knowing.

        Whoever takes the run up builds again what is not acknowledged by then.
        """
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            await asyncio.wait({flushing})
        self._unwritten.clear()
        self.tail = self._acknowledged

    @property
    def has_fault(self) -> bool:
        """Whether a write that nobody waits for has failed."""
        return self._flushing is not None and self._flushing.done() and _error_of(self._flushing) is not None

    def of_child(self, tail: Checkpoint) -> RunLog:
        """Return the log of a child run in the same store, with the same durability.

        Args:
            tail: the latest checkpoint of the child.
        """
        return RunLog(self._store, tail, durability=self._durability, keyring=self._keyring)

    async def write(self, checkpoint: Checkpoint) -> None:
        """Append a checkpoint of another run to the same store.

        Args:
            checkpoint: what to append.

        Raises:
            CheckpointError: as the store raises.
        """
        await dispatch.write(self._store, checkpoint, keyring=self._keyring)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """Return the latest checkpoint of a run in the same store."""
        return await dispatch.read_latest(self._store, run_id, keyring=self._keyring)

    async def read_step(self, step: int) -> Checkpoint | None:
        """Return one step of this run from the store."""
        return await dispatch.read_at_step(self._store, self.tail.run_id, step, keyring=self._keyring)

    def read_steps(self, steps: Sequence[int]) -> AsyncIterator[Checkpoint]:
        """Yield some steps of this run, ascending, from the store; those that were pruned are left out."""
        return dispatch.read_steps(self._store, self.tail.run_id, steps, keyring=self._keyring)

    def _must_wait_for(self, checkpoint: Checkpoint) -> bool:
        return (
            self._durability == "sync"
            or checkpoint.event in _ALWAYS_AWAITED
            or checkpoint.status not in ("running", "awaiting_input")
        )

    async def _settle(self) -> None:
        """Wait for the write that is under way, if one is."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            try:
                await asyncio.shield(flushing)
            except asyncio.CancelledError:
                self._flushing = flushing
                raise
        if self._taken_over:
            raise StoppedElsewhere

    def _flushed(self, flushing: asyncio.Task[None]) -> None:
        if _error_of(flushing) is not None:
            self.on_fault()

    async def _flush(self) -> None:
        while self._unwritten:
            try:
                await self._write_all()
                self.on_stored()
            except CheckpointConflictError:
                if not await self._catch_up():
                    raise

    async def _write_all(self) -> None:
        if len(self._unwritten) > 1 and isinstance(self._store, BatchAppend):
            batch = [pending.checkpoint for pending in self._unwritten]
            began = time.monotonic()
            await dispatch.write_many(self._store, batch, keyring=self._keyring)
            log_write(batch[-1], time.monotonic() - began)
            self._acknowledged = batch[-1]
            self._unwritten.clear()
            return
        while self._unwritten:
            checkpoint = self._unwritten[0].checkpoint
            began = time.monotonic()
            await dispatch.write(self._store, checkpoint, keyring=self._keyring)
            log_write(checkpoint, time.monotonic() - began)
            self._acknowledged = checkpoint
            self._unwritten.pop(0)

    def _withdraw(self, own: _UnwrittenStep) -> None:
        """Give up the newest checkpoint, whose caller gets the error; what others have appended before it stays."""
        if own in self._unwritten:
            self._unwritten.remove(own)
        self.tail = self._unwritten[-1].checkpoint if self._unwritten else self._acknowledged

    async def _catch_up(self) -> bool:
        """Take over control events that others have appended, and build what is pending again after them.

        Returns:
            Whether the log moved on by control events alone; if not, the run belongs to another executor.
        """
        newest = await self.read_latest(self.tail.run_id)
        if newest is not None and newest.status in ("cancelled", "paused") and newest.step > self._acknowledged.step:
            self._unwritten.clear()
            self._acknowledged = self.tail = newest
            self._taken_over = True
            self.on_foreign_event(newest)
            raise StoppedElsewhere
        known = {pending.checkpoint.digest for pending in self._unwritten}
        base = self._acknowledged
        controls: list[Checkpoint] = []
        own: Checkpoint | None = None
        for step in range(base.step + 1, (newest.step if newest else base.step) + 1):
            record = await self.read_step(step)
            if record is None or record.previous_digest != base.digest:
                return False
            if record.digest in known:
                own = record
            elif record.event in _FOREIGN:
                controls.append(record)
            else:
                return False
            base = record
        if not controls:
            return False
        if own is not None:
            # Part of a batch was stored before another process appended.
            written = next(i for i, pending in enumerate(self._unwritten) if pending.checkpoint.digest == own.digest)
            del self._unwritten[: written + 1]
        self._acknowledged = self.tail = base
        for record in controls:
            self.on_foreign_event(record)
        for pending in list(self._unwritten):
            rebuilt = pending.build(self.tail)
            if rebuilt is None:
                pending.is_void = True
                self._unwritten.remove(pending)
            else:
                self.tail = pending.checkpoint = rebuilt
        return True


def _error_of(done: asyncio.Task[None]) -> BaseException | None:
    return None if done.cancelled() else done.exception()
