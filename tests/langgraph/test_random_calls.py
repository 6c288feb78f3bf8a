"""Random calls in random order: this saver answers as LangGraph's saver in memory, and as a plain model of the rest."""

from __future__ import annotations

import asyncio
import enum
import random
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel
from support.places import Place

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver

Saver = BaseCheckpointSaver[Any]

THREADS = ("t", "u", "", "ü/%_ .:🜁")
NAMESPACES = ("", "kept", "call:1", "kept|call:1")
CHANNELS = ("a", "b", "log")
SPECIAL = ("__error__", "__interrupt__", "__resume__", "__scheduled__")
RUNS = ("run 1", "run 2")


class Color(enum.StrEnum):
    RED = "red"


class Ticket(BaseModel):
    title: str
    parts: dict[str, Any] = {}


@dataclass(frozen=True)
class Point:
    x: float
    inside: Any = None


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None,
    1,
    -1.5,
    float("-inf"),
    True,
    "text",
    "a\x00b 🜁",
    "long " * 5000,
    [],
    [1],
    {"a": [1, 2]},
    {"$": "ext", "code": 5},
    {1: "x", None: 2.5, "$": [b"b"]},
    b"bytes",
    bytearray(b"array"),
    2**63,
    {"k": (1,)},
    (1, frozenset({2})),
    deque([1, 2]),
    Color.RED,
    {Color.RED: Color.RED},
    Ticket(title="t", parts={"when": datetime(2026, 1, 31, tzinfo=ZoneInfo("Europe/Berlin"))}),
    [Point(0.5, Ticket(title="u")), Point(1, [date(2026, 1, 31), time(1), timedelta(-1)])],
    [Decimal("1.10"), UUID(int=7), Path("/a/b"), re.compile("a+", re.IGNORECASE)],
    [HumanMessage("hi", id="1"), AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "t"}], id="2")],
    [ToolMessage("r", tool_call_id="t", id="3", artifact=Point(1)), RemoveMessage(id="1"), SystemMessage([{"a": 1}])],
    Send("node", {"a": Point(2)}),
    Command(update={"a": 1}, goto=["b"]),
    Interrupt(value={"question": Point(3)}, id="i"),
    Overwrite([1]),
    nested(200),
)
"""One of each kind that LangGraph's serializer knows, and what JSON has not or stands in the way of it."""


class Model(InMemorySaver):
    """LangGraph's saver in memory, and what it lacks: copy, prune and delete_for_runs on its own tables."""

    def names(self) -> Iterator[tuple[str, str, str]]:
        for thread, namespaces in self.storage.items():
            for namespace, checkpoints in namespaces.items():
                for checkpoint_id in checkpoints:
                    yield thread, namespace, checkpoint_id

    def metadata(self, name: tuple[str, str, str]) -> dict[str, Any]:
        metadata: dict[str, Any] = self.serde.loads_typed(self.storage[name[0]][name[1]][name[2]][1])
        return metadata

    def remove(self, name: tuple[str, str, str]) -> None:
        del self.storage[name[0]][name[1]][name[2]]
        self.writes.pop(name, None)

    async def adelete_for_runs(self, run_ids: Any) -> None:
        for name in list(self.names()):
            if self.metadata(name).get("run_id") in run_ids:
                self.remove(name)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        for name in list(self.names()):
            _, namespace, checkpoint_id = name
            if name[0] == source_thread_id:
                copied = target_thread_id, namespace, checkpoint_id
                self.storage[target_thread_id][namespace][checkpoint_id] = self.storage[name[0]][namespace][name[2]]
                self.writes[copied] = dict(self.writes.get(name, {}))
        for (thread, namespace, channel, version), blob in list(self.blobs.items()):
            if thread == source_thread_id:
                self.blobs[target_thread_id, namespace, channel, version] = blob

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        for thread in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread)
                continue
            namespaces = {each: max(ids) for each, ids in self.storage[thread].items() if ids}
            roots = set(self.storage[thread][""])
            for namespace, newest in namespaces.items():
                root = self.metadata((thread, namespace, newest)).get("parents", {}).get("")
                is_over = ":" in namespace and root in roots and root != namespaces[""]
                for name in list(self.writes):
                    if is_over and name[:2] == (thread, namespace):
                        del self.writes[name]
                for checkpoint_id in list(self.storage[thread][namespace]):
                    if is_over or checkpoint_id != newest:
                        self.remove((thread, namespace, checkpoint_id))
                    else:
                        checkpoint, metadata, _ = self.storage[thread][namespace][newest]
                        self.storage[thread][namespace][newest] = checkpoint, metadata, None


