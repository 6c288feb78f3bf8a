"""Each fault at each request of a run: what is lost on the way is never lost from the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from support.records import STARTED_AT, chain, first, following
from support.s3.proxy import Fault, FaultProxy, Seen
from support.s3.stores import Stores

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3 import S3Checkpointer, _io_thread, _objects
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointCorruptedError,
    CheckpointError,
    StoreUnavailableError,
)

pytestmark = pytest.mark.thorough

OF_ONE_REQUEST: list[Fault] = [
    "answer lost",
    "dropped",
    "reset in the body",
    "500",
    "500 after it was carried out",
    "503",
    "409",
    "slow",
    "twice",
    "truncated",
]


async def _live(store: S3Checkpointer, run: list[Checkpoint]) -> None:
    """Do everything that a client does with a run, and check what it is told."""
    run_id = run[0].run_id
    await store.bootstrap()
    for checkpoint in run:
        await store.write(checkpoint)
    assert await store.read_latest(run_id) == run[-1]
    assert await store.read_at_step(run_id, 0) == run[0]
    assert [checkpoint async for checkpoint in store.history(run_id)] == run
    summaries = await store.list_runs(since=run[0].started_at)
    assert [(summary.run_id, summary.status) for summary in summaries] == [(run_id, run[-1].status)]


@pytest.mark.parametrize("fault", OF_ONE_REQUEST)
async def test_a_fault_of_one_request_is_not_felt(watched: Stores, proxy: FaultProxy, fault: Fault) -> None:
    proxy.slow_seconds = 0.5
    store = watched.handle(read_timeout=0.25 if fault == "slow" else 20.0)
    await _live(store, chain("begun", 2, end="done"))
    for number in count():
        # Each run starts later than the one before, so that it is alone in the list.
        run = chain(f"run-{number}", 2, end="done", started_at=STARTED_AT + timedelta(hours=number + 1))
        proxy.reset()
        proxy.fail_once(number, fault)
        await _live(store, run)
        if number >= len(proxy.requests):
            break
    assert number > 10


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["500", "409", "dropped", "answer lost", "truncated"])
async def test_a_fault_without_end_is_an_error_in_time(watched: Stores, proxy: FaultProxy, fault: Fault) -> None:
    """From each request on, nothing works; when it does again, the same calls complete the run."""
    store = watched.handle()
    for number in count():
        # Each run starts later than the one before, so that it is alone in the list.
        run = chain(f"run-{number}", 2, end="done", started_at=STARTED_AT + timedelta(hours=number + 1))
        proxy.reset()
        proxy.fail_from(number, fault)
        with suppress(StoreUnavailableError, CheckpointCorruptedError):
            await _live(store, run)
        failed = len(proxy.requests) > number
        proxy.reset()
        await _live(store, run)
        if not failed:
            break
    assert number > 10


@pytest.mark.usefixtures("impatient")
async def test_a_write_whose_answer_never_comes_is_settled_by_the_next(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    run = chain("run", 3, end="running")
    await store.write(run[0])
    proxy.fail_when(lambda request: request.method == "PUT", "answer lost")
    with pytest.raises(StoreUnavailableError):
        await store.write(run[1])
    proxy.reset()
    # It was stored, and the handle finds that out by reading before it goes on.
    await store.write(run[2])
    assert proxy.kinds() == ["LIST", "GET", "PUT"]
    assert await store.read_at_step("run", 1) == run[1]


@pytest.mark.usefixtures("impatient")
async def test_another_write_after_an_unknown_outcome_is_refused_if_the_first_was_stored(
    watched: Stores, proxy: FaultProxy
) -> None:
    store = await watched.open()
    begun = first("run")
    await store.write(begun)
    proxy.fail_when(lambda request: request.method == "PUT", "answer lost")
    stored = following(begun)
    with pytest.raises(StoreUnavailableError):
        await store.write(stored)
    proxy.reset()
    with pytest.raises(CheckpointConflictError) as caught:
        await store.write(following(begun, executor_id="f" * 32))
    assert caught.value.reason == "step-taken"
    await store.write(stored)


async def late_write(watched: Stores, proxy: FaultProxy) -> tuple[S3Checkpointer, Checkpoint, Checkpoint]:
    """Return a handle that gave up a write which is still on its way, what it had stored, and what it wrote."""
    old = await watched.open()
    begun = first("run")
    await old.write(begun)
    proxy.fail_when(lambda request: request.method == "PUT", "late")
    late = following(begun)
    with pytest.raises(StoreUnavailableError):
        await old.write(late)
    proxy.reset()
    return old, begun, late


@pytest.mark.usefixtures("impatient")
async def test_an_old_write_that_arrives_after_a_takeover_changes_nothing(watched: Stores, proxy: FaultProxy) -> None:
    old, begun, late = await late_write(watched, proxy)

    new = await watched.open()
    taken = following(begun, executor_id="e" * 32)
    assert await new.read_latest("run") == begun
    await new.write(taken)
    after = following(taken)
    await new.write(after)

    assert set(await proxy.arrive()) == {412}
    assert [checkpoint async for checkpoint in new.history("run")] == [begun, taken, after]
    for _ in range(2):
        with pytest.raises(CheckpointConflictError):
            await old.write(late)


@pytest.mark.usefixtures("impatient")
async def test_an_old_write_that_arrives_before_the_takeover_wins(watched: Stores, proxy: FaultProxy) -> None:
    old, begun, late = await late_write(watched, proxy)
    new = await watched.open()
    assert await new.read_latest("run") == begun
    assert 200 in await proxy.arrive()
    with pytest.raises(CheckpointConflictError):
        await new.write(following(begun, executor_id="e" * 32))
    assert await new.read_latest("run") == late
    await old.write(late)


@pytest.mark.usefixtures("impatient")
async def test_each_write_of_a_run_that_arrives_after_a_takeover_changes_nothing(
    watched: Stores, proxy: FaultProxy
) -> None:
    for number in range(5):
        run = chain(f"run-{number}", 4, end="done", started_at=STARTED_AT + timedelta(hours=number))
        old, new = await watched.open(), await watched.open()
        proxy.fail_from(number, "late")
        acknowledged = []
        with suppress(StoreUnavailableError):
            for checkpoint in run:
                await old.write(checkpoint)
                acknowledged.append(checkpoint)
        proxy.reset()
        latest = await new.read_latest(run[0].run_id)
        assert latest == (acknowledged[-1] if acknowledged else None)
        if latest is None or latest.status == "running":
            taken = first(run[0].run_id) if latest is None else following(latest, executor_id="e" * 32)
            await new.write(taken)
            acknowledged.append(taken)
        assert len(await proxy.arrive()) > 0
        assert [checkpoint async for checkpoint in new.history(run[0].run_id)] == acknowledged
        shown = await new.list_runs()
        assert [found.last_step for found in shown if found.run_id == run[0].run_id] == [len(acknowledged) - 1]


async def test_a_stale_listing_never_hides_what_a_handle_wrote(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    run = chain("run", 3, end="done")
    proxy.fail_when(lambda request: request.kind == "LIST", "stale listing")
    for checkpoint in run:
        await store.write(checkpoint)
        assert await store.read_latest("run") == checkpoint


async def test_a_writer_that_saw_a_stale_listing_loses(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    begun = first("run")
    await store.write(begun)
    other = await watched.open()
    assert await other.read_latest("run") == begun
    second = following(begun)
    await store.write(second)
    third = await watched.open()
    proxy.fail_when(lambda request: request.kind == "LIST", "stale listing")
    assert await third.read_latest("run") == begun
    with pytest.raises(CheckpointConflictError):
        await third.write(following(begun, executor_id="d" * 32))
    proxy.reset()
    assert await third.read_latest("run") == second


@pytest.mark.usefixtures("impatient")
async def test_a_crash_between_the_index_entry_and_the_first_step(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    lost, kept = first("lost"), first("kept", started_at=STARTED_AT + timedelta(seconds=1))
    proxy.fail_when(lambda request: request.method == "PUT" and "/log/lost/" in request.path, "dropped")
    with pytest.raises(StoreUnavailableError):
        await store.write(lost)
    proxy.reset()
    await store.write(kept)
    assert [summary.run_id for summary in await store.list_runs()] == ["kept"]
    assert await store.read_latest("lost") is None
    await store.write(lost)
    assert [summary.run_id for summary in await store.list_runs()] == ["kept", "lost"]


async def test_a_start_that_lost_the_race_leaves_an_entry_that_nobody_sees(stores: Stores) -> None:
    store, other = await stores.open(), await stores.open()
    winner, loser = first("run", started_at=STARTED_AT), first("run", started_at=STARTED_AT + timedelta(hours=1))
    await store.write(winner)
    with pytest.raises(CheckpointConflictError):
        await other.write(loser)
    assert [summary.started_at for summary in await other.list_runs()] == [STARTED_AT]


async def _cancelled_at(
    proxy: FaultProxy, number: int, fault: Fault, action: Callable[[], Awaitable[Any]], *, answered: bool = True
) -> None:
    """Cancel an action while a request of it waits for its answer, which comes after that or never."""
    seen = asyncio.Event()

    def fault_of(index: int, request: Seen) -> Fault | None:
        if index == number:
            seen.set()
            return fault
        return None

    proxy.reset()
    proxy.fault_of = fault_of
    proxy.gate = gate = asyncio.Event()
    task = asyncio.ensure_future(action())
    await seen.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task], timeout=0.3)
    if answered and not task.done():
        gate.set()  # whoever does not wait for the answer goes on without it
    with pytest.raises(asyncio.CancelledError):
        await task
    proxy.reset()
    proxy.gate = None


def _wait_for_answers(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set how long a call that was cancelled waits for the answer to what it has sent."""
    for module in (_io_thread, _objects):
        monkeypatch.setattr(module, "CANCEL_SECONDS", seconds)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_cancelled_write_stores_all_or_nothing(watched: Stores, proxy: FaultProxy, number: int) -> None:
    store = await watched.open()
    begun = first("run")
    await _cancelled_at(proxy, number, "slow", lambda: store.write(begun))
    assert await store.read_latest("run") in (None, begun)
    await store.write(begun)
    second = following(begun)
    await _cancelled_at(proxy, 0, "slow", lambda: store.write(second))
    await store.write(second)
    assert [checkpoint async for checkpoint in store.history("run")] == [begun, second]


