"""What a store in memory holds, and the rules of its appends and prunes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stargraph.checkpoint.driver import (
    DamagedRun,
    PruneRule,
    Tail,
    judge_append,
    judge_pruned_start,
    missing_step_error,
    readable_summaries,
    summaries_from_json,
    summary_json,
)
from stargraph.checkpoint.memory._queues import MemoryQueues
from stargraph.checkpoint.protocol import ENDED, Checkpoint, RunSummary


@dataclass(slots=True)
class StoredRun:
    """One run.

    Attributes:
        tail: its end.
        summary: the text of its summary.
        records: the record of each step that is stored, by step.
        digests: what is kept of the digest of each of them.
        keys: the key of each of them that has one.
    """

    tail: Tail
    summary: bytes
    records: dict[int, bytes] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)

    def steps(self, first: int, last: int) -> list[int]:
        """Return the steps between two, both included: what a prune has left, and all from the floor on."""
        steps = self.records.keys() | range(self.tail.floor, self.tail.step + 1)
        return [step for step in steps if first <= step <= last]


class MemoryStore:
    """The runs that several handles share, in one process; `MemoryCheckpointer(store)` opens one more.

    A handle may be used from any event loop and any thread.

    Attributes:
        queues: what workers share of it.
    """

    def __init__(self) -> None:
        self._created = False
        self._runs: dict[str, StoredRun] = {}
        self._deleted: set[str] = set()
        # Handles may live on the loops of several threads.
        self._lock = threading.Lock()
        self.queues = MemoryQueues(self._lock, self._readable_summaries)

    @property
    def exists(self) -> bool:
        """Whether a handle that may write was opened on it."""
        return self._created

    def create(self) -> None:
        """Note that a handle that may write was opened on it."""
        self._created = True

    def append(self, checkpoint: Checkpoint, record: bytes, fingerprint: Callable[[str], str]) -> None:
        """Append a checkpoint, or find that it is stored.

        Args:
            checkpoint: what is appended.
            record: its stored form.
            fingerprint: returns what is kept of a digest.

        Raises:
            CheckpointError: it is refused, as the contract says.
        """
        run_id, step = checkpoint.run_id, checkpoint.step
        with self._lock:
            run = self._runs.get(run_id)
            verdict = judge_append(
                checkpoint,
                tail=None if run is None else run.tail,
                stored_digest=None if run is None else run.digests.get(step),
                deleted=run_id in self._deleted,
                fingerprint=fingerprint,
            )
            if verdict == "stored":
                return
            digest = fingerprint(checkpoint.digest)
            tail = Tail(step, digest, checkpoint.status, 0 if run is None else run.tail.floor)
            if run is None:
                run = self._runs[run_id] = StoredRun(tail, b"")
            run.tail, run.summary = tail, summary_json(checkpoint)
            run.records[step], run.digests[step] = record, digest
            if checkpoint.key is not None:
                run.keys[step] = checkpoint.key

    def start_pruned(
        self, checkpoints: Sequence[Checkpoint], records: Sequence[bytes], fingerprint: Callable[[str], str]
    ) -> None:
        """Start a run with what a prune has left of it, or find that it is stored so.

        Args:
            checkpoints: the steps, in order; the last one becomes the tail and the floor.
            records: their stored forms.
            fingerprint: returns what is kept of a digest.

        Raises:
            CheckpointError: it is refused, as the contract says.
        """
        floor = checkpoints[-1]
        digests = {checkpoint.step: fingerprint(checkpoint.digest) for checkpoint in checkpoints}
        with self._lock:
            run, deleted = self._runs.get(floor.run_id), floor.run_id in self._deleted
            if run is not None or deleted:
                stored = {} if run is None else run.digests
                judge_pruned_start(checkpoints, stored_digests=stored, deleted=deleted, fingerprint=fingerprint)
                return
            self._runs[floor.run_id] = StoredRun(
                Tail(floor.step, digests[floor.step], floor.status, floor=floor.step),
                summary_json(floor),
                records=dict(zip(digests, records, strict=True)),
                digests=digests,
                keys={checkpoint.step: checkpoint.key for checkpoint in checkpoints if checkpoint.key is not None},
            )

    def latest(self, run_id: str) -> tuple[int, bytes] | None:
        """Return the latest step of a run and its record, or None if absent.

        Raises:
            CheckpointCorruptedError: its record is gone.
        """
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return None
            step = run.tail.step
            if step not in run.records:
                raise missing_step_error(run_id, step)
            return step, run.records[step]

    def record(self, run_id: str, step: int) -> bytes | None:
        """Return the record of a step, or None if absent.

        Raises:
            CheckpointCorruptedError: it was written, and no prune removed it.
        """
        with self._lock:
            run = self._runs.get(run_id)
            record = None if run is None else run.records.get(step)
            if run is not None and record is None and run.tail.floor <= step <= run.tail.step:
                raise missing_step_error(run_id, step)
            return record

    def steps(self, run_id: str, first: int, last: int) -> list[int]:
        """Return the steps of a run between two, both included: what a prune has left, and all from the floor on."""
        with self._lock:
            run = self._runs.get(run_id)
            return [] if run is None else run.steps(first, last)

    def records(self, run_id: str, first: int, last: int, limit: int) -> tuple[dict[int, bytes], list[int]]:
        """Return the records of the first steps of a run between two, with that of the step before, and those steps.

        Raises:
            CheckpointCorruptedError: one of them was written, and no prune removed it.
        """
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return {}, []
            steps = sorted(run.steps(first, last))[:limit]
            lost = next((step for step in steps if step not in run.records), None)
            if lost is not None:
                raise missing_step_error(run_id, lost)
            near = [*steps, *(step - 1 for step in steps[:1])]
            return {step: run.records[step] for step in near if step in run.records}, steps

    def keys(self, run_id: str) -> dict[str, int]:
        """Return the keys of a run, each with the highest step that has it."""
        with self._lock:
            run = self._runs.get(run_id)
            return {} if run is None else {run.keys[step]: step for step in sorted(run.keys)}

    def summaries(self) -> list[RunSummary]:
        """Return the summary of every run."""
        with self._lock:
            return self._all_summaries()

    def delete(self, run_id: str) -> bool:
        """Remove a run for good; return whether there was such a run."""
        with self._lock:
            return self._delete(run_id)

    def prune(self, latest: Checkpoint, rule: PruneRule) -> int:
        """Return how many checkpoints of a run a rule removes, and remove them unless it only counts.

        Args:
            latest: the latest checkpoint of the run. If the run has moved on since it was read, nothing is removed.
        """
        with self._lock:
            run = self._runs.get(latest.run_id)
            if run is None or run.tail.step != latest.step or (rule.keep_last == 0 and self._is_awaited(latest)):
                return 0
            removed, floor = rule.plan(latest, run.records)
            if removed and not rule.dry_run and rule.keep_last == 0:
                self._delete(latest.run_id)
            elif removed and not rule.dry_run:
                for step in removed:
                    del run.records[step], run.digests[step]
                    run.keys.pop(step, None)
                run.tail = Tail(run.tail.step, run.tail.digest, run.tail.status, max(run.tail.floor, floor))
            return len(removed)

    def _all_summaries(self) -> list[RunSummary]:
        return summaries_from_json([(run_id, run.summary) for run_id, run in self._runs.items()])

    def _readable_summaries(self) -> tuple[list[RunSummary], list[DamagedRun]]:
        return readable_summaries([(run_id, run.summary) for run_id, run in self._runs.items()])

    def _delete(self, run_id: str) -> bool:
        if self._runs.pop(run_id, None) is None:
            return False
        self._deleted.add(run_id)
        return True

    def _is_awaited(self, latest: Checkpoint) -> bool:
        """Return whether a run is a child whose parent has not ended: that may still have to read how it ended."""
        if latest.origin != "subgraph" or latest.parent_run_id is None:
            return False
        parent = self._runs.get(latest.parent_run_id)
        return parent is not None and parent.tail.status not in ENDED
