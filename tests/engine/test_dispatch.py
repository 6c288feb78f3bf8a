"""Writes that no cancellation tears, and reads that are checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from support.history_cursors import CursorStore
from support.memory import MemoryCheckpointer

from stargraph.checkpoint import memory
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.driver import InPlaceWrites
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.engine import Hooks, Middleware, StoreInfo, observed
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError
from stargraph.runtime import dispatch
from stargraph.runtime._reading import each


def first(run_id: str = "r") -> Checkpoint:
    return Checkpoint.genesis(
        run_id=run_id,
        graph_id="g",
        graph_hash="0" * 64,
        runtime_hash="1" * 64,
        state={"n": 1},
        executor_id="a" * 32,
        timestamp=datetime.now(UTC),
    )


class SlowStore(MemoryCheckpointer):
    """Waits in the middle of a write until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.torn = False

    async def write(self, checkpoint: Checkpoint) -> None:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.torn = True
            raise
        await super().write(checkpoint)


class SlowStoreInPlace(SlowStore, InPlaceWrites):
    pass


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("kind", [SlowStore, SlowStoreInPlace])
async def test_a_cancelled_write_goes_to_its_end_before_anybody_is_reported(times: int, kind: type[SlowStore]) -> None:
    store = kind()
    await store.bootstrap()
    work = asyncio.create_task(dispatch.write(store, first()))
    await store.entered.wait()
    for _ in range(times):
        work.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not work.done()
    store.release.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not store.torn
    assert ("r", 0) in store.records


@pytest.mark.parametrize("bases", [(SlowStore,), (SlowStore, InPlaceWrites)])
async def test_a_write_that_fails_after_a_cancellation_says_nothing_more(
    bases: tuple[type, ...], recwarn: pytest.WarningsRecorder
) -> None:
    class Failing(*bases):  # type: ignore[misc]
        async def write(self, checkpoint: Checkpoint) -> None:
            self.entered.set()
            await self.release.wait()
            raise StoreUnavailableError("gone")

    store = Failing()
    work = asyncio.create_task(dispatch.write(store, first()))
    await store.entered.wait()
    work.cancel()
    await asyncio.sleep(0)
    store.release.set()
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.parametrize("bases", [(MemoryCheckpointer,), (MemoryCheckpointer, InPlaceWrites)])
async def test_a_write_in_place_takes_no_task_of_its_own(bases: tuple[type, ...]) -> None:
    tasks: list[object] = []

    class Noting(*bases):  # type: ignore[misc]
        async def write(self, checkpoint: Checkpoint) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)
            await super().write(checkpoint)
            tasks.append(asyncio.current_task())

    store = Noting()
    await store.bootstrap()
    await dispatch.write(store, first())
    assert tasks[0] is tasks[1]
    assert (tasks[0] is asyncio.current_task()) == (InPlaceWrites in bases)


async def test_a_driver_derived_from_one_that_writes_in_place_gets_a_task_again() -> None:
    """It may override `write`, and cancel the task that this runs in."""

    class Derived(SlowStoreInPlace):
        async def write(self, checkpoint: Checkpoint) -> None:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await dispatch.write(Derived(), first())


async def test_a_write_in_place_that_fails_raises_its_error() -> None:
    class Failing(SlowStore, InPlaceWrites):
        async def write(self, checkpoint: Checkpoint) -> None:
            await asyncio.sleep(0)
            raise StoreUnavailableError("gone")

    with pytest.raises(StoreUnavailableError, match="gone"):
        await dispatch.write(Failing(), first())


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_write_in_place_handles_what_it_waits_for(is_cancelled: bool) -> None:
    entered, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

    class Translating(SlowStore, InPlaceWrites):
        async def write(self, checkpoint: Checkpoint) -> None:
            entered.set()
            try:
                await answer
            except OSError as error:
                await asyncio.sleep(0)
                raise StoreUnavailableError("gone") from error

    work = asyncio.create_task(dispatch.write(Translating(), first()))
    await entered.wait()
    if is_cancelled:
        work.cancel()
        await asyncio.sleep(0)
    answer.set_exception(OSError())
    with pytest.raises(asyncio.CancelledError if is_cancelled else StoreUnavailableError):
        await work


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_write_in_place_handles_the_cancellation_of_what_it_waits_for(is_cancelled: bool) -> None:
    answer = asyncio.get_running_loop().create_future()

    class Again(SlowStore, InPlaceWrites):
        async def write(self, checkpoint: Checkpoint) -> None:
            try:
                await answer
            except asyncio.CancelledError:
                raise StoreUnavailableError("gone") from None

    work = asyncio.create_task(dispatch.write(Again(), first()))
    await asyncio.sleep(0)
    answer.cancel()
    if is_cancelled:
        work.cancel()
    with pytest.raises(asyncio.CancelledError if is_cancelled else StoreUnavailableError):
        await work