async def test_a_cancelled_write_is_not_carried_out_later(
    watched: Stores, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_answers(monkeypatch, 60.0)
    store, other = await watched.open(), await watched.open()
    begun = first("run")
    await store.write(begun)
    second = following(begun)
    await _cancelled_at(proxy, 0, "delayed", lambda: store.write(second))
    assert await other.read_latest("run") == second


async def test_a_write_that_is_cancelled_on_a_silent_network_ends(
    watched: Stores, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_answers(monkeypatch, 0.1)
    store = await watched.open()
    begun = first("run")
    await store.write(begun)
    second = following(begun)
    await _cancelled_at(proxy, 0, "delayed", lambda: store.write(second), answered=False)
    await store.write(second)
    assert await store.read_latest("run") == second


async def test_a_cancelled_deletion_can_be_done_again(
    watched: Stores, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_answers(monkeypatch, 300.0)  # a claim that is given up may be carried out later, or never
    for number in range(2, 8):
        store = await watched.open()
        run = chain(f"run-{number}", 3, end="done")
        for checkpoint in run:
            await store.write(checkpoint)
        await _cancelled_at(proxy, number, "slow", partial(store.delete_run, run[0].run_id))
        # From the claim on, which is the third request, it reads as unknown.
        assert await store.read_latest(run[0].run_id) == (run[-1] if number == 2 else None)
        await store.delete_run(run[0].run_id)
        assert await store.list_runs() == []
        assert [await store.read_at_step(run[0].run_id, step) for step in range(4)] == [None] * 4
        with pytest.raises(CheckpointError) as caught:
            await store.write(first(run[0].run_id))
        assert caught.value.reason == "run-deleted"
