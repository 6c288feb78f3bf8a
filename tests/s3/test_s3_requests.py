"""How many requests each call takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

import aioboto3
import pytest
from support import calling_nodes
from support.graphs import graph
from support.memory import Killed
from support.records import STARTED_AT, chain, chat, first, following
from support.s3.proxy import FaultProxy
from support.s3.stores import Stores

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3._objects import RetryingStore
from stargraph.graph import Context

pytestmark = pytest.mark.thorough


async def test_a_write_is_one_put_and_the_first_is_three(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    proxy.reset()
    begun = first("run")
    await store.write(begun)
    assert proxy.kinds() == ["PUT", "PUT", "PUT"]
    assert {request.path.split("/")[-2] for request in proxy.requests[:2]} == {"runs", "open"}
    proxy.reset()
    await store.write(following(begun))
    assert proxy.kinds() == ["PUT"]
    assert proxy.requests[0].conditional


async def test_a_handle_that_has_read_the_latest_writes_with_one_put(watched: Stores, proxy: FaultProxy) -> None:
    begun = first("run")
    await (await watched.open()).write(begun)
    other = await watched.open()
    assert await other.read_latest("run") == begun
    proxy.reset()
    await other.write(following(begun))
    assert proxy.kinds() == ["PUT"]


async def test_a_handle_that_knows_nothing_reads_the_tail_first(watched: Stores, proxy: FaultProxy) -> None:
    begun = first("run")
    await (await watched.open()).write(begun)
    other = await watched.open()
    proxy.reset()
    await other.write(following(begun))
    assert proxy.kinds() == ["LIST", "GET", "PUT"]
    assert proxy.requests[1].ranged


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked for while nothing else was: whoever sends requests at once asks for all of them in one turn."""
    begun: list[str] = []
    under_way = 0
    repeat = RetryingStore._repeat

    async def counted(self: RetryingStore, key: str, request: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal under_way
        if not under_way:
            begun.append(key)
        under_way += 1
        try:
            return await repeat(self, key, request)
        finally:
            under_way -= 1

    monkeypatch.setattr(RetryingStore, "_repeat", counted)
    return begun


@pytest.mark.parametrize("length", [30, 1_000])
async def test_a_cold_read_of_the_latest_and_of_one_step(
    watched: Stores, proxy: FaultProxy, waves: list[str], moto: str, sdk_session: aioboto3.Session, length: int
) -> None:
    run = list(islice(chat("run", message=20), length))
    async with Stores(moto, sdk_session, watched.bucket).handle() as writer:  # not through the proxy: there are many
        await writer.write_many(run)
    for step in (length - 1, length // 2, length - 5):
        other = await watched.open()
        proxy.reset()
        waves.clear()
        if step == length - 1:
            assert await other.read_latest("run") == run[-1]
            assert proxy.kinds()[0] == "LIST"
            assert "max-keys=2" in proxy.requests[0].query
            assert len(proxy.requests) <= 13
            assert len(waves) <= 4
        assert await other.read_at_step("run", step) == run[step]
        proxy.reset()
        assert await other.read_at_step("run", step) == run[step]
        assert await other.read_latest("run") == run[-1]


async def test_a_step_is_stored_as_what_changed(watched: Stores, proxy: FaultProxy) -> None:
    """A chat: 2 KB at first, 1 KB more with each of 200 steps; stored whole, it would be 20 MB."""
    store = await watched.open(files_of_ended_runs=False)
    proxy.reset()
    run = list(islice(chat("run"), 200))
    for checkpoint in run:
        await store.write(checkpoint)
    assert sum(request.kind == "PUT" for request in proxy.requests) == len(proxy.requests) == 202
    assert proxy.uploaded <= 1_000_000
    other = await watched.open()
    assert [checkpoint async for checkpoint in other.history("run")] == run


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_history_reads_each_object_once(watched: Stores, proxy: FaultProxy, newest_first: bool) -> None:
    run = list(islice(chat("run"), 60))
    await (await watched.open()).write_many(run)
    other = await watched.open()
    proxy.reset()
    found = [checkpoint async for checkpoint in other.history("run", newest_first=newest_first)]
    assert found == run[:: -1 if newest_first else 1]
    assert sorted(proxy.kinds()) == ["GET"] * 60 + ["LIST"]


async def test_a_look_at_the_step_after_the_last_one_is_one_get(watched: Stores, proxy: FaultProxy) -> None:
    """What an executor does while nodes run, to find a cancellation or an answer of another process."""
    store, other = await watched.open(), await watched.open()
    run = chain("run", 3)
    await store.write_many(run[:2])
    proxy.reset()
    assert await store.read_at_step("run", 2) is None
    assert proxy.kinds() == ["GET"]
    await other.write(run[2])
    proxy.reset()
    assert await store.read_at_step("run", 2) == run[2]
    assert proxy.kinds()[0] == "GET"
    await other.delete_run("run")
    assert await store.read_at_step("run", 2) is None
    assert await store.read_at_step("run", 3) is None


async def test_a_range_of_a_run_reads_its_own_steps(watched: Stores, proxy: FaultProxy) -> None:
    """What the engine asks for when a map or a run with many calls is resumed."""
    run = list(islice(chat("run", message=20), 300))
    await (await watched.open()).write_many(run)
    other = await watched.open()
    proxy.reset()
    proxy.gets_at_once = 9
    found = [checkpoint async for checkpoint in other.history("run", from_step=100, to_step=249)]
    assert found == run[100:250]
    assert proxy.kinds().count("LIST") == 2
    assert 150 <= proxy.kinds().count("GET") <= 159  # and what the first of them is decoded from
    assert len(proxy.requests) == 2 + proxy.kinds().count("GET")
    assert 8 < proxy.most_at_once <= 16


async def test_a_read_of_what_is_in_the_cache_takes_listings_alone(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    run = chain("run", 5)
    await store.write_many(run)
    proxy.reset()
    assert await store.read_latest("run") == run[-1]
    assert await store.read_at_step("run", 2) == run[2]
    assert proxy.kinds() == ["LIST"] * 3
    proxy.reset()
    assert [checkpoint async for checkpoint in store.history("run")] == run
    assert proxy.kinds() == ["LIST"]


async def test_the_last_write_of_a_run_closes_it_and_makes_its_file(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    run = chain("run", 4, end="done")
    await store.write_many(run[:-1])
    proxy.reset()
    await store.write(run[-1])
    assert proxy.kinds() == ["PUT", "DELETE", "LIST", "PUT"]
    assert proxy.requests[1].path.endswith("-run")
    assert "/open/" in proxy.requests[1].path
    assert proxy.requests[3].path.endswith("-run,3.sqlite")
    assert proxy.requests[3].conditional


async def test_bootstrap_of_a_store_that_exists(watched: Stores, proxy: FaultProxy) -> None:
    await watched.open()
    proxy.reset()
    await watched.open()
    assert proxy.kinds() == ["GET", "PUT"]


async def test_a_list_of_live_runs(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    for number in range(30):
        await store.write(first(f"run-{number}", started_at=STARTED_AT + timedelta(seconds=number)))
    other = await watched.open()
    proxy.reset()
    proxy.gets_at_once = 5
    runs = await other.list_runs(limit=20)
    assert [run.run_id for run in runs] == [f"run-{number}" for number in range(29, 9, -1)]
    assert len(proxy.requests) == 41
    assert proxy.kinds().count("GET") == 20
    assert proxy.most_at_once > 4


async def test_a_list_of_runs_that_ended(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    for number in range(30):
        await store.write_many(chain(f"run-{number}", 2, end="done", started_at=STARTED_AT + timedelta(hours=number)))
    other = await watched.open()
    proxy.reset()
    runs = await other.list_runs(limit=20)
    assert [run.run_id for run in runs] == [f"run-{number}" for number in range(29, 9, -1)]
    assert {run.status for run in runs} == {"done"}
    assert len(proxy.requests) == 21


MAP = """
id: squares
state_schema:
  items: {type: "list[int]", default: []}
  x: {type: "list[int]", reduce: append, default: []}
nodes: [{id: begin, kind: echo}, {id: work, kind: "support.calling_nodes:play"}, {id: meet, kind: echo}]
max_steps: 10000
rules:
  - id: each
    when: {node: begin}
    then: [{kind: map, over: "state.items", target: work, join: meet, max_concurrency: 8}]
"""
LOOP = """
id: calls
state_schema: {items: {type: "list[int]"}, x: {type: "list[int]", default: []}}
nodes: [{id: work, kind: "support.calling_nodes:play"}]
max_steps: 10000
"""
ITEMS = 80


@pytest.mark.parametrize("text", [MAP, LOOP], ids=["map", "calls"])
async def test_a_resume_reads_each_step_once(
    watched: Stores, proxy: FaultProxy, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of many items, and a task with many recorded calls, whose process is lost shortly before the end."""
    calling_nodes.reset()

    async def script(state: Any, context: Context) -> Any:
        if text == MAP:
            return {"x": [context.item]}
        return {"x": [await context.call("count", calling_nodes.do, str(n), n) for n in state.items]}

    async def write_many(checkpoints: Sequence[Checkpoint]) -> None:
        if checkpoints[-1].step >= ITEMS - 5:
            raise Killed
        await written(checkpoints)

    async def write(checkpoint: Checkpoint) -> None:
        await write_many([checkpoint])

    calling_nodes.script = script
    lost = await watched.open()
    written = lost.write_many
    monkeypatch.setattr(lost, "write_many", write_many)
    monkeypatch.setattr(lost, "write", write)
    with pytest.raises(Killed):
        await (await graph(text).start(checkpointer=lost, run_id="r", inputs={"items": list(range(ITEMS))})).start()
    other = await watched.open()
    proxy.reset()
    # Without looking for what others do to the run, which takes a GET now and then: more of them if it takes longer.
    assert (await (await graph(text).start(checkpointer=other, watch=0)).resume("r")).status == "done"
    asked = proxy.kinds()
    # The lists are as many for 260 items: those of the resume itself, and those of the last steps and of the end.
    assert asked.count("LIST") <= 30
    assert asked.count("GET") <= ITEMS + 20