async def test_a_write_in_place_may_itself_wait_for_work_that_is_not_torn() -> None:
    entered, answer = asyncio.Event(), asyncio.get_running_loop().create_future()
    ended: list[str] = []

    async def request() -> None:
        entered.set()
        await answer
        ended.append("request")

    class Nested(SlowStore, InPlaceWrites):
        async def write(self, checkpoint: Checkpoint) -> None:
            await dispatch.run_uncancelled(request())
            ended.append("write")

    work = asyncio.create_task(dispatch.write(Nested(), first()))
    await entered.wait()
    work.cancel()
    await asyncio.sleep(0)
    answer.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await work
    assert ended == ["request", "write"]


async def test_a_store_that_returns_another_record_is_caught(store: MemoryCheckpointer) -> None:
    await store.write(first("a"))
    await store.write(first("b"))

    async def confused(run_id: str, step: int) -> Checkpoint | None:
        return await MemoryCheckpointer.read_at_step(store, "b", step)

    store.read_at_step = confused  # type: ignore[method-assign]
    for read in (dispatch.read_latest(store, "a"), dispatch.read_at_step(store, "a", 0)):
        with pytest.raises(CheckpointCorruptedError) as caught:
            await read
        assert caught.value.reason == "wrong-record"


async def test_a_run_that_starts_while_it_is_looked_for_is_found() -> None:
    """The latest step is read before the list: a run that starts between them is not damaged."""

    class StartsMeanwhile(MemoryCheckpointer):
        async def read_latest(self, run_id: str) -> Checkpoint | None:
            found = await super().read_latest(run_id)
            if found is None:
                await self.write(first(run_id))
            return found

    store = StartsMeanwhile()
    await store.bootstrap()
    assert (await dispatch.read_run(store, "r")).step == 0


async def test_reads_refuse_what_no_key_of_ours_sealed(store: MemoryCheckpointer) -> None:
    ours, theirs = Keyring.parse("ours:0123456789abcdef"), Keyring.parse("theirs:fedcba9876543210")
    await dispatch.write(store, first(), keyring=ours)
    read = await dispatch.read_latest(store, "r", keyring=ours)
    assert read is not None
    assert read.seal is not None
    with pytest.raises(CheckpointCorruptedError) as caught:
        await dispatch.read_latest(store, "r", keyring=theirs)
    assert caught.value.reason == "unknown-key"


@pytest.mark.parametrize("reads", ["history", "read_steps", "each"])
async def test_a_history_that_is_left_early_is_closed_at_once(reads: str) -> None:
    store = CursorStore()
    await store.bootstrap()
    record = first()
    for _ in range(3):
        await store.write(record)
        record = record.next(event="resumed", executor_id="a" * 32, timestamp=datetime.now(UTC))

    async def same(item: Checkpoint) -> Checkpoint:
        return item

    found = {
        "history": lambda: dispatch.history(store, "r", to_step=2),
        "read_steps": lambda: dispatch.read_steps(store, "r", [0, 1, 2]),
        "each": lambda: each(dispatch.history(store, "r", to_step=2), same, at_once=1),
    }[reads]()
    async with aclosing(found) as records:
        async for _ in records:
            break
        assert store.open == 1
    assert store.open == 0


class PlainHistory:
    """The steps of a run by an iterator that is no generator."""

    def __init__(self, records: list[Checkpoint]) -> None:
        self._records = iter(records)

    def __aiter__(self) -> PlainHistory:
        return self

    async def __anext__(self) -> Checkpoint:
        for record in self._records:
            return record
        raise StopAsyncIteration


class Measuring(Middleware):
    @asynccontextmanager
    async def store(self, store: StoreInfo) -> AsyncIterator[None]:
        yield


async def test_a_history_need_not_be_a_generator() -> None:
    class Plain(memory.MemoryCheckpointer):
        def history(self, run_id: str, **options: Any) -> AsyncIterator[Checkpoint]:
            return PlainHistory([first()])

    store = Plain()
    await store.bootstrap()
    for read in (store, observed(store, Hooks([Measuring()]).store)):
        assert [record.step async for record in dispatch.history(read, "r", to_step=0)] == [0]
