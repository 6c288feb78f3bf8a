"""A checkpointer in memory that keeps stored forms, for tests of what stands above the stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.driver import Tail, check_listing, judge_append, not_bootstrapped_error
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunSummary


class Killed(BaseException):
    """Stands for the loss of the process: a node or a function that raises it is the last thing that happened."""


KILLED = f"{Killed.__module__}.{Killed.__qualname__}"


class MemoryCheckpointer:
    """Keeps every record as bytes; `before_write` and `after_write` may raise or wait.

    What would record that something was `Killed` is not stored: the process is gone.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[Checkpoint]] = {}
        self.records: dict[tuple[str, int], bytes] = {}
        self.before_write: Callable[[Checkpoint], object] = lambda checkpoint: None
        self.after_write: Callable[[Checkpoint], object] = lambda checkpoint: None
        self._ready = False

    async def bootstrap(self) -> None:
        self._ready = True

    async def write(self, checkpoint: Checkpoint) -> None:
        self._check_ready()
        record = encode(checkpoint)
        for error in (checkpoint.error, *(call.error for call in checkpoint.calls)):
            if error is not None and error.type == KILLED:
                raise Killed
        self.before_write(checkpoint)
        log = self.runs.setdefault(checkpoint.run_id, [])
        tail = Tail(log[-1].step, log[-1].digest, log[-1].status) if log else None
        stored = log[checkpoint.step].digest if checkpoint.step < len(log) else None
        try:
            if judge_append(checkpoint, tail=tail, stored_digest=stored) == "append":
                log.append(checkpoint)
                self.records[checkpoint.run_id, checkpoint.step] = record
        finally:
            if not log:
                del self.runs[checkpoint.run_id]
        self.after_write(checkpoint)

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._check_ready()
        return await self.read_at_step(run_id, len(self.runs.get(run_id, ())) - 1)

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._check_ready()
        record = self.records.get((run_id, step))
        return None if record is None else decode(record, run_id=run_id, step=step)

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._check_ready()
        since = check_listing(since, limit)
        summaries = [RunSummary.from_checkpoint(log[-1]) for log in self.runs.values()]
        chosen = [summary for summary in summaries if since is None or summary.started_at >= since]
        chosen.sort(key=lambda summary: summary.run_id)
        chosen.sort(key=lambda summary: summary.started_at, reverse=True)
        return chosen[:limit]

    def events(self, run_id: str) -> list[str]:
        """The log in words: the event, and the node where it has one."""
        return [
            f"{checkpoint.event} {checkpoint.last_node}" if checkpoint.last_node else checkpoint.event
            for checkpoint in self.runs[run_id]
        ]

    def _check_ready(self) -> None:
        if not self._ready:
            raise not_bootstrapped_error()


_: type[Checkpointer] = MemoryCheckpointer
