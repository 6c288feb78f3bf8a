"""What else drivers share: the deleted rule, checks of arguments, the lifecycle, and capabilities of their own."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from support.checkpoints import NOW, chain, following

from stargraph.checkpoint.driver import (
    MAX_STEP,
    Diagnosing,
    Lifecycle,
    PruneRule,
    RecordBases,
    SelfTest,
    Tail,
    check_bounds,
    check_prune,
    check_step,
    judge_append,
    microseconds,
    no_store_error,
)
from stargraph.checkpoint.protocol import StepRange, Task
from stargraph.errors import CheckpointError, StoreUnavailableError


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_deleted_run_takes_nothing_not_even_what_it_held(is_stored: bool) -> None:
    first, second = chain(2)
    with pytest.raises(CheckpointError) as raised:
        judge_append(
            second,
            tail=Tail(0, first.digest, "done"),
            stored_digest=second.digest if is_stored else None,
            deleted=True,
        )
    assert (raised.value.reason, raised.value.run_id, raised.value.step) == ("run-deleted", "run-1", 1)


@pytest.mark.parametrize(("step", "can_be"), [(0, True), (MAX_STEP, True), (-1, False), (MAX_STEP + 1, False)])
def test_a_step_is_in_range(step: int, can_be: bool) -> None:
    assert check_step(step) is can_be


@pytest.mark.parametrize("step", [True, False, 1.0, "1", None])
def test_what_is_no_integer_is_no_step(step: Any) -> None:
    with pytest.raises(ValueError, match="step is"):
        check_step(step)
    if step is not None:
        for bounds in ((step, None), (None, step)):
            with pytest.raises(ValueError, match="_step is"):
                check_bounds(*bounds)


def test_bounds_are_those_of_a_run() -> None:
    assert check_bounds(None, None) == (0, MAX_STEP)
    assert check_bounds(-5, 10**30) == (0, MAX_STEP)
    assert check_bounds(3, -1) == (3, -1)


def test_a_prune_is_checked() -> None:
    rule = check_prune(
        older_than=NOW.astimezone(timezone(timedelta(hours=2))), statuses=["done", "done"], keep_last=0, dry_run=True
    )
    assert rule.older_than == NOW
    assert rule.older_than.utcoffset() == timedelta(0)
    assert (rule.statuses, rule.keep_last, rule.dry_run) == (frozenset(["done"]), 0, True)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"older_than": NOW.replace(tzinfo=None)}, "older_than"),
        ({"statuses": "done"}, "statuses is 'done'"),
        ({"statuses": ["finished"]}, "statuses holds 'finished'"),
        ({"keep_last": -1}, "keep_last is -1"),
        ({"keep_last": True}, "keep_last is True"),
        ({"keep_last": 1.0}, "keep_last is 1.0"),
        ({"dry_run": "yes"}, "dry_run is 'yes'"),
        ({"dry_run": 0}, "dry_run is 0"),
    ],
)
def test_a_bad_prune_is_refused(wrong: dict[str, Any], named: str) -> None:
    right: dict[str, Any] = {"older_than": NOW, "statuses": ("done",), "keep_last": 1, "dry_run": False}
    with pytest.raises(ValueError, match=named):
        check_prune(**right | wrong)


def _rule(**given: Any) -> PruneRule:
    usual: dict[str, Any] = {"older_than": NOW, "statuses": ("done",), "keep_last": 1, "dry_run": False}
    return check_prune(**usual | given)


def test_a_prune_selects_by_the_time_and_the_status_of_the_latest_step() -> None:
    *_, latest = chain(3)
    after = latest.timestamp + timedelta(microseconds=1)
    assert _rule(statuses=("running",), older_than=after).selects(latest)
    assert not _rule(statuses=("running",), older_than=latest.timestamp).selects(latest)
    assert not _rule(older_than=after).selects(latest)
    assert _rule(statuses=("running",), older_than=after, run_id="run-1").selects(latest)
    assert not _rule(statuses=("running",), older_than=after, run_id="run-2").selects(latest)


def test_a_prune_keeps_the_last_steps_and_what_the_run_needs() -> None:
    *_, latest = chain(9)
    task = Task(id="t", node="a", since_step=1, calls=(StepRange(first=3, last=4),))
    needing = following(latest, frontier=(task,))
    ended = following(latest, status="done")
    assert _rule(keep_last=2).plan(needing, range(10)) == ([0, 2, 5, 6, 7], 8)
    assert _rule(keep_last=2).plan(ended, range(10)) == ([0, 1, 2, 3, 4, 5, 6, 7], 8)
    assert _rule(keep_last=2).plan(needing, [1, 3, 4, 8, 9]) == ([], 0)
    assert _rule(keep_last=0).plan(needing, range(10)).removed == list(range(10))
    assert _rule(keep_last=6).plan(needing, range(10)) == ([0, 2], 3)
    assert _rule(keep_last=99).plan(needing, range(10)) == ([], 0)


def test_instants_are_numbers_that_sort_as_they_do() -> None:
    assert microseconds(datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == 0
    assert microseconds(datetime(1, 1, 1, tzinfo=UTC)) == -62135596800000000
    assert microseconds(datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)) == 253402300799999999


def reason_of(lifecycle: Lifecycle) -> str | None:
    try:
        lifecycle.ensure_open()
    except CheckpointError as error:
        return error.reason
    return None


def test_a_handle_is_new_then_open_then_closed_then_open_again() -> None:
    lifecycle = Lifecycle()
    seen = [reason_of(lifecycle), lifecycle.close(), reason_of(lifecycle)]
    lifecycle.opened()
    seen += [reason_of(lifecycle), lifecycle.close(), lifecycle.close(), reason_of(lifecycle)]
    lifecycle.opened()
    seen += [reason_of(lifecycle)]
    assert seen == ["not-bootstrapped", False, "not-bootstrapped", None, True, False, "closed", None]


def test_a_read_only_handle_refuses_changes_once_it_is_open() -> None:
    lifecycle = Lifecycle(read_only=True)
    for expected in ("not-bootstrapped", "read-only"):
        with pytest.raises(CheckpointError) as raised:
            lifecycle.ensure_writable("prune")
        assert raised.value.reason == expected
        lifecycle.opened()
    lifecycle.ensure_open()
    writable = Lifecycle()
    writable.opened()
    writable.ensure_writable("prune")


def test_a_forked_child_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle = Lifecycle()
    lifecycle.ensure_own_process()
    lifecycle.opened()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for use in (lifecycle.ensure_open, lifecycle.ensure_own_process, lifecycle.close):
        with pytest.raises(StoreUnavailableError) as raised:
            use()
        assert raised.value.reason == "forked"


def test_a_store_that_is_not_there_is_named() -> None:
    assert no_store_error("/tmp/x.sqlite").reason == "no-store"
    assert str(no_store_error("/tmp/x.sqlite")).startswith("/tmp/x.sqlite: there is no store")


def test_what_a_driver_adds_is_reported_by_its_methods() -> None:
    class Plain:
        pass

    class Able:
        @staticmethod
        def diagnose() -> list[str]:
            return []

        async def examine(self) -> list[str]:
            return []

        async def decoded_from(self, run_id: str, step: int) -> tuple[int, ...]:
            return ()

    assert isinstance(Able, Diagnosing)  # it is the class that is asked
    for protocol in (SelfTest, RecordBases):
        assert isinstance(Able(), protocol)
        assert not isinstance(Plain(), protocol)
    assert not isinstance(Plain, Diagnosing)


def test_the_next_step_is_still_appended() -> None:
    first = chain(1)[0]
    assert judge_append(following(first), tail=Tail(0, first.digest, "running"), stored_digest=None) == "append"
