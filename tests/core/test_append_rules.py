"""The rules that every driver decides by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import NOW, OTHER_EXECUTOR, chain, following, genesis

from stargraph.checkpoint.driver import (
    Tail,
    check_batch,
    check_instant,
    check_listing,
    judge_append,
    not_bootstrapped_error,
    run_deleted_error,
)
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Status
from stargraph.errors import CheckpointConflictError, CheckpointError

LOG = chain(6)
"""Steps 0 to 5 of a run."""

RIVAL = following(LOG[3], executor_id=OTHER_EXECUTOR)
"""Another step 4."""


def tail_at(step: int, *, status: Status = "running", floor: int = 0, digest: str | None = None) -> Tail:
    return Tail(step=step, digest=digest or LOG[step].digest, status=status, floor=floor)


# The contract's order: a row gives what several rules would refuse to the first of them.
TABLE: list[tuple[str, Checkpoint, Tail | None, str | None, str]] = [
    ("step 0 of an unknown run", LOG[0], None, None, "append"),
    ("the next step", LOG[4], tail_at(3), None, "append"),
    ("the next step after a failure", LOG[4], tail_at(3, status="failed"), None, "append"),
    ("the next step after a pause", LOG[4], tail_at(3, status="paused"), None, "append"),
    ("the next step of a pruned run", LOG[4], tail_at(3, floor=3), None, "append"),
    ("the latest step again", LOG[3], tail_at(3), LOG[3].digest, "stored"),
    ("an old step again", LOG[1], tail_at(5), LOG[1].digest, "stored"),
    ("step 0 again", LOG[0], tail_at(5), LOG[0].digest, "stored"),
    ("an old step again, the run ended", LOG[1], tail_at(5, status="done"), LOG[1].digest, "stored"),
    ("a step again that a prune kept below the floor", LOG[1], tail_at(5, floor=4), LOG[1].digest, "stored"),
    ("a taken step", RIVAL, tail_at(4), LOG[4].digest, "step-taken"),
    ("a taken step, the run ended", RIVAL, tail_at(4, status="done"), LOG[4].digest, "step-taken"),
    ("a taken step below the floor", RIVAL, tail_at(5, floor=5), LOG[4].digest, "step-taken"),
    ("a taken step 0", genesis(graph_id="other"), tail_at(5), LOG[0].digest, "step-taken"),
    ("a later step of an unknown run", LOG[1], None, None, "step-gap"),
    ("a step that was pruned", LOG[2], tail_at(5, floor=3), None, "pruned"),
    ("step 0, pruned", LOG[0], tail_at(5, floor=1), None, "pruned"),
    ("a pruned step of an ended run", LOG[2], tail_at(5, floor=3, status="done"), None, "pruned"),
    ("a step too far", LOG[5], tail_at(3), None, "step-gap"),
    ("a step too far after the end", LOG[5], tail_at(3, status="done"), None, "step-gap"),
    ("a step too far on another chain", LOG[5], tail_at(3, digest=RIVAL.digest), None, "step-gap"),
    ("a missing step above the floor", LOG[4], tail_at(5, floor=3), None, "step-gap"),
    ("the step at the floor, missing", LOG[3], tail_at(5, floor=3), None, "step-gap"),
    ("a step after done", LOG[4], tail_at(3, status="done"), None, "run-ended"),
    ("a step after cancelled", LOG[4], tail_at(3, status="cancelled"), None, "run-ended"),
    ("a step after done on another chain", LOG[5], tail_at(4, status="done", digest=RIVAL.digest), None, "run-ended"),
    ("a step on another chain", LOG[5], tail_at(4, digest=RIVAL.digest), None, "wrong-predecessor"),
]


@pytest.mark.parametrize(
    ("checkpoint", "tail", "stored_digest", "verdict"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_rules_in_their_order(
    checkpoint: Checkpoint, tail: Tail | None, stored_digest: str | None, verdict: str
) -> None:
    if verdict in {"append", "stored"}:
        assert judge_append(checkpoint, tail=tail, stored_digest=stored_digest) == verdict
        return
    with pytest.raises(CheckpointError) as raised:
        judge_append(checkpoint, tail=tail, stored_digest=stored_digest)
    error = raised.value
    assert error.reason == verdict
    assert isinstance(error, CheckpointConflictError) == (verdict in {"step-taken", "wrong-predecessor"})
    assert (error.run_id, error.step) == ("run-1", checkpoint.step)
    assert error.message.startswith(f"run 'run-1', step {checkpoint.step}: ")
    assert error.hint


@given(st.permutations(range(6)), st.data())
def test_whatever_order_writes_arrive_in_the_log_stays_one_chain(order: list[int], data: st.DataObject) -> None:
    """Two executors and their retries in any order: what is appended is always the chain of one of them."""
    theirs = [LOG[0], *_other_branch()]
    attempts = [(LOG, step) for step in order] + [(theirs, step) for step in data.draw(st.permutations(range(6)))]
    stored: list[Checkpoint] = []
    for log, step in data.draw(st.permutations(attempts * 2)):
        checkpoint = log[step]
        tail = Tail(stored[-1].step, stored[-1].digest, stored[-1].status) if stored else None
        at_step = stored[step].digest if step < len(stored) else None
        try:
            verdict = judge_append(checkpoint, tail=tail, stored_digest=at_step)
        except CheckpointError:
            continue
        if verdict == "append":
            stored.append(checkpoint)
        assert stored[step] == checkpoint
    assert stored in (LOG[: len(stored)], theirs[: len(stored)])
    assert [step.step for step in stored] == list(range(len(stored)))


def _other_branch() -> list[Checkpoint]:
    branch = [following(LOG[0], executor_id=OTHER_EXECUTOR)]
    while len(branch) < 5:
        branch.append(following(branch[-1]))
    return branch


def test_what_ends_a_run() -> None:
    assert frozenset({"done", "cancelled", "moved"}) == ENDED


class TestBatches:
    def test_consecutive_steps_pass(self) -> None:
        for batch in ([], LOG[:1], LOG[3:4], LOG, LOG[2:5]):
            check_batch(batch)

    @pytest.mark.parametrize(
        "batch",
        [
            [LOG[0], LOG[2]],
            [LOG[1], LOG[0]],
            [LOG[1], LOG[1]],
            [LOG[3], RIVAL, LOG[5]],
            [LOG[0], chain(2, run_id="run-2")[1]],
            [LOG[0], chain(2, graph_id="other")[1]],
        ],
    )
    def test_others_are_refused(self, batch: list[Checkpoint]) -> None:
        with pytest.raises(CheckpointError, match="does not follow") as raised:
            check_batch(batch)
        assert raised.value.reason == "invalid-batch"
        assert raised.value.step == batch[-1].step or raised.value.step == 5

    @pytest.mark.parametrize("status", ["done", "cancelled"])
    def test_nothing_follows_the_end(self, status: Status) -> None:
        last = following(LOG[1], status=status)
        check_batch([LOG[1], last])
        with pytest.raises(CheckpointError, match=f"the run is {status} since step 2") as raised:
            check_batch([LOG[1], last, following(last, status="running")])
        assert (raised.value.reason, raised.value.step) == ("run-ended", 3)


class TestListings:
    @pytest.mark.parametrize("limit", [0, 1, 100, 10**9])
    def test_limits(self, limit: int) -> None:
        assert check_listing(None, limit) is None

    @pytest.mark.parametrize("limit", [-1, True, False, 1.0, "1", None])
    def test_bad_limits(self, limit: Any) -> None:
        with pytest.raises(ValueError, match="limit is"):
            check_listing(None, limit)

    def test_instants_come_back_in_utc(self) -> None:
        there = NOW.astimezone(timezone(timedelta(hours=-7)))
        since = check_listing(there, 1)
        assert since == NOW
        assert since is not None
        assert since.tzinfo is UTC

    @pytest.mark.parametrize(
        "moment",
        [
            NOW.replace(tzinfo=None),
            NOW.date(),
            NOW.isoformat(),
            NOW.timestamp(),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        ],
        ids=repr,
    )
    def test_bad_instants(self, moment: Any) -> None:
        with pytest.raises(ValueError, match=r"give a datetime with its offset|outside the years"):
            check_instant(moment, "older_than")
        with pytest.raises(ValueError, match=r"give a datetime with its offset|outside the years"):
            check_listing(moment, 1)


def test_the_other_refusals() -> None:
    assert not_bootstrapped_error().reason == "not-bootstrapped"
    assert "bootstrap()" in str(not_bootstrapped_error())
    deleted = run_deleted_error("run-1", 7)
    assert (deleted.reason, deleted.run_id, deleted.step) == ("run-deleted", "run-1", 7)


def test_an_iterator_of_steps_is_read_once_and_kept() -> None:
    assert check_batch(iter(LOG[:3])) == tuple(LOG[:3])
