"""What drivers share: the deleted rule, checks of arguments, the lifecycle, retries and group commit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from support.checkpoints import NOW, chain, following

from stargraph.checkpoint.driver import (
    MAX_STEP,
    Diagnosing,
    GroupCommit,
    Lifecycle,
    PruneRule,
    RecordBases,
    Requests,
    RetryPolicy,
    SelfTest,
    Tail,
    await_answer,
    check_bounds,
    check_prune,
    check_step,
    judge_append,
    microseconds,
    no_store_error,
)
from stargraph.checkpoint.protocol import StepRange, Task
from stargraph.errors import CheckpointError, StoreUnavailableError

# The rules of an append.


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


# Arguments.


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


# Requests that outlive their callers.


async def test_a_cancelled_caller_waits_for_the_answer_to_its_request() -> None:
    answer = asyncio.Event()
    answered: list[bool] = []

    async def request() -> None:
        await answer.wait()
        answered.append(True)

    caller = asyncio.create_task(await_answer(request()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert answered == [True]


async def test_a_cancelled_caller_does_not_wait_for_ever() -> None:
    stopped = asyncio.Event()

    async def request() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    caller = asyncio.create_task(await_answer(request(), timeout=0))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(stopped.wait(), 10)


async def test_a_request_is_answered_or_fails_as_if_it_were_awaited() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> int:
        raise KeyError("gone")

    requests = Requests()
    assert await requests.run(answer()) == 7
    with pytest.raises(KeyError):
        await requests.run(fail())
    await requests.drain()


async def test_drain_waits_for_every_request_also_one_whose_caller_is_gone() -> None:
    answer = asyncio.Event()
    done: list[int] = []

    async def request(number: int) -> None:
        await answer.wait()
        done.append(number)

    requests = Requests()
    callers = [asyncio.create_task(requests.run(request(number))) for number in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    drained = asyncio.create_task(requests.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    answer.set()
    await drained
    assert sorted(done) == [0, 1, 2]
    await asyncio.gather(*callers, return_exceptions=True)


# The lifecycle.


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


# Retries.


class Flaky:
    """Fails some times, then returns."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def transient(error: Exception) -> bool:
    return isinstance(error, OSError)


