"""The steps that a saver keeps in memory, for the event loops of several threads."""

from __future__ import annotations

import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.langgraph._cache import StepCache
from stargraph.langgraph._state import EMPTY_STATE, StoredStep


def steps(count: int) -> list[StoredStep]:
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
        step = step.next(event="paused", executor_id=step.executor_id, timestamp=step.timestamp)
        made.append(StoredStep(step))
    return made


def size_of(stored: StoredStep) -> int:
    return sum(len(value.encoded) for value in stored.step.encoded_state().values())


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
