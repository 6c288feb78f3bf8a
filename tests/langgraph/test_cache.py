"""The steps that a saver keeps in memory, for the event loops of several threads."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.langgraph._cache import StepCache
from stargraph.langgraph._state import EMPTY_STATE, StoredStep


def steps(count: int, writes: Any = ()) -> list[StoredStep]:
    """Return steps of one log, each with writes of its own."""
    step = Checkpoint.genesis(
        run_id="lg:t:0",
        graph_id="langgraph",
        graph_hash="1" * 64,
        runtime_hash="1" * 64,
        state=EMPTY_STATE,
        executor_id="0" * 32,
        timestamp=datetime.now(UTC),
    )
    made = [StoredStep(step)]
    while len(made) < count:
        state = {**EMPTY_STATE, "writes": [["task", "path", 0, "ch", write] for write in writes]}
        step = step.next(event="paused", executor_id=step.executor_id, timestamp=step.timestamp, state=state)
        made.append(StoredStep(step))
    return made


def size_of(stored: StoredStep) -> int:
    cache = StepCache()
    cache.add(stored)
    return cache._used


OURS = [tracemalloc.Filter(False, f"*/{name}/*") for name in ("execnet", "xdist")]
"""A process of xdist may be given its next tests meanwhile, hundreds at a time, by another thread, which keeps them."""

MESSAGE = {"$": "ext", "code": 5, "value": ["langchain_core.messages.ai", "AIMessage", {"content": "hello", "id": "7"}]}


@pytest.mark.parametrize(
    "writes",
    [
        [],
        ["no comma " * 300],
        ["words, and more words, " * 200],
        [1.5] * 500,
        [list(range(1000, 2000))],
        [[[]] * 1000],
        [[[number] for number in range(1000)]],
        [[{}] * 1000],
        [[{"a": 1}] * 500],
        [[{str(number): number} for number in range(500)]],
        [MESSAGE] * 20,
        [[MESSAGE] * 50],
        [{"$": "bytes", "base64": "AAAA" * 1000}],
        ["é" * 2000, "日本" * 1000],
        ["plain " * 500 + "😀"],
    ],
    ids=lambda writes: f"{len(writes)} {str(writes)[:16]}",
)
def test_what_is_kept_takes_no_more_memory_than_is_counted(writes: Any) -> None:
    steps(3, writes)[2].typed_writes()  # what is made once is made here
    cache = StepCache()
    gc.collect()
    tracemalloc.start()
    try:
        for stored in steps(6, writes):
            cache.add(stored)
            stored.typed_writes()
        del stored
        gc.collect()
        taken = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(OURS).traces)
    finally:
        tracemalloc.stop()
    assert len(cache._steps) == 6
    assert taken <= cache._used <= 20 * taken


def test_the_steps_that_were_not_used_for_longest_go_first() -> None:
    first, second, third = steps(3)
    cache = StepCache(2 * size_of(first))
    cache.add(first)
    cache.add(second)
    assert cache.get("lg:t:0", 0) is first
    cache.add(third)
    assert [cache.get("lg:t:0", number) for number in range(3)] == [first, None, third]


class Slow(OrderedDict[Any, Any]):
    """Lets other threads run between a look and what is done about it."""

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        time.sleep(1e-5)
        return found

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        time.sleep(1e-5)
        return found


def test_several_threads_use_one_cache() -> None:
    made = steps(6)
    cache = StepCache(2 * size_of(made[0]))
    cache._steps = Slow()

    def use(_: int) -> None:
        for _ in range(20):
            for stored in made:
                cache.add(stored)
                assert cache.get("lg:t:0", stored.step.step) in (stored, None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert cache._used == sum(size for _, size in cache._steps.values())
