"""A store in memory with the five methods that every driver has, and with faults: for tests of what stands above."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from stargraph.checkpoint import memory
from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.driver import Tail
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, PruneReport, RunDeletion, RunSummary


class Killed(BaseException):
    """Stands for the loss of the process: a node or a function that raises it is the last thing that happened."""


KILLED = f"{Killed.__module__}.{Killed.__qualname__}"


class MemoryCheckpointer:
    """The driver in memory without its capabilities; `before_write` and `after_write` may raise or wait.

    What would record that something was `Killed` is not stored: the process is gone.

    Attributes:
        runs: what was stored of each run, in order.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[Checkpoint]] = {}
        self.before_write: Callable[[Checkpoint], object] = lambda checkpoint: None
        self.after_write: Callable[[Checkpoint], object] = lambda checkpoint: None
        self._store = memory.MemoryStore()
        self._handle = memory.MemoryCheckpointer(self._store)

    async def bootstrap(self) -> None:
        await self._handle.bootstrap()

    async def write(self, checkpoint: Checkpoint) -> None:
        for error in (checkpoint.error, *(call.error for call in checkpoint.calls)):
            if error is not None and error.type == KILLED:
                raise Killed
        self.before_write(checkpoint)
        await self._handle.write(checkpoint)
        self._note(checkpoint)
        self.after_write(checkpoint)

    def append_unseen(self, checkpoint: Checkpoint) -> None:
        """Append without the hooks, as another process does."""
        self._store.append(checkpoint, encode(checkpoint), str)
        self._note(checkpoint)

    def _note(self, checkpoint: Checkpoint) -> None:
        log = self.runs.setdefault(checkpoint.run_id, [])
        if checkpoint.step == len(log):
            log.append(checkpoint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        return await self.read_at_step(run_id, len(self.runs.get(run_id, ())) - 1)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return await self._handle.read_at_step(run_id, step)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return await self._handle.list_runs(since=since, limit=limit)

    def events(self, run_id: str) -> list[str]:
        """The log in words: the event, and the node if it has one."""
        return [
            f"{checkpoint.event} {checkpoint.last_node}" if checkpoint.last_node else checkpoint.event
            for checkpoint in self.runs[run_id]
        ]

    @property
    def records(self) -> dict[tuple[str, int], bytes]:
        """A copy of what is stored."""
        runs = self._store._runs.items()
        return {(run_id, step): record for run_id, run in runs for step, record in run.records.items()}

    def damage(self, run_id: str, step: int, record: bytes | None) -> None:
        """Replace the record of a step, or lose it."""
        records = self._store._runs[run_id].records
        if record is None:
            del records[step]
        else:
            records[step] = record

    def wipe(self, run_id: str | None = None) -> None:
        """Lose a run, or every one, without a trace."""
        for each in list(self.runs) if run_id is None else [run_id]:
            self.runs.pop(each, None)
            self._store._runs.pop(each, None)


class PrunedCheckpointer(MemoryCheckpointer):
    """Prunes too: by the rules, or just the steps that a test picks."""

    async def delete_run(self, run_id: str) -> bool:
        return await self._handle.delete_run(run_id)

    async def prune(self, **rule: Any) -> PruneReport:
        return await self._handle.prune(**rule)

    def prune_step(self, run_id: str, step: int) -> bytes:
        """Remove a step, and note that all below it may be gone; return its record."""
        run = self._store._runs[run_id]
        tail = run.tail
        run.tail = Tail(tail.step, tail.digest, tail.status, max(tail.floor, step + 1))
        return run.records.pop(step)


_: type[Checkpointer] = MemoryCheckpointer
__: type[RunDeletion] = PrunedCheckpointer
