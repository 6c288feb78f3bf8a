"""Requests to a store: repeated after a transient failure, and awaited although the caller was cancelled."""

from __future__ import annotations

import asyncio
import random

import pytest

from stargraph.checkpoint.driver import Requests, RetryPolicy, await_answer
from stargraph.runtime._cancellation import InPlace


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
    await asyncio.wait_for(stopped.wait(), 60)


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
    random.seed(1)  # where the pauses are drawn from
    assert await policy.run(request, is_transient=transient) == "done"
    assert request.calls == 13
    assert len(clock.pauses) == 12
    for position, pause in enumerate(clock.pauses):
        assert 0 <= pause <= min(4, 0.5 * 2**position)
    assert max(clock.pauses) > 1


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


async def test_the_deadline_cuts_an_attempt_short_within_a_write_that_takes_no_task_of_its_own() -> None:
    attempts = 0

    async def request() -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            await asyncio.sleep(30)
        raise OSError("the first one")

    policy = RetryPolicy(0.1, first_pause=0.001)
    async with asyncio.timeout(60):
        while attempts < 2:  # a busy machine may leave no time for the second one
            attempts = 0
            with pytest.raises(OSError, match="the first one"):
                await InPlace(policy.run(request, is_transient=transient))
    assert attempts == 2


async def test_the_deadline_ends_it_with_the_last_failure() -> None:
    calls = 0
    while calls < 3:  # a busy machine may leave no time for so many
        request = Flaky(*[OSError(number) for number in range(1000)])
        with pytest.raises(OSError) as raised:  # noqa: PT011  # which one it is depends on the time
            await RetryPolicy(0.2, first_pause=0.02, longest_pause=0.02).run(request, is_transient=transient)
        calls = request.calls
        assert int(str(raised.value)) == calls - 1


@pytest.mark.parametrize("cut_short", [True, False])
async def test_an_attempt_is_cut_short_at_the_deadline(cut_short: bool) -> None:
    calls = 0

    async def hang() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("first")
        await asyncio.sleep(0.5)  # longer than the policy allows
        return "late"

    policy = RetryPolicy(0.1, first_pause=0.001, cut_short=cut_short)
    while calls < 2:  # a busy machine may leave no time for the second one
        calls = 0
        (outcome,) = await asyncio.gather(policy.run(hang, is_transient=transient), return_exceptions=True)
    assert str(outcome) == ("first" if cut_short else "late")


async def test_a_cancelled_caller_is_not_repeated() -> None:
    request, pausing = Flaky(*[OSError()] * 5), asyncio.Event()

    async def pause(seconds: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(RetryPolicy(60, sleep=pause).run(request, is_transient=transient))
    await pausing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert request.calls == 1
