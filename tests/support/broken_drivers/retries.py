"""Drivers that know a retry by something else than its digest."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import Tail, check_batch
from stargraph.checkpoint.protocol import Checkpoint
from support.broken_drivers.broken_driver import broken
from support.broken_drivers.indexed import Indexed


class Recognising(ReferenceCheckpointer):
    """A base: takes a stored checkpoint for the same one if `_is_the_same` says so."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        stored = self._at(checkpoint.run_id, checkpoint.step)
        if stored is not None and self._is_the_same(stored, checkpoint, self._tail(checkpoint.run_id)):
            return
        super()._append(checkpoint, record)

    def _is_the_same(self, stored: Checkpoint, given: Checkpoint, tail: Tail | None) -> bool:
        raise NotImplementedError


@broken("steps.conflict_by_digest")
class RetryByExecutor(Recognising):
    """A step that its own executor writes again counts as a retry, whatever is in it."""

    def _is_the_same(self, stored: Checkpoint, given: Checkpoint, tail: Tail | None) -> bool:
        return stored.executor_id == given.executor_id and stored.previous_digest == given.previous_digest


@broken("steps.conflict_by_digest")
class OldRetryByExecutor(Recognising):
    """The digest is compared with that of the latest step alone; older steps are known by their executor."""

    def _is_the_same(self, stored: Checkpoint, given: Checkpoint, tail: Tail | None) -> bool:
        older = tail is not None and stored.step < tail.step
        return older and stored.executor_id == given.executor_id


@broken("steps.conflict_by_digest", "keys.refused_writes")
class RetryByState(Recognising):
    """A checkpoint with the same state is a retry: its time, its node and its executor do not matter."""

    def _is_the_same(self, stored: Checkpoint, given: Checkpoint, tail: Tail | None) -> bool:
        return stored.fresh_state() == given.fresh_state() and stored.status == given.status


@broken("steps.conflict_by_digest")
class RetryByTime(Recognising):
    """A checkpoint of the same instant and node is a retry."""

    def _is_the_same(self, stored: Checkpoint, given: Checkpoint, tail: Tail | None) -> bool:
        same_node = (stored.last_node, stored.event) == (given.last_node, given.event)
        return stored.timestamp == given.timestamp and same_node and stored.executor_id == given.executor_id


@broken("steps.conflict_by_digest")
class CreatesTheRunOnce(ReferenceCheckpointer):
    """Step 0 is an INSERT OR IGNORE into the table of runs: a second start of a run is acknowledged and lost."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        stored = self._at(checkpoint.run_id, 0)
        if checkpoint.step == 0 and stored is not None and stored.executor_id == checkpoint.executor_id:
            return
        super()._append(checkpoint, record)


@broken("concurrency.one_winner_one_handle")
class JoinsTheWriteInFlight(ReferenceCheckpointer):
    """A write joins one of its executor for the same step that is still in flight, and is acknowledged with it."""

    async def write(self, checkpoint: Checkpoint) -> None:
        flights: dict[tuple[str, int, str], asyncio.Future[None]] = self.__dict__.setdefault("_flights", {})
        key = (checkpoint.run_id, checkpoint.step, checkpoint.executor_id)
        if (flight := flights.get(key)) is not None:
            await asyncio.shield(flight)
            return
        flights[key] = asyncio.get_running_loop().create_future()
        try:
            await super().write(checkpoint)
        finally:
            flights.pop(key).set_result(None)


@broken("views.after_batch", importable=True)
class BatchSkipsItsOwn(Indexed):
    """A batch leaves out the steps that its executor has stored already, without comparing them."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        def work(database: sqlite3.Connection) -> list[Checkpoint]:
            mine = []
            for checkpoint in checkpoints:
                stored = self._at(database, checkpoint.run_id, checkpoint.step)
                if stored is None or stored.executor_id != checkpoint.executor_id:
                    mine.append(checkpoint)
            return mine

        self._ensure_ready()
        with self._connected() as database:
            rest = work(database)
        await super().write_many(rest if len(rest) < len(checkpoints) else checkpoints)


@broken("batch.conflict_stores_nothing")
class BatchesKnowTheirOwn(ReferenceCheckpointer):
    """A batch leaves out the steps that are stored with its executor and its time, whatever is in them."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._ensure_writable("write_many")
        check_batch(list(checkpoints))
        await self._turn()
        for checkpoint in checkpoints:
            stored = self._at(checkpoint.run_id, checkpoint.step)
            own = stored and (stored.executor_id, stored.timestamp) == (checkpoint.executor_id, checkpoint.timestamp)
            if not own:
                self._append(checkpoint, encode(checkpoint))