class Synchronous(BaseCheckpointSaver[str]):
    """The synchronous methods of a saver, called in a thread."""

    def __init__(self, saver: StargraphSaver) -> None:
        super().__init__()
        self._saver = saver

    def get_next_version(self, current: str | None, channel: None) -> str:
        return self._saver.get_next_version(current, channel)

    async def aget_tuple(self, config: Any) -> Any:
        return await asyncio.to_thread(self._saver.get_tuple, config)

    async def alist(self, config: Any, **words: Any) -> Any:
        for found in await asyncio.to_thread(lambda: list(self._saver.list(config, **words))):
            yield found

    async def aput(self, *words: Any) -> Any:
        return await asyncio.to_thread(self._saver.put, *words)

    async def aput_writes(self, *words: Any) -> None:
        await asyncio.to_thread(self._saver.put_writes, *words)

    async def adelete_thread(self, thread_id: str) -> None:
        await asyncio.to_thread(self._saver.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Any) -> None:
        await asyncio.to_thread(self._saver.delete_for_runs, run_ids)

    async def acopy_thread(self, *words: Any) -> None:
        await asyncio.to_thread(self._saver.copy_thread, *words)

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        await asyncio.to_thread(self._saver.prune, thread_ids, strategy=strategy)

    async def aget_delta_channel_history(self, *, config: Any, channels: Any) -> Any:
        return await asyncio.to_thread(self._saver.get_delta_channel_history, config=config, channels=channels)