class Clock:
    """Pauses that take no time."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def test_a_request_that_succeeds_is_made_once() -> None:
    clock, request = Clock(), Flaky()
    assert await RetryPolicy(1, sleep=clock.sleep).run(request, is_transient=transient) == "done"
    assert (request.calls, clock.pauses) == (1, [])


async def test_a_transient_failure_is_repeated_with_growing_pauses() -> None:
    clock, request = Clock(), Flaky(*[OSError(number) for number in range(12)])
    policy = RetryPolicy(60, first_pause=0.5, longest_pause=4, sleep=clock.sleep)
    assert await policy.run(request, is_transient=transient) == "done"
    assert request.calls == 13
    assert len(clock.pauses) == 12
    for position, pause in enumerate(clock.pauses):
        assert 0 <= pause <= min(4, 0.5 * 2**position)
    assert max(clock.pauses) > 1  # one of twelve random pauses up to 4 s


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_another_failure_is_raised_at_once(before: int) -> None:
    clock, request = Clock(), Flaky(*[OSError()] * before, KeyError("no"))
    with pytest.raises(KeyError, match="no"):
        await RetryPolicy(60, sleep=clock.sleep).run(request, is_transient=transient)
    assert request.calls == before + 1


async def test_attempts_are_counted() -> None:
    clock, request = Clock(), Flaky(*[OSError(number) for number in range(9)])
    with pytest.raises(OSError, match="2"):
        await RetryPolicy(60, attempts=3, sleep=clock.sleep).run(request, is_transient=transient)
    assert request.calls == 3


async def test_the_deadline_ends_it_with_the_last_failure() -> None:
    request = Flaky(*[OSError(number) for number in range(1000)])
    with pytest.raises(OSError) as raised:  # noqa: PT011  # which one it is depends on the time
        await RetryPolicy(0.2, first_pause=0.02, longest_pause=0.02).run(request, is_transient=transient)
    assert int(str(raised.value)) == request.calls - 1 > 1


@pytest.mark.parametrize("cut_short", [True, False])
async def test_an_attempt_is_cut_short_at_the_deadline(cut_short: bool) -> None:
    calls = 0

    async def hang() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("first")
        await asyncio.sleep(0.5)
        return "late"

    policy = RetryPolicy(0.2, first_pause=0.001, cut_short=cut_short)
    if not cut_short:
        assert await policy.run(hang, is_transient=transient) == "late"
        return
    with pytest.raises(OSError, match="first"):
        await policy.run(hang, is_transient=transient)


async def test_a_cancelled_caller_is_not_repeated() -> None:
    request = Flaky(*[OSError()] * 5)
    task = asyncio.create_task(RetryPolicy(60, first_pause=50).run(request, is_transient=transient))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert request.calls == 1


# Group commit.


class Disk:
    """Commits batches when it is told to; an item that begins with "bad" cannot be stored."""

    def __init__(self, **options: Any) -> None:
        self.batches: list[list[str]] = []
        self.stored: list[str] = []
        self.withdrawn: list[str] = []
        self.may_go = asyncio.Event()
        self.group: GroupCommit[str, str] = GroupCommit(
            self.commit, **{"size": len, "withdraw": self.withdrawn.append, **options}
        )

    async def commit(self, batch: Sequence[str]) -> list[str | BaseException]:
        self.batches.append(list(batch))
        await self.may_go.wait()
        if any(item.startswith("bad") for item in batch):
            raise ValueError(f"cannot store {batch[0] if len(batch) == 1 else 'them'}")
        self.stored += batch
        return [KeyError(item) if item.startswith("refused") else item.upper() for item in batch]

    async def submit(self, items: Sequence[str]) -> list[str | BaseException]:
        tasks = [asyncio.create_task(self.group.submit(item)) for item in items]
        for _ in range(5):
            await asyncio.sleep(0)
        self.may_go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lone_writer_does_not_wait_for_others() -> None:
    disk = Disk()
    disk.may_go.set()
    assert await disk.group.submit("a") == "A"
    assert disk.batches == [["a"]]


async def test_writers_of_one_turn_share_a_batch() -> None:
    disk = Disk()
    assert await disk.submit(list("abcdefgh")) == list("ABCDEFGH")
    assert disk.batches[:2] == [["a"], ["b"]]
    assert sorted(map(len, disk.batches)) == [1, 1, 6]
    assert disk.stored == list("abcdefgh")


async def test_many_writers_make_two_batches_that_are_under_way_together() -> None:
    under_way: list[int] = []
    together: list[list[int]] = []

    async def commit(batch: Sequence[str]) -> list[str]:
        under_way.append(len(batch))
        together.append(list(under_way))
        await asyncio.sleep(0.005)
        under_way.remove(len(batch))
        return list(batch)

    group: GroupCommit[str, str] = GroupCommit(commit, size=len)

    async def write(writer: int) -> None:
        for number in range(5):
            await group.submit(f"{writer}-{number}")

    await asyncio.gather(*map(write, range(40)))
    assert max(map(len, together)) == 2
    assert max(map(min, filter(lambda sizes: len(sizes) == 2, together))) >= 16


@pytest.mark.parametrize(
    ("options", "largest"), [({"most_items": 3}, 3), ({"most_bytes": 4}, 2), ({"most_bytes": 1}, 1)]
)
async def test_a_batch_has_its_bounds(options: dict[str, int], largest: int) -> None:
    disk = Disk(**options)
    items = [f"{number:02}" for number in range(14)]
    assert await disk.submit(items) == items
    assert max(map(len, disk.batches)) == largest


async def test_a_batch_is_in_the_order_of_its_keys() -> None:
    disk = Disk(key=lambda item: item[::-1])
    await disk.submit(["x", "y", "a3", "b2", "c1"])
    assert disk.batches[-1] == ["c1", "b2", "a3"]


async def test_one_at_a_time_if_so_asked() -> None:
    disk = Disk(batches=1)
    assert await disk.submit(list("abcd")) == list("ABCD")
    assert disk.batches == [["a"], ["b", "c", "d"]]


async def test_an_outcome_that_is_an_exception_is_raised_to_its_caller_alone() -> None:
    disk = Disk()
    outcomes = await disk.submit(["refused-0", "a", "b", "refused-1", "c"])
    assert [type(outcome) for outcome in outcomes] == [KeyError, str, str, KeyError, str]


async def test_what_cannot_be_stored_fails_alone() -> None:
    disk = Disk()
    outcomes = await disk.submit(["a", "b", "c", "bad", "d"])
    assert [str(outcome) for outcome in outcomes] == ["A", "B", "C", "cannot store bad", "D"]
    assert sorted(disk.stored) == list("abcd")


async def test_a_failure_of_the_store_is_everybodys() -> None:
    disk = Disk(together=lambda error: isinstance(error, ValueError))
    outcomes = await disk.submit(["a", "b", "c", "bad", "d"])
    assert [str(outcome) for outcome in outcomes] == ["A", "B", *["cannot store them"] * 3]
    assert disk.stored == ["a", "b"]


async def test_a_writer_that_is_cancelled_while_it_waits_is_not_committed() -> None:
    disk = Disk()
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "abcd"]
    for _ in range(3):
        await asyncio.sleep(0)
    tasks[3].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[3]
    disk.may_go.set()
    assert await asyncio.gather(*tasks[:3]) == ["A", "B", "C"]
    assert disk.stored == ["a", "b", "c"]
    assert disk.withdrawn == []


async def test_a_writer_that_is_cancelled_while_it_is_committed_waits_for_the_end() -> None:
    disk = Disk(batches=2)
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "01bc"]
    for _ in range(3):
        await asyncio.sleep(0)
    tasks[0].cancel()  # its batch ends, and makes room for the next one
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    tasks = tasks[1:]
    while len(disk.batches) < 3:
        await asyncio.sleep(0)
    assert disk.batches[-1] == ["b", "c"]
    tasks[1].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not tasks[1].done()
    assert disk.withdrawn == ["b"]
    disk.may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert await tasks[2] == "C"
    assert disk.stored == ["1", "b", "c"]


async def test_an_item_that_waits_too_long_is_given_up() -> None:
    disk = Disk(batches=1, timeout=0.05)
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "ab"]
    await asyncio.sleep(0.1)
    disk.may_go.set()
    assert await tasks[0] == "A"
    with pytest.raises(TimeoutError):
        await tasks[1]
    assert disk.stored == ["a"]


async def test_drain_waits_for_what_was_submitted() -> None:
    disk = Disk(batches=1)
    tasks = [asyncio.create_task(disk.group.submit(item)) for item in "abc"]
    await asyncio.sleep(0)
    disk.may_go.set()
    await tasks[0]
    await disk.group.drain()
    assert disk.stored == ["a", "b", "c"]
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


@pytest.mark.parametrize("seed", range(5))
async def test_every_writer_gets_its_own_outcome(seed: int) -> None:
    import random

    chance = random.Random(seed)
    stored: list[str] = []

    async def commit(batch: Sequence[str]) -> list[str | BaseException]:
        await asyncio.sleep(chance.random() / 1000)
        stored.extend(batch)
        return list(batch)

    group: GroupCommit[str, str] = GroupCommit(commit, size=len, most_items=7)

    async def write(writer: int) -> None:
        for number in range(20):
            item = f"{writer}-{number}"
            task = asyncio.create_task(group.submit(item))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() / 1000)
                task.cancel()
                await asyncio.wait([task])
            else:
                assert await task == item
                assert item in stored

    await asyncio.gather(*map(write, range(12)))
    assert len(stored) == len(set(stored))


# Capabilities.


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
