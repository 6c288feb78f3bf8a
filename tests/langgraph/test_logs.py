"""The logs that a saver keeps in memory, and what a list over many of them reads."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver
from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._logs import ThreadLogs
from stargraph.langgraph._store import LogStore

from .test_saver import checkpoint, place_of, put


async def test_idle_logs_are_dropped_beyond_a_number_of_bytes_and_read_again() -> None:
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        where = await put(saver, "0", 0, a="x" * 1000)
        each = saver._log("0", "").memory
        assert each > 8 * 1000
        logs = ThreadLogs(saver._store, budget=4 * each)
        saver._logs[asyncio.get_running_loop()] = logs
        places = [await put(saver, str(number), number, a="x" * 1000) for number in range(1, 9)]
        kept = [log.thread_id for log in logs.all()]
        assert kept[-1] == "8"
        assert len(kept) <= 4
        assert logs._used == sum(log.memory for log in logs.all())
        await put(saver, kept[0], 20, places[int(kept[0]) - 1], a="y")
        await put(saver, "9", 21, a="x" * 1000)
        assert kept[0] in [log.thread_id for log in logs.all()], "it was used a moment ago"
        for number, place in enumerate([where, *places]):
            found = await saver.aget_tuple(place)
            assert found is not None
            assert found.checkpoint["channel_values"] == {"a": "x" * 1000}
            on = await put(saver, str(number), 30 + number, place, a="z")
            found = await saver.aget_tuple(place_of(str(number)))
            assert found is not None
            assert (found.config, found.parent_config) == (on, place)
        assert logs._used == sum(log.memory for log in logs.all()) <= 4 * each


async def test_a_log_that_is_written_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stargraph.langgraph._logs._MOST", 5)
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        logs = ThreadLogs(saver._store, budget=1)
        saver._logs[asyncio.get_running_loop()] = logs
        waiting = [asyncio.create_task(put(saver, str(number), number, a=1)) for number in range(20)]
        await asyncio.sleep(0)
        assert len(logs.all()) == 20
        await asyncio.gather(*waiting)
        assert len(logs.all()) == 1


async def test_so_many_logs_are_kept_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stargraph.langgraph._logs._MOST", 10)
    logs = ThreadLogs(LogStore(MemoryCheckpointer()))
    names = [str(number) for number in range(25)]
    for name in names:
        logs.get("kept", "")
        assert isinstance(logs.get(name, ""), ThreadLog)
        assert len(logs.all()) <= 10
    assert {"kept", "24"} <= {log.thread_id for log in logs.all()}


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


async def test_a_list_keeps_its_order_while_others_put_checkpoints() -> None:
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        places = [await put(saver, thread, number, a=number) for number, thread in enumerate("tut")]
        listed = saver.alist(None)
        found = [(await anext(listed)).config]
        await put(saver, "u", 3, places[1], a=3)
        found += [each.config async for each in listed]
        assert found == places[::-1]
        assert len([each async for each in saver.alist(None)]) == 4


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
