"""A large state does not hold the event loop: other work has its turn between its fields."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Mapping
from typing import TypeVar

import pytest
from support.graphs import graph

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.values import EncodedValue
from stargraph.engine import first_record
from stargraph.errors import StateError
from stargraph.graph import Graph

T = TypeVar("T")

NAMES = [f"part_{number}" for number in range(6)]
LARGE = {name: [name * 50_000] for name in NAMES}
OPEN = "nodes: [{id: end, kind: halt}]"
FIELDS = ", ".join(f"{name}: 'list[str]'" for name in NAMES)
DECLARED = f"state_schema: {{{FIELDS}}}\n{OPEN}"


@pytest.fixture(params=[DECLARED, OPEN], ids=["declared", "undeclared"])
def large(request: pytest.FixtureRequest) -> Graph:
    return graph(request.param)


async def turns_of_others(work: Awaitable[T]) -> tuple[T, int]:
    """Return what work returns, and how many turns other work of the loop had meanwhile."""
    turns = 0
    working = asyncio.ensure_future(work)
    while not working.done():
        await asyncio.sleep(0)
        turns += 1
    return working.result(), turns


def first(large: Graph) -> Checkpoint:
    plan = large._plan
    return first_record(plan, plan.state.initial(LARGE), run_id="large", executor_id="e" * 32, metadata={})


async def test_it_is_read_field_by_field(large: Graph) -> None:
    tail = first(large)
    state, turns = await turns_of_others(large._plan.state.read_in_turns(tail))
    assert turns >= len(NAMES)
    assert state == large._plan.state.read(tail)
    again = await large._plan.state.read_in_turns(tail)
    value, other = (each[NAMES[0]] if isinstance(each, dict) else getattr(each, NAMES[0]) for each in (state, again))
    value.append("by a node")
    assert other == tail.state[NAMES[0]] == LARGE[NAMES[0]]


async def test_an_update_is_recorded_field_by_field(large: Graph) -> None:
    tail = first(large)
    spec = large._plan.state
    recorded, turns = await turns_of_others(spec.record_in_turns(LARGE, tail, from_json=False))
    assert turns >= len(NAMES)
    expected = spec.record(LARGE, tail)
    assert {name: each.digest for name, each in recorded.items()} == {
        name: each.digest for name, each in expected.items()
    }


async def test_inputs_are_encoded_field_by_field_and_once(large: Graph) -> None:
    start, turns = await turns_of_others(large._plan.state.initial_in_turns(LARGE))
    assert turns >= len(NAMES)
    assert all(start.update[name] is start.state[name] for name in NAMES)
    assert {name: each.value for name, each in start.state.items()} == LARGE


async def test_inputs_are_kept_in_memory_of_their_own_size() -> None:
    spec = graph(OPEN)._plan.state
    inputs = dict.fromkeys(NAMES, "text")
    await spec.initial_in_turns(inputs)
    gc.collect()
    tracemalloc.start()
    try:
        kept = [await spec.initial_in_turns(inputs) for _ in range(50)]
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / (len(kept) * len(NAMES)) < 1000


async def test_a_run_is_enqueued_with_large_inputs_field_by_field(large: Graph, store: MemoryCheckpointer) -> None:
    _, least = await turns_of_others(large.enqueue(store, inputs={name: ["small"] for name in NAMES}))
    enqueued, turns = await turns_of_others(large.enqueue(store, inputs=LARGE))
    assert turns >= least + len(NAMES)
    latest = await store.read_latest(enqueued.run_id)
    assert latest is not None
    assert latest.state == latest.update == LARGE


@pytest.mark.parametrize("given", ["update", "inputs"])
async def test_what_others_change_meanwhile_is_recorded_as_it_was(given: str) -> None:
    spec = graph(OPEN)._plan.state
    log, length = ["x" * 400_000], [1]
    shared = {"log": log, "length": length}

    async def recorded() -> Mapping[str, object]:
        if given == "inputs":
            return (await spec.initial_in_turns(shared)).state
        return await spec.record_in_turns(shared, first(graph(OPEN)), from_json=False)

    working = asyncio.ensure_future(recorded())
    while not working.done():
        await asyncio.sleep(0)
        log.append("later")
        length[0] += 1
        shared[f"later {length[0]}"] = []
    values = {name: each.value for name, each in working.result().items() if isinstance(each, EncodedValue)}
    assert values == {"log": ["x" * 400_000], "length": [1]}


async def test_one_that_does_not_fit_is_refused_as_a_small_one_is() -> None:
    tail = first(graph(OPEN))
    spec = graph(DECLARED.replace("part_3: 'list[str]'", "part_3: int"))._plan.state
    with pytest.raises(StateError) as expected:
        spec.read(tail)
    with pytest.raises(StateError) as found:
        await spec.read_in_turns(tail)
    assert (found.value.reason, found.value.path) == (expected.value.reason, expected.value.path)
    assert str(found.value) == str(expected.value)
