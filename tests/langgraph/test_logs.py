"""What a list over many logs reads."""

from __future__ import annotations

from collections import Counter
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver

from .test_saver import checkpoint, place_of, put


class CountingStore(MemoryCheckpointer):
    """Counts what is read of states."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    async def read_latest(self, run_id: str) -> Any:
        self.reads[run_id] += 1
        return await super().read_latest(run_id)

    async def read_at_step(self, run_id: str, step: int) -> Any:
        self.reads[run_id] += 1
        return await super().read_at_step(run_id, step)


async def test_a_list_over_many_threads_reads_the_states_of_those_whose_turn_comes() -> None:
    store = CountingStore()
    async with StargraphSaver(store) as saver:
        places = [await put(saver, str(number % 10), number, a=number) for number in range(30)]
    other = CountingStore()
    other._store = store._store
    async with StargraphSaver(other) as saver:
        newest = [each.config async for each in saver.alist(None, limit=2)]
        assert newest == [places[29], places[28]]
        assert len(other.reads) == 2, "the two threads whose checkpoints are listed"
        listed = [each.config async for each in saver.alist(None)]
        assert listed == places[::-1]
        below = [each.config async for each in saver.alist(None, before=places[15])]
        assert below == places[14::-1]


async def test_a_list_leaves_out_what_has_only_writes_as_yet() -> None:
    lists = []
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        for saver in (InMemorySaver(), ours):
            each: Any = saver
            for thread in ("t", "u"):
                for number in (1, 2):
                    made = {**checkpoint(number, a=number), "id": f"{thread}{number}"}
                    await each.aput(place_of(thread), made, {"step": number}, made["channel_versions"])
                await each.aput_writes(place_of(thread, checkpoint_id="z"), [("a", 1)], "task")
            await each.aput_writes(place_of("v", checkpoint_id="zz"), [("a", 1)], "task")
            lists.append([found.config["configurable"]["checkpoint_id"] async for found in each.alist(None)])
    assert lists[1] == sorted(lists[0], reverse=True) == ["u2", "u1", "t2", "t1"]
