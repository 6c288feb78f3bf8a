"""Whatever a saver is asked by itself, without a graph: this one answers as LangGraph's saver in memory."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver

Saver = BaseCheckpointSaver[Any]

METADATA: list[Any] = [
    {"source": "input", "step": -1, "score": None, "writes": {}},
    {"source": "loop", "step": 0, "score": 1, "writes": {"foo": "bar", "deep": {"list": [1, None, {"a": 2.5}]}}},
    {"source": "loop", "step": 1, "score": 1.0, "tags": ["a", "b"]},
    {"source": "update", "step": 2, "score": True},
    {},
]
FILTERS: list[Any] = [
    None,
    {},
    {"source": "loop"},
    {"score": None},
    {"score": 1},
    {"writes": {}},
    {"writes": {"foo": "bar", "deep": {"list": [1, None, {"a": 2.5}]}}},
    {"writes": {"foo": "bar"}},
    {"tags": ["a", "b"], "step": 1},
    {"source": "loop", "step": 9},
    {"absent": None},
]
THREADS = ("t", "T")
NAMESPACES = ("", "inner:1")
IDS = [f"1f0{number}" for number in range(len(METADATA))]


async def fill(saver: Saver) -> None:
    for thread, namespace in product(THREADS, NAMESPACES):
        where: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
        for number, (checkpoint_id, metadata) in enumerate(zip(IDS, METADATA, strict=True)):
            version = f"{number + 1:032}.5"
            made: Any = {
                **empty_checkpoint(),
                "id": checkpoint_id,
                "channel_values": {"a": [number], "none": None},
                "channel_versions": {"a": version, "none": version},
            }
            before = dict(where["configurable"])
            where = await saver.aput(where, made, metadata, {"a": version, "none": version})
            assert before["thread_id"] == thread, "a configuration that was given is not changed"
            await saver.aput_writes(where, [("a", number), ("b", {"x": [number]})], "task 2", "~path, b")
            await saver.aput_writes(where, [("a", "first"), ("__interrupt__", "?")], "task 1", "~path, a")
            await saver.aput_writes(where, [("a", "again"), ("__interrupt__", "!")], "task 1", "~path, a")
            await saver.aput_writes(where, [], "task 3")


def shown(found: CheckpointTuple | None) -> Any:
    if found is None:
        return None
    checkpoint = {name: value for name, value in found.checkpoint.items() if name != "ts"}
    return (found.config, checkpoint, found.metadata, found.parent_config, found.pending_writes)


def key(each: Any) -> Any:
    place = each[0]["configurable"]
    return place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"]


PLACES: list[Any] = [
    {"thread_id": "t"},
    {"thread_id": "t", "checkpoint_ns": ""},
    {"thread_id": "t", "checkpoint_ns": None},
    {"thread_id": "t", "checkpoint_ns": "inner:1"},
    {"thread_id": "t", "checkpoint_ns": "inner"},
    {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": IDS[2]},
    {"thread_id": "t", "checkpoint_id": IDS[2]},
    {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": None},
    {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": ""},
    {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "absent"},
    {"thread_id": "absent"},
]
CONFIGS: list[Any] = [None, {}, *({"configurable": place} for place in PLACES)]
BEFORE: list[Any] = [
    None,
    {"configurable": {"thread_id": "t"}},
    *({"configurable": {"thread_id": "t", "checkpoint_id": each}} for each in (IDS[3], "0")),
]


@pytest.mark.thorough
async def test_lists_are_the_same_whatever_they_are_limited_to() -> None:
    theirs = InMemorySaver()
    await fill(theirs)
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        await fill(ours)
        for where, wanted, before in product(CONFIGS, FILTERS, BEFORE):
            asked = f"{where} filter={wanted} before={before}"
            expected = [shown(each) async for each in theirs.alist(where, filter=wanted, before=before)]
            found = [shown(each) async for each in ours.alist(where, filter=wanted, before=before)]
            # Theirs goes from thread to thread; of one namespace, the order is the same.
            assert sorted(found, key=key) == sorted(expected, key=key), asked
            ids = [each[0]["configurable"]["checkpoint_id"] for each in found]
            assert ids == sorted(ids, reverse=True), asked
            for limit in (0, 3):
                few = [shown(each) async for each in ours.alist(where, filter=wanted, before=before, limit=limit)]
                assert few == found[:limit], f"{asked} limit={limit}"


@pytest.mark.parametrize("place", PLACES, ids=str)
async def test_one_checkpoint_is_the_same_whatever_names_it(place: Any) -> None:
    theirs = InMemorySaver()
    await fill(theirs)
    namespace = place.get("checkpoint_ns") or ""  # theirs takes None for another namespace, which nothing is in
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        await fill(ours)
        expected = shown(await theirs.aget_tuple({"configurable": {**place, "checkpoint_ns": namespace}}))
        found = shown(await ours.aget_tuple({"configurable": place}))
        assert found == expected
