"""How many requests each call takes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.s3.proxy import FaultProxy
from support.s3.runs import NOON, follow, start, whole_run
from support.s3.stores import Stores


async def test_a_write_is_one_put_and_the_first_is_two(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    proxy.reset()
    first = start()
    await store.write(first)
    assert proxy.kinds() == ["PUT", "PUT"]
    proxy.reset()
    await store.write(follow(first))
    assert proxy.kinds() == ["PUT"]
    assert proxy.requests[0].conditional


async def test_a_handle_that_has_read_the_latest_writes_with_one_put(watched: Stores, proxy: FaultProxy) -> None:
    first = start()
    await (await watched.open()).write(first)
    other = await watched.open()
    assert await other.read_latest("run") == first
    proxy.reset()
    await other.write(follow(first))
    assert proxy.kinds() == ["PUT"]


async def test_a_handle_that_knows_nothing_reads_the_tail_first(watched: Stores, proxy: FaultProxy) -> None:
    first = start()
    await (await watched.open()).write(first)
    other = await watched.open()
    proxy.reset()
    await other.write(follow(first))
    assert proxy.kinds() == ["LIST", "GET", "PUT"]
    assert proxy.requests[1].ranged


@pytest.mark.parametrize("steps", [40, pytest.param(1000, marks=pytest.mark.slow)])
async def test_a_cold_read_of_the_latest_of_many_steps(watched: Stores, proxy: FaultProxy, steps: int) -> None:
    run = whole_run(steps=steps, status="running")
    await (await watched.open()).write_many(run)
    other = await watched.open()
    proxy.reset()
    assert await other.read_latest("run") == run[-1]
    assert proxy.kinds() == ["LIST", "GET"]
    assert "max-keys=2" in proxy.requests[0].query
    proxy.reset()
    assert await other.read_at_step("run", steps // 2) == run[steps // 2]
    assert proxy.kinds() == ["GET"]


async def test_bootstrap_of_a_store_that_exists(watched: Stores, proxy: FaultProxy) -> None:
    await watched.open()
    proxy.reset()
    await watched.open()
    assert proxy.kinds() == ["GET", "PUT"]


async def test_a_list_of_live_runs(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    for number in range(60):
        await store.write(start(f"run-{number}", at=NOON + timedelta(seconds=number)))
    other = await watched.open()
    proxy.reset()
    runs = await other.list_runs(limit=50)
    assert [run.run_id for run in runs] == [f"run-{number}" for number in range(59, 9, -1)]
    assert len(proxy.requests) == 101
    assert proxy.kinds().count("GET") == 50
    assert proxy.most_at_once > 4