class Calls:
    """Makes random calls of two savers, and compares what they say."""

    def __init__(self, seed: int, ours: StargraphSaver) -> None:
        self.random = random.Random(seed)
        self.ways = ours, StargraphSaver(ours.checkpointer), Synchronous(ours)
        """The saver, another one on its store, which has other steps in memory, and its synchronous methods."""
        self.ours: Saver = ours
        self.model = Model()
        self.both: tuple[Saver, Saver] = (ours, self.model)
        self.number = 0
        self.ahead: dict[tuple[str, str], str] = {}
        """Checkpoints of which only writes were put, as LangGraph does if it runs ahead of the store."""

    async def one(self) -> None:
        choices = {self.put: 12, self.put_writes: 10, self.delete: 1, self.copy: 1, self.prune: 2, self.delete_run: 1}
        (call,) = self.random.choices(list(choices), list(choices.values()))
        self.ours = self.random.choice(self.ways)
        self.both = self.ours, self.model
        await call()

    async def put(self) -> None:
        place = self._place()
        known = self._known(place)
        parent = self.random.choice([*known, max(known), max(known)]) if known else None
        checkpoint_id = self._new_id()
        if known and self.random.random() < 0.1:
            checkpoint_id = self.random.choice(known)  # again
            parent = None
        elif self.random.random() < 0.3:
            checkpoint_id = self.ahead.pop((place["thread_id"], place["checkpoint_ns"]), checkpoint_id)
        before = None
        if parent is not None:
            before = await self.model.aget_tuple({"configurable": {**place, "checkpoint_id": parent}})
        made: Any = {**empty_checkpoint(), "id": checkpoint_id, "ts": "2026"}
        if before is not None:
            made["channel_values"] = dict(before.checkpoint["channel_values"])
            made["channel_versions"] = dict(before.checkpoint["channel_versions"])
        new = self.random.sample(CHANNELS, self.random.randrange(len(CHANNELS) + 1))
        versions: Any = {}
        for name in new:
            versions[name] = self.ours.get_next_version(made["channel_versions"].get(name), None)
            if self.random.random() < 0.2:
                made["channel_values"].pop(name, None)
            else:
                made["channel_values"][name] = self._value(made["channel_values"].get(name))
        made["channel_versions"] |= versions
        metadata: Any = {"source": "loop", "step": self.number % 4, "run_id": self.random.choice(RUNS)}
        if self.random.random() < 0.3:
            metadata["value"] = self._value(None)
        roots = self._known({**place, "checkpoint_ns": ""})
        if roots and self.random.random() < 0.7:
            metadata["parents"] = {"": self.random.choice([*roots, max(roots)])}
        config: Any = {"configurable": {**place} | ({} if parent is None else {"checkpoint_id": parent})}
        results = [await saver.aput(config, made, metadata, versions) for saver in self.both]
        assert results[0] == results[1]

    async def put_writes(self) -> None:
        place = self._place()
        known = self._known(place)
        if not known or self.random.random() < 0.2:
            checkpoint_id = self.ahead.setdefault((place["thread_id"], place["checkpoint_ns"]), self._new_id())
        else:
            checkpoint_id = self.random.choice([*known, max(known)])
        names = self.random.choices((*CHANNELS, *SPECIAL), k=self.random.randrange(4))
        writes = [(name, self._value(None)) for name in names]
        task = self.random.choice(("task 1", "task 2", "task 3"))
        path = self.random.choice(("", f"~path of {task}"))
        for saver in self.both:
            await saver.aput_writes({"configurable": {**place, "checkpoint_id": checkpoint_id}}, writes, task, path)

    async def delete(self) -> None:
        thread = self.random.choice(THREADS)
        for saver in self.both:
            await saver.adelete_thread(thread)

    async def copy(self) -> None:
        source, target = self.random.sample(THREADS, 2)
        for saver in self.both:
            await saver.adelete_thread(target)
            await saver.acopy_thread(source, target)

    async def prune(self) -> None:
        threads = self.random.sample(THREADS, self.random.randrange(1, len(THREADS)))
        strategy = "keep_latest" if self.random.random() < 0.9 else "delete"
        for saver in self.both:
            await saver.aprune(threads, strategy=strategy)

    async def delete_run(self) -> None:
        for saver in self.both:
            await saver.adelete_for_runs([RUNS[0]])

    async def compare(self) -> None:
        for thread, namespace in product(THREADS, NAMESPACES):
            place: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
            found, expected = [shown(await saver.aget_tuple(place)) for saver in self.both]
            assert found == expected
        listed, all_expected = [
            sorted([shown(each) async for each in saver.alist(None)], key=lambda each: str(each[0]))
            for saver in self.both
        ]
        assert [each[0] for each in listed] == [each[0] for each in all_expected]
        assert listed == all_expected
        await self._compare_lists()
        # One of them by its name, and what a channel is rebuilt from.
        names = sorted(self.model.names())
        if names:
            thread, namespace, checkpoint_id = self.random.choice(names)
            where: Any = {
                "configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
            }
            found, expected = [shown(await saver.aget_tuple(where)) for saver in self.both]
            assert found == expected
            histories = [
                await saver.aget_delta_channel_history(config=where, channels=list(CHANNELS)) for saver in self.both
            ]
            assert histories[0] == histories[1]

    async def _compare_lists(self) -> None:
        """Compare lists of one thread with a filter, a bound and a limit, each there or not."""
        thread = self.random.choice(THREADS)
        place: Any = {"thread_id": thread}
        if self.random.random() < 0.5:
            place["checkpoint_ns"] = self.random.choice(NAMESPACES)
        known = sorted({each for _, _, each in self.model.names()})
        words: Any = {
            "filter": self.random.choice([None, {}, {"step": 1}, {"source": "loop", "step": 2}, {"run_id": RUNS[0]}]),
            "before": {"configurable": {"checkpoint_id": self.random.choice(known)}}
            if known and self.random.random() < 0.5
            else None,
        }
        found, expected = [
            [shown(each) async for each in saver.alist({"configurable": place}, **words)] for saver in self.both
        ]
        ids = [each[0]["configurable"]["checkpoint_id"] for each in found]
        assert ids == sorted(ids, reverse=True)
        assert sorted(found, key=lambda each: str(each[0])) == sorted(expected, key=lambda each: str(each[0]))
        limit = self.random.randrange(4)
        few = [shown(each) async for each in self.ours.alist({"configurable": place}, limit=limit, **words)]
        assert few == found[:limit]

    def _place(self) -> dict[str, Any]:
        return {"thread_id": self.random.choice(THREADS), "checkpoint_ns": self.random.choice(NAMESPACES)}

    def _known(self, place: dict[str, Any]) -> list[str]:
        return sorted(self.model.storage[place["thread_id"]][place["checkpoint_ns"]])

    def _new_id(self) -> str:
        self.number += 1
        number = self.number if self.random.random() < 0.9 else self.random.randrange(10_000, 20_000)
        return f"1f{number:06}-{self.number}"

    def _value(self, before: Any) -> Any:
        if isinstance(before, list) and self.random.random() < 0.7:
            return [*before, self.random.randrange(100)]
        return self.random.choice(VALUES)


def shown(found: CheckpointTuple | None) -> Any:
    return None if found is None else tuple(found)


async def make_calls(seed: int, calls: int, ours: StargraphSaver, *, between: int = 1) -> None:
    made = Calls(seed, ours)
    for number in range(1, calls + 1):
        await made.one()
        if number % between == 0:
            await made.compare()


@pytest.mark.parametrize("seed", [0, 3, 6])
async def test_random_calls_are_answered_as_by_the_saver_in_memory(seed: int) -> None:
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        await make_calls(seed, 60, ours, between=3)


@pytest.mark.thorough
async def test_so_are_they_on_every_driver(place: Place) -> None:
    async with place.open() as store, StargraphSaver(store) as ours:
        await make_calls(4, 20, ours, between=5)
