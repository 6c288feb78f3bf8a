"""Drivers that break the rules of write."""

from __future__ import annotations

import dataclasses
from typing import Any

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import Tail, judge_append
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError
from support.broken_drivers.broken_driver import broken


class Judging(ReferenceCheckpointer):
    """A base: judges by a tail and a stored digest that a mutant may falsify."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        stored = self._at(checkpoint.run_id, checkpoint.step)
        digest = None if stored is None else stored.digest
        if self._judge(checkpoint, self._tail(checkpoint.run_id), digest) == "append":
            self._store.runs.setdefault(checkpoint.run_id, {})[checkpoint.step] = record

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        return judge_append(checkpoint, tail=tail, stored_digest=digest)


@broken(
    "steps.first_is_zero",
    "steps.gap_refused",
    "steps.conflict_keeps_stored",
    "steps.wrong_predecessor",
    "steps.ended_refused",
    "isolation.own_rules",
    "concurrency.one_winner_one_handle",
    "engine.takeover",
    "deletion.stays_deleted",
    "deletion.pruned_run_goes_on",
    "batch.conflict_stores_nothing",
    "batch.conflict_in_the_middle",
    "batch.refusal_leaves_a_prefix",
    "keys.refused_writes",
)
class InsertOrReplace(ReferenceCheckpointer):
    """INSERT OR REPLACE: whoever writes last rewrites history, and nothing is checked."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        self._store.runs.setdefault(checkpoint.run_id, {})[checkpoint.step] = record


@broken(
    "steps.conflict_keeps_stored",
    "isolation.own_rules",
    "concurrency.one_winner_one_handle",
    "engine.takeover",
    "batch.conflict_stores_nothing",
    "batch.conflict_in_the_middle",
    "keys.refused_writes",
)
class UpsertOfTheLatest(ReferenceCheckpointer):
    """ON CONFLICT DO UPDATE: the rules are checked, but a stored step is overwritten by another one."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        if checkpoint.step in self._records(checkpoint.run_id):
            self._records(checkpoint.run_id)[checkpoint.step] = record
        else:
            super()._append(checkpoint, record)


@broken(
    "steps.conflict_keeps_stored",
    "isolation.own_rules",
    "concurrency.one_winner_one_handle",
    "cancel.outcome_is_settled",
    "engine.takeover",
    "batch.conflict_stores_nothing",
    "batch.conflict_in_the_middle",
)
class InsertOrIgnore(ReferenceCheckpointer):
    """ON CONFLICT DO NOTHING: a write that lost is acknowledged as if it were stored."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        try:
            super()._append(checkpoint, record)
        except CheckpointConflictError as error:
            if error.reason != "step-taken":
                raise


@broken(
    "fencing.later_clock_does_not_win",
    "engine.takeover",
)
class NewerClockWins(ReferenceCheckpointer):
    """Last writer wins: of two checkpoints for a step the one with the newer timestamp stays."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        stored = self._at(checkpoint.run_id, checkpoint.step)
        if stored is not None and stored.timestamp < checkpoint.timestamp:
            self._records(checkpoint.run_id)[checkpoint.step] = record
        else:
            super()._append(checkpoint, record)


@broken(
    "steps.first_is_zero",
    "deletion.stays_deleted",
    "batch.refusal_leaves_a_prefix",
    "stateful.agrees_with_model",
)
class StartsAnywhere(Judging):
    """An unknown run may begin at any step."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        return "append" if tail is None else super()._judge(checkpoint, tail, digest)


@broken(
    "steps.gap_refused",
    "deletion.stays_deleted",
    "stateful.agrees_with_model",
)
class AllowsGaps(Judging):
    """Any later step is taken, whatever is missing before it."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        if tail is not None and checkpoint.step > tail.step + 1 and tail.status not in ENDED:
            return "append"
        return super()._judge(checkpoint, tail, digest)


@broken(
    "steps.rewrite_is_noop",
    "cancel.write",
    "cancel.outcome_is_settled",
    "cancel.reads",
    "cancel.many",
    "deletion.stays_deleted",
    "deletion.pruned_run_goes_on",
    "batch.again_is_noop",
)
class RetryIsConflict(Judging):
    """A uniqueness error is always a conflict: a retry of what is stored is refused."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        return super()._judge(checkpoint, tail, None if digest is None else "0" * 64)


@broken(
    "steps.rewrite_is_noop",
    "cancel.outcome_is_settled",
    "cancel.many",
    "deletion.stays_deleted",
    "batch.again_is_noop",
)
class RetryOfTheLatestAlone(Judging):
    """Only the latest step is recognised as stored already; an older one is a conflict."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        older = tail is not None and checkpoint.step < tail.step and digest is not None
        return super()._judge(checkpoint, tail, "0" * 64 if older else digest)


@broken(
    "steps.rewrite_after_end",
    "steps.conflict_after_end",
    "steps.gap_after_end",
    "engine.takeover",
    "deletion.stays_deleted",
    "batch.again_is_noop",
)
class StatusFirst(Judging):
    """The status of the run is looked at before the stored step: a retry of the last step fails."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        if tail is not None and tail.status in ENDED:
            raise CheckpointError(
                "the run has ended", reason="run-ended", run_id=checkpoint.run_id, step=checkpoint.step
            )
        return super()._judge(checkpoint, tail, digest)


