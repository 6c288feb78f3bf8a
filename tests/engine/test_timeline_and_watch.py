"""The timeline of a run, and its end while it goes on: by the driver's own means, or by those of any store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from support.checkpoints import following, genesis

from stargraph.checkpoint.driver import LookPolicy, watch_steps
from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, RunTimeline, RunWatch
from stargraph.engine import look_policy
from stargraph.errors import StoreUnavailableError
from stargraph.runtime import dispatch


class _OnlyRequired:
    """A store with the required methods alone."""

    def __init__(self, store: MemoryCheckpointer) -> None:
        self.bootstrap = store.bootstrap
        self.write = store.write
        self.read_latest = store.read_latest
        self.read_at_step = store.read_at_step
        self.list_runs = store.list_runs


async def _stored() -> tuple[MemoryCheckpointer, _OnlyRequired, list[Checkpoint]]:
    store = MemoryCheckpointer()
    await store.bootstrap()
    run = [genesis(run_id="r", state={"a": 1, "b": 2})]
    while len(run) < 6:
        run.append(following(run[-1], removed=("b",) if len(run) == 3 else (), update={"a": len(run)}))
    await store.write_many(run)
    return store, _OnlyRequired(store), run


@pytest.mark.parametrize(
    ("first", "last", "limit"), [(0, None, 1000), (3, None, 1000), (2, 4, 2), (9, None, 9), (0, 5, 0)]
)
async def test_any_store_has_a_timeline(first: int, last: int | None, limit: int) -> None:
    store, other, _ = await _stored()
    assert isinstance(store, RunTimeline)
    assert not isinstance(other, RunTimeline)
    rows = await dispatch.timeline(store, "r", from_step=first, to_step=last, limit=limit)
    found = await dispatch.timeline(other, "r", from_step=first, to_step=last, limit=limit)
    assert [row.model_copy(update={"size": None}) for row in rows] == found
    assert [row.step for row in found] == [
        step for step in range(first, (5 if last is None else last) + 1) if step < 6
    ][:limit]


@pytest.mark.parametrize("own", [True, False], ids=["its own watch", "any store"])
async def test_a_watch_tells_the_latest_step_of_any_handle(own: bool) -> None:
    shared = MemoryStore()
    store, writer = MemoryCheckpointer(shared), MemoryCheckpointer(shared)
    for handle in (store, writer):
        await handle.bootstrap()
    watched: Checkpointer = store if own else _OnlyRequired(store)
    assert isinstance(watched, RunWatch) == own
    latest = genesis(run_id="r")
    async with asyncio.timeout(60), aclosing(dispatch.watch(watched, "r")) as steps:
        coming = asyncio.ensure_future(anext(steps))
        await asyncio.sleep(0)
        await writer.write(latest)
        assert await coming == 0
        for _ in range(3):
            latest = following(latest)
            await writer.write(latest)
        assert await anext(steps) == 3
    async with asyncio.timeout(60), aclosing(dispatch.watch(watched, "r", after_step=2)) as steps:
        assert await anext(steps) == 3


async def test_looks_grow_rare_and_an_outage_is_told() -> None:
    looks = 0

    async def latest_step() -> int | None:
        nonlocal looks
        looks += 1
        if looks == 8:
            raise StoreUnavailableError("gone", reason="gone")
        return 4 if looks > 1 else None

    seen: list[int] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def listen() -> None:
        async for step in watch_steps(latest_step, policy=LookPolicy(first=0.01, longest=0.04, growth=2)):
            seen.append(step)  # noqa: PERF401  # what was seen before the error counts

    with pytest.raises(StoreUnavailableError):
        await listen()
    assert seen == [4]
    # 10 ms before the step; after it 10, 20, 40, 40, and 40
    assert loop.time() - began >= 0.15


async def test_what_is_no_step_is_refused() -> None:
    store, other, _ = await _stored()
    for handle in (store, other):
        with pytest.raises(ValueError, match="after_step is True"):
            await anext(dispatch.watch(handle, "r", after_step=True))
        with pytest.raises(ValueError, match="limit is -1"):
            await dispatch.timeline(handle, "r", limit=-1)


def test_the_time_between_two_looks_grows_to_its_bound() -> None:
    policy = LookPolicy(first=0.25, longest=0.8, growth=2)
    waits = [policy.first]
    for _ in range(4):
        waits.append(policy.after(waits[-1]))
    assert waits == [0.25, 0.5, 0.8, 0.8, 0.8]


@pytest.mark.parametrize(("seconds", "first"), [(2.0, 0.25), (0.1, 0.1), (0.0, 0.0)])
def test_an_executor_looks_no_later_than_it_is_told(seconds: float, first: float) -> None:
    assert look_policy(seconds) == LookPolicy(first=first, longest=seconds)
