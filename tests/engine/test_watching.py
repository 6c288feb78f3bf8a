"""While nodes run, an executor sees what other processes append: answers, cancellations, takeovers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from support import nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer
from support.places import Place

from stargraph.checkpoint.protocol import Checkpointer
from stargraph.errors import CheckpointConflictError, CheckpointCorruptedError, StoreUnavailableError
from stargraph.graph import Context, Graph, cancel, respond

ONE = 'state_schema: {x: {type: any, default: null}}\nnodes: [{id: a, kind: "support.nodes:awaits_x"}]'
BOTH = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}, yes: {type: any, default: null}}
nodes:
  - {id: begin, kind: echo}
  - {id: ask, kind: interrupt, prompt: "Sure?", into: yes}
  - {id: work, kind: "support.nodes:awaits_path"}
  - {id: end, kind: echo}
rules: [{id: both, when: {node: begin}, then: [{kind: parallel, targets: [ask, work], join: end}]}]
"""


@pytest.fixture
async def two_handles(place: Place) -> AsyncIterator[tuple[Checkpointer, Checkpointer]]:
    """Two processes' handles of one store, on each driver."""
    async with place.open() as one, place.open() as other:
        yield one, other


async def until(store: Checkpointer, event: str, run_id: str = "r") -> None:
    while (tail := await store.read_latest(run_id)) is None or tail.event != event:
        await asyncio.sleep(0.02)


async def at_work(loaded: Graph, store: Checkpointer, **options: Any) -> asyncio.Task[Any]:
    """Start a run whose node runs for ever."""
    running = asyncio.Event()

    async def forever(ctx: Context) -> None:
        running.set()
        await asyncio.sleep(3600)

    nodes.before = forever
    work = asyncio.ensure_future((await loaded.start(checkpointer=store, run_id="r", **options)).start())
    await running.wait()
    return work


async def test_a_cancellation_from_elsewhere_stops_a_node_at_once(
    two_handles: tuple[Checkpointer, Checkpointer],
) -> None:
    one, other = two_handles
    work = await at_work(graph(ONE), one)
    assert (await cancel(other, "r")).status == "cancelled"
    assert (await work).status == "cancelled"
    tail = await one.read_latest("r")
    assert tail is not None
    assert tail.step == 2, "its executor has ended it: it was asked, and not robbed"


async def test_an_answer_from_elsewhere_starts_its_node_beside_the_others(
    two_handles: tuple[Checkpointer, Checkpointer],
) -> None:
    one, other = two_handles
    loaded = graph(BOTH)
    work = await at_work(loaded, one)
    await until(other, "asked")
    tail = await other.read_latest("r")
    assert tail is not None
    await respond(other, "r", tail.interrupts[0].id, "yes")
    await asyncio.wait_for(until(other, "completed"), 60)
    assert not work.done()
    work.cancel()


async def test_a_takeover_stops_the_nodes_of_the_former_executor(
    two_handles: tuple[Checkpointer, Checkpointer],
) -> None:
    one, other = two_handles
    loaded = graph(ONE)
    work = await at_work(loaded, one)
    nodes.before = lambda ctx: 1
    assert (await (await loaded.start(checkpointer=other)).resume("r")).status == "done"
    with pytest.raises(CheckpointConflictError):
        await asyncio.wait_for(work, 60)


class Counting(MemoryCheckpointer):
    """Counts the reads of a step."""

    reads = 0
    fault: Exception | None = None

    async def read_at_step(self, run_id: str, step: int) -> Any:
        Counting.reads += 1
        if self.fault is not None:
            raise self.fault
        return await super().read_at_step(run_id, step)


@pytest.mark.parametrize(
    ("watch", "waits"),
    [(0.05, [0.05] * 8), (2.0, [0.25, 0.375, 0.5625, 0.84375, 1.265625, 1.8984375, 2.0, 2.0])],
)
async def test_what_looking_costs(monkeypatch: pytest.MonkeyPatch, watch: float, waits: list[float]) -> None:
    """One read after each wait, and each wait half as long again as the one before, up to its bound."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await asyncio.sleep(0 if len(waited) < len(waits) else 3600)

    clock = SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
    monkeypatch.setattr("stargraph.engine._watcher.asyncio", clock)
    store = Counting()
    await store.bootstrap()
    Counting.reads = 0
    work = await at_work(graph(ONE), store, watch=watch)
    while len(waited) < len(waits):
        await asyncio.sleep(0.01)
    assert waited == waits
    assert Counting.reads == len(waits) - 1, "the first wait follows the write of step 0, which is a look, too"
    work.cancel()


async def test_without_looking_nothing_is_read() -> None:
    store = Counting()
    await store.bootstrap()
    Counting.reads = 0
    work = await at_work(graph(ONE), store, watch=0)
    await asyncio.sleep(0.4)
    work.cancel()
    assert Counting.reads == 0


async def test_quick_nodes_cost_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)  # no machine is too busy for a quick node
    store = Counting()
    await store.bootstrap()
    Counting.reads = 0
    run = await graph(ONE).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "done"
    assert Counting.reads == 0


async def test_a_store_that_cannot_be_read_now_is_no_reason_to_stop() -> None:
    store = Counting()
    await store.bootstrap()
    store.fault = StoreUnavailableError("gone", reason="unavailable")
    work = await at_work(graph(ONE), store, watch=0.02)
    await asyncio.sleep(0.2)
    store.fault = None
    assert (await cancel(store, "r")).status == "cancelled"
    assert (await work).status == "cancelled"


async def test_a_damaged_record_is() -> None:
    store = Counting()
    await store.bootstrap()
    work = await at_work(graph(ONE), store, watch=0.02)
    store.fault = CheckpointCorruptedError("damaged", reason="digest-mismatch")
    with pytest.raises(CheckpointCorruptedError):
        await asyncio.wait_for(work, 60)


async def test_a_negative_time_is_refused(store: MemoryCheckpointer) -> None:
    for watch in (-1, float("nan")):
        with pytest.raises(ValueError, match="watch"):
            await graph(ONE).start(checkpointer=store, watch=watch)