@broken(
    "steps.gap_after_end",
    "deletion.stays_deleted",
)
class EndedBeforeGap(Judging):
    """The end of the run is checked before gaps."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        if tail is not None and tail.status in ENDED and checkpoint.step > tail.step:
            raise CheckpointError(
                "the run has ended", reason="run-ended", run_id=checkpoint.run_id, step=checkpoint.step
            )
        return super()._judge(checkpoint, tail, digest)


@broken(
    "steps.ended_before_predecessor",
    "deletion.stays_deleted",
)
class PredecessorBeforeEnd(Judging):
    """The predecessor is checked before the end of the run."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        if tail is not None and checkpoint.step == tail.step + 1:
            tail = tail if checkpoint.previous_digest == tail.digest else dataclasses.replace(tail, status="running")
        return super()._judge(checkpoint, tail, digest)


@broken(
    "steps.wrong_predecessor",
    "steps.usable_after_refusal",
    "deletion.stays_deleted",
    "batch.conflict_stores_nothing",
)
class StepNumberAlone(Judging):
    """Optimistic locking by the step number: previous_digest is not compared."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        if tail is not None and checkpoint.previous_digest is not None and checkpoint.step == tail.step + 1:
            tail = dataclasses.replace(tail, digest=checkpoint.previous_digest)
        return super()._judge(checkpoint, tail, digest)


@broken(
    "steps.ended_refused",
    "deletion.stays_deleted",
)
class EndlessRuns(Judging):
    """The status is not looked at: an ended run goes on."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        return super()._judge(checkpoint, tail and dataclasses.replace(tail, status="running"), digest)


@broken(
    "steps.others_go_on",
    "values.every_field",
    "list_runs.summaries",
    "deletion.stays_deleted",
    "deletion.prune_matches",
    "deletion.prune_keeps_what_is_needed",
    "deletion.pruned_run_goes_on",
    "stateful.agrees_with_model",
)
class FailedIsTheEnd(Judging):
    """A failed run takes no further step, so it can never be resumed."""

    def _judge(self, checkpoint: Checkpoint, tail: Tail | None, digest: str | None) -> str:
        if tail is not None and tail.status == "failed":
            tail = dataclasses.replace(tail, status="cancelled")
        return super()._judge(checkpoint, tail, digest)


@broken(
    "steps.conflict_keeps_stored",
    "steps.wrong_predecessor",
    "isolation.own_rules",
    "concurrency.one_winner_one_handle",
    "cancel.outcome_is_settled",
    "engine.takeover",
    "batch.conflict_stores_nothing",
    "batch.conflict_in_the_middle",
)
class ConflictWithoutItsClass(ReferenceCheckpointer):
    """A conflict is raised as plain CheckpointError, so no executor knows that it lost its run."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        try:
            super()._append(checkpoint, record)
        except CheckpointConflictError as error:
            raise CheckpointError(error.message, reason=error.reason, run_id=error.run_id, step=error.step) from None


@broken(
    "steps.first_is_zero",
    "steps.gap_refused",
    "batch.refusal_leaves_a_prefix",
    "stateful.agrees_with_model",
)
class GapIsConflict(ReferenceCheckpointer):
    """Whatever does not fit is a conflict, gaps too."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        try:
            super()._append(checkpoint, record)
        except CheckpointError as error:
            if error.reason != "step-gap":
                raise
            raise CheckpointConflictError(
                error.message, reason=error.reason, run_id=error.run_id, step=error.step
            ) from None


@broken("concurrency.one_winner_one_handle")
class NullInTheKey(ReferenceCheckpointer):
    """The key holds previous_digest, which is NULL at step 0: to SQL no two NULLs are equal: duplicates pile up."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        if checkpoint.step == 0 and len(self._records(checkpoint.run_id)) == 1:
            self._records(checkpoint.run_id)[0] = record
        else:
            super()._append(checkpoint, record)


@broken(
    "values.altered_refused",
)
class TrustsTheDigest(ReferenceCheckpointer):
    """Stores the fields as they are, without checking that the digest covers them; NaN becomes null."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        await self._turn()
        try:
            record = encode(checkpoint)
        except CheckpointError:
            record = b"\x01\x00" + checkpoint.model_dump_json().replace("NaN", "null").encode()
        self._append(checkpoint, record)


@broken(
    "access.outage",
    "steps.first_is_zero",
    "steps.gap_refused",
    "steps.conflict_keeps_stored",
    "steps.wrong_predecessor",
    "steps.ended_refused",
    "isolation.own_rules",
    "concurrency.one_winner_one_handle",
    "cancel.outcome_is_settled",
    "deletion.stays_deleted",
    "deletion.pruned_run_goes_on",
    "batch.conflict_stores_nothing",
)
class LockedAfterRefusal(ReferenceCheckpointer):
    """The lock of the store is not released if a write is refused; later writes give up waiting."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        store: Any = self._store
        if "locked" in store.deleted:
            raise CheckpointError("database is locked", reason="unavailable")
        try:
            super()._append(checkpoint, record)
        except CheckpointError:
            store.deleted.add("locked")
            raise


@broken(
    "access.outage",
    "steps.first_is_zero",
    "steps.gap_refused",
    "steps.conflict_keeps_stored",
    "steps.wrong_predecessor",
    "steps.ended_refused",
    "deletion.stays_deleted",
    "deletion.pruned_run_goes_on",
)
class AnonymousRefusals(ReferenceCheckpointer):
    """Refusals do not say which run and step they are about."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        try:
            super()._append(checkpoint, record)
        except CheckpointError as error:
            error.run_id = error.step = None
            raise
